// Package console is what people see: signing in, the passkey, being invited,
// being asked for consent, and what they have given. It draws pages; every
// decision is an engine's.
//
// It guarantees that nothing changes on a GET, however a link is opened; that
// a change needs a request from this origin by scheme, host and port, with the
// token of a form that was drawn for this browser; that a person's session and
// roles are asked for on every request; that no page holds a script, a style
// or a frame that is not a file of ours; and that every text that an agent, a
// client or a provider wrote is printed by one printer, which shows what a
// reader could not see. A page works without JavaScript, except the passkey
// step, which browsers offer to scripts alone.
//
// It trusts its neighbours' contracts, and the browser to keep origins apart.
// It knows the caller's address from the connection alone, and believes no
// forwarding header. It decides nothing and keeps nothing.
//
// See the WHATWG's Fetch Metadata and HTML standards, Content Security Policy
// Level 3, Trusted Types, RFC 6265bis, and RFC 9700 for consent.
package console

import (
	"context"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

// Options are what a console is made of; all are required but Consents,
// Mandates, Desk, Approvals, Budgets and Refused.
type Options struct {
	People *people.People
	// Consents are the questions that clients wait for. nil: no client can
	// ask, and there is no page for it.
	Consents Consents
	// Mandates are what persons gave. nil: there is no page for them.
	Mandates Mandates
	// Desk is what operators, approvers and auditors look at. nil: there are
	// no pages for it.
	Desk Desk
	// Approvals are what waits for people. nil: nothing can.
	Approvals Approvals
	// Budgets are what calls spend. nil: nothing is counted.
	Budgets Budgets
	// Watch is what the gate tells of its exchanges; required with Desk.
	Watch *Watch
	// Tools lists what a mandate can be about, by action.
	Tools func() []Tool
	// Refused counts a request that was refused before anybody was known,
	// by the address it came from. It must not block.
	Refused func(source, code string)
	Pace    *stricthttp.Pace // what strangers may ask for; shared with whoever else answers them. nil: one of its own
	Clock   func() time.Time
	Logger  *slog.Logger
}

// Tool is an accepted definition as a person may choose it.
type Tool struct {
	Server, Action string
	ReadOnly       bool // it says that it changes nothing
}

// Console serves the pages. Safe for concurrent use.
type Console struct {
	o      Options
	origin *url.URL
	mux    *http.ServeMux
	cross  *http.CrossOriginProtection
	looks  *looks

	streams streams
}

// New returns a console that is ready to serve.
func New(o Options) (*Console, error) {
	u, err := url.Parse(o.People.Origin())
	if err != nil {
		return nil, err
	}
	if o.Pace == nil {
		o.Pace = stricthttp.NewPace(o.Clock)
	}
	c := &Console{o: o, origin: u, mux: http.NewServeMux(), cross: http.NewCrossOriginProtection()}
	if c.looks, err = loadLooks(); err != nil {
		return nil, err
	}
	for _, r := range c.routes() {
		c.mux.HandleFunc(r.pattern, func(w http.ResponseWriter, req *http.Request) { c.serve(w, req, r) })
	}
	c.mux.HandleFunc("/", func(w http.ResponseWriter, req *http.Request) {
		c.serve(w, req, route{who: access{anyone: true}, do: func(*Console, *exchange) error {
			return ostiary.Errorf(ostiary.NotFound, "no_page", "there is no such page")
		}})
	})
	return c, nil
}

// ServeHTTP implements [http.Handler].
func (c *Console) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.secure(w.Header())
	if !c.here(w, r) {
		return
	}
	c.mux.ServeHTTP(w, r)
}

// here refuses a request for another host than ours (O10: nothing is ever
// built from a Host header, and a name that somebody pointed at us is none of
// ours).
func (c *Console) here(w http.ResponseWriter, r *http.Request) bool {
	if strings.EqualFold(r.Host, c.origin.Host) && (r.TLS != nil) == c.overTLS() {
		return true
	}
	c.refused(r, "console:host")
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.WriteHeader(http.StatusMisdirectedRequest)
	_, _ = w.Write([]byte("ostiary: this is " + c.origin.String() + "; open it by that address\n"))
	return false
}

func (c *Console) overTLS() bool { return c.origin.Scheme == "https" }

func (c *Console) refused(r *http.Request, code string) {
	if c.o.Refused != nil {
		c.o.Refused(stricthttp.Source(r), code)
	}
}

// access says who may use a route. The zero access is nobody.
type access struct {
	anyone bool          // also who is not signed in
	signed bool          // every person
	roles  []people.Role // who has one of them
}

var (
	anyone = access{anyone: true}
	person = access{signed: true}
	// watching is who sees what happens; reading, who also sees what was in
	// it, and the conditions of policies; working, who changes things.
	watching = having(people.Operator, people.Approver, people.Auditor)
	reading  = having(people.Operator, people.Auditor)
	working  = having(people.Operator)
)

func having(roles ...people.Role) access { return access{roles: roles} }

func (a access) admits(p *people.Person) bool {
	return a.anyone || p != nil && (a.signed || p.Has(a.roles...))
}

// sends is what a route takes a body as.
type sends uint8

const (
	nothing  sends = iota
	aForm          // application/x-www-form-urlencoded, from a page of ours
	aMessage       // application/json, from a script of ours
)

// route is one page or step: routes are data, so that nothing is served that
// says not who may use it and what it takes.
type route struct {
	pattern string
	who     access
	takes   sends
	do      func(c *Console, x *exchange) error
}

