package oauth

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

// The kinds of records.
const (
	kindPending   = "oauth_pending"
	kindCode      = "oauth_code"
	kindRefresh   = "oauth_refresh"
	kindAssertion = "oauth_assertion"
)

// nothing is what a client that only wants to connect may reach.
const nothing = ostiary.NoServer

// calling says of a mandate without a task which client it is for: what vouches
// for it first, and then the name it gave itself, which nothing vouches for.
// People find it again by that.
func (p *pending) calling() string {
	who := "a client that registered itself"
	if u, err := url.Parse(p.Client); p.Known && err == nil {
		who = u.Host
	}
	return who + ", which calls itself " + p.Name
}

// pending is a question that waits for a person.
type pending struct {
	Client    string          `json:"client"`
	Name      string          `json:"name"`
	Known     bool            `json:"known"`
	Redirect  string          `json:"redirect"`
	State     string          `json:"state,omitempty"`
	Challenge string          `json:"challenge"`
	Audience  string          `json:"audience"`
	Resource  string          `json:"resource"`
	Scopes    []string        `json:"scopes"`
	Thumb     string          `json:"jkt,omitempty"`
	Wants     ostiary.Mandate `json:"wants"`
}

// authorize takes a client's request by way of a person's browser, looks at
// all of it, and sends the person to the page that asks them.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request) {
	if !s.o.Pace.Allow(stricthttp.Source(r)) {
		s.page(w, r, refuse(unavailable, "too many requests from your address at once: wait a minute"))
		return
	}
	f, ref := parseForm(r.URL.RawQuery)
	if ref != nil {
		s.page(w, r, ref)
		return
	}
	c, ref := s.find(r.Context(), f["client_id"])
	if ref != nil {
		s.page(w, r, ref)
		return
	}
	// Until here there is nowhere to send an error: the client is not known,
	// or the address is not one of its own.
	if !c.sends(f["redirect_uri"]) {
		s.page(w, r, refuse(invalidRequest, "redirect_uri is not one of the client's"))
		return
	}
	id, ref := s.ask(r.Context(), c, f)
	to := "/consent/" + id
	if ref != nil {
		// Anybody can be a client, so a link with a mistake in it would lead
		// from our name to any site at all: only a program on this computer
		// is told without a person's word. See RFC 9700, section 4.11.2.
		if _, here := redirectHost(f["redirect_uri"]); !here {
			s.page(w, r, ref)
			return
		}
		s.o.Refused(stricthttp.Source(r), "oauth:"+string(ref.code))
		s.o.Logger.Info("an authorization request was refused", "error", ref)
		var err error
		if to, err = s.back(f["redirect_uri"], f["state"], map[string]string{"error": string(ref.code), "error_description": ref.words}); err != nil {
			s.page(w, r, ref)
			return
		}
	}
	w.Header().Set("Location", to)
	w.WriteHeader(http.StatusFound)
}

// ask checks the rest of the request and keeps it as a question.
func (s *Server) ask(ctx context.Context, c *client, f form) (id string, ref *refusal) {
	p := pending{Client: c.id, Name: c.name, Known: c.known, Redirect: f["redirect_uri"], State: f["state"], Challenge: f["code_challenge"], Thumb: f["dpop_jkt"]}
	switch {
	case f["response_type"] != "code":
		return "", refuse(unsupportedType, "response_type must be code")
	case f["response_mode"] != "" && f["response_mode"] != "query":
		return "", refuse(invalidRequest, "response_mode must be query")
	case f["request"] != "" || f["request_uri"] != "":
		return "", refuse(invalidRequest, "request objects are not taken")
	case f["code_challenge_method"] != "S256":
		return "", refuse(invalidRequest, "code_challenge_method must be S256")
	case !hashText(p.Challenge):
		return "", refuse(invalidRequest, "code_challenge must be a SHA-256 in base64url")
	case p.Thumb != "" && !hashText(p.Thumb):
		return "", refuse(invalidRequest, "dpop_jkt must be a SHA-256 in base64url")
	case len(p.State) > 1024:
		return "", refuse(invalidRequest, "state is too long")
	}
	res, ok := s.o.Resources.Resource(f["resource"])
	if !ok {
		return "", refuse(invalidTarget, "resource must name an endpoint of this gateway")
	}
	p.Audience, p.Resource = res.Audience, f["resource"]
	if p.Scopes, ref = granted(f, res); ref != nil {
		return "", ref
	}
	if p.Wants, ref = s.wants(c, f, res, p.Scopes); ref != nil {
		return "", ref
	}
	data, err := json.Marshal(p)
	if err != nil {
		return "", refuse(serverError, "internal error").because(err)
	}
	now := s.o.Clock()
	id = strings.ToLower(rand.Text())
	if _, err = s.o.Records.CreateRecord(ctx, record.Record{Kind: kindPending, ID: id, Data: data, Expires: now.Add(PendingLife)}, now); err != nil {
		return "", understood(err, invalidRequest)
	}
	return id, nil
}

