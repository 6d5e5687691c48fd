package oauth

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/record"
)

// A refresh token is "ostrefresh_<family>.<secret>". The family is what came
// of one consent: it lives as long as the mandate and knows the hash of the
// one secret that is good. Each use replaces the secret; whoever shows an old
// one proves that two have the family, and it ends with its mandate. Without
// refresh tokens a person would be asked every ten minutes, and would learn to
// say yes.
//
// An answer can be lost on its way, and a client that asks again would end its
// own family. So for [retryGrace] the secret that was spent last may be spent
// again, a few times, by who proves the key that the family is bound to: a thief
// of the secret alone gains nothing by it. Of a family that is bound to no key
// nobody can tell the client from the thief, and there is no grace. See RFC
// 9700, section 4.14.2.
const refreshPrefix = "ostrefresh_"

const (
	retryGrace = 30 * time.Second // how long after it was spent: some tries of a client on a bad line
	maxRetries = 3
)

type family struct {
	Client   string            `json:"client"`
	Agent    ostiary.AgentID   `json:"agent"`
	Mandate  ostiary.MandateID `json:"mandate"`
	Audience string            `json:"audience"`
	Scope    string            `json:"scope,omitempty"`
	Thumb    string            `json:"jkt,omitempty"` // the key it is bound to
	Hash     string            `json:"hash"`

	// Of a family that is bound to a key, since it was last refreshed.
	More  []string  `json:"more,omitempty"`  // what was handed out for the same secret, and may not have arrived
	Spent []string  `json:"spent,omitempty"` // the secrets of the refresh before
	At    time.Time `json:"at,omitzero"`     // when they were spent
}

// standing says what a secret is to its family.
type standing uint8

const (
	stale   standing = iota // none of it, or spent too long ago
	retried                 // spent just now, and the answer may be lost
	current
)

// of finds out by hashes alone; who shows it is looked at elsewhere.
func (v *family) of(secret string, now time.Time) standing {
	hash, found := hashed(secret), 0
	among := func(list []string) int {
		n := 0
		for _, h := range list {
			n |= subtle.ConstantTimeCompare([]byte(hash), []byte(h))
		}
		return n
	}
	if found = among(append([]string{v.Hash}, v.More...)); found == 1 {
		return current
	}
	if among(v.Spent) == 1 && v.Thumb != "" && now.Sub(v.At) <= retryGrace && len(v.More) < maxRetries {
		return retried
	}
	return stale
}

// next makes a secret that is spent into another.
func (v *family) next(as standing, secret string, now time.Time) {
	if as == retried { // the window is not moved
		v.More = append(v.More, v.Hash)
	} else if v.Thumb != "" {
		v.Spent, v.More, v.At = append([]string{v.Hash}, v.More...), nil, now
	}
	v.Hash = hashed(secret)
}

// family begins one.
func (s *Server) family(ctx context.Context, r *identity.TokenRequest) (string, *refusal) {
	m, ok := s.o.Authority.Mandate(r.Mandate)
	if !ok {
		return "", refuse(invalidGrant, "what the token would be for has ended")
	}
	id, secret := strings.ToLower(rand.Text()), rand.Text()+rand.Text()
	data, err := json.Marshal(family{Client: r.Client, Agent: r.Agent, Mandate: r.Mandate, Audience: r.Audience, Scope: r.Scope, Thumb: r.Thumbprint, Hash: hashed(secret)})
	if err == nil {
		_, err = s.o.Records.CreateRecord(ctx, record.Record{Kind: kindRefresh, ID: id, Data: data, Expires: m.Expires}, s.o.Clock())
	}
	if err != nil {
		return "", understood(err, invalidGrant)
	}
	return refreshPrefix + id + "." + secret, nil
}

// open finds a refresh token's family, and what the secret is to it.
func (s *Server) open(ctx context.Context, token string) (r record.Record, v family, as standing, ref *refusal) {
	no := refuse(invalidGrant, "the refresh token is not good")
	rest, ok := strings.CutPrefix(token, refreshPrefix)
	id, secret, dotted := strings.Cut(rest, ".")
	if !ok || !dotted || len(id) != 26 || len(secret) > 128 {
		return r, v, stale, no
	}
	r, err := s.o.Records.Record(ctx, kindRefresh, id, s.o.Clock())
	if err != nil {
		return r, v, stale, understood(err, invalidGrant)
	}
	if err := json.Unmarshal(r.Data, &v); err != nil {
		return r, v, stale, refuse(serverError, "internal error").because(err)
	}
	return r, v, v.of(secret, s.o.Clock()), nil
}

