package identity

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/rotation"
)

// Authenticate returns who the credentials prove, as things stand now. It
// reads memory only. It is called for each request: a credential that was
// good a moment ago may have been revoked since.
//
// Exactly one credential must be shown: of two, either could be the one that
// some later reader believes. A token that is bound to a key or a certificate
// and the proof that belongs to it are one. Everything that is not a proof is
// Unauthenticated, with the reason only in the error's cause; an agent that
// proved itself and is disabled, or whose mandate has ended, is Denied.
func (a *Authority) Authenticate(_ context.Context, c ostiary.Credentials) (ostiary.Subject, error) {
	d := a.dir.Load()
	if a.lease > 0 && a.clock.read().Sub(d.confirmed) > a.lease {
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Unavailable, "registry_stale", "who is enrolled cannot be confirmed just now")
	}
	now := a.clock.Now()
	switch shown := count(c.Peer != nil && c.Bearer.IsZero()) + count(!c.Bearer.IsZero()) + count(c.Self != nil) + count(c.Held != nil); {
	case shown == 0:
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Unauthenticated, "no_credentials", "credentials are required: an SVID over mutual TLS, or a bearer token")
	case shown > 1:
		return refuse(errors.New("more than one credential"))
	case !c.Bearer.IsZero():
		return a.fromToken(d, now, c)
	case c.Possession != nil:
		return refuse(errors.New("a proof without a token"))
	case c.Peer != nil:
		return a.fromSVID(d, now, c)
	case c.Self != nil:
		return a.fromSelf(d, c.Self)
	case c.Held != nil:
		return a.fromHeld(d, now, c.Held)
	}
	return refuse(errors.New("a credential of no known kind"))
}

func count(b bool) int {
	if b {
		return 1
	}
	return 0
}

// refuse is the one answer to every proof that is none. The reason is for our
// log only.
func refuse(why error) (ostiary.Subject, error) {
	return ostiary.Subject{}, ostiary.Errorf(ostiary.Unauthenticated, "credentials", "the credentials were not accepted").Because(why)
}

func (a *Authority) fromSVID(d *directory, now time.Time, c ostiary.Credentials) (ostiary.Subject, error) {
	if !c.Verified {
		return refuse(errors.New("the certificate was not verified on the connection"))
	}
	p, err := a.verifyPeer(c.Peer, now)
	if err != nil {
		return refuse(err)
	}
	if why := d.revoked(p.agent, p.key, p.serial, p.issued, p.epoch); why != "" {
		return refuse(errors.New(why))
	}
	g, err := d.stands(now, p.agent, c.Mandate)
	if err != nil {
		return ostiary.Subject{}, err
	}
	if g.link.Kind == ostiary.StandingMandate && g.link.ID != g.Mandate {
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Denied, "mandate_ended", "the standing mandate named is not the agent's present one")
	}
	if p.issued.Before(g.moved) {
		return refuse(errors.New("the agent's principal has changed since the certificate was issued"))
	}
	return ostiary.Subject{
		Agent: p.agent, Principal: g.Principal, Chain: g.chain, Key: p.key, Bound: true, Mandate: g.link.ID,
		Via: ostiary.ViaSVID, Serial: p.serial, Signers: p.by, Issued: p.issued, Expires: p.ends, Epoch: d.ends.epoch,
	}, nil
}

func (a *Authority) fromToken(d *directory, now time.Time, c ostiary.Credentials) (ostiary.Subject, error) {
	if !c.Encrypted && !c.Loopback {
		return refuse(errors.New("a token over plain HTTP from another machine"))
	}
	t, err := a.tokens.verify(string(c.Bearer.Reveal()), c.Audience, a.stage(now).keys, now)
	if err == nil {
		err = a.believed(rotation.Token, t.kid, now)
	}
	if err != nil {
		return refuse(err)
	}
	key, by, err := a.held(d, now, &t, c)
	if err != nil {
		return ostiary.Subject{}, err
	}
	if why := d.revoked(t.agent, key, t.id, t.issued, t.epoch); why != "" {
		return refuse(errors.New(why))
	}
	if c.Mandate != "" && c.Mandate != t.mandate {
		return ostiary.Subject{}, ostiary.Errorf(ostiary.Denied, "mandate_other", "the token is for another mandate than the request names")
	}
	g, err := d.stands(now, t.agent, t.mandate)
	if err != nil {
		return ostiary.Subject{}, err
	}
	if g.Principal != t.principal {
		return refuse(errors.New("the agent's principal has changed since the token was issued"))
	}
	return ostiary.Subject{
		Agent: t.agent, Principal: g.Principal, Chain: g.chain, Key: key, Bound: !key.IsZero(), Mandate: t.mandate, Client: t.client, Scopes: t.scopes,
		Via: ostiary.ViaToken, Serial: t.id, Signers: by, Issued: t.issued, Expires: t.expires, Epoch: d.ends.epoch,
	}, nil
}