// hashText reports whether s is a SHA-256 in base64url.
func hashText(s string) bool {
	b, err := base64.RawURLEncoding.Strict().DecodeString(s)
	return err == nil && len(b) == 32
}

// granted returns what of the requested scopes there is at the resource. A
// client that asks for none gets what it needs to connect there, and asks
// again for what it turns out to need. Words we do not know mean nothing.
func granted(f form, res Resource) ([]string, *refusal) {
	asked, ref := f.scopes()
	if ref != nil {
		return nil, ref
	}
	if len(asked) == 0 {
		return ostiary.ScopesFor(res.Server), nil
	}
	out := []string{ostiary.ScopeConnect}
	for _, server := range res.Servers {
		if slices.Contains(asked, ostiary.ScopeOf(server)) {
			out = append(out, ostiary.ScopeOf(server))
		}
	}
	return out, nil
}

// reached returns the servers that scopes are for.
func reached(scopes []string, res Resource) (servers []string) {
	for _, server := range res.Servers {
		if slices.Contains(scopes, ostiary.ScopeOf(server)) {
			servers = append(servers, server)
		}
	}
	if len(servers) == 0 {
		servers = []string{nothing}
	}
	return servers
}

// wants is the mandate the client asks for: what its details say, as far as
// its scopes and the resource reach.
func (s *Server) wants(c *client, f form, res Resource, scopes []string) (ostiary.Mandate, *refusal) {
	m := ostiary.Mandate{}
	terms, ref := f.details()
	if ref != nil {
		return m, ref
	}
	now := s.o.Clock()
	if terms != nil {
		if terms.Agent != "" {
			return m, refuse(invalidDetails, "whom the mandate is for is not the client's to say")
		}
		m = terms.Mandate(now)
	}
	servers := reached(scopes, res)
	switch {
	case len(m.Resources) == 0 || slices.Equal(m.Resources, []string{"*"}):
		m.Resources = servers
	case slices.ContainsFunc(m.Resources, func(x string) bool { return !slices.Contains(servers, x) }):
		return m, refuse(invalidDetails, "the details name a server that the scopes do not")
	}
	for _, l := range []*[]string{&m.Actions, &m.Classes, &m.Approvers} {
		if len(*l) == 0 {
			*l = []string{"*"}
		}
	}
	if m.Purpose == "" {
		m.Purpose = "sign-in"
	}
	m.Kind = ostiary.TaskMandate
	if m.Expires.IsZero() {
		m.Expires = now.Add(WantLife)
	}
	if most := now.Add(MaxWantLife); m.Expires.After(most) {
		m.Expires = most
	}
	if !m.Expires.After(now) {
		return m, refuse(invalidDetails, "the mandate asked for has ended already")
	}
	return m, nil
}

// Ask is a question to a person: what a client wants of them. What the client
// chose (its name and id, the resource as it wrote it, texts in Wants) is
// foreign.
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

// Pending returns a question that is open: NotFound for any other.
func (s *Server) Pending(ctx context.Context, id string) (Ask, error) {
	r, err := s.o.Records.Record(ctx, kindPending, id, s.o.Clock())
	if err != nil {
		return Ask{}, err
	}
	p, err := openPending(r)
	if err != nil {
		return Ask{}, err
	}
	a := Ask{Client: p.Name, ClientID: p.Client, Known: p.Known, Resource: p.Resource, Scopes: p.Scopes, Wants: p.Wants, Expires: r.Expires}
	a.Redirect, a.Loopback = redirectHost(p.Redirect)
	return a, nil
}

func openPending(r record.Record) (p pending, err error) {
	if err = json.Unmarshal(r.Data, &p); err != nil {
		err = ostiary.Errorf(ostiary.Corrupt, "stored_record", "a stored question cannot be read").Because(err)
	}
	return p, err
}

