package console

import (
	"net/http"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
)

// mePage is what a person sees of themselves.
type mePage struct {
	Person  *people.Person
	Label   Foreign
	Session *people.Session
	Idle    time.Duration
}

func (c *Console) me(x *exchange) error {
	p := x.who()
	return c.show(x, http.StatusOK, "me", "You", frame{Page: "me", Content: mePage{p, NewForeign(p.Label), x.session, people.SessionIdle}})
}

// row is one person in the list.
type row struct {
	people.Person
	Label Foreign
}

// peoplePage is who may sign in, and who was asked to.
type peoplePage struct {
	People      []row
	Invitations []people.Invitation
}

func (c *Console) people(x *exchange) error {
	list, err := c.o.People.List(x.r.Context())
	if err != nil {
		return err
	}
	var out peoplePage
	for _, p := range list {
		out.People = append(out.People, row{p, NewForeign(p.Label)})
	}
	if out.Invitations, err = c.o.People.Invitations(x.r.Context()); err != nil {
		return err
	}
	return c.show(x, http.StatusOK, "people", "People", frame{Page: "people", Content: out})
}

// personPage is one person, and what may be done about them.
type personPage struct {
	row
	Mine    bool // it is whoever looks
	Changes bool // whoever looks may revoke them
}

// named reads the person an address is about: whatever is no name is nobody.
func (c *Console) named(x *exchange) (people.Person, error) {
	p, err := c.o.People.Person(x.r.Context(), x.r.PathValue("name"))
	if k := ostiary.KindOf(err); err != nil && (k == ostiary.NotFound || k == ostiary.Malformed) {
		return p, ostiary.Errorf(ostiary.NotFound, "no_person", "there is nobody of this name")
	}
	return p, err
}

func (c *Console) onePerson(x *exchange) error {
	p, err := c.named(x)
	if err != nil {
		return err
	}
	out := personPage{row{p, NewForeign(p.Label)}, p.Name == x.who().Name, x.who().Has(people.Operator) && p.Revoked.IsZero()}
	return c.show(x, http.StatusOK, "person", p.Name, frame{Page: "people", Content: out})
}

func (c *Console) revokePerson(x *exchange) error {
	p, err := c.named(x)
	if err != nil {
		return err
	}
	if _, err := c.o.People.Revoke(x.r.Context(), p.Name, x.form.Get("reason"), string(x.who().ID)); err != nil {
		return err
	}
	return x.redirect("/people/" + p.Name)
}