// held checks that a token is shown the way it is bound, and returns the key
// that was proven, none for a bearer token, and what signed all of it. What
// would bind it otherwise is refused: two proofs beside each other are two
// answers to who is asking.
func (a *Authority) held(d *directory, now time.Time, t *token, c ostiary.Credentials) (key ostiary.Digest, by []string, err error) {
	no := func(why string) (ostiary.Digest, []string, error) {
		_, err := refuse(errors.New(why))
		return ostiary.Digest{}, nil, err
	}
	switch {
	case t.x5t != "":
		if c.Peer == nil || !c.Verified || c.Possession != nil {
			return no("a token bound to a certificate, on a connection without one")
		}
		return a.heldByCertificate(d, now, t, c)
	case c.Peer != nil:
		return no("a token that is not bound to the connection's certificate")
	case t.jkt == "" && c.Possession == nil:
		return key, t.by, nil
	case t.jkt == "":
		return no("a bearer token with a proof of possession")
	case c.Possession == nil:
		return no("a token bound to a key, without a proof of possession")
	}
	proven, err := a.prove(c.Possession, string(c.Bearer.Reveal()), t.jkt)
	return proven.Digest, t.by, err
}

// heldByCertificate checks the certificate as if it stood alone: it must be
// the token's, the agent's, and not have ended. See RFC 8705, section 3.
func (a *Authority) heldByCertificate(d *directory, now time.Time, t *token, c ostiary.Credentials) (ostiary.Digest, []string, error) {
	p, err := a.verifyPeer(c.Peer, now)
	if err == nil {
		sum := sha256.Sum256(c.Peer.Raw)
		switch {
		case subtle.ConstantTimeCompare([]byte(base64.RawURLEncoding.EncodeToString(sum[:])), []byte(t.x5t)) != 1:
			err = errors.New("the token is bound to another certificate")
		case p.agent != t.agent:
			err = errors.New("the certificate is another agent's than the token")
		default:
			if why := d.revoked(p.agent, p.key, p.serial, p.issued, p.epoch); why != "" {
				err = errors.New(why)
			}
		}
	}
	if err != nil {
		_, err := refuse(err)
		return ostiary.Digest{}, nil, err
	}
	return p.key, slices.Concat(t.by, p.by), nil
}

// fromSelf compares pointers: the mark cannot be made by anyone else.
func (a *Authority) fromSelf(d *directory, self *ostiary.Self) (ostiary.Subject, error) {
	if self != a.self {
		return refuse(errors.New("not this authority's own mark"))
	}
	return ostiary.Subject{
		Agent: self.Agent, Principal: gatewayPrincipal, Chain: []ostiary.AgentID{self.Agent}, Bound: true,
		Mandate: GatewayMandate, Via: ostiary.ViaSelf, Epoch: d.ends.epoch,
	}, nil
}

// fromHeld confirms a stored subject again. Its credential may have expired
// meanwhile, and so may the window of a key that signed it, as people take
// their time; neither it nor such a key must have been revoked since it was
// last checked, and its mandate must still be in force. One of which it is not
// known what signed it is refused: a revocation could not end it.
func (a *Authority) fromHeld(d *directory, now time.Time, h *ostiary.Subject) (ostiary.Subject, error) {
	if h.IsZero() || h.Via == ostiary.ViaNothing || h.Via == ostiary.ViaSelf || h.Mandate == "" {
		return refuse(errors.New("the held subject was never authenticated"))
	}
	if len(h.Signers) == 0 || slices.ContainsFunc(h.Signers, a.schedules.Schedule().Distrusts) {
		return refuse(errors.New("a key that signed the credential was revoked, or is not known"))
	}
	if why := d.revoked(h.Agent, h.Key, h.Serial, h.Issued, h.Epoch); why != "" {
		return refuse(errors.New(why))
	}
	g, err := d.stands(now, h.Agent, h.Mandate)
	if err != nil {
		return ostiary.Subject{}, err
	}
	if g.Principal != h.Principal {
		return refuse(errors.New("the agent's principal has changed since"))
	}
	s := *h
	s.Via, s.Epoch = ostiary.ViaHeld, d.ends.epoch
	return s, nil
}
