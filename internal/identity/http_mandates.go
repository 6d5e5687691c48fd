package identity

import (
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Paths with which an agent hands on and gives up mandates, over mutual TLS
// with its SVID.
const (
	DerivePath   = "/v1/mandates/derive"   // POST {"under","terms"}: under "" is its standing mandate
	CompletePath = "/v1/mandates/complete" // POST {"mandate","reason"}: one it holds or derived
)

// maxDerive bounds a request for a mandate.
const maxDerive = maxTerms + 4<<10

var deriveLimits = strictjson.Limits{Bytes: maxDerive, Depth: 5, Nodes: 8192, Elements: 1024, Literal: 64, Key: 16}

// self proves who asks by the certificate of the connection: nothing a client
// writes names an agent (see [endpoints.renew]).
func (h *endpoints) self(r *http.Request, m ostiary.MandateID) (ostiary.Subject, error) {
	c := ostiary.Credentials{Mandate: m}
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		c.Peer, c.Verified, c.Encrypted = r.TLS.PeerCertificates[0], true, true
	}
	return h.authority.Authenticate(r.Context(), c)
}

// Derived is the answer to a request for a derived mandate.
type Derived struct {
	Mandate ostiary.MandateID `json:"mandate"`
	Agent   ostiary.AgentID   `json:"agent"`
	Parent  ostiary.MandateID `json:"parent"`
	Expires time.Time         `json:"expires"`
	Terms   Terms             `json:"terms"` // as signed; what it allows is their intersection with those above
}

func (h *endpoints) derive(w http.ResponseWriter, r *http.Request) {
	if _, err := h.self(r, ""); err != nil && ostiary.KindOf(err) != ostiary.Denied { // before anything is read for a stranger
		h.fail(w, r, err)
		return
	}
	in, err := readObject(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	under, terms := in.Get("under"), in.Get("terms")
	if in.Len() != 2 || under.Kind() != ostiary.String || terms.Kind() != ostiary.Object {
		h.fail(w, r, ostiary.Errorf(ostiary.Malformed, "member", "want under, the mandate to derive from, and terms"))
		return
	}
	s, err := h.self(r, ostiary.MandateID(under.Text()))
	if err != nil {
		h.fail(w, r, err)
		return
	}
	t, err := readTerms(terms)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	if t.Agent, err = h.authority.whole(t.Agent); err != nil {
		h.fail(w, r, err)
		return
	}
	m := t.Mandate(h.authority.clock.Now())
	if m, err = h.authority.DeriveMandate(r.Context(), s, m); err != nil {
		h.fail(w, r, err)
		return
	}
	write(w, http.StatusOK, Derived{m.ID, m.Agent, m.Parent, m.Expires, TermsOf(&m)})
}

func (h *endpoints) complete(w http.ResponseWriter, r *http.Request) {
	s, err := h.self(r, "")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	in, err := readObject(w, r)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	id, reason := in.Get("mandate"), in.Get("reason")
	if in.Len() != 2 || id.Kind() != ostiary.String || reason.Kind() != ostiary.String {
		h.fail(w, r, ostiary.Errorf(ostiary.Malformed, "member", "want mandate and reason, two texts"))
		return
	}
	if err := h.authority.EndOwnMandate(r.Context(), s, ostiary.MandateID(id.Text()), reason.Text()); err != nil {
		h.fail(w, r, err)
		return
	}
	write(w, http.StatusOK, map[string]string{"mandate": id.Text(), "state": string(EndCompleted)})
}

// whole accepts a name below the trust domain where a SPIFFE ID is meant.
func (a *Authority) whole(agent string) (string, error) {
	if strings.HasPrefix(agent, "spiffe://") {
		return agent, nil
	}
	id, err := a.AgentID(agent)
	return string(id), err
}

// readObject reads a JSON object, strictly.
func readObject(w http.ResponseWriter, r *http.Request) (ostiary.Value, error) {
	if len(r.Header.Values("Origin")) > 0 {
		return ostiary.Value{}, ostiary.Errorf(ostiary.Denied, "origin", "this is not for browsers").At("Origin")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" || r.Header.Get("Content-Encoding") != "" {
		return ostiary.Value{}, ostiary.Errorf(ostiary.Malformed, "content_type", "the body must be application/json").At("Content-Type")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxDerive))
	if err != nil {
		return ostiary.Value{}, ostiary.Errorf(ostiary.Malformed, "body", "the body could not be read, or is longer than %d bytes", maxDerive).Because(err)
	}
	doc, err := strictjson.Parse(b, deriveLimits)
	if err != nil {
		return ostiary.Value{}, err
	}
	if doc.Root().Kind() != ostiary.Object {
		return ostiary.Value{}, ostiary.Errorf(ostiary.Malformed, "body", "the body must be an object")
	}
	return doc.Root(), nil
}
