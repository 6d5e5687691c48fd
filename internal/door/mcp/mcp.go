// Package mcp is the door for the Model Context Protocol over streamable HTTP:
// it translates messages to [gate.Call] and replies, refusals and errors back.
//
// It guarantees that every message, well-formed or not, reaches the gate as
// exactly one call before anything comes of it (a client's answer to a request
// of ours belongs to the call that asked, and is accepted only from the
// session that was asked); that the argument bytes handed to the gate are a
// view into the bytes that arrived (law 2); that what an agent reads of a
// tool is the pinned copy, spliced and never re-serialized (law 11); that a
// reply goes to the request that caused it and nowhere else; that everything
// in a request is decided from the body, headers being only compared.
//
// It trusts the gate to authenticate, decide and record, the catalog to hold
// accepted definitions, and net/http behind a listener of package stricthttp
// for the byte level. It decides nothing itself, dials nowhere, and forwards
// no header of a client.
//
// It serves revision 2026-07-28 (stateless) and the revisions with a
// handshake from 2025-03-26 to 2025-11-25, on the same endpoints. The
// specification is https://modelcontextprotocol.io/specification; where we
// differ on purpose is written in docs/reference/mcp.md.
package mcp

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

// Gate takes one call through the flow. A nil error means a reply that must
// be read to its end or closed; an error is already recorded. Safe for
// concurrent use. [gate.Gate] is one.
type Gate interface {
	Handle(ctx context.Context, call gate.Call) (*gate.Reply, error)
}

// Identity proves who is asking, from memory, as the gate does again for the
// call itself. The door uses it for one thing: a legacy session or a sealed
// state is honoured only for the subject it was made for. Safe for concurrent
// use.
type Identity interface {
	Authenticate(ctx context.Context, c ostiary.Credentials) (ostiary.Subject, error)
	// ProofNonce returns what a client's next proof of possession must hold.
	ProofNonce() string
}

// Containments knows how far agents, tools and servers are cut off, as the
// gate does. The door uses it for streams that only listen: they end soon
// after nothing may pass any more. Safe for concurrent use.
type Containments interface {
	Level(s *ostiary.Subject, a *ostiary.Action) ostiary.Containment
}

// Catalog looks up accepted definitions in memory. Safe for concurrent use.
type Catalog interface {
	// Tools returns every known definition in a stable order. The caller
	// must not change it.
	Tools() []*ostiary.Tool
	Tool(server, kind, name string) (*ostiary.Tool, bool)
}

// Visibility says for each tool whether some call of it might be permitted to
// the caller in r, the request of the list itself. Safe for concurrent use.
type Visibility interface {
	Visible(r *ostiary.Request, tools []*ostiary.Tool) []bool
}

// Sealer is authenticated encryption with associated data. Safe for
// concurrent use.
type Sealer interface {
	Seal(plain, ad []byte) ([]byte, error)
	Open(sealed, ad []byte) ([]byte, error)
}

// Server is a configured MCP server as far as the door must know it.
type Server struct {
	Name string
	// Origins are the web origins ("https://login.example") to which this
	// server may send a person through URL elicitation. Empty means none.
	// An entry lets the server open that site in a person's browser.
	Origins []string
}

// Options are what New needs. Everything but Holds is required, and an empty
// list allows nothing.
type Options struct {
	Gate     Gate
	Identity Identity
	Catalog  Catalog
	Visible  Visibility
	Servers  []Server

	Containments Containments

	// PublicURL is the scheme, host and port clients use, without a path:
	// "https://gate.example:8700". A credential's audience is this and the
	// path of the endpoint. Its host is an allowed Host.
	PublicURL string
	// Hosts are further values of the Host header to accept, with the port
	// as clients send it. Against DNS rebinding.
	Hosts []string
	// SignIn is the issuer that clients are sent to when they have no token:
	// the address of the authorization server. Empty: nobody is sent.
	SignIn string
	// Origins are values of the Origin header to accept. A page of such an
	// origin can use whatever credentials its visitor's browser sends.
	Origins []string

	// Sealer protects the state that travels through clients.
	Sealer Sealer

	// Holds is where held calls wait for people, and HoldFor how long one is
	// kept open for its client. Without it held calls are answered at once
	// with where they wait.
	Holds   Holds
	HoldFor time.Duration

	// Longest is how long a stream that only listens may stay open. It is a
	// call like any other, and the log gives up on one that has no outcome.
	Longest time.Duration

	Clock  func() time.Time
	Logger *slog.Logger
}

