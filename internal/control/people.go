package control

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/people"
)

// Person is somebody who may sign in to the console.
type Person struct {
	Name      string    `json:"name"`
	Principal string    `json:"principal"`
	Label     string    `json:"label,omitempty"` // what they or their sign-in provider call them
	Roles     []string  `json:"roles"`
	Passkeys  int       `json:"passkeys"`
	Keys      []string  `json:"keys"`               // of the command line, by id
	Provider  string    `json:"provider,omitempty"` // the issuer they sign in at, if it is not by passkey
	By        string    `json:"by"`
	Created   time.Time `json:"created"`
	Seen      time.Time `json:"seen,omitzero"`
	State     string    `json:"state"` // "active", "revoked"
}

// PersonRequest invites a person, sets their roles, or revokes them.
type PersonRequest struct {
	Name   string   `json:"name"`
	Roles  []string `json:"roles"`
	Life   string   `json:"life"`   // of an invitation
	Reason string   `json:"reason"` // of a revocation
}

// PersonInvitation is an invitation. Its link is shown once.
type PersonInvitation struct {
	Name    string    `json:"name"` // "" for the first operator, who chooses
	Roles   []string  `json:"roles"`
	Known   bool      `json:"known"` // the person exists: this adds a passkey
	By      string    `json:"by"`
	Expires time.Time `json:"expires"`
	Link    string    `json:"link,omitempty"`
}

// People is the answer of GET /v1/people.
type People struct {
	People      []Person           `json:"people"`
	Invitations []PersonInvitation `json:"invitations"`
}

func personOf(p people.Person) Person {
	out := Person{
		Name: p.Name, Principal: string(p.ID), Label: p.Label, Roles: people.Words(p.Roles), Passkeys: len(p.Passkey), By: p.By,
		Created: p.Created, Seen: p.Seen, State: "active",
	}
	out.Keys = []string{}
	for _, k := range p.Keys {
		out.Keys = append(out.Keys, k.ID)
	}
	if !p.Revoked.IsZero() {
		out.State = "revoked"
	}
	if len(p.Links) > 0 {
		out.Provider = p.Links[0].Issuer
	}
	return out
}

func invitationOf(in people.Invitation) PersonInvitation {
	return PersonInvitation{Name: in.Name, Roles: people.Words(in.Roles), Known: in.Known, By: in.By, Expires: in.Expires}
}

// persons is who may sign in; without a console nobody can.
func (c *Control) persons() (*people.People, error) {
	if c.o.People == nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "console_off", "there is no console where people could sign in; set listen.console and restart the gateway")
	}
	return c.o.People, nil
}

func (c *Control) getPeople(r *http.Request) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	out := People{People: []Person{}, Invitations: []PersonInvitation{}}
	list, err := p.List(r.Context())
	if err != nil {
		return nil, err
	}
	for _, x := range list {
		out.People = append(out.People, personOf(x))
	}
	invitations, err := p.Invitations(r.Context())
	for _, in := range invitations {
		out.Invitations = append(out.Invitations, invitationOf(in))
	}
	return out, err
}

func (c *Control) postInvitation(ctx context.Context, in PersonRequest) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	life, err := parseLife(in.Life)
	if err != nil {
		return nil, err
	}
	roles, err := people.ParseRoles(in.Roles)
	if err != nil {
		return nil, err
	}
	secret, made, err := p.Invite(ctx, in.Name, roles, life, operator(ctx))
	if err != nil {
		return nil, err
	}
	out := invitationOf(made)
	out.Link = p.Link(secret)
	return out, nil
}

func (c *Control) postPerson(ctx context.Context, in PersonRequest) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	roles, err := people.ParseRoles(in.Roles)
	if err != nil {
		return nil, err
	}
	out, err := p.Add(ctx, in.Name, roles, operator(ctx))
	if err != nil {
		return nil, err
	}
	return personOf(out), nil
}

func (c *Control) postRoles(ctx context.Context, in PersonRequest) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	roles, err := people.ParseRoles(in.Roles)
	if err != nil {
		return nil, err
	}
	out, err := p.SetRoles(ctx, in.Name, roles, operator(ctx))
	if err != nil {
		return nil, err
	}
	return personOf(out), nil
}

func (c *Control) postPersonRevocation(ctx context.Context, in PersonRequest) (any, error) {
	p, err := c.persons()
	if err != nil {
		return nil, err
	}
	out, err := p.Revoke(ctx, in.Name, in.Reason, operator(ctx))
	if k := ostiary.KindOf(err); err != nil && k != ostiary.NotFound && k != ostiary.Malformed {
		_, err = c.revokePrincipal(ctx, ostiary.PrincipalID("person:"+in.Name), in.Reason, err)
	}
	if err != nil {
		return nil, err
	}
	return personOf(out), nil
}

// revokePerson ends a person, whichever command says so: everything they gave
// or that is on their authority, and, where people sign in, their sessions,
// passkeys and invitations. Of a principal that is no person, or that nobody
// invited, there is only the first.
func (c *Control) revokePerson(ctx context.Context, id ostiary.PrincipalID, reason string) (epoch uint64, err error) {
	if name, person := strings.CutPrefix(string(id), "person:"); person && c.o.People != nil && reason != "" {
		_, err = c.o.People.Revoke(ctx, name, reason, operator(ctx))
		if ostiary.KindOf(err) == ostiary.NotFound || ostiary.KindOf(err) == ostiary.Malformed {
			err = nil
		}
	}
	return c.revokePrincipal(ctx, id, reason, err)
}

// revokePrincipal ends what a principal gave, also if something kept them from
// losing their sign-in: that is told afterwards.
func (c *Control) revokePrincipal(ctx context.Context, id ostiary.PrincipalID, reason string, kept error) (uint64, error) {
	epoch, err := c.o.Authority.Revoke(ctx, identity.Revocation{Kind: identity.RevokePerson, Subject: string(id), Reason: reason, At: c.o.Clock()})
	if err == nil && kept != nil {
		e := *ostiary.AsError(kept)
		e.Detail = "everything they gave has ended, and they can still sign in: " + e.Detail
		err = &e
	}
	return epoch, err
}

// RecordPerson puts what happens to persons into the deployment's log: it is
// the Record of people.
func RecordPerson(changes Changes, self ostiary.AgentID, clock func() time.Time) func(context.Context, people.Event) error {
	return func(ctx context.Context, e people.Event) error {
		who := e.By
		if who == "" {
			who = string(e.Person)
		}
		_, err := changes.Append(ctx, &ostiary.Entry{
			Kind: ostiary.KindChange, Time: clock(), Action: e.What, Code: "ok", Permit: true, Agent: self, Principal: e.Person,
			Payload: ostiary.Payload{Detail: []byte(detailJSON(map[string]string{"text": e.Detail, "by": who}))},
		})
		if err != nil {
			return ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the change could not be recorded").Because(err)
		}
		return nil
	}
}
