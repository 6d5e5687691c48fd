package oauth

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/identity/jwt"
)

// fromAssertion takes an identity provider's word for a person's consent: an
// ID-JAG of a configured issuer, for this server and this client. A client may
// show one again until it ends, so its jti is not single-use. There is no
// refresh token: the provider is asked again. See the identity assertion
// authorization grant draft, section 4.
func (s *Server) fromAssertion(ctx context.Context, who *asker, f form) (issued, *refusal) {
	no := func(why string) (issued, *refusal) {
		return issued{}, refuse(invalidGrant, "the assertion was not accepted").because(errors.New(why))
	}
	if who.client == nil {
		return issued{}, refuse(unauthorized, "this grant is for clients")
	}
	issuer, t, ref := s.assertion(ctx, f["assertion"])
	if ref != nil {
		return issued{}, ref
	}
	bound := t.Claims.Get("cnf")
	switch {
	case t.Audience() != s.o.URL:
		return no("another audience")
	case t.Text("client_id") != who.client.id:
		return no("another client's")
	case !inForce(t, s.o.Clock()):
		return no("not in force")
	case bound.Exists() && (bound.Len() != 1 || who.key == nil || !bound.Get("jkt").Is(who.key.Thumbprint())):
		return no("bound to another key")
	case !bound.Exists() && !who.proven:
		return no("neither bound to a key nor shown by a client that proved itself")
	}
	res, ref := s.target(f)
	if ref != nil {
		return issued{}, ref
	}
	if named := t.Text("resource"); named != "" {
		if other, ok := s.o.Resources.Resource(named); !ok || other.Audience != res.Audience {
			return issued{}, refuse(invalidTarget, "resource is not the assertion's")
		}
	}
	scopes, ref := asserted(f, res, issuer, t)
	if ref != nil {
		return issued{}, ref
	}
	person, err := s.o.Persons.PersonAt(ctx, issuer.URL, t.Text("sub"))
	if err != nil {
		return issued{}, understood(err, invalidGrant)
	}
	if !who.proven { // else its own assertion was counted
		if ref := s.pace(who.client.id); ref != nil {
			return issued{}, ref
		}
	}
	agent, err := s.o.Authority.AdmitClient(ctx, who.client.id, person)
	if err != nil {
		return issued{}, understood(err, invalidGrant)
	}
	m, err := s.o.Authority.IssueMandate(ctx, person, ostiary.Mandate{
		Kind: ostiary.TaskMandate, Agent: agent, Purpose: "sign-in", Task: "as " + issuer.URL + " asserted", Actions: []string{"*"},
		Resources: reached(scopes, res), Classes: []string{"*"}, Approvers: []string{"*"}, Expires: s.o.Clock().Add(identity.MaxTokenLife),
	})
	if err != nil {
		return issued{}, understood(err, invalidGrant)
	}
	req := identity.TokenRequest{Agent: agent, Mandate: m.ID, Audience: res.Audience, Client: who.client.id, Scope: strings.Join(scopes, " ")}
	who.bind(&req)
	return s.mint(ctx, req)
}

// asserted returns the scopes that request, assertion and configuration agree
// on.
func asserted(f form, res Resource, issuer *Issuer, t *jwt.Token) ([]string, *refusal) {
	out, ref := granted(f, res)
	if ref != nil {
		return nil, ref
	}
	limits := [][]string{issuer.Scopes}
	if scope := t.Text("scope"); scope != "" {
		limits = append(limits, strings.Fields(scope))
	}
	return slices.DeleteFunc(out, func(w string) bool {
		return w != ostiary.ScopeConnect && slices.ContainsFunc(limits, func(l []string) bool { return !slices.Contains(l, w) })
	}), nil
}

// assertion verifies one by the keys of the issuer that it names. Keys are
// kept by issuer, so one's kid says nothing of another's.
func (s *Server) assertion(ctx context.Context, text string) (*Issuer, *jwt.Token, *refusal) {
	var last error
	for i := range s.o.Issuers {
		issuer := &s.o.Issuers[i]
		keys, ref := s.keySet(ctx, issuer.Keys)
		if ref != nil {
			last = ref
			continue
		}
		t, err := jwt.IDJAG.Read(text, keys)
		if err == nil && t.Text("iss") == issuer.URL {
			return issuer, &t, nil
		}
		last = errors.Join(err, errors.New("not of issuer "+issuer.URL))
	}
	return nil, nil, refuse(invalidGrant, "the assertion was not accepted").because(last)
}
