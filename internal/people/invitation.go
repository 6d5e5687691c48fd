package people

import (
	"context"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// Invitation is the one-time right of whoever holds its secret to add one
// passkey: of a new person, or of one who is known already.
type Invitation struct {
	Name    string // "": whoever redeems it chooses
	Roles   []Role // of a new person; one who is known keeps theirs
	By      string
	Created time.Time
	Expires time.Time
	First   bool // the first operator's
	Known   bool // the person exists: this adds a passkey
}

type invitation struct {
	Name    string    `json:"name,omitempty"`
	Roles   []string  `json:"roles"`
	By      string    `json:"by"`
	Created time.Time `json:"created"`
	First   bool      `json:"first,omitempty"`
	Adds    bool      `json:"adds,omitempty"` // a passkey to a person who was known; else it is for a new one
}

// Invite returns the secret of an invitation. For a person who is known it
// lets them add a passkey, and says so in the log.
func (p *People) Invite(ctx context.Context, name string, roles []Role, life time.Duration, by string) (ostiary.Secret, Invitation, error) {
	if err := checkOwnName(name); err != nil {
		return ostiary.Secret{}, Invitation{}, err
	}
	if life == 0 {
		life = InviteLife
	}
	if life < time.Minute || life > MaxInviteLife {
		return ostiary.Secret{}, Invitation{}, ostiary.Errorf(ostiary.Malformed, "life", "an invitation lives a minute to %v", MaxInviteLife).At("life")
	}
	old, err := p.Person(ctx, name)
	known := err == nil
	switch {
	case known && !old.Revoked.IsZero():
		return ostiary.Secret{}, Invitation{}, errRevoked(name)
	case known && len(roles) > 0:
		return ostiary.Secret{}, Invitation{}, ostiary.Errorf(ostiary.Conflict, "person_known", "%s is known already: change roles with \"ostiary person roles\"; an invitation without roles adds a passkey", name).At("roles")
	case !known && ostiary.KindOf(err) != ostiary.NotFound:
		return ostiary.Secret{}, Invitation{}, err
	}
	return p.invite(ctx, invitation{Name: name, Roles: Words(roles), By: by, Adds: known}, life)
}

// InviteFirst returns the link secret of the first operator, and ends those it
// returned before. The zero Secret means that somebody used one already, or
// that there is an operator.
func (p *People) InviteFirst(ctx context.Context) (ostiary.Secret, Invitation, error) {
	has, err := p.HasOperator(ctx)
	if err != nil || has {
		return ostiary.Secret{}, Invitation{}, err
	}
	switch _, err := p.o.Records.Record(ctx, kindFirst, onlyFirst, p.o.Clock()); {
	case err == nil:
		return ostiary.Secret{}, Invitation{}, nil
	case ostiary.KindOf(err) != ostiary.NotFound:
		return ostiary.Secret{}, Invitation{}, err
	}
	err = p.each(ctx, kindInvitation, func(r record.Record) error {
		var in invitation
		if err := p.open(r, &in); err != nil || !in.First {
			return err
		}
		if err := p.o.Records.DeleteRecord(ctx, r.Kind, r.ID); err != nil && ostiary.KindOf(err) != ostiary.NotFound {
			return err
		}
		return nil
	})
	if err != nil {
		return ostiary.Secret{}, Invitation{}, err
	}
	return p.invite(ctx, invitation{Roles: Words([]Role{Operator}), By: "first start", First: true}, FirstLife)
}

// onlyFirst is the one id of its kind: whoever makes the record is the first
// operator.
const onlyFirst = "operator"

func (p *People) invite(ctx context.Context, in invitation, life time.Duration) (ostiary.Secret, Invitation, error) {
	in.Created = p.o.Clock().UTC().Truncate(time.Second)
	secret, expires := newSecret(), in.Created.Add(life)
	detail := "a new person with roles: "
	roles, err := ParseRoles(in.Roles)
	if err != nil {
		return ostiary.Secret{}, Invitation{}, err
	}
	detail += said(roles)
	if in.Adds {
		detail = "to add a passkey"
	}
	e := Event{What: "invite_person", By: in.By, Detail: detail + "; until " + expires.Format(time.RFC3339)}
	if in.Name != "" {
		e.Person = Principal(in.Name)
	}
	if err := p.o.Record(ctx, e); err != nil {
		return ostiary.Secret{}, Invitation{}, err
	}
	if err := p.put(ctx, record.Record{Kind: kindInvitation, ID: named(secret), Expires: expires}, in); err != nil {
		return ostiary.Secret{}, Invitation{}, err
	}
	return ostiary.NewSecret([]byte(secret)), Invitation{in.Name, roles, in.By, in.Created, expires, in.First, in.Adds}, nil
}

// Invitations lists those that still work, oldest first.
func (p *People) Invitations(ctx context.Context) ([]Invitation, error) {
	out := []Invitation{}
	err := p.each(ctx, kindInvitation, func(r record.Record) error {
		var in invitation
		if err := p.open(r, &in); err != nil {
			return err
		}
		v, err := in.view(r.Expires)
		out = append(out, v)
		return err
	})
	return out, err
}

// Invited returns what an invitation is for, without using it. Whoever asks
// holds its secret; anything else is NotFound.
func (p *People) Invited(ctx context.Context, secret string) (Invitation, error) {
	var in invitation
	r, err := p.get(ctx, kindInvitation, named(secret), &in)
	if err != nil {
		return Invitation{}, errInvitation(err)
	}
	return in.view(r.Expires)
}

func (in *invitation) view(expires time.Time) (Invitation, error) {
	roles, err := ParseRoles(in.Roles)
	if err != nil {
		return Invitation{}, ostiary.Errorf(ostiary.Corrupt, "stored_record", "a stored role is none").Because(err)
	}
	return Invitation{in.Name, roles, in.By, in.Created, expires, in.First, in.Adds}, nil
}

// withdraw ends the invitations that are open for a name, and reports whether
// there was one.
func (p *People) withdraw(ctx context.Context, name string) (any bool, err error) {
	err = p.each(ctx, kindInvitation, func(r record.Record) error {
		var in invitation
		if err := p.open(r, &in); err != nil || in.Name != name {
			return err
		}
		switch err := p.o.Records.DeleteRecord(ctx, r.Kind, r.ID); {
		case err == nil:
			any = true
		case ostiary.KindOf(err) != ostiary.NotFound: // else somebody used it just now
			return err
		}
		return nil
	})
	return any, err
}

// uninvite takes back the invitations of somebody who never came. none is said
// if there is none.
func (p *People) uninvite(ctx context.Context, name, reason, by string, none error) (Person, error) {
	open := false
	err := p.each(ctx, kindInvitation, func(r record.Record) error {
		var in invitation
		err := p.open(r, &in)
		open = open || err == nil && in.Name == name
		return err
	})
	if err == nil && (name == "" || !open) { // "" is the first operator's, which a new start replaces
		err = none
	}
	if err != nil {
		return Person{}, err
	}
	if err := p.o.Record(ctx, Event{What: "revoke_person", Person: Principal(name), By: by, Detail: "invitation taken back: " + reason}); err != nil {
		return Person{}, err
	}
	switch any, err := p.withdraw(ctx, name); {
	case err != nil:
		return Person{}, err
	case !any:
		return Person{}, ostiary.Errorf(ostiary.Conflict, "person_moved", "%s is being changed by somebody else; try again", name)
	}
	return Person{ID: Principal(name), Name: name, Revoked: p.o.Clock().UTC()}, nil
}

// errInvitation says one thing of every invitation that does not work.
func errInvitation(err error) error {
	if ostiary.KindOf(err) != ostiary.NotFound {
		return err
	}
	return ostiary.Errorf(ostiary.NotFound, "invitation", "this link was used, has expired, or was never one; ask an operator for another")
}
