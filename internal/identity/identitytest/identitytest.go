// Package identitytest holds fakes of what an identity.Authority needs: a
// registry in memory, keys, and mandates whose signature is a comparison. It
// is for tests only and guarantees nothing beyond a process.
package identitytest

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// Registry is an identity.Registry in memory. With Fail set, it is called
// before each operation and its error returned; with Lost set, it is called
// after each operation, which has then happened.
type Registry struct {
	Fail func(op string) error
	Lost func(op string) error

	mu       sync.Mutex // guards what follows
	tokens   map[ostiary.Digest]*joinToken
	agents   map[ostiary.AgentID]identity.AgentRecord
	mandates []identity.MandateRecord
	ended    []identity.Revocation
	epoch    uint64
}

type joinToken struct {
	identity.JoinToken
	spent bool
}

func (r *Registry) do(op string, f func() error) error {
	if r.Fail != nil {
		if err := r.Fail(op); err != nil {
			return err
		}
	}
	r.mu.Lock()
	err := f()
	r.mu.Unlock()
	if err == nil && r.Lost != nil {
		err = r.Lost(op)
	}
	return err
}

// CreateJoinToken implements identity.Registry.
func (r *Registry) CreateJoinToken(_ context.Context, t identity.JoinToken) error {
	return r.do("create", func() error {
		if r.tokens == nil {
			r.tokens = map[ostiary.Digest]*joinToken{}
		}
		if r.tokens[t.Hash] != nil {
			return ostiary.Errorf(ostiary.Conflict, "join_token", "the token exists")
		}
		r.tokens[t.Hash] = &joinToken{JoinToken: t}
		return nil
	})
}

// RedeemJoinToken implements identity.Registry.
func (r *Registry) RedeemJoinToken(_ context.Context, hash ostiary.Digest, at time.Time, make func(identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error)) (identity.AgentRecord, error) {
	var out identity.AgentRecord
	err := r.do("redeem", func() error {
		t := r.tokens[hash]
		switch {
		case t == nil:
			return ostiary.Errorf(ostiary.NotFound, "join_token", "no such token")
		case t.spent:
			return ostiary.Errorf(ostiary.Conflict, "join_token", "the token is spent")
		case !at.Before(t.Expires):
			return ostiary.Errorf(ostiary.Denied, "join_token", "the token has expired")
		}
		agent, mandate, err := make(t.JoinToken)
		if err != nil {
			return err
		}
		if r.agents == nil {
			r.agents = map[ostiary.AgentID]identity.AgentRecord{}
		}
		t.spent = true
		r.agents[agent.ID] = agent
		r.mandates = append(r.mandates, mandate)
		out = agent
		return nil
	})
	return out, err
}

// Agents implements identity.Registry.
func (r *Registry) Agents(context.Context) (out []identity.AgentRecord, err error) {
	err = r.do("agents", func() error {
		for _, a := range r.agents {
			out = append(out, a)
		}
		return nil
	})
	return out, err
}

// AddAgent implements identity.Registry.
func (r *Registry) AddAgent(_ context.Context, a identity.AgentRecord) error {
	return r.do("add_agent", func() error {
		if was, ok := r.agents[a.ID]; ok {
			if was.Principal != a.Principal || was.Method != a.Method {
				return ostiary.Errorf(ostiary.Conflict, "agent", "another agent has this name")
			}
			return nil
		}
		if r.agents == nil {
			r.agents = map[ostiary.AgentID]identity.AgentRecord{}
		}
		a.Mandate = ""
		r.agents[a.ID] = a
		return nil
	})
}

// Mandates implements identity.Registry.
func (r *Registry) Mandates(_ context.Context, at time.Time) (out []identity.MandateRecord, err error) {
	err = r.do("mandates", func() error {
		for _, m := range r.mandates {
			if m.Kind == ostiary.StandingMandate || m.Ended.IsZero() && m.Expires.After(at) {
				out = append(out, m)
			}
		}
		return nil
	})
	return out, err
}

// MandateHistory implements identity.Registry.
func (r *Registry) MandateHistory(_ context.Context, f identity.MandateFilter) (out []identity.MandateRecord, err error) {
	err = r.do("history", func() error {
		for _, m := range slices.Backward(r.mandates) {
			if f.Matches(&m) && len(out) < f.Most() {
				out = append(out, m)
			}
		}
		return nil
	})
	return out, err
}

