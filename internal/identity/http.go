package identity

import (
	"bytes"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"time"

	"golang.org/x/time/rate"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Paths of the identity endpoints. All answers are JSON except the bundle.
const (
	BundlePath = "/v1/bundle" // GET: the trust bundle, PEM; anyone
	EnrolPath  = "/v1/enrol"  // POST {"token","csr"}: anyone with a join token
	RenewPath  = "/v1/renew"  // POST {"csr"}: over mutual TLS with the present SVID
	ReturnPath = "/v1/return" // POST {"svid","csr"}: with an SVID that has ended, by its key
)

const (
	// maxBody bounds a request: a signing request in base64 and a token.
	maxBody = 16 << 10

	// maxCertificates bounds a bundle or a chain: a few roots while one
	// replaces another.
	maxCertificates = 8

	// bodyTimeout bounds how long a body may take to arrive, whoever reads
	// it: strangers must not hold connections.
	bodyTimeout = 10 * time.Second

	// enrolRate and enrolBurst bound how often strangers make us verify a
	// signature and ask the registry. A fleet of 50 starts at once.
	enrolRate  = 20
	enrolBurst = 50
)

var bodyLimits = strictjson.Limits{Bytes: maxBody, Depth: 1, Nodes: 8, Elements: 2, Literal: 1, Key: 16}

// Handler serves the identity endpoints. It does not authenticate who may
// enrol beyond the join token, and it answers browsers nothing. It reads the
// connection's state from the request's TLS field: a server whose listener
// hides it from net/http must fill it in.
func (a *Authority) Handler() http.Handler {
	h := &endpoints{a, rate.NewLimiter(enrolRate, enrolBurst)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+BundlePath, h.bundle)
	mux.HandleFunc("POST "+EnrolPath, h.enrol)
	mux.HandleFunc("POST "+RenewPath, h.renew)
	mux.HandleFunc("POST "+ReturnPath, h.comeBack)
	mux.HandleFunc("POST "+DerivePath, h.derive)
	mux.HandleFunc("POST "+CompletePath, h.complete)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ContentLength != 0 { // a writer without deadlines is a test's
			_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
		}
		mux.ServeHTTP(w, r)
	})
}

type endpoints struct {
	authority *Authority
	strangers *rate.Limiter
}

func (h *endpoints) bundle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/x-pem-file")
	w.Header().Set("Cache-Control", "no-store")
	w.Write(h.authority.Bundle())
}

func (h *endpoints) enrol(w http.ResponseWriter, r *http.Request) {
	in, err := h.stranger(w, r, "token", "csr")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	chain, record, err := h.authority.Enrol(r.Context(), in["token"], []byte(in["csr"]))
	h.answer(w, r, chain, record, err)
}

func (h *endpoints) comeBack(w http.ResponseWriter, r *http.Request) {
	in, err := h.stranger(w, r, "svid", "csr")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	chain, record, err := h.authority.Return(r.Context(), []byte(in["svid"]), []byte(in["csr"]))
	h.answer(w, r, chain, record, err)
}

// stranger reads the request of somebody whose connection proves nothing.
func (h *endpoints) stranger(w http.ResponseWriter, r *http.Request, names ...string) (map[string]string, error) {
	if r.TLS == nil && !loopback(r) {
		return nil, ostiary.Errorf(ostiary.Denied, "tls_required", "this is taken over TLS only")
	}
	if !h.strangers.Allow() {
		return nil, ostiary.Errorf(ostiary.Exhausted, "enrol_rate", "too many enrolments at once: try again in a few seconds")
	}
	return readBody(w, r, names...)
}

// renew takes the certificate of the connection itself: nothing a client
// writes names the identity that is renewed.
func (h *endpoints) renew(w http.ResponseWriter, r *http.Request) {
	var c ostiary.Credentials
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		c = ostiary.Credentials{Peer: r.TLS.PeerCertificates[0], Verified: true, Encrypted: true}
	}
	s, err := h.authority.Authenticate(r.Context(), c)
	if err != nil {
		h.fail(w, r, err)
		return
	}
	in, err := readBody(w, r, "csr")
	if err != nil {
		h.fail(w, r, err)
		return
	}
	chain, record, err := h.authority.Renew(r.Context(), s, []byte(in["csr"]))
	h.answer(w, r, chain, record, err)
}

// readBody reads a JSON object with exactly the members named, each a text.
// The members csr and svid are decoded from base64.
func readBody(w http.ResponseWriter, r *http.Request, names ...string) (map[string]string, error) {
	if len(r.Header.Values("Origin")) > 0 {
		return nil, ostiary.Errorf(ostiary.Denied, "origin", "this is not for browsers").At("Origin")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" || r.Header.Get("Content-Encoding") != "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "content_type", "the body must be application/json").At("Content-Type")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "body", "the body could not be read, or is longer than %d bytes", maxBody).Because(err)
	}
	doc, err := strictjson.Parse(b, bodyLimits)
	if err != nil {
		return nil, err
	}
	v := doc.Root()
	out := map[string]string{}
	for _, name := range names {
		m := v.Get(name)
		if m.Kind() != ostiary.String {
			return nil, ostiary.Errorf(ostiary.Malformed, "member", "the member %s must be a text", name).At("/" + name)
		}
		out[name] = m.Text()
	}
	if v.Len() != len(names) {
		return nil, ostiary.Errorf(ostiary.Malformed, "member", "the body has members that are not known here")
	}
	for _, name := range names {
		if name == "token" {
			continue
		}
		der, err := base64.StdEncoding.Strict().DecodeString(out[name])
		if err != nil {
			return nil, ostiary.Errorf(ostiary.Malformed, "base64", "the member %s must be DER in base64", name).At("/" + name)
		}
		out[name] = string(der)
	}
	return out, nil
}