// Door serves MCP. It is an [http.Handler], safe for concurrent use.
type Door struct {
	gate     Gate
	identity Identity
	catalog  Catalog
	visible  Visibility
	settings atomic.Pointer[settings]
	audience string
	signIn   string
	hosts    map[string]bool
	sealer   Sealer
	longest  time.Duration
	holds    Holds
	holdFor  time.Duration
	standing Containments
	boot     []byte // binds sealed states to this process, which alone remembers their use
	spent    *spent
	clock    func() time.Time
	log      *slog.Logger

	routes  []route           // the tables, made once
	methods map[string]method // by the protocol's name

	sessions *sessions
	watch    *watch
	bodies   *bodies
	calls    *calls
	close    sync.Once
	closed   chan struct{} // closed by Close: long-lived streams end
}

// New returns a door that is ready to serve. It fails if an option is missing
// or cannot be meant.
func New(o Options) (*Door, error) {
	if o.Gate == nil || o.Identity == nil || o.Catalog == nil || o.Visible == nil || o.Sealer == nil || o.Containments == nil || o.Longest <= 0 || o.Clock == nil || o.Logger == nil {
		return nil, errors.New("mcp: a required option is missing")
	}
	u, err := url.Parse(o.PublicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || o.PublicURL != u.Scheme+"://"+u.Host {
		return nil, ostiary.Errorf(ostiary.Malformed, "public_url", "%q is not a scheme and host, for example https://gate.example:8700", o.PublicURL)
	}
	d := &Door{
		gate: o.Gate, identity: o.Identity, catalog: o.Catalog, visible: o.Visible,
		audience: o.PublicURL, signIn: o.SignIn, hosts: map[string]bool{strings.ToLower(u.Host): true},
		sealer: o.Sealer, longest: o.Longest, holds: o.Holds, holdFor: o.HoldFor, standing: o.Containments, boot: make([]byte, 16), spent: newSpent(o.Clock), clock: o.Clock, log: o.Logger,
		routes: routes(), methods: methods(),
		sessions: newSessions(o.Clock), watch: newWatch(o.Catalog, o.Clock), bodies: newBodies(), calls: newCalls(),
		closed: make(chan struct{}),
	}
	commit, err := d.Prepare(o.Servers, o.Origins)
	if err != nil {
		return nil, err
	}
	commit()
	for _, h := range o.Hosts {
		d.hosts[strings.ToLower(h)] = true
	}
	rand.Read(d.boot)
	return d, nil
}

// settings are what may change while the door is open. They are never changed,
// only replaced.
type settings struct {
	servers map[string]Server
	origins map[string]bool
}

// Prepare checks other servers and origins (as in [Options]) and returns the
// function that puts them in place: requests that come after it see them,
// streams under way go on. Safe for concurrent use.
func (d *Door) Prepare(servers []Server, origins []string) (commit func(), err error) {
	next := &settings{servers: map[string]Server{}, origins: map[string]bool{}}
	for _, s := range servers {
		if !serverName(s.Name) {
			return nil, ostiary.Errorf(ostiary.Malformed, "server_name", "%q cannot name a server: use letters, digits, dash, dot and underscore, and no three underscores in a row", s.Name)
		}
		next.servers[s.Name] = s
	}
	for _, origin := range origins {
		next.origins[origin] = true
	}
	return func() { d.settings.Store(next) }, nil
}

// server finds a configured server.
func (d *Door) server(name string) (Server, bool) {
	s, ok := d.settings.Load().servers[name]
	return s, ok
}

// Close ends long-lived streams: listening clients get the end of their
// stream. Calls under way go on; the HTTP server's Shutdown waits for them.
func (d *Door) Close() { d.close.Do(func() { close(d.closed) }) }

// Sessions returns how many sessions of clients that speak an older revision
// are open.
func (d *Door) Sessions() int { return d.sessions.count() }

var _ http.Handler = (*Door)(nil)

// serverName reports whether s can stand in a path and before the three
// underscores of an aggregated name without being mistaken for either.
func serverName(s string) bool {
	if s == "" || len(s) > 64 || strings.Contains(s, separator) || strings.HasSuffix(s, "_") || strings.Trim(s, ".") == "" {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_' || c == '.') {
			return false
		}
	}
	return true
}
