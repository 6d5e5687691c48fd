package control

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// maxBody bounds a request of the administrative API; the largest real one
// names an agent with its roles.
const maxBody = 64 << 10

// route is one operation of the API: routes are data, so that nothing is
// served that a table does not name.
type route struct {
	Pattern string
	do      func(c *Control, r *http.Request) (any, error)
}

func routes() []route {
	return []route{
		{"GET /v1/status", (*Control).getStatus},
		{"GET /v1/agents", (*Control).getAgents},
		{"POST /v1/agents/join", (*Control).postJoin},
		{"POST /v1/agents/add", (*Control).postAgent},
		{"POST /v1/revocations", (*Control).postRevocation},
		{"POST /v1/tokens", (*Control).postToken},
		{"GET /v1/tools", (*Control).getTools},
		{"GET /v1/tools/diff", (*Control).getDiff},
		{"POST /v1/tools/read", (*Control).postRead},
		{"POST /v1/tools/accept", (*Control).postAccept},
		{"POST /v1/policy/load", (*Control).postPolicy},
		{"GET /v1/log", (*Control).getLog},
		{"GET /v1/log/entry", (*Control).getStory},
	}
}

// Handler returns the administrative API. It authenticates nobody: whoever
// can reach it is the operator.
func (c *Control) Handler() http.Handler {
	mux := http.NewServeMux()
	for _, r := range routes() {
		mux.HandleFunc(r.Pattern, func(w http.ResponseWriter, req *http.Request) {
			out, err := r.do(c, req)
			c.reply(w, out, err)
		})
	}
	return mux
}

var statusOf = map[ostiary.Kind]int{
	ostiary.Internal: 500, ostiary.Malformed: 400, ostiary.Unauthenticated: 401, ostiary.Denied: 403, ostiary.Contained: 403,
	ostiary.Exhausted: 429, ostiary.Conflict: 409, ostiary.NotFound: 404, ostiary.Unavailable: 503, ostiary.Upstream: 502, ostiary.Corrupt: 500,
}

func (c *Control) reply(w http.ResponseWriter, out any, err error) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	if err != nil {
		e := ostiary.AsError(err)
		if e.Kind == ostiary.Internal {
			c.o.Logger.Error("administrative request failed", "error", err)
		}
		p := Problem{Kind: e.Kind.String(), Code: e.Code, Field: e.Field, Detail: e.Detail}
		if pub, ok := out.(Published); ok {
			p.Problems = pub.Problems
		}
		w.WriteHeader(statusOf[e.Kind])
		out = p
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		c.o.Logger.Warn("the operator left before the answer", "error", err)
	}
}

// body reads a JSON request, strictly, into v: one document, no duplicate or
// unknown members.
func body(r *http.Request, v any) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, maxBody))
	if err != nil {
		return ostiary.Errorf(ostiary.Malformed, "body", "the request could not be read or is larger than 64 KiB")
	}
	if _, err := strictjson.Parse(b, strictjson.Request); err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "body", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (c *Control) getStatus(r *http.Request) (any, error) {
	d := c.o.Describe
	s := Status{
		Version: ostiary.Version, Deployment: d.Deployment, Gateway: d.Gateway, TrustDomain: d.TrustDomain, Agents: d.Agents,
		Loopback: d.Loopback, Fingerprint: c.o.Authority.Fingerprint().String(), Endpoint: d.Endpoint, Keys: d.Keys, Epoch: c.o.Authority.Epoch(), Snapshot: c.standing().Number,
		Servers: []ServerStatus{},
	}
	var err error
	if _, s.Indexed, s.LogSize, err = c.o.Log.Query(r.Context(), ledger.Filter{Limit: 1}); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.o.Servers {
		last := c.last[name]
		s.Servers = append(s.Servers, ServerStatus{Name: name, ReadAt: last.At, Error: last.Err, Changed: last.Changed})
	}
	return s, nil
}

func (c *Control) getAgents(*http.Request) (any, error) {
	out := []Agent{}
	for _, a := range c.o.Authority.Agents() {
		out = append(out, c.agent(a))
	}
	return out, nil
}

func (c *Control) agent(a identity.AgentRecord) Agent {
	out := Agent{
		ID: string(a.ID), Principal: string(a.Principal), Owner: a.Owner, Zone: a.Zone, Roles: a.Roles,
		Mandate: string(a.Mandate), Enrolled: a.Enrolled, Method: a.Method, Disabled: a.Disabled,
	}
	if m, ok := c.o.Authority.Mandate(a.Mandate); ok {
		out.Expires = m.Expires
	}
	return out
}

