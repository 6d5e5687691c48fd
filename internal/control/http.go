package control

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/gate"
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
		{"POST /v1/agents/join", taking((*Control).postJoin)},
		{"POST /v1/agents/add", taking((*Control).postAgent)},
		{"GET /v1/registry", (*Control).getRegistry},
		{"POST /v1/registry", takingAll((*Control).postRegistry)},
		{"POST /v1/revocations", taking((*Control).postRevocation)},
		{"GET /v1/people", (*Control).getPeople},
		{"POST /v1/people/invite", taking((*Control).postInvitation)},
		{"POST /v1/people/roles", taking((*Control).postRoles)},
		{"POST /v1/people/revoke", taking((*Control).postPersonRevocation)},
		{"POST /v1/people/add", taking((*Control).postPerson)},
		{"POST /v1/people/key", taking((*Control).postPersonKey)},
		{"POST /v1/people/key/drop", taking((*Control).postPersonKeyDrop)},
		{"GET /v1/approvals", (*Control).getApprovals},
		{"GET /v1/approvals/one", (*Control).getApproval},
		{"POST /v1/approvals/narrow", taking((*Control).postNarrowing)},
		{"POST /v1/approvals/ask", taking((*Control).postVoteAsked)},
		{"POST /v1/approvals/vote", taking((*Control).postVote)},
		{"GET /v1/containments", (*Control).getContainments},
		{"POST /v1/containments", taking((*Control).postContainment)},
		{"POST /v1/tokens", taking((*Control).postToken)},
		{"GET /v1/mandates", (*Control).getMandates},
		{"GET /v1/mandates/one", (*Control).getMandate},
		{"POST /v1/mandates", taking((*Control).postMandate)},
		{"POST /v1/mandates/end", taking((*Control).postMandateEnd)},
		{"POST /v1/mandates/renew", taking((*Control).postMandateRenew)},
		{"POST /v1/mandates/review", taking((*Control).postMandateReview)},
		{"GET /v1/tools", (*Control).getTools},
		{"GET /v1/tools/diff", (*Control).getDiff},
		{"POST /v1/tools/read", taking((*Control).postRead)},
		{"POST /v1/tools/accept", taking((*Control).postAccept)},
		{"POST /v1/policy/load", (*Control).postPolicy},
		{"GET /v1/policy/explain", (*Control).getExplanation},
		{"GET /v1/policy/shadow", (*Control).getShadow},
		{"GET /v1/keys", (*Control).getKeys},
		{"POST /v1/keys/rotate", taking((*Control).postKeyRotation)},
		{"POST /v1/keys/revoke", taking((*Control).postKeyRevocation)},
		{"GET /v1/health", (*Control).getHealth},
		{"GET /v1/doctor", (*Control).getDoctor},
		{"POST /v1/backup", taking((*Control).postBackup)},
		{"POST /v1/reload", (*Control).postReload},
		{"GET /v1/log", (*Control).getLog},
		{"GET /v1/log/entry", (*Control).getStory},
		{"GET /v1/budgets", (*Control).getBudgets},
		{"POST /v1/budgets/resolve", taking((*Control).postResolve)},
		{"POST /v1/undo", taking((*Control).postUndo)},
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
	mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		c.reply(w, nil, ostiary.Errorf(ostiary.NotFound, "no_route", "there is no %s %s here", req.Method, req.URL.Path))
	})
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
		p := Problem{Kind: e.Kind.String(), Code: e.Code, Field: e.Field, Detail: e.Detail, Cause: cause(e)}
		switch failed := out.(type) {
		case Published:
			p.Problems = failed.Problems
		case Reloaded:
			p.Problems = failed.Problems
		}
		w.WriteHeader(statusOf[e.Kind])
		out = p
	}
	if err := json.NewEncoder(w).Encode(out); err != nil {
		c.o.Logger.Warn("the operator left before the answer", "error", err)
	}
}

// maxCause bounds what is passed on of a failing server's own words.
const maxCause = 512

