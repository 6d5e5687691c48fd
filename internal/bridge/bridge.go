// Package bridge lets a client that can send no credentials at all act as an
// enrolled agent: it holds the agent's SVID on the client's own machine and
// speaks to the gateway for it, over mutual TLS.
//
// It guarantees that what a client says reaches the gateway byte for byte and
// is judged there: the bridge refuses nothing for its content, adds the
// headers that the protocol derives from a message, and keeps no message. It
// speaks only to the gateway it was enrolled with, known by the trust bundle
// whose fingerprint came with the join token and by the gateway's own SPIFFE
// ID, never by a public authority or a host name.
//
// Trusts: the directory it is given, which holds the agent's private key,
// readable by its owner only; and whoever can write to its standard input or
// connect to its loopback address, since they are the agent. On a machine
// with several users use standard input.
//
// Does not: dial (it is handed clients), decide, or retry a call that may
// have happened.
//
// Follows X509-SVID, and the stdio and streamable HTTP transports of the
// Model Context Protocol, revisions 2026-07-28 to 2025-03-26.
package bridge

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
)

// Options say where the gateway is and where the SVID is kept.
type Options struct {
	Gateway string // "https://host:port", nothing after it; "" if the directory already knows
	Dir     string // of one agent; created with mode 0700
	Join    string // a join token, used once if the directory holds no SVID, or one that ended too long ago; else ignored

	// Mandate is the one to act under; "" is the agent's standing one.
	Mandate ostiary.MandateID

	// Dial returns a client that reaches the gateway and nothing else, with
	// this TLS configuration and no time limit of its own. It is called for
	// each new certificate.
	Dial func(gateway string, t *tls.Config) (*http.Client, error)

	Clock func() time.Time // nil: time.Now
	Log   *slog.Logger     // nil: discarded
}

// Bridge holds one agent's SVID. Safe for concurrent use.
type Bridge struct {
	gateway string
	dial    func(gateway string, t *tls.Config) (*http.Client, error)
	clock   func() time.Time
	log     *slog.Logger
	dir     string
	mandate ostiary.MandateID

	now     atomic.Pointer[held]
	renewal sync.Mutex // one renewal at a time
}

// held is one SVID with the client that uses it. A connection belongs to the
// SVID it was opened with, so a new SVID means a new client.
type held struct {
	svid   *svid
	client *http.Client
}

// Open loads the SVID kept in the directory, enrolling first if there is none
// and a join token is given, and renews it if that is due.
func Open(ctx context.Context, o Options) (*Bridge, error) {
	b := &Bridge{dial: o.Dial, clock: o.Clock, log: o.Log, dir: o.Dir, mandate: o.Mandate}
	if b.clock == nil {
		b.clock = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	if o.Dial == nil || o.Dir == "" {
		return nil, errors.New("a bridge needs a directory and a way to dial")
	}
	s, err := load(o.Dir)
	if errors.Is(err, errNoSVID) {
		s, err = b.enrol(ctx, o)
	}
	if err != nil {
		return nil, err
	}
	if o.Gateway != "" && o.Gateway != s.gateway {
		return nil, ostiary.Errorf(ostiary.Conflict, "other_gateway", "%s holds an SVID of %s, not of %s: use another directory", o.Dir, s.gateway, o.Gateway)
	}
	b.gateway = s.gateway
	if err := b.use(s); err != nil {
		return nil, err
	}
	if !s.due(b.clock()) {
		return b, nil
	}
	if err = b.renew(ctx); err == nil || !s.ended(b.clock()) {
		return b, nil // or the one held serves until a later attempt succeeds
	}
	if o.Join == "" || ostiary.KindOf(err) != ostiary.Unauthenticated {
		return nil, err
	}
	o.Gateway = b.gateway
	if s, err = b.enrol(ctx, o); err != nil {
		return nil, err
	}
	if err := b.use(s); err != nil {
		return nil, err
	}
	return b, nil
}

// use makes s the SVID of every request from now on. Requests under way keep
// the old one, whose connections close once they are idle.
func (b *Bridge) use(s *svid) error {
	client, err := b.dial(b.gateway, s.tls(b.clock))
	if err != nil {
		return err
	}
	if b.mandate != "" {
		client.Transport = under{client.Transport, string(b.mandate)}
	}
	if old := b.now.Swap(&held{s, client}); old != nil {
		old.client.CloseIdleConnections()
	}
	return nil
}

// Agent returns the agent's SPIFFE ID.
func (b *Bridge) Agent() ostiary.AgentID { return b.now.Load().svid.agent }

// Gateway returns the gateway's address.
func (b *Bridge) Gateway() string { return b.gateway }

// Expires returns when the present SVID ends.
func (b *Bridge) Expires() time.Time { return b.now.Load().svid.leaf().NotAfter }

// client returns a client with an SVID that is in force. A machine that slept
// wakes with one that is not, so this may renew it first.
func (b *Bridge) client(ctx context.Context) (*http.Client, error) {
	h := b.now.Load()
	if !h.svid.ended(b.clock()) {
		return h.client, nil
	}
	if err := b.renew(ctx); err != nil {
		return nil, err
	}
	return b.now.Load().client, nil
}

// checkGateway accepts "https://host:port" or "https://host", exactly.
func checkGateway(s string) error {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.String() != "https://"+u.Host || strings.HasSuffix(u.Host, ":") {
		return ostiary.Errorf(ostiary.Malformed, "gateway", "%q is not the address of a gateway: want https://host:port and nothing after it", s).At("gateway")
	}
	return nil
}

// checkEndpoint accepts "/mcp" and "/mcp/<server>".
func checkEndpoint(path string) error {
	server, ok := strings.CutPrefix(path, "/mcp/")
	if path == "/mcp" || ok && server != "" && !strings.ContainsFunc(server, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || r == '-' || r == '_')
	}) {
		return nil
	}
	return ostiary.Errorf(ostiary.Malformed, "endpoint", "%q is no endpoint: want /mcp or /mcp/<server>", path).At("endpoint")
}

// StdioSnippet is what to paste into a client's configuration so that it
// starts the bridge itself.
func StdioSnippet(command string, args ...string) []byte {
	return snippet(struct {
		Command string   `json:"command"`
		Args    []string `json:"args"`
	}{command, append([]string{}, args...)})
}

// HTTPSnippet is what to paste into the configuration of a client that
// connects to a running bridge.
func HTTPSnippet(address, endpoint string) []byte {
	return snippet(struct {
		Type string `json:"type"`
		URL  string `json:"url"`
	}{"http", "http://" + address + endpoint})
}

func snippet(server any) []byte {
	b, err := json.MarshalIndent(map[string]any{"mcpServers": map[string]any{"ostiary": server}}, "", "  ")
	if err != nil {
		panic(fmt.Sprintf("two structs of strings do not encode: %v", err))
	}
	return append(b, '\n')
}

// roots makes a pool of a bundle.
func roots(bundle []*x509.Certificate) *x509.CertPool {
	p := x509.NewCertPool()
	for _, c := range bundle {
		p.AddCert(c)
	}
	return p
}