// agentID accepts a whole SPIFFE ID or a name below the trust domain.
func (c *Control) agentID(name string) (ostiary.AgentID, error) {
	if strings.HasPrefix(name, "spiffe://") {
		return ostiary.ParseAgentID(name)
	}
	return c.o.Authority.AgentID(name)
}

func (c *Control) joinToken(in AgentRequest) (identity.JoinToken, time.Duration, error) {
	id, err := c.agentID(in.Name)
	if err != nil {
		return identity.JoinToken{}, 0, err
	}
	life, err := parseLife(in.Life)
	return identity.JoinToken{Agent: id, Principal: ostiary.PrincipalID(in.Principal), Owner: in.Owner, Zone: in.Zone, Roles: in.Roles}, life, err
}

func parseLife(s string) (time.Duration, error) {
	if s == "" {
		return 0, nil
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 {
		return 0, ostiary.Errorf(ostiary.Malformed, "life", "%q is no duration; write for example 5m", s).At("life")
	}
	return d, nil
}

func (c *Control) postJoin(r *http.Request) (any, error) {
	var in AgentRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	t, life, err := c.joinToken(in)
	if err != nil {
		return nil, err
	}
	secret, t, err := c.o.Authority.MintJoinToken(r.Context(), t, life)
	if err != nil {
		return nil, err
	}
	return Join{Agent: string(t.Agent), Secret: string(secret.Reveal()), Expires: t.Expires, Gateway: c.o.Describe.Agents}, nil
}

// forgottenKey returns a request for a key that nobody holds when it returns.
func forgottenKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	return x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
}

// postAgent enrols an agent that will hold no key of its own: the gateway
// joins it with a key that is forgotten at once, so that only bearer tokens
// ever speak for it.
func (c *Control) postAgent(r *http.Request) (any, error) {
	var in AgentRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	t, life, err := c.joinToken(in)
	if err != nil {
		return nil, err
	}
	secret, _, err := c.o.Authority.MintJoinToken(r.Context(), t, life)
	if err != nil {
		return nil, err
	}
	csr, err := forgottenKey()
	if err != nil {
		return nil, err
	}
	_, rec, err := c.o.Authority.Enrol(r.Context(), string(secret.Reveal()), csr)
	if err != nil {
		return nil, err
	}
	return c.agent(rec), nil
}

func (c *Control) postRevocation(r *http.Request) (any, error) {
	var in RevokeRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if in.Kind == string(identity.RevokeAgent) {
		id, err := c.agentID(in.Subject)
		if err != nil {
			return nil, err
		}
		in.Subject = string(id)
	}
	epoch, err := c.o.Authority.Revoke(r.Context(), identity.Revocation{Kind: identity.RevocationKind(in.Kind), Subject: in.Subject, Reason: in.Reason, At: c.o.Clock()})
	if err != nil {
		return nil, err
	}
	return map[string]uint64{"epoch": epoch}, nil
}

func (c *Control) postToken(r *http.Request) (any, error) {
	var in TokenRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	id, err := c.agentID(in.Agent)
	if err != nil {
		return nil, err
	}
	life, err := parseLife(in.Life)
	if err != nil {
		return nil, err
	}
	audience := c.o.Describe.Endpoint
	if in.Server != "" {
		if err := c.known(in.Server); err != nil {
			return nil, err
		}
		audience += "/" + in.Server
	}
	secret, expires, err := c.o.Authority.MintToken(r.Context(), id, audience, life)
	if err != nil {
		return nil, err
	}
	return Token{Token: string(secret.Reveal()), Expires: expires}, nil
}

func (c *Control) getTools(r *http.Request) (any, error) {
	q := r.URL.Query()
	out := []Tool{}
	for _, t := range c.o.Book.Tools() {
		if s := q.Get("server"); s != "" && s != t.Server {
			continue
		}
		out = append(out, toolOf(t, q.Get("definitions") == "true"))
	}
	return out, nil
}

func toolOf(t *ostiary.Tool, definition bool) Tool {
	out := Tool{
		Server: t.Server, Kind: t.Kind, Name: t.Name, Action: t.Action(), State: t.State.String(), Why: t.Why,
		Pin: t.Pin.String(), ReadOnly: t.ReadOnly, Destructive: t.Destructive,
	}
	for _, f := range catalog.Findings(t) {
		out.Findings = append(out.Findings, fmt.Sprintf("%s at %s (%d %%)", f.Kind, f.Field, f.Confidence))
	}
	if definition {
		out.Definition = string(t.Definition.Bytes())
	}
	return out
}

