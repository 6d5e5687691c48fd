package demo

import (
	"context"
	"time"
)

const (
	// dayEvery is the pause between two calls of the agent's day.
	dayEvery = 3 * time.Second
	// dayTime bounds one call of it.
	dayTime = 10 * time.Second
)

// chore is one call of the agent's day.
type chore struct {
	server, name string
	arguments    any
}

// chores are the agent's day: mostly what it may do, and now and then what it
// may not.
func chores() []chore {
	pay := func(to string, amount int64, note string) any {
		return Payment{From: "household", To: to, Amount: amount, Currency: "EUR", Note: note}.arguments()
	}
	return []chore{
		{Bank, "list_accounts", map[string]any{}},
		{Inbox, "list_messages", map[string]any{}},
		{Bank, "get_balance", map[string]any{"account": "household"}},
		{Inbox, "read_message", map[string]any{"id": "m2"}},
		{Bank, "send_payment", pay("library", 350, "fine")},
		{Bank, "get_balance", map[string]any{"account": "household"}},
		{Bank, "send_payment", Payment{From: "savings", To: "parcel-service", Amount: 490_000, Currency: "EUR", Note: "as the message says"}.arguments()},
		{Inbox, "list_messages", map[string]any{}},
		{Documents, "list_documents", map[string]any{}},
		{Bank, "get_balance", map[string]any{"account": "savings"}},
	}
}

// GoOn lets the agent go on with its day until ctx ends, so that who looks at
// the console sees something happen. What it is refused is part of the day.
func (s *Story) GoOn(ctx context.Context) error {
	a, err := s.enter(ctx, s.Agent)
	if err != nil {
		return err
	}
	defer a.session.Close()
	tick := time.NewTicker(dayEvery)
	defer tick.Stop()
	all := chores()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		c := all[i%len(all)]
		one, cancel := context.WithTimeout(ctx, dayTime)
		_, err := a.call(one, tool(c.server, c.name), c.arguments)
		cancel()
		if err != nil && ctx.Err() == nil && one.Err() == nil {
			return err
		}
	}
}
