package people

import (
	"context"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// Person is somebody who may sign in.
type Person struct {
	ID      ostiary.PrincipalID // "person:" and the name
	Name    string
	Label   string // what the provider or the person says they are called; foreign text
	Roles   []Role
	Created time.Time
	By      string // who invited them; the provider's host for its own
	Seen    time.Time
	Revoked time.Time // zero: they are not
	Passkey []Passkey
	Keys    []Key // of the command line
	Links   []Link
}

// Has reports whether the person has one of the roles.
func (p *Person) Has(any ...Role) bool {
	return slices.ContainsFunc(p.Roles, func(r Role) bool { return slices.Contains(any, r) })
}

// Link is who a person is at an OpenID provider.
type Link struct {
	Issuer  string `json:"iss"`
	Subject string `json:"sub"`
}

// person is how one is kept.
type person struct {
	Handle   string    `json:"handle"` // what authenticators keep beside the key; says nothing of the person
	Label    string    `json:"label,omitempty"`
	Roles    []string  `json:"roles"`
	Created  time.Time `json:"created"`
	By       string    `json:"by"`
	Seen     time.Time `json:"seen,omitzero"`
	Revoked  time.Time `json:"revoked,omitzero"`
	Reason   string    `json:"reason,omitempty"`
	Round    uint64    `json:"round"` // rises whenever sessions that exist must end
	Passkeys []Passkey `json:"passkeys,omitempty"`
	Keys     []Key     `json:"keys,omitempty"`
	Links    []Link    `json:"links,omitempty"`
}

// Principal is the principal of the person with this name.
func Principal(name string) ostiary.PrincipalID { return ostiary.PrincipalID("person:" + name) }

func (r *person) view(name string) (Person, error) {
	roles, err := ParseRoles(r.Roles)
	if err != nil {
		return Person{}, ostiary.Errorf(ostiary.Corrupt, "stored_record", "a stored role is none").Because(err)
	}
	return Person{
		ID: Principal(name), Name: name, Label: r.Label, Roles: roles, Created: r.Created, By: r.By, Seen: r.Seen,
		Revoked: r.Revoked, Passkey: r.Passkeys, Keys: r.Keys, Links: r.Links,
	}, nil
}

// Person returns the person with this name, NotFound if there is none.
func (p *People) Person(ctx context.Context, name string) (Person, error) {
	var rec person
	if _, err := p.get(ctx, kindPerson, name, &rec); err != nil {
		return Person{}, err
	}
	return rec.view(name)
}

// List returns every person, also revoked ones, by name: Exhausted if there
// are more than people could look at.
func (p *People) List(ctx context.Context) ([]Person, error) {
	out := []Person{}
	err := p.persons(ctx, func(v Person) error {
		if out = append(out, v); len(out) > maxPeople {
			return ostiary.Errorf(ostiary.Exhausted, "too_many", "there are more than %d persons", maxPeople)
		}
		return nil
	})
	return out, err
}

// persons reads every person.
func (p *People) persons(ctx context.Context, do func(Person) error) error {
	return p.each(ctx, kindPerson, func(r record.Record) error {
		var rec person
		if err := p.open(r, &rec); err != nil {
			return err
		}
		v, err := rec.view(r.ID)
		if err != nil {
			return err
		}
		return do(v)
	})
}

// change reads a person, lets do change them, records the event and writes
// them back. A person who moved meanwhile is read again.
func (p *People) change(ctx context.Context, name string, do func(*person) (Event, error)) (Person, error) {
	for range 8 { // two changes of one person at one moment are rare, eight are a fault
		var rec person
		r, err := p.get(ctx, kindPerson, name, &rec)
		if err != nil {
			return Person{}, err
		}
		e, err := do(&rec)
		if err != nil {
			return Person{}, err
		}
		if e.What != "" {
			e.Person = Principal(name)
			if err := p.o.Record(ctx, e); err != nil {
				return Person{}, err
			}
		}
		switch err := p.put(ctx, r, &rec); {
		case err == nil:
			return rec.view(name)
		case ostiary.KindOf(err) != ostiary.Conflict:
			return Person{}, err
		}
	}
	return Person{}, ostiary.Errorf(ostiary.Conflict, "person_moved", "this person is being changed by somebody else; try again")
}

// SetRoles gives a person exactly these roles. Their sessions end.
func (p *People) SetRoles(ctx context.Context, name string, roles []Role, by string) (Person, error) {
	change := func(ctx context.Context) (Person, error) {
		return p.change(ctx, name, func(r *person) (Event, error) {
			if !r.Revoked.IsZero() {
				return Event{}, errRevoked(name)
			}
			r.Roles, r.Round = Words(roles), r.Round+1
			return Event{What: "change_roles", By: by, Detail: "roles are now " + said(roles)}, nil
		})
	}
	if slices.Contains(roles, Operator) {
		return change(ctx)
	}
	return p.unlessLast(ctx, name, change)
}

// unlessLast changes a person who is not the last operator. Nobody else does so
// meanwhile, on any gateway of the store: two could each find the other one
// left. Who may have begun to change somebody and died keeps the others out
// until removingLife is over. Whoever is no operator leaves none behind.
func (p *People) unlessLast(ctx context.Context, name string, change func(context.Context) (Person, error)) (Person, error) {
	if x, err := p.Person(ctx, name); err != nil || !isOperator(x) {
		if err != nil {
			return Person{}, err
		}
		return change(ctx)
	}
	p.removing.Lock()
	defer p.removing.Unlock()
	now := p.o.Clock()
	_, err := p.o.Records.CreateRecord(ctx, record.Record{Kind: kindRemoving, ID: "operator", Data: []byte(name), Expires: now.Add(removingLife)}, now)
	if ostiary.KindOf(err) == ostiary.Conflict {
		return Person{}, ostiary.Errorf(ostiary.Conflict, "person_moved", "another gateway is changing who is an operator: try again in a moment")
	}
	if err != nil {
		return Person{}, err
	}
	within, cancel := context.WithTimeout(ctx, removingTimeout)
	defer cancel()
	var out Person
	if err = p.notLast(within, name); err == nil {
		out, err = change(within)
	}
	if err == nil || within.Err() == nil && ostiary.AsError(err).Code != "not_known" { // else it may happen yet
		done, cancel := context.WithTimeout(context.WithoutCancel(ctx), removingTimeout)
		defer cancel()
		_ = p.o.Records.DeleteRecord(done, kindRemoving, "operator") // or it ends by itself
	}
	return out, err
}

const (
	kindRemoving = "person_removing"
	// removingTimeout bounds the change of one person, and removingLife how
	// long nobody else tries while nobody can say what became of it.
	removingTimeout = 10 * time.Second
	removingLife    = 2 * time.Minute
)

// Revoke ends a person: sessions, passkeys, every mandate they gave, and the
// invitations that are open for them. Of a name that was only invited it takes
// the invitations back; the name can be invited again. It can be called again
// if it failed half way.
func (p *People) Revoke(ctx context.Context, name, reason, by string) (Person, error) {
	if reason == "" {
		return Person{}, ostiary.Errorf(ostiary.Malformed, "reason", "say why; it stays in the log").At("reason")
	}
	out, err := p.revoke(ctx, name, reason, by)
	switch {
	case err == nil:
		if _, err := p.withdraw(ctx, name); err != nil { // they open nothing: enrol looks at the person
			return out, err
		}
	case ostiary.KindOf(err) == ostiary.NotFound:
		return p.uninvite(ctx, name, reason, by, err)
	}
	if err != nil || p.o.EndGiven == nil {
		return out, err
	}
	return out, p.o.EndGiven(ctx, out.ID, by)
}

func (p *People) revoke(ctx context.Context, name, reason, by string) (Person, error) {
	return p.unlessLast(ctx, name, func(ctx context.Context) (Person, error) {
		return p.change(ctx, name, func(r *person) (Event, error) {
			if r.Revoked.IsZero() {
				r.Revoked = p.o.Clock().UTC()
			}
			r.Reason, r.Round = clip(reason), r.Round+1
			return Event{What: "revoke_person", By: by, Detail: reason}, nil
		})
	})
}

func errRevoked(name string) error {
	return ostiary.Errorf(ostiary.Denied, "person_revoked", "%s is revoked; invite somebody under another name", name)
}

func said(roles []Role) string {
	s := ""
	for i, r := range roles {
		if i > 0 {
			s += ", "
		}
		s += r.String()
	}
	if s == "" {
		return "none"
	}
	return s
}

// HasOperator reports whether anybody is an operator.
func (p *People) HasOperator(ctx context.Context) (has bool, err error) {
	err = p.persons(ctx, func(x Person) error {
		has = has || isOperator(x)
		return nil
	})
	return has && err == nil, err
}

func isOperator(p Person) bool { return p.Revoked.IsZero() && p.Has(Operator) }

// notLast refuses what would leave nobody who can let others in.
func (p *People) notLast(ctx context.Context, name string) error {
	left := 0
	was := false
	err := p.persons(ctx, func(x Person) error {
		if isOperator(x) {
			was = was || x.Name == name
			left++
		}
		return nil
	})
	if err != nil {
		return err
	}
	if was && left == 1 {
		return ostiary.Errorf(ostiary.Conflict, "last_operator", "the last operator is %s; invite another one first", name)
	}
	return nil
}