// cause is what the network or a server's process said, for the operator
// alone: without it "cannot be reached" is no help.
func cause(e *ostiary.Error) string {
	if e.Kind != ostiary.Upstream || e.Err == nil {
		return ""
	}
	text := strings.ReplaceAll(e.Err.Error(), gate.ErrNotSent.Error()+": ", "") // said by the kind of error already
	return strings.ToValidUTF8(text[:min(maxCause, len(text))], "")
}

// taking is an operation that takes a body.
func taking[In any](do func(c *Control, ctx context.Context, in In) (any, error)) func(*Control, *http.Request) (any, error) {
	return func(c *Control, r *http.Request) (any, error) {
		var in In
		if err := body(r, &in); err != nil {
			return nil, err
		}
		return do(c, r.Context(), in)
	}
}

// body reads a JSON request, strictly, into v: one document, no duplicate or
// unknown members.
func body(r *http.Request, v any) error {
	l := strictjson.Request
	l.Bytes = maxBody
	return bodyWithin(r, v, l)
}

// bodyWithin is body with limits of its own.
func bodyWithin(r *http.Request, v any, l strictjson.Limits) error {
	b, err := io.ReadAll(http.MaxBytesReader(nil, r.Body, int64(l.Bytes)))
	if err != nil {
		return ostiary.Errorf(ostiary.Malformed, "body", "the request could not be read or is larger than %d KiB", l.Bytes>>10)
	}
	if _, err := strictjson.Parse(b, l); err != nil {
		return err
	}
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "body", "%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	return nil
}

func (c *Control) getStatus(r *http.Request) (any, error) { return c.status(r.Context()) }

func (c *Control) status(ctx context.Context) (Status, error) {
	d := c.o.Describe
	s := Status{
		Version: ostiary.Version, Deployment: d.Deployment, Gateway: d.Gateway, TrustDomain: d.TrustDomain, Agents: d.Agents,
		Loopback: d.Loopback, Fingerprint: c.o.Authority.Fingerprint().String(), Endpoint: d.Endpoint, Epoch: c.o.Authority.Epoch(), Snapshot: c.standing().Number,
	}
	if d.Keys != nil {
		s.Keys = d.Keys()
	}
	var err error
	if _, s.Indexed, s.LogSize, err = c.o.Log.Query(ctx, ledger.Filter{Limit: 1}); err != nil {
		return s, err
	}
	s.Servers, s.Holds = c.Servers(), holds()
	return s, nil
}

// Servers says of each configured server how the last reading of what it
// offers went.
func (c *Control) Servers() []ServerStatus {
	all := []ServerStatus{}
	conducts := c.o.Conducts()
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, name := range c.settings.Load().Servers {
		last := c.last[name]
		changed, waiting := c.tally(name)
		all = append(all, ServerStatus{Name: name, ReadAt: last.At, Error: last.Err, Changed: changed, Waiting: waiting, Breaker: conducts[name].Breaker, Conduct: conducts[name].Conduct})
	}
	return all
}

func (c *Control) getAgents(*http.Request) (any, error) { return c.Agents(), nil }

