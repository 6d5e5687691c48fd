package oauth

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
)

// The types of tokens in an exchange. MandateType is the name of a mandate
// that the asking agent holds, which it proves by its certificate.
const (
	accessType  = "urn:ietf:params:oauth:token-type:access_token"
	jwtType     = "urn:ietf:params:oauth:token-type:jwt"
	MandateType = "urn:ostiary:params:oauth:token-type:mandate"
)

// exchange derives a narrower mandate for a sub-agent and gives it a token
// under that: subject_token is the asking agent's own, actor_token is of the
// one that is to act. The answer is bound to the actor's key, so only the actor
// can use it; sub is the person still, and act the whole chain. See RFC 8693.
func (s *Server) exchange(ctx context.Context, who *asker, f form) (issued, *refusal) {
	if t := f["requested_token_type"]; t != "" && t != accessType && t != jwtType {
		return issued{}, refuse(invalidRequest, "only access tokens are issued")
	}
	res, ref := s.target(f)
	if ref != nil {
		return issued{}, ref
	}
	subject, ref := s.delegator(ctx, who, f)
	if ref != nil {
		return issued{}, ref
	}
	actor, ref := s.actor(f)
	if ref != nil {
		return issued{}, ref
	}
	if ref := s.sameOrganisation(&subject, actor.Subject.Agent); ref != nil {
		return issued{}, ref
	}
	m, scope, ref := s.part(f, res, &subject)
	if ref != nil {
		return issued{}, ref
	}
	if m.Agent != "" && m.Agent != actor.Subject.Agent {
		return issued{}, refuse(invalidDetails, "the details are for another agent than the actor")
	}
	m.Agent = actor.Subject.Agent
	derived, err := s.o.Authority.DeriveMandate(ctx, subject, m)
	if err != nil {
		return issued{}, wider(err)
	}
	req := identity.TokenRequest{
		Agent: derived.Agent, Mandate: derived.ID, Audience: res.Audience, Client: actor.Subject.Client, Scope: scope,
		Thumbprint: actor.Thumbprint, Certificate: actor.Certificate,
	}
	if req.Certificate != "" {
		req.Until = actor.Subject.Expires // which is before the certificate's own end
	}
	out, ref := s.mint(ctx, req)
	out.Kind = accessType
	return out, ref
}

// wider says that more was asked for than there is to give.
func wider(err error) *refusal {
	if e := ostiary.AsError(err); e.Kind == ostiary.Denied || e.Kind == ostiary.Malformed {
		return refuse(invalidDetails, e.Detail).because(err)
	}
	return understood(err, invalidGrant)
}

// delegator finds out who delegates: the holder of subject_token, shown the way
// it is bound. A bearer token is taken from its agent, or from the
// client it was handed to if that proves itself by a key.
func (s *Server) delegator(ctx context.Context, who *asker, f form) (ostiary.Subject, *refusal) {
	none := ostiary.Subject{}
	no := func(why string) (ostiary.Subject, *refusal) {
		return none, refuse(invalidGrant, "subject_token is not good, or not the asker's").because(errors.New(why))
	}
	if f["subject_token"] == "" {
		return none, refuse(invalidRequest, "subject_token is missing")
	}
	switch f["subject_token_type"] {
	case MandateType:
		if who.peer == nil || who.client != nil {
			return no("a mandate's name without a certificate")
		}
		c := ostiary.Credentials{Peer: who.peer, Verified: true, Encrypted: true, Mandate: ostiary.MandateID(f["subject_token"])}
		sub, err := s.o.Authority.Authenticate(ctx, c)
		if err != nil {
			return none, understood(err, invalidGrant)
		}
		return sub, nil
	case accessType, jwtType:
	default:
		return none, refuse(invalidRequest, "subject_token_type is not known")
	}
	t, err := s.o.Authority.ReadToken(f["subject_token"])
	if err != nil {
		return none, understood(err, invalidGrant)
	}
	switch {
	case t.Thumbprint != "":
		if who.key == nil || who.key.Thumbprint() != t.Thumbprint {
			return no("another key")
		}
		t.Subject.Key, t.Subject.Bound = who.key.Digest, true
	case t.Certificate != "":
		if who.peer == nil || certificateHash(who.peer) != t.Certificate {
			return no("another certificate")
		}
		t.Subject.Key, t.Subject.Bound = who.agent.Key, true
	case who.client != nil && !who.proven:
		// A name is no proof, and what is derived outlives the token by hours.
		return no("a bearer token, shown by a client that proved nothing")
	}
	switch {
	case who.client == nil && who.agent.Agent != t.Subject.Agent:
		return no("another agent's token")
	case who.client != nil && who.client.id != t.Subject.Client:
		return no("another client's token")
	}
	return t.Subject, nil
}

// actor reads who is to act. What it is given is bound to the same key, so
// nobody gains by showing another's.
func (s *Server) actor(f form) (identity.ReadToken, *refusal) {
	if f["actor_token"] == "" || f["actor_token_type"] != accessType && f["actor_token_type"] != jwtType {
		return identity.ReadToken{}, refuse(invalidRequest, "actor_token, an access token of the agent that is to act, and its type are needed")
	}
	t, err := s.o.Authority.ReadToken(f["actor_token"])
	if err != nil {
		return t, understood(err, invalidGrant)
	}
	return t, nil
}

const organisation = "organisation:"

// sameOrganisation refuses to delegate out of one organisation into another:
// what each may do was given by people who answer to different ones.
func (s *Server) sameOrganisation(from *ostiary.Subject, to ostiary.AgentID) *refusal {
	var mine []string
	for _, id := range []ostiary.AgentID{from.Agent, to} {
		r, ok := s.o.Authority.Agent(id)
		if !ok {
			return refuse(invalidGrant, "an agent is not enrolled any more")
		}
		for _, p := range []string{string(r.Principal), r.Owner} {
			if strings.HasPrefix(p, organisation) && !slices.Contains(mine, p) {
				mine = append(mine, p)
			}
		}
	}
	if p := string(from.Principal); strings.HasPrefix(p, organisation) && !slices.Contains(mine, p) {
		mine = append(mine, p)
	}
	if len(mine) > 1 || from.Agent.TrustDomain() != to.TrustDomain() {
		return refuse(invalidTarget, "subject and actor belong to different organisations")
	}
	return nil
}

// part is what of the subject's right is asked for: what the details and the
// scope say, within the resource. What they leave out is as the subject has
// it; what is wider, identity refuses.
func (s *Server) part(f form, res Resource, subject *ostiary.Subject) (ostiary.Mandate, string, *refusal) {
	m := ostiary.Mandate{}
	terms, ref := f.details()
	if ref != nil {
		return m, "", ref
	}
	if terms != nil {
		m = terms.Mandate(s.o.Clock())
	}
	scope := ""
	if f["scope"] != "" || len(subject.Scopes) > 0 {
		if scope, ref = narrowed(f, strings.Join(subject.Scopes, " ")); len(subject.Scopes) == 0 && f["scope"] != "" {
			var words []string
			words, ref = granted(f, res)
			scope = strings.Join(words, " ")
		}
		if ref != nil {
			return m, "", ref
		}
	}
	if f["scope"] != "" && len(m.Resources) == 0 {
		m.Resources = reached(strings.Split(scope, " "), res)
	}
	if len(m.Resources) == 0 && res.Server != "" {
		m.Resources = []string{res.Server}
	}
	return m, scope, nil
}