// issued is the answer to an enrolment or a renewal.
type issued struct {
	Agent   ostiary.AgentID   `json:"agent"`
	Mandate ostiary.MandateID `json:"mandate"`
	Expires time.Time         `json:"expires"`
	Chain   string            `json:"chain"`  // PEM, the SVID first
	Bundle  string            `json:"bundle"` // PEM, the trust bundle
}

func (h *endpoints) answer(w http.ResponseWriter, r *http.Request, chain [][]byte, record AgentRecord, err error) {
	if err != nil {
		h.fail(w, r, err)
		return
	}
	leaf, err := x509.ParseCertificate(chain[0])
	if err != nil {
		h.fail(w, r, err)
		return
	}
	out := issued{Agent: record.ID, Mandate: record.Mandate, Expires: leaf.NotAfter, Bundle: string(h.authority.Bundle())}
	for _, der := range chain {
		out.Chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	write(w, http.StatusOK, out)
}

type failure struct {
	Error struct {
		Kind   string `json:"kind"`
		Code   string `json:"code"`
		Field  string `json:"field,omitempty"`
		Detail string `json:"detail"`
	} `json:"error"`
}

// statuses maps every kind; see the table of error kinds.
var statuses = map[ostiary.Kind]int{
	ostiary.Internal:        http.StatusInternalServerError,
	ostiary.Malformed:       http.StatusBadRequest,
	ostiary.Unauthenticated: http.StatusUnauthorized,
	ostiary.Denied:          http.StatusForbidden,
	ostiary.Contained:       http.StatusForbidden,
	ostiary.Exhausted:       http.StatusTooManyRequests,
	ostiary.Conflict:        http.StatusConflict,
	ostiary.NotFound:        http.StatusNotFound,
	ostiary.Unavailable:     http.StatusServiceUnavailable,
	ostiary.Upstream:        http.StatusBadGateway,
	ostiary.Corrupt:         http.StatusInternalServerError,
}

// fail answers and counts a refusal: there is no entry for somebody who is
// nobody yet.
func (h *endpoints) fail(w http.ResponseWriter, r *http.Request, err error) {
	e := ostiary.AsError(err)
	level := slog.LevelInfo
	switch e.Kind {
	case ostiary.Internal, ostiary.Corrupt, ostiary.Unavailable:
		level = slog.LevelError
	}
	h.authority.refused(host(r.RemoteAddr), "identity:"+e.Code)
	if level == slog.LevelError || h.authority.noted.Allow() {
		h.authority.log.Log(r.Context(), level, "an identity request was refused", "error", err)
	}
	var out failure
	out.Error.Kind, out.Error.Code, out.Error.Field, out.Error.Detail = e.Kind.String(), e.Code, e.Field, e.Detail
	write(w, statuses[e.Kind], out)
}

func write(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		status, b = http.StatusInternalServerError, []byte(`{"error":{"kind":"internal","code":"internal","detail":"internal error"}}`)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	w.Write(b)
}

// host returns an address without its port.
func host(address string) string {
	if h, _, err := net.SplitHostPort(address); err == nil {
		return h
	}
	return address
}

// loopback reports whether the connection stays on this machine.
func loopback(r *http.Request) bool {
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	for _, s := range []string{local.String(), r.RemoteAddr} {
		if ap, err := netip.ParseAddrPort(s); err != nil || !ap.Addr().Unmap().IsLoopback() {
			return false
		}
	}
	return true
}

// ErrNotPEM is returned for a file of certificates that is none.
var ErrNotPEM = errors.New("want PEM certificates and nothing else")

// ReadBundle reads PEM certificates, strictly: nothing before, between or
// after them but white space, and only a few. It is what a client does with a
// trust bundle or a chain.
func ReadBundle(b []byte) ([]*x509.Certificate, error) {
	if len(b) > maxPEM {
		return nil, ErrNotPEM
	}
	var out []*x509.Certificate
	for b = bytes.TrimSpace(b); len(b) > 0; b = bytes.TrimSpace(b) {
		if !bytes.HasPrefix(b, []byte("-----BEGIN CERTIFICATE-----")) || len(out) == maxCertificates {
			return nil, ErrNotPEM
		}
		block, rest := pem.Decode(b)
		if block == nil || block.Type != "CERTIFICATE" || len(block.Headers) > 0 {
			return nil, ErrNotPEM
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, err
		}
		out, b = append(out, c), rest
	}
	if len(out) == 0 {
		return nil, ErrNotPEM
	}
	return out, nil
}