// CreateMandate implements identity.Registry.
func (r *Registry) CreateMandate(_ context.Context, m identity.MandateRecord) error {
	return r.do("create_mandate", func() error {
		if r.find(m.ID) != nil {
			return ostiary.Errorf(ostiary.Conflict, "taken", "the mandate exists")
		}
		if m.Kind == ostiary.StandingMandate {
			g, ok := r.agents[m.Agent]
			if !ok {
				return ostiary.Errorf(ostiary.NotFound, "absent", "there is no such agent")
			}
			g.Mandate = m.ID
			r.agents[m.Agent] = g
		}
		r.mandates = append(r.mandates, m)
		return nil
	})
}

func (r *Registry) find(id ostiary.MandateID) *identity.MandateRecord {
	for i := range r.mandates {
		if r.mandates[i].ID == id {
			return &r.mandates[i]
		}
	}
	return nil
}

// EndMandate implements identity.Registry.
func (r *Registry) EndMandate(_ context.Context, e identity.MandateEnd) (epoch uint64, err error) {
	err = r.do("end_mandate", func() error {
		m := r.find(e.ID)
		if m == nil {
			return ostiary.Errorf(ostiary.NotFound, "absent", "there is no such mandate")
		}
		if m.Ended.IsZero() {
			r.epoch++
			epoch = r.epoch
			m.Ended, m.How, m.EndedBy, m.Why = e.At, e.How, e.By, e.Why
		}
		return nil
	})
	return epoch, err
}

// ReviewMandate implements identity.Registry.
func (r *Registry) ReviewMandate(_ context.Context, id ostiary.MandateID, by string, at time.Time) error {
	return r.do("review_mandate", func() error {
		m := r.find(id)
		if m == nil {
			return ostiary.Errorf(ostiary.NotFound, "absent", "there is no such mandate")
		}
		if m.Reviewed.IsZero() {
			m.Reviewed, m.Reviewer = at, by
		}
		return nil
	})
}

// Revoke implements identity.Registry.
func (r *Registry) Revoke(_ context.Context, v identity.Revocation) (epoch uint64, err error) {
	err = r.do("revoke", func() error {
		r.epoch++
		v.Epoch = r.epoch
		r.ended = append(r.ended, v)
		epoch = r.epoch
		return nil
	})
	return epoch, err
}

// Revocations implements identity.Registry.
func (r *Registry) Revocations(_ context.Context, after uint64) (epoch uint64, out []identity.Revocation, err error) {
	err = r.do("revocations", func() error {
		epoch = r.epoch
		for _, v := range r.ended {
			if v.Epoch > after && len(out) < identity.RevocationsRead {
				out = append(out, v)
			}
		}
		return nil
	})
	return epoch, out, err
}

// Change alters an agent's record behind the authority's back.
func (r *Registry) Change(id ostiary.AgentID, f func(*identity.AgentRecord)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	a := r.agents[id]
	f(&a)
	r.agents[id] = a
}

// Keys are identity.Keys in memory.
type Keys struct {
	mu   sync.Mutex
	keys map[string]*ecdsa.PrivateKey
}

// ECDSA implements identity.Keys.
func (k *Keys) ECDSA(name string) (*ecdsa.PrivateKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if key := k.keys[name]; key != nil {
		return key, nil
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	if k.keys == nil {
		k.keys = map[string]*ecdsa.PrivateKey{}
	}
	k.keys[name] = key
	return key, nil
}

// Forget removes a key, as taking it offline would.
func (k *Keys) Forget(name string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.keys, name)
}

// Mandates signs by writing "signed:" in front.
type Mandates struct{}

// signed is what a fake signature covers.
type signed struct {
	M     ostiary.Mandate
	Under ostiary.Digest
}

// IssueUnder implements identity.Mandates.
func (Mandates) IssueUnder(m ostiary.Mandate, under ostiary.Digest) (string, error) {
	b, err := json.Marshal(signed{m, under})
	return "signed:" + string(b), err
}

// Verify implements identity.Mandates.
func (Mandates) Verify(s string) (ostiary.Mandate, ostiary.Digest, error) {
	var x signed
	if len(s) < 7 || s[:7] != "signed:" {
		return x.M, x.Under, errors.New("not signed")
	}
	err := json.Unmarshal([]byte(s[7:]), &x)
	return x.M, x.Under, err
}

// Options returns options with which an authority opens: fakes for
// everything, the trust domain "test.example", a directory of its own.
func Options(t testing.TB) identity.Options {
	return identity.Options{
		TrustDomain: "test.example", Dir: t.TempDir(), Keys: &Keys{}, Registry: &Registry{}, Mandates: Mandates{},
		Record: func(context.Context, identity.Event) error { return nil },
	}
}