func (c *Control) agent(a identity.AgentRecord) Agent {
	out := Agent{
		ID: string(a.ID), Principal: string(a.Principal), Owner: a.Owner, Zone: a.Zone, Roles: a.Roles,
		Mandate: string(a.Mandate), Enrolled: a.Enrolled, Method: a.Method, State: c.o.Authority.State(a.ID),
	}
	if out.Roles == nil {
		out.Roles = []string{}
	}
	if e := c.o.Registry.Entity(ostiary.AgentEntity, out.ID); e != nil {
		x := c.entityOf(e)
		out.Registered, out.Owner, out.Zone = &x, x.Owner, cmp.Or(x.Zone, out.Zone)
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

func (c *Control) joinToken(ctx context.Context, in AgentRequest) (identity.JoinToken, time.Duration, error) {
	id, err := c.agentID(in.Name)
	if err != nil {
		return identity.JoinToken{}, 0, err
	}
	life, err := parseLife(in.Life)
	if err == nil {
		err = c.registered(id, &in)
	}
	old, enrolled := c.o.Authority.Agent(id)
	if enrolled {
		in = in.keep(old)
	}
	if in.Principal == "" {
		in.Principal = "organisation:self"
	}
	t := identity.JoinToken{Agent: id, Principal: ostiary.PrincipalID(in.Principal), Owner: in.Owner, Zone: in.Zone, Roles: in.Roles}
	switch {
	case err != nil:
	case len(in.Mandate) > 0:
		t.Terms, err = standingTerms(in.Mandate)
	case enrolled:
		t.Terms, err = c.keptTerms(ctx, old.Mandate)
	case c.settings.Load().RequireMandate:
		err = ostiary.Errorf(ostiary.Malformed, "mandate_required", "say what the agent's standing mandate covers: --mandate FILE, or mandate; identity.require_mandate demands it").At("mandate")
	}
	return t, life, err
}

// keep fills in what was left out from the agent's record, so that joining
// again does not change on whose authority it acts unless somebody says so.
func (in AgentRequest) keep(old identity.AgentRecord) AgentRequest {
	for _, f := range []struct {
		to   *string
		from string
	}{{&in.Principal, string(old.Principal)}, {&in.Owner, old.Owner}, {&in.Zone, old.Zone}} {
		if *f.to == "" {
			*f.to = f.from
		}
	}
	if len(in.Roles) == 0 {
		in.Roles = old.Roles
	}
	return in
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

func (c *Control) postJoin(ctx context.Context, in AgentRequest) (any, error) {
	t, life, err := c.joinToken(ctx, in)
	if err != nil {
		return nil, err
	}
	t.By = giver(ctx)
	secret, t, err := c.o.Authority.MintJoinToken(ctx, t, life)
	if err != nil {
		return nil, err
	}
	return Join{Agent: string(t.Agent), Secret: string(secret.Reveal()), Expires: t.Expires, Gateway: c.o.Describe.Agents, Wide: len(t.Terms) == 0}, nil
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
func (c *Control) postAgent(ctx context.Context, in AgentRequest) (any, error) {
	t, life, err := c.joinToken(ctx, in)
	if err != nil {
		return nil, err
	}
	t.By = giver(ctx)
	secret, _, err := c.o.Authority.MintJoinToken(ctx, t, life)
	if err != nil {
		return nil, err
	}
	csr, err := forgottenKey()
	if err != nil {
		return nil, err
	}
	_, rec, err := c.o.Authority.Enrol(ctx, string(secret.Reveal()), csr)
	if err != nil {
		return nil, err
	}
	out := c.agent(rec)
	out.Wide = len(t.Terms) == 0
	return out, nil
}

func (c *Control) postRevocation(ctx context.Context, in RevokeRequest) (any, error) {
	known := true
	if in.Kind == string(identity.RevokeAgent) {
		id, err := c.agentID(in.Subject)
		if err != nil {
			return nil, err
		}
		in.Subject, known = string(id), c.o.Authority.State(id) != ""
	}
	switch identity.RevocationKind(in.Kind) {
	case identity.RevokeMandate:
		return c.revokeMandate(ctx, in)
	case identity.RevokeSession:
		return c.revokeSession(ctx, in)
	case identity.RevokePerson:
		if !strings.Contains(in.Subject, ":") {
			in.Subject = "person:" + in.Subject
		}
		epoch, err := c.revokePerson(ctx, ostiary.PrincipalID(in.Subject), in.Reason)
		if err != nil {
			return nil, err
		}
		return Revoked{Epoch: epoch, Known: true}, nil
	}
	epoch, err := c.o.Authority.Revoke(ctx, identity.Revocation{Kind: identity.RevocationKind(in.Kind), Subject: in.Subject, Reason: in.Reason, At: c.o.Clock()})
	if err != nil {
		return nil, err
	}
	return Revoked{Epoch: epoch, Known: known}, nil
}

func (c *Control) postToken(ctx context.Context, in TokenRequest) (any, error) {
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
	token, err := c.o.Authority.MintToken(ctx, identity.TokenRequest{Agent: id, Audience: audience, Life: life})
	if err != nil {
		return nil, err
	}
	return Token{Token: string(token.Text.Reveal()), Expires: token.Expires}, nil
}

func (c *Control) getTools(r *http.Request) (any, error) {
	q := r.URL.Query()
	server, kind := q.Get("server"), q.Get("kind")
	if server != "" {
		if err := c.known(server); err != nil {
			return nil, err
		}
	}
	if kind != "" && !slices.ContainsFunc(lists, func(l list) bool { return l.kind == kind }) {
		return nil, ostiary.Errorf(ostiary.Malformed, "kind", "write tool, prompt, resource or template").At("kind")
	}
	return c.tools(server, kind, q.Get("definitions") == "true"), nil
}

// tools lists definitions of a server and kind, "" for any.
func (c *Control) tools(server, kind string, definitions bool) []Tool {
	out := []Tool{}
	for _, t := range c.o.Book.Tools() {
		if (server == "" || server == t.Server) && (kind == "" || kind == t.Kind) {
			out = append(out, toolOf(t, definitions))
		}
	}
	return out
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
	return c.Difference(r.Context(), q.Get("server"), cmp.Or(q.Get("kind"), catalog.KindTool), q.Get("name"))
}

func (c *Control) known(server string) error {
	all := c.settings.Load().Servers
	if _, ok := slices.BinarySearch(all, server); !ok {
		return ostiary.Errorf(ostiary.NotFound, "unknown_server", "there is no server %q; configured are: %s", server, strings.Join(all, ", ")).At("server")
	}
	return nil
}

func (c *Control) postRead(ctx context.Context, in ToolRequest) (any, error) {
	if err := c.known(in.Server); err != nil {
		return nil, err
	}
	if _, err := c.Discover(ctx, in.Server); err != nil {
		return nil, err
	}
	return c.tools(in.Server, "", false), nil
}

// postAccept reads the server once more, so that what is accepted is what it
// says now, and accepts it if that is what it said before and, where it takes
// the place of something accepted, what this operator was shown.
func (c *Control) postAccept(ctx context.Context, in ToolRequest) (any, error) {
	if err := c.known(in.Server); err != nil {
		return nil, err
	}
	before := c.offers(in.Server)
	if _, err := c.Discover(ctx, in.Server); err != nil {
		return nil, err
	}
	now := c.offers(in.Server)
	if err := c.moved(in, before, now); err != nil {
		return nil, err
	}
	if err := c.unseen(operator(ctx), in, now); err != nil {
		return nil, err
	}
	tools, p, err := c.acceptWhat(ctx, in, now)
	out := Accepted{Snapshot: p.Number, Problems: PolicyProblems(p.Problems), Tools: []Tool{}}
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

func (c *Control) acceptWhat(ctx context.Context, in ToolRequest, now map[catalog.Named]ostiary.Digest) ([]ostiary.Tool, Publication, error) {
	by := operator(ctx)
	if in.Name == "" || in.Kind == "" && in.Pin == "" && !in.Force {
		if in.Force || in.Pin != "" {
			return nil, c.standing(), ostiary.Errorf(ostiary.Malformed, "name", "force and pin are for one definition: name it").At("name")
		}
		return c.accept(ctx, in.Server, in.Name, by, now)
	}
	pin, err := ostiary.ParseDigest(in.Pin)
	if err != nil {
		return nil, c.standing(), ostiary.Errorf(ostiary.Malformed, "pin", "%v", err).At("pin")
	}
	if in.Kind == "" {
		in.Kind = catalog.KindTool
	}
	if in.Pin == "" {
		pin = now[catalog.Named{Kind: in.Kind, Name: in.Name}]
	}
	return c.AcceptOne(ctx, catalog.Acceptance{Server: in.Server, Kind: in.Kind, Name: in.Name, Pin: pin, By: by, Force: in.Force})
}

func (c *Control) postPolicy(r *http.Request) (any, error) {
	p, err := c.Publish(r.Context())
	return Published{Snapshot: p.Number, Changed: p.Changed, Problems: PolicyProblems(p.Problems)}, err
}

// detailJSON writes what a change was, without what is empty.
func detailJSON(m map[string]string) string {
	maps.DeleteFunc(m, func(_, v string) bool { return v == "" })
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

// operator is who asked for a change. Without anybody at the other end it is
// the gateway itself, at its start.
func operator(ctx context.Context) string {
	if s := by(ctx); s != "" {
		return s
	}
	return "gateway"
}