func (c *Control) getDiff(r *http.Request) (any, error) {
	q := r.URL.Query()
	kind := q.Get("kind")
	if kind == "" {
		kind = catalog.KindTool
	}
	text, err := c.o.Book.Diff(q.Get("server"), kind, q.Get("name"))
	if err != nil {
		return nil, err
	}
	return map[string]string{"diff": text}, nil
}

func (c *Control) known(server string) error {
	if _, ok := slices.BinarySearch(c.o.Servers, server); !ok {
		return ostiary.Errorf(ostiary.NotFound, "unknown_server", "there is no server %q; configured are: %s", server, strings.Join(c.o.Servers, ", ")).At("server")
	}
	return nil
}

func (c *Control) postRead(r *http.Request) (any, error) {
	var in ToolRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if err := c.known(in.Server); err != nil {
		return nil, err
	}
	if _, err := c.Discover(r.Context(), in.Server); err != nil {
		return nil, err
	}
	return c.toolsOf(in.Server), nil
}

func (c *Control) toolsOf(server string) []Tool {
	out := []Tool{}
	for _, t := range c.o.Book.Tools() {
		if t.Server == server {
			out = append(out, toolOf(t, false))
		}
	}
	return out
}

// postAccept reads the server once more, so that what is accepted is what it
// says now, and accepts it.
func (c *Control) postAccept(r *http.Request) (any, error) {
	var in ToolRequest
	if err := body(r, &in); err != nil {
		return nil, err
	}
	if err := c.known(in.Server); err != nil {
		return nil, err
	}
	if _, err := c.Discover(r.Context(), in.Server); err != nil {
		return nil, err
	}
	tools, p, err := c.acceptWhat(r.Context(), in)
	out := Accepted{Snapshot: p.Number, Problems: p.Problems, Tools: []Tool{}}
	for i := range tools {
		out.Tools = append(out.Tools, toolOf(&tools[i], false))
	}
	if err != nil && len(tools) == 0 {
		return nil, err
	}
	if err != nil { // accepted, but the folder does not fit any more: say both
		out.Refused = ostiary.AsError(err).Detail
	}
	return out, nil
}

func (c *Control) acceptWhat(ctx context.Context, in ToolRequest) ([]ostiary.Tool, Publication, error) {
	by := operator(ctx)
	if in.Name == "" || in.Kind == "" && in.Pin == "" && !in.Force {
		if in.Force || in.Pin != "" {
			return nil, c.standing(), ostiary.Errorf(ostiary.Malformed, "name", "force and pin are for one definition: name it").At("name")
		}
		return c.Accept(ctx, in.Server, in.Name, by)
	}
	pin, err := ostiary.ParseDigest(in.Pin)
	if err != nil {
		return nil, c.standing(), ostiary.Errorf(ostiary.Malformed, "pin", "%v", err).At("pin")
	}
	if in.Kind == "" {
		in.Kind = catalog.KindTool
	}
	return c.AcceptOne(ctx, catalog.Acceptance{Server: in.Server, Kind: in.Kind, Name: in.Name, Pin: pin, By: by, Force: in.Force})
}

func (c *Control) postPolicy(r *http.Request) (any, error) {
	p, err := c.Publish(r.Context())
	return Published{Snapshot: p.Number, Changed: p.Changed, Problems: p.Problems}, err
}

func (c *Control) getLog(r *http.Request) (any, error) {
	q := r.URL.Query()
	log, err := c.which(q)
	if err != nil {
		return nil, err
	}
	f, err := filterOf(q)
	if err != nil {
		return nil, err
	}
	rows, indexed, size, err := log.Query(r.Context(), f)
	if err != nil {
		return nil, err
	}
	out := Listing{Entries: []Entry{}, Indexed: indexed, Size: size}
	for i := range rows {
		out.Entries = append(out.Entries, entryOf(rows[i].Origin, rows[i].Ref, &rows[i].Entry))
	}
	return out, nil
}

// which returns the log that a query names with "log", and takes the word out.
func (c *Control) which(q url.Values) (Log, error) {
	defer q.Del("log")
	switch name := q.Get("log"); name {
	case "", "gateway":
		return c.o.Log, nil
	case "deployment":
		return c.o.Changelog, nil
	default:
		return nil, ostiary.Errorf(ostiary.NotFound, "unknown_log", "there is no log %q; write gateway or deployment", name).At("log")
	}
}