// fromRefresh spends a refresh token for the next, and a token.
func (s *Server) fromRefresh(ctx context.Context, who *asker, f form) (issued, *refusal) {
	no := refuse(invalidGrant, "the refresh token is not good, or not for this client and key")
	r, v, as, ref := s.open(ctx, f["refresh_token"])
	if ref != nil {
		return issued{}, ref
	}
	theirs := who.client != nil && who.client.id == v.Client && (v.Thumb == "" || who.key != nil && who.key.Thumbprint() == v.Thumb)
	if as == stale || as == retried && !theirs { // its secret was used before
		s.endFamily(ctx, r, v, "its refresh token was used twice")
		return issued{}, no
	}
	if !theirs {
		return issued{}, no
	}
	if f["resource"] != "" {
		res, ref := s.target(f)
		if ref != nil {
			return issued{}, ref
		}
		if res.Audience != v.Audience {
			return issued{}, refuse(invalidTarget, "resource is not the one that was asked for")
		}
	}
	scope, ref := narrowed(f, v.Scope)
	if ref != nil {
		return issued{}, ref
	}
	secret := rand.Text() + rand.Text()
	v.next(as, secret, s.o.Clock())
	if _, err := s.save(ctx, r, v); err != nil {
		return issued{}, understood(err, invalidGrant) // somebody was faster
	}
	req := identity.TokenRequest{Agent: v.Agent, Mandate: v.Mandate, Audience: v.Audience, Client: v.Client, Scope: scope}
	who.bind(&req)
	out, ref := s.mint(ctx, req)
	out.Refresh = refreshPrefix + r.ID + "." + secret
	return out, ref
}

// narrowed returns the scope asked for, if it is within what was given.
func narrowed(f form, given string) (string, *refusal) {
	asked, ref := f.scopes()
	if ref != nil || asked == nil {
		return given, ref
	}
	have := strings.Split(given, " ")
	for _, w := range asked {
		if !slices.Contains(have, w) {
			return "", refuse(invalidScope, "the scope is wider than what was given; ask the person again")
		}
	}
	return strings.Join(asked, " "), nil
}

func (s *Server) endFamily(ctx context.Context, r record.Record, v family, why string) {
	s.end(ctx, v.Mandate, why)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if err := s.o.Records.DeleteRecord(ctx, r.Kind, r.ID); err != nil && ostiary.KindOf(err) != ostiary.NotFound {
		s.o.Logger.Error("a refresh token that has ended could not be removed", "error", err)
	}
}

// revoke ends a token, and with a refresh token all that its consent gave. Of
// a token that is none, or another client's, it says nothing. See RFC 7009.
func (s *Server) revoke(w http.ResponseWriter, r *http.Request) {
	f, ref := body(w, r)
	if ref != nil {
		s.fail(w, r, ref)
		return
	}
	who, ref := s.asks(r, f)
	if ref == nil && f["token"] == "" {
		ref = refuse(invalidRequest, "token is missing")
	}
	if ref == nil {
		ref = s.give(r.Context(), who, f["token"])
	}
	if ref != nil {
		s.fail(w, r, ref)
		return
	}
	w.WriteHeader(http.StatusOK)
}

func (s *Server) give(ctx context.Context, who *asker, token string) *refusal {
	id := string(who.agent.Agent)
	if who.client != nil {
		id = who.client.id
	}
	if strings.HasPrefix(token, refreshPrefix) {
		r, v, _, ref := s.open(ctx, token)
		if ref == nil && v.Client == id {
			s.endFamily(ctx, r, v, "given back by its client")
		}
		if ref != nil && (ref.code == serverError || ref.code == unavailable) {
			return ref
		}
		return nil
	}
	t, err := s.o.Authority.ReadToken(token)
	if err != nil || t.Subject.Client != id {
		return nil
	}
	_, err = s.o.Authority.Revoke(ctx, identity.Revocation{Kind: identity.RevokeSerial, Subject: t.Subject.Serial, Reason: "given back by its client", At: time.Time{}})
	if err != nil {
		return understood(err, serverError)
	}
	return nil
}
