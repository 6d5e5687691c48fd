package store

import (
	"context"

	"github.com/ostiary/ostiary/internal/identity"
)

func checkAgent(a *identity.AgentRecord) error {
	return checkText("agent", string(a.ID), string(a.Principal), a.Owner, a.Zone, a.Method, list(a.Roles))
}

func agentBody(a *identity.AgentRecord) map[string]any {
	return map[string]any{"principal": a.Principal, "zone": a.Zone, "roles": a.Roles, "method": a.Method}
}

func (s *SQL) AddAgent(ctx context.Context, a identity.AgentRecord) error {
	if err := checkAgent(&a); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		n, err := x.exec(`INSERT INTO agent (id, principal, owner, zone, roles, mandate, enrolled, method, disabled)
			VALUES (?, ?, ?, ?, ?, '', ?, ?, 0) ON CONFLICT (id) DO NOTHING`,
			string(a.ID), string(a.Principal), a.Owner, a.Zone, list(sorted(a.Roles)), stamp(a.Enrolled), a.Method)
		if err != nil {
			return none{}, err
		}
		if n == 1 {
			_, err = x.change("agent", string(a.ID), agentBody(&a))
			return none{}, err
		}
		var principal, method string
		_, err = x.get("SELECT principal, method FROM agent WHERE id = ?", []any{string(a.ID)}, []any{&principal, &method})
		if err == nil && (principal != string(a.Principal) || method != a.Method) {
			err = errTaken("agent")
		}
		return none{}, err
	})
	return err
}

func (m *Memory) AddAgent(ctx context.Context, a identity.AgentRecord) error {
	if err := checkAgent(&a); err != nil {
		return err
	}
	leave, err := m.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if was, ok := m.agents[a.ID]; ok {
		if was.Principal != a.Principal || was.Method != a.Method {
			return errTaken("agent")
		}
		return nil
	}
	a.Roles, a.Enrolled, a.Mandate, a.Disabled = sorted(a.Roles), instant(stamp(a.Enrolled)), "", false
	return m.commit(NewRequest(), "agent", string(a.ID), agentBody(&a), func() { m.agents[a.ID] = a })
}