// filterOf reads the query of GET /v1/log. Unknown words are refused, since a
// filter that is ignored shows too much.
func filterOf(q url.Values) (f ledger.Filter, err error) {
	bad := func(field, why string) error { return ostiary.Errorf(ostiary.Malformed, "filter", "%s", why).At(field) }
	for key, vs := range q {
		if len(vs) != 1 {
			return f, bad(key, "give each filter once")
		}
		v := vs[0]
		switch key {
		case "agent":
			f.Agent = v
		case "principal":
			f.Principal = v
		case "session":
			f.Session = v
		case "action":
			f.Action = v
		case "server":
			f.Server = v
		case "code":
			f.Code = v
		case "newest":
			f.Newest = v == "true"
		case "limit":
			if f.Limit, err = strconv.Atoi(v); err != nil || f.Limit < 1 || f.Limit > 10000 {
				return f, bad(key, "write a number from 1 to 10000")
			}
		case "since", "until":
			t, err := time.Parse(time.RFC3339Nano, v)
			if err != nil {
				return f, bad(key, "write a time like 2026-11-20T10:00:00Z")
			}
			if key == "since" {
				f.Since = t
			} else {
				f.Until = t
			}
		case "decision":
			if v != "permit" && v != "deny" {
				return f, bad(key, "write permit or deny")
			}
			permit := v == "permit"
			f.Permit = &permit
		case "disposition":
			i := slices.IndexFunc(dispositions, func(d ostiary.Disposition) bool { return d.String() == v })
			if i < 0 {
				return f, bad(key, "write refused, held, delivered, withheld, failed or unknown")
			}
			f.Disposition = &dispositions[i]
		case "kind":
			for k := ostiary.KindIntent; k <= ostiary.KindErasure; k++ {
				if slices.Contains(strings.Split(v, ","), k.String()) {
					f.Kinds = append(f.Kinds, k)
				}
			}
			if len(f.Kinds) == 0 {
				return f, bad(key, "write entry kinds like intent,outcome")
			}
		default:
			return f, bad(key, "there is no such filter")
		}
	}
	return f, nil
}

var dispositions = []ostiary.Disposition{ostiary.Refused, ostiary.Held, ostiary.Delivered, ostiary.Withheld, ostiary.Failed, ostiary.Unknown}

// getStory returns one action whole. Asked for an Outcome, it starts from the
// Intent that the Outcome answers.
func (c *Control) getStory(r *http.Request) (any, error) {
	q := r.URL.Query()
	log, err := c.which(q)
	if err != nil {
		return nil, err
	}
	ref, err := ostiary.ParseEntryRef(q.Get("entry"))
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Malformed, "entry", "%v", err).At("entry")
	}
	first, err := log.Entry(r.Context(), ref)
	if err != nil {
		return nil, err
	}
	if id := first.Entry.Answers; !id.IsZero() {
		rows, _, _, err := log.Query(r.Context(), ledger.Filter{ID: id, Limit: 1})
		if err != nil {
			return nil, err
		}
		if len(rows) == 1 {
			if first, err = log.Entry(r.Context(), rows[0].Ref); err != nil {
				return nil, err
			}
		}
	}
	return story(r.Context(), log, first)
}

func story(ctx context.Context, log Log, first LogEntry) (any, error) {
	s := Story{Entries: []Entry{entryOf(first.Origin, first.Ref, &first.Entry).withPayload(&first.Entry.Payload, first.Opened)}}
	rows, _, _, err := log.Query(ctx, ledger.Filter{Answers: first.Entry.ID, Limit: 1000})
	if err != nil {
		return nil, err
	}
	for _, row := range rows {
		if row.Ref == first.Ref {
			continue
		}
		e, err := log.Entry(ctx, row.Ref)
		if err != nil {
			return nil, err
		}
		s.Entries = append(s.Entries, entryOf(e.Origin, e.Ref, &e.Entry).withPayload(&e.Entry.Payload, e.Opened))
	}
	p, err := log.Prove(ctx, first.Ref)
	if err != nil {
		return nil, err
	}
	s.Proof = string(p)
	return s, nil
}

func detailJSON(m map[string]string) string {
	b, err := json.Marshal(m)
	if err != nil { // strings always marshal
		panic(err)
	}
	return string(b)
}

type operatorKey struct{}

// WithOperator notes who is at the other end of the control connection.
func WithOperator(ctx context.Context, name string) context.Context {
	return context.WithValue(ctx, operatorKey{}, name)
}

func operator(ctx context.Context) string {
	if s, ok := ctx.Value(operatorKey{}).(string); ok {
		return s
	}
	return "operator"
}
