package people

import (
	"context"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
)

// Session is a browser that somebody signed in with. The zero Session is
// nobody's.
type Session struct {
	Person  Person
	Since   time.Time
	Expires time.Time // whatever happens
	Method  string    // "passkey" or "oidc"
	id      string
}

type session struct {
	Name   string    `json:"name"`
	Round  uint64    `json:"round"` // the person's when they signed in
	Since  time.Time `json:"since"`
	Seen   time.Time `json:"seen"`
	Method string    `json:"method"`
}

// errNobody is the one answer to a token that does not work.
func errNobody() error {
	return ostiary.Errorf(ostiary.Unauthenticated, "not_signed_in", "sign in first")
}

// begin starts a session and returns its token, which is kept nowhere.
func (p *People) begin(ctx context.Context, name string, rec *person, method string) (ostiary.Secret, error) {
	if !rec.Revoked.IsZero() {
		return ostiary.Secret{}, errNobody()
	}
	if err := p.o.Record(ctx, Event{What: "sign_in", Person: Principal(name), Detail: "by " + method}); err != nil {
		return ostiary.Secret{}, err
	}
	now, token := p.o.Clock().UTC(), newSecret()
	s := session{Name: name, Round: rec.Round, Since: now, Seen: now, Method: method}
	if err := p.put(ctx, record.Record{Kind: kindSession, ID: named(token), Expires: now.Add(SessionLife)}, &s); err != nil {
		return ostiary.Secret{}, err
	}
	return ostiary.NewSecret([]byte(token)), nil
}

// Session returns whose browser holds the token, as of now: it is asked on
// every request. Unauthenticated for every token that does not work.
func (p *People) Session(ctx context.Context, token string) (Session, error) {
	return p.session(ctx, token, true)
}

// Look is Session without counting as use: what only watches keeps nobody
// signed in.
func (p *People) Look(ctx context.Context, token string) (Session, error) {
	return p.session(ctx, token, false)
}

func (p *People) session(ctx context.Context, token string, used bool) (Session, error) {
	if token == "" {
		return Session{}, errNobody()
	}
	var s session
	r, err := p.get(ctx, kindSession, named(token), &s)
	if err != nil {
		return Session{}, nobodyIfNone(err)
	}
	var rec person
	if _, err := p.get(ctx, kindPerson, s.Name, &rec); err != nil {
		return Session{}, nobodyIfNone(err)
	}
	now := p.o.Clock()
	if rec.Round != s.Round || !rec.Revoked.IsZero() || now.Sub(s.Seen) >= SessionIdle || now.Before(s.Since.Add(-time.Minute)) {
		return Session{}, errNobody()
	}
	if used && now.Sub(s.Seen) >= seenEvery {
		s.Seen = now.UTC()
		// Another request of this browser may have written it, or ended it.
		switch err := p.put(ctx, r, &s); {
		case err == nil, ostiary.KindOf(err) == ostiary.Conflict:
		default:
			return Session{}, nobodyIfNone(err)
		}
	}
	who, err := rec.view(s.Name)
	return Session{who, s.Since, r.Expires, s.Method, r.ID}, err
}

func nobodyIfNone(err error) error {
	if ostiary.KindOf(err) == ostiary.NotFound {
		return errNobody()
	}
	return err
}

// SignOut ends a session. One that has ended is no error.
func (p *People) SignOut(ctx context.Context, token string) error {
	s, err := p.Session(ctx, token)
	if err != nil {
		if ostiary.KindOf(err) == ostiary.Unauthenticated {
			return nil
		}
		return err
	}
	if err := p.o.Record(ctx, Event{What: "sign_out", Person: s.Person.ID}); err != nil {
		return err
	}
	if err := p.o.Records.DeleteRecord(ctx, kindSession, s.id); err != nil && ostiary.KindOf(err) != ostiary.NotFound {
		return err
	}
	return nil
}

// sameRoles reports whether two lists of words are the same roles.
func sameRoles(a, b []string) bool {
	a, b = slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b))
	return slices.Equal(a, b)
}