// code is what a code stands for, and what became of it.
type code struct {
	Client    string              `json:"client"`
	Redirect  string              `json:"redirect"`
	Challenge string              `json:"challenge"`
	Audience  string              `json:"audience"`
	Scopes    []string            `json:"scopes"`
	Thumb     string              `json:"jkt,omitempty"`
	Agent     ostiary.AgentID     `json:"agent"`
	Mandate   ostiary.MandateID   `json:"mandate"`
	Person    ostiary.PrincipalID `json:"person"`
	Until     time.Time           `json:"until"`

	Claimed time.Time `json:"claimed,omitzero"` // when somebody spent it
	Done    bool      `json:"done,omitempty"`   // what came of it was handed out
	Reused  bool      `json:"reused,omitempty"` // somebody showed it again before that
}

// Decide answers a question for a person and returns where their browser goes
// then. A nil grant refuses; one that is given may be narrower than what was
// asked, and never wider. It works once: NotFound from then on.
func (s *Server) Decide(ctx context.Context, id string, by ostiary.PrincipalID, grant *ostiary.Mandate) (redirect string, err error) {
	now := s.o.Clock()
	r, err := s.o.Records.TakeRecord(ctx, kindPending, id, now)
	if err != nil {
		return "", err
	}
	p, err := openPending(r)
	if err != nil {
		return "", err
	}
	if grant == nil {
		return s.back(p.Redirect, p.State, map[string]string{"error": string(accessDenied), "error_description": "the person refused"})
	}
	m := *grant
	m.ID, m.Parent, m.Principal, m.By, m.Agent, m.Kind, m.Links, m.Within = "", "", by, by, "", ostiary.TaskMandate, nil, nil
	if err := within(&m, &p.Wants); err != nil {
		return "", err
	}
	if m.Task == "" {
		m.Task = p.calling()
	}
	if m.Agent, err = s.o.Authority.AdmitClient(ctx, p.Client, by); err != nil {
		return "", err
	}
	if m, err = s.o.Authority.IssueMandate(ctx, by, m); err != nil {
		return "", err
	}
	text := rand.Text() + rand.Text()
	c := code{
		Client: p.Client, Redirect: p.Redirect, Challenge: p.Challenge, Audience: p.Audience, Thumb: p.Thumb,
		Agent: m.Agent, Mandate: m.ID, Person: by, Until: now.Add(CodeLife),
	}
	for _, scope := range p.Scopes {
		if server, ok := strings.CutPrefix(scope, ostiary.ScopeOf("")); !ok || m.CoversResource(&ostiary.Resource{Server: server}) {
			c.Scopes = append(c.Scopes, scope)
		}
	}
	data, err := json.Marshal(c)
	if err != nil {
		return "", err
	}
	// Kept well after it ends, so that whoever shows it again is noticed.
	rec := record.Record{Kind: kindCode, ID: hashed(text), Data: data, Expires: now.Add(time.Hour)}
	if _, err := s.o.Records.CreateRecord(ctx, rec, now); err != nil {
		return "", err
	}
	return s.back(p.Redirect, p.State, map[string]string{"code": text})
}

// hashed names a secret in the store.
func hashed(secret string) string { return ostiary.DigestOf([]byte(secret)).String() }

// within refuses what a person could not have been asked: the page narrows,
// and whatever it hands on is held against the question again.
func within(m, wants *ostiary.Mandate) error {
	// As if it were derived from what was asked for, one delegation deeper.
	parent, child := *wants, *m
	parent.ID, parent.Agent, parent.Depth = "asked", "spiffe://asked/client", wants.Depth+1
	parent.Principal, parent.By = m.Principal, m.By
	child.Parent, child.Agent = parent.ID, "spiffe://asked/other"
	child.NotBefore, parent.NotBefore = time.Time{}, time.Time{}
	if err := child.NarrowerThan(&parent); err != nil {
		return err
	}
	// There a bound that is not repeated is the parent's still; here there
	// is no parent to have it.
	for _, c := range wants.Ceilings {
		if !slices.ContainsFunc(m.Ceilings, func(x ostiary.Ceiling) bool {
			return x.Action == c.Action && x.Pointer == c.Pointer && x.Unit == c.Unit
		}) {
			m.Ceilings = append(m.Ceilings, c)
		}
	}
	for _, c := range wants.Budget.Money {
		if !slices.ContainsFunc(m.Budget.Money, func(x ostiary.Money) bool { return x.Currency == c.Currency }) {
			m.Budget.Money = append(m.Budget.Money, c)
		}
	}
	for _, b := range []struct{ mine, asked *int64 }{
		{&m.Budget.Calls, &wants.Budget.Calls}, {&m.Budget.Tokens, &wants.Budget.Tokens}, {&m.Budget.Bytes, &wants.Budget.Bytes},
	} {
		if *b.mine == 0 {
			*b.mine = *b.asked
		}
	}
	return nil
}