func (c *Console) routes() []route {
	all := []route{
		{"GET /{$}", anyone, nothing, (*Console).home},
		{"GET /assets/{name}", anyone, nothing, (*Console).asset},
		{"GET /favicon.ico", anyone, nothing, (*Console).icon},
		{"GET /sign-in", anyone, nothing, (*Console).signIn},
		{"POST /sign-in/passkey/ask", anyone, aMessage, (*Console).askPasskey},
		{"POST /sign-in/passkey", anyone, aMessage, (*Console).takePasskey},
		{"POST /sign-in/provider", anyone, aForm, (*Console).toProvider},
		{"GET " + people.CallbackPath, anyone, nothing, (*Console).cameBack},
		{"POST " + people.CallbackPath, anyone, aForm, (*Console).fromProvider},
		{"GET /join", anyone, nothing, (*Console).join},
		{"POST /join/look", anyone, aMessage, (*Console).lookAtInvitation},
		{"POST /join/ask", anyone, aMessage, (*Console).askEnrol},
		{"POST /join", anyone, aMessage, (*Console).enrol},
		{"POST /sign-out", person, aForm, (*Console).signOut},
		{"GET /signed-out", anyone, nothing, (*Console).signedOut},
		{"GET /me", person, nothing, (*Console).me},
		{"GET /people", having(people.Operator, people.Auditor), nothing, (*Console).people},
		{"GET /people/{name}", having(people.Operator, people.Auditor), nothing, (*Console).onePerson},
		{"POST /people/{name}/revoke", having(people.Operator), aForm, (*Console).revokePerson},
	}
	if c.o.Mandates != nil {
		all = append(all,
			route{"GET /mandates", person, nothing, (*Console).mandates},
			route{"GET /mandates/{id}", person, nothing, (*Console).oneMandate},
			route{"POST /mandates/{id}/end", person, aForm, (*Console).endMandate},
			route{"POST /mandates/{id}/review", having(people.Operator), aForm, (*Console).reviewMandate},
		)
	}
	if c.o.Desk != nil {
		all = append(all, c.deskRoutes()...)
	}
	if c.o.Approvals != nil {
		all = append(all, c.approvalRoutes()...)
	}
	if c.o.Budgets != nil {
		all = append(all, route{"GET /budgets", reading, nothing, (*Console).budgets})
	}
	if c.o.Consents != nil {
		all = append(all,
			route{"GET /consent/{id}", person, nothing, (*Console).consent},
			route{"POST /consent/{id}", person, aForm, (*Console).decide},
		)
	}
	return all
}

// next lets through only pages of ours that a person can have wanted: what
// follows a sign-in is never somebody else's choice (O10).
func (c *Console) next(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "" || u.Host != "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || text != u.EscapedPath() || len(text) > 512 {
		return home
	}
	for _, p := range []string{"/me", "/people", "/mandates", "/consent", "/now", "/approvals", "/log", "/changes", "/agents", "/tools", "/policy", "/budgets"} {
		if text == p || strings.HasPrefix(text, p+"/") && !strings.Contains(text, "//") && !strings.Contains(text, "..") && !strings.Contains(text, "%") {
			return text
		}
	}
	return home
}

// home is the page somebody who wants nothing else is shown: which one depends
// on their roles.
const home = "/"

func (c *Console) start(who *people.Person) string {
	switch {
	case c.o.Desk != nil && watching.admits(who):
		return "/now"
	case c.o.Mandates != nil:
		return "/mandates"
	}
	return "/me"
}

// Mandates are what persons gave. Safe for concurrent use.
type Mandates interface {
	// Given lists what a person gave, and what others gave on their
	// authority, newest first, also what has ended.
	Given(ctx context.Context, by ostiary.PrincipalID) ([]Given, error)
	// End ends one of these, with everything derived from it, before it
	// returns; completed says that the task is done. NotFound for any other.
	End(ctx context.Context, by ostiary.PrincipalID, id ostiary.MandateID, completed bool, reason string) error
	// Unreviewed lists the break-glass mandates that nobody reviewed, newest
	// first, and Review notes that an operator did. Denied for who gave it,
	// if somebody else can.
	Unreviewed(ctx context.Context) ([]Given, error)
	Review(ctx context.Context, by ostiary.PrincipalID, id ostiary.MandateID) error
}

// The states of a mandate that has not ended.
const (
	InForce = "in force"
	NotYet  = "not yet in force"
)

// Given is a mandate and what became of it.
type Given struct {
	ostiary.Mandate
	State string // InForce, NotYet, "completed", "revoked", "expired"
	Below int    // mandates derived from it that are in force
}

// Consents are the questions of clients that wait for a person. Safe for
// concurrent use.
type Consents interface {
	// Pending returns a question that is open, NotFound for any other.
	Pending(ctx context.Context, id string) (Ask, error)
	// Decide answers a question for a person and returns where their browser
	// goes then. A nil grant refuses. It works once: NotFound from then on.
	Decide(ctx context.Context, id string, by ostiary.PrincipalID, grant *ostiary.Mandate) (redirect string, err error)
}

// Ask is what a client wants of a person. What the client chose is foreign.
type Ask struct {
	Client   string // what it calls itself
	ClientID string // what it is known by
	Known    bool   // the id is a document at the address it names, which was read
	Redirect string // host where the answer goes
	Loopback bool   // that is this computer, where any program can listen
	Resource string // what the token would be for
	Scopes   []string
	Wants    ostiary.Mandate // what it would get if nothing is narrowed
	Expires  time.Time       // of the question
}
