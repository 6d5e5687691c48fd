package console

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/people/peopletest"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/stricthttp"
)

var start = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

// desk is a console with neighbours by hand.
type desk struct {
	t         *testing.T
	url       string
	console   *Console
	people    *people.People
	ask       Ask
	granted   *ostiary.Mandate
	decided   int
	given     map[ostiary.PrincipalID][]Given
	ended     []ostiary.MandateID
	refused   []string
	meanwhile func() // happens while a question is being decided
	answers   string // where answers go, if not to localhost:3333
	bureau    *bureau
	tray      *tray
	slow      bool // keep to the rate; else every request has a new second
}

func (d *desk) Pending(_ context.Context, id string) (Ask, error) {
	if id != "q1" || d.decided > 0 {
		return Ask{}, ostiary.Errorf(ostiary.NotFound, "x", "x")
	}
	return d.ask, nil
}

func (d *desk) Decide(_ context.Context, id string, by ostiary.PrincipalID, m *ostiary.Mandate) (string, error) {
	d.decided++
	d.granted = m
	if d.meanwhile != nil {
		d.meanwhile()
	}
	return cmp.Or(d.answers, "http://localhost:3333/callback") + "?code=x&state=y", nil
}

func (d *desk) Given(_ context.Context, by ostiary.PrincipalID) ([]Given, error) {
	return d.given[by], nil
}

func (d *desk) End(_ context.Context, by ostiary.PrincipalID, id ostiary.MandateID, _ bool, _ string) error {
	d.ended = append(d.ended, id)
	for i := range d.given[by] {
		if d.given[by][i].ID == id {
			d.given[by][i].State = "revoked"
		}
	}
	return nil
}

func (d *desk) Unreviewed(context.Context) ([]Given, error) { return d.given["to review"], nil }

func (d *desk) Review(_ context.Context, by ostiary.PrincipalID, id ostiary.MandateID) error {
	for _, g := range d.given["to review"] {
		if g.ID == id && g.By != by {
			d.given["to review"] = nil
			return nil
		}
	}
	return ostiary.Errorf(ostiary.Denied, "own_review", "who gave a mandate does not review it")
}

func newDesk(t *testing.T) *desk {
	t.Helper()
	d := &desk{t: t, bureau: newBureau(), tray: &tray{}, given: map[ostiary.PrincipalID][]Given{}, ask: Ask{
		Client: "Claude Code", ClientID: "https://claude.example/client.json", Known: true, Redirect: "localhost:3333", Loopback: true, Resource: "https://gate/mcp", Expires: start.Add(10 * time.Minute),
		Wants: ostiary.Mandate{Kind: ostiary.TaskMandate, Task: "tidy up", Actions: []string{"bank___get_balance", "bank___send_payment"}, Resources: []string{"bank"}, Depth: 2, Expires: start.Add(8 * time.Hour),
			Ceilings: []ostiary.Ceiling{{Action: "bank___send_payment", Pointer: "/amount", Max: "4200.50", Unit: "EUR"}}},
	}}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { d.console.ServeHTTP(w, r) }))
	t.Cleanup(s.Close)
	d.url = strings.Replace(s.URL, "127.0.0.1", "localhost", 1)
	clock := func() time.Time { return start }
	var err error
	d.people, err = people.New(people.Options{
		Records: store.NewMemory(), Seal: peopletest.Seal{}, Origin: d.url, Name: "test", Clock: clock,
		Record: func(context.Context, people.Event) error { return nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	d.tray.people = d.people
	d.console, err = New(Options{
		People: d.people, Consents: d, Mandates: d, Desk: d.bureau, Approvals: d.tray, Budgets: purses{}, Watch: NewWatch(clock), Clock: clock, Logger: slog.New(slog.DiscardHandler),
		Tools: func() []Tool {
			return []Tool{{"bank", "bank___get_balance", true}, {"bank", "bank___send_payment", false}, {"inbox", "inbox___read", true}}
		},
		Refused: func(_, code string) { d.refused = append(d.refused, code) },
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// visitor is a client with cookies that says what browsers say.
type visitor struct {
	d *desk
	c *http.Client
}

func (d *desk) browser() *visitor {
	jar, _ := cookiejar.New(nil)
	return &visitor{d, &http.Client{Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}}
}

func (b *visitor) send(method, path, kind, body string, change ...func(*http.Request)) (*http.Response, string) {
	b.d.t.Helper()
	if !b.d.slow {
		b.d.console.o.Pace = stricthttp.NewPace(b.d.console.o.Clock)
	}
	r, err := http.NewRequest(method, b.d.url+path, strings.NewReader(body))
	if err != nil {
		b.d.t.Fatal(err)
	}
	if method != http.MethodGet {
		r.Header.Set("Content-Type", kind)
		r.Header.Set("Origin", b.d.url)
		r.Header.Set("Sec-Fetch-Site", "same-origin")
	}
	for _, f := range change {
		f(r)
	}
	resp, err := b.c.Do(r)
	if err != nil {
		b.d.t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		b.d.t.Fatal(err)
	}
	return resp, string(text)
}

func (b *visitor) get(path string, change ...func(*http.Request)) (*http.Response, string) {
	b.d.t.Helper()
	return b.send(http.MethodGet, path, "", "", change...)
}

var formToken = regexp.MustCompile(`(?:name="form" value|data-form)="([^"]+)"`)

// token reads the form token of a page.
func (b *visitor) token(path string) string {
	b.d.t.Helper()
	_, page := b.get(path)
	m := formToken.FindStringSubmatch(page)
	if m == nil {
		b.d.t.Fatalf("%s has no form:\n%s", path, page)
	}
	return m[1]
}

func (b *visitor) post(path string, form url.Values, change ...func(*http.Request)) (*http.Response, string) {
	b.d.t.Helper()
	return b.send(http.MethodPost, path, "application/x-www-form-urlencoded", form.Encode(), change...)
}

// message sends what a script of ours sends.
func (b *visitor) message(path string, m map[string]any) (*http.Response, map[string]any) {
	b.d.t.Helper()
	body, err := json.Marshal(m)
	if err != nil {
		b.d.t.Fatal(err)
	}
	resp, text := b.send(http.MethodPost, path, "application/json", string(body))
	var out map[string]any
	json.Unmarshal([]byte(text), &out)
	return resp, out
}

// signIn makes a person with roles and signs them in.
func (d *desk) signIn(name string, roles ...people.Role) *visitor {
	d.t.Helper()
	b := d.browser()
	secret, _, err := d.people.Invite(d.t.Context(), name, roles, 0, "root")
	if err != nil {
		d.t.Fatal(err)
	}
	form, link := b.token("/join"), string(secret.Reveal())
	resp, options := b.message("/join/ask", map[string]any{"form": form, "secret": link, "name": ""})
	if resp.StatusCode != 200 {
		d.t.Fatalf("%d %v", resp.StatusCode, options)
	}
	text, _ := json.Marshal(options)
	answer, err := peopletest.NewAuthenticator(d.url).Create(text)
	if err != nil {
		d.t.Fatal(err)
	}
	resp, out := b.message("/join", map[string]any{"form": form, "secret": link, "answer": json.RawMessage(answer)})
	if resp.StatusCode != 200 || out["next"] != "/" {
		d.t.Fatalf("%d %v", resp.StatusCode, out)
	}
	return b
}

// TestO04EveryRoute: B10. Each route without a credential, with somebody else's
// role, and each change without what only a page of ours has.
func TestO04EveryRoute(t *testing.T) {
	d := newDesk(t)
	routes := d.console.routes()
	if len(routes) < 20 {
		t.Fatalf("only %d routes", len(routes))
	}
	d.signIn("root", people.Operator)
	low := d.signIn("low")
	auditor := d.signIn("auditor", people.Auditor)
	path := strings.NewReplacer("{name}", "root", "{id}", "q1", "{id...}", "example.org/agent/payments", "{month}", "2026-11", "{index}", "7", "{$}", "")
	for _, r := range routes {
		method, pattern, _ := strings.Cut(r.pattern, " ")
		at := path.Replace(pattern)
		t.Run(r.pattern, func(t *testing.T) {
			if r.who.anyone == (r.who.signed || len(r.who.roles) > 0) {
				t.Error("it says not who may use it")
			}
			if (method == "GET") != (r.takes == nothing) {
				t.Error("a change takes a body with a token, and nothing else does")
			}
			stranger := d.browser()
			if method == "GET" {
				resp, _ := stranger.get(at)
				if to := resp.Header.Get("Location"); !r.who.anyone && (resp.StatusCode != 303 || !strings.HasPrefix(to, "/sign-in?next=")) {
					t.Errorf("a stranger gets %d to %q", resp.StatusCode, to)
				}
				if resp, _ := low.get(at); len(r.who.roles) > 0 && resp.StatusCode != 403 {
					t.Errorf("who has no role gets %d", resp.StatusCode)
				}
				return
			}
			resp, _ := stranger.post(at, url.Values{"form": {stranger.token("/sign-in")}})
			if !r.who.anyone && resp.StatusCode != 401 {
				t.Errorf("a stranger gets %d", resp.StatusCode)
			}
			for name, b := range map[string]*visitor{"no role": low, "auditor": auditor} {
				if len(r.who.roles) == 0 {
					break // they may
				}
				if resp, _ := b.post(at, url.Values{"form": {b.token("/me")}}); resp.StatusCode != 403 {
					t.Errorf("%s gets %d", name, resp.StatusCode)
				}
			}
			kind, body := "application/x-www-form-urlencoded", func(token string) string { return url.Values{"form": {token}}.Encode() }
			if r.takes == aMessage {
				kind, body = "application/json", func(token string) string { return `{"form":"` + token + `"}` }
			}
			whole := body(low.token("/me"))
			for name, lie := range map[string]func(*http.Request){
				"another site": func(r *http.Request) {
					r.Header.Set("Origin", "https://evil.example")
					r.Header.Set("Sec-Fetch-Site", "cross-site")
				},
				"a sister site":       func(r *http.Request) { r.Header.Set("Sec-Fetch-Site", "same-site") },
				"null":                func(r *http.Request) { r.Header.Set("Origin", "null"); r.Header.Del("Sec-Fetch-Site") },
				"null from elsewhere": func(r *http.Request) { r.Header.Set("Origin", "null"); r.Header.Set("Sec-Fetch-Site", "cross-site") },
				"nothing":             func(r *http.Request) { r.Header.Del("Origin"); r.Header.Del("Sec-Fetch-Site") },
				"https for http": func(r *http.Request) {
					r.Header.Set("Origin", strings.Replace(d.url, "http", "https", 1))
					r.Header.Del("Sec-Fetch-Site")
				},
				"another port":         func(r *http.Request) { r.Header.Set("Origin", "http://localhost:1"); r.Header.Del("Sec-Fetch-Site") },
				"another kind of body": func(r *http.Request) { r.Header.Set("Content-Type", "text/plain") },
				"another host":         func(r *http.Request) { r.Host = "evil.example" },
			} {
				if resp, page := low.send(method, at, kind, whole, lie); resp.StatusCode < 400 {
					t.Errorf("O04, %s: %d", name, resp.StatusCode)
				} else if strings.Contains(name, "site") && !strings.Contains(page, "cross_origin") {
					t.Errorf("O04, %s: refused for something else\n%s", name, page)
				}
			}
			for _, token := range []string{"", "x", stranger.token("/sign-in")} {
				if resp, _ := low.send(method, at, kind, body(token)); resp.StatusCode != 403 {
					t.Errorf("the token %q gets %d", token, resp.StatusCode)
				}
			}
			if resp, _ := low.get(at); resp.StatusCode < 300 && !slices.ContainsFunc(routes, func(o route) bool { return o.pattern == "GET "+pattern }) {
				t.Errorf("a GET gets %d", resp.StatusCode)
			}
		})
	}
	for _, absent := range []string{"/debug/pprof/", "/metrics", "/v1/status", "/mcp", "/assets/", "/assets/style.css", "/assets/..%2fpages%2fbase.html", "/people/", "/.git/config", "/mandates/nobody's"} {
		if resp, _ := low.get(absent); resp.StatusCode != 404 {
			t.Errorf("O07: %s gets %d", absent, resp.StatusCode)
		}
	}
	if d.decided > 0 || len(d.ended) > 0 {
		t.Error("something was decided")
	}
	if len(d.refused) == 0 {
		t.Error("no refusal of a stranger was counted")
	}
}

// TestHeaders: every answer, also an error, tells the browser what it may do.
func TestHeaders(t *testing.T) {
	d := newDesk(t)
	b := d.signIn("dana", people.Operator)
	for _, path := range []string{"/me", "/people", "/people/nobody", "/mandates", "/consent/q1", "/consent/q2", "/nowhere", "/sign-in", "/"} {
		resp, _ := b.get(path)
		for name, want := range map[string]string{"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer", "X-Frame-Options": "DENY", "Cache-Control": "no-store", "Cross-Origin-Opener-Policy": "same-origin"} {
			if got := resp.Header.Get(name); got != want {
				t.Errorf("%s: %s is %q", path, name, got)
			}
		}
	}
	for _, word := range []string{"unsafe", "*", "data:", "http"} {
		if strings.Contains(policy, word) {
			t.Errorf("the policy has %q", word)
		}
	}
	b = d.browser()
	resp, _ := b.get("/sign-in")
	cookie := resp.Header.Get("Set-Cookie")
	for _, want := range []string{"ostiary-localhost=", "HttpOnly", "SameSite=Strict", "Path=/"} {
		if !strings.Contains(cookie, want) {
			t.Errorf("the cookie has no %s: %s", want, cookie)
		}
	}
}

// TestArrival: a link on another site comes without the cookie, and is asked
// for again by ourselves, without another cookie in its place.
func TestArrival(t *testing.T) {
	d := newDesk(t)
	b := d.browser()
	elsewhere := func(r *http.Request) {
		r.Header.Set("Sec-Fetch-Site", "cross-site")
		r.Header.Set("Sec-Fetch-Mode", "navigate")
	}
	for path, again := range map[string]string{"/consent/q1": "/consent/q1", "/mandates": "/mandates", "/sign-in/callback?state=a&code=b%22": "/sign-in/callback?state=a&code=b%22"} {
		resp, page := b.get(path, elsewhere)
		if resp.Header.Get("Refresh") != "0;url="+again || resp.Header.Get("Set-Cookie") != "" || resp.StatusCode != 200 {
			t.Errorf("%s: %d, %q, %q", path, resp.StatusCode, resp.Header.Get("Refresh"), resp.Header.Get("Set-Cookie"))
		}
		if strings.Contains(page, `b"`) {
			t.Error("the address is not escaped")
		}
	}
}

// TestO10Next: O10, nobody else says where a sign-in leads.
func TestO10Next(t *testing.T) {
	d := newDesk(t)
	for text, want := range map[string]string{
		"/consent/q1": "/consent/q1", "/me": "/me", "/people/dana": "/people/dana", "": "/", "/": "/",
		"//evil.example": "/", "https://evil.example": "/", "/\\evil.example": "/", "/consent//evil": "/", "javascript:alert(1)": "/",
		"/consent/../../x": "/", "/me?x": "/", "/me#x": "/", "/consent/%2e%2e": "/", "/sign-out": "/", "/me\r\nSet-Cookie: a=b": "/", " /me": "/", "/meow": "/",
	} {
		if got := d.console.next(text); got != want {
			t.Errorf("%q leads to %q, want %q", text, got, want)
		}
	}
	for _, to := range []string{"javascript:alert(1)", "data:text/html,x", "file:///etc/passwd", "vbscript:x", "/relative", ""} {
		x := &exchange{w: httptest.NewRecorder(), r: httptest.NewRequest("GET", "/", nil)}
		if err := d.console.leave(x, "t", to); err == nil {
			t.Errorf("F08: it leads to %q", to)
		}
	}
}

// TestConsent: F03, a person is asked for each client, and what they narrow is
// what is granted.
func TestConsent(t *testing.T) {
	whole := url.Values{"scope": {"chosen"}, "action": {"bank___get_balance", "bank___send_payment"}, "life": {"480"}, "depth": {"on"}, "ceiling-0": {"4200.50"}, "answer": {"accept"}}
	with := func(k string, v ...string) url.Values {
		out := url.Values{}
		for a, b := range whole {
			out[a] = b
		}
		out[k] = v
		return out
	}
	for _, tc := range []struct {
		name   string
		form   url.Values
		status int
		check  func(*ostiary.Mandate) bool
	}{
		{"as asked", whole, 200, func(m *ostiary.Mandate) bool {
			return len(m.Actions) == 2 && m.Expires.Equal(start.Add(8*time.Hour)) && m.Depth == 2
		}},
		{"one action", with("action", "bank___get_balance"), 200, func(m *ostiary.Mandate) bool { return slices.Equal(m.Actions, []string{"bank___get_balance"}) }},
		{"a shorter life", with("life", "15"), 200, func(m *ostiary.Mandate) bool { return m.Expires.Equal(start.Add(15 * time.Minute)) }},
		{"a longer life", with("life", "999999"), 200, func(m *ostiary.Mandate) bool { return m.Expires.Equal(start.Add(8 * time.Hour)) }},
		{"not passed on", with("depth"), 200, func(m *ostiary.Mandate) bool { return m.Depth == 0 }},
		{"a lower ceiling", with("ceiling-0", "10"), 200, func(m *ostiary.Mandate) bool { return m.Ceilings[0].Max == "10" && m.Ceilings[0].Pointer == "/amount" }},
		{"a higher ceiling", with("ceiling-0", "4200.51"), 400, nil},
		{"a ceiling that is none", with("ceiling-0", "1e9"), 400, nil},
		{"no ceiling", with("ceiling-0"), 400, nil},
		{"an action that was not asked for", with("action", "inbox___read"), 400, nil},
		{"everything", with("action", "*"), 400, nil},
		{"nothing", with("action"), 400, nil},
		{"all, which was not asked for", with("scope", "all"), 200, func(m *ostiary.Mandate) bool { return len(m.Actions) == 2 }},
		{"no life", with("life", "0"), 400, nil},
		{"neither", with("answer", "maybe"), 400, nil},
		{"refused", with("answer", "refuse"), 200, func(m *ostiary.Mandate) bool { return m == nil }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDesk(t)
			b := d.signIn("dana")
			tc.form.Set("form", b.token("/consent/q1"))
			resp, page := b.post("/consent/q1", tc.form)
			if resp.StatusCode != tc.status {
				t.Fatalf("%d\n%s", resp.StatusCode, page)
			}
			if tc.check == nil {
				if !strings.Contains(page, `href="/consent/q1"`) {
					t.Error("there is no way back to the question")
				}
				if d.decided != 0 {
					t.Error("it was decided")
				}
				return
			}
			if d.decided != 1 || !tc.check(d.granted) {
				t.Errorf("decided %d times: %+v", d.decided, d.granted)
			}
			if to := resp.Header.Get("Refresh"); to != "0;url=http://localhost:3333/callback?code=x&state=y" {
				t.Errorf("goes on to %q", to)
			}
			if resp, _ := b.post("/consent/q1", tc.form); resp.StatusCode != 404 {
				t.Errorf("a second time: %d", resp.StatusCode)
			}
		})
	}
	d := newDesk(t)
	b := d.signIn("dana")
	resp, page := b.get("/consent/q1")
	for _, want := range []string{"Claude Code", "localhost:3333", "Any program on it can listen", "bank___send_payment", "can change things", "4200.50", "8 hours"} {
		if !strings.Contains(page, want) {
			t.Errorf("the page does not say %q", want)
		}
	}
	if refuse, accept := strings.Index(page, `value="refuse"`), strings.Index(page, `value="accept"`); resp.StatusCode != 200 || refuse < 0 || accept < refuse {
		t.Error("Enter would accept")
	}
	if strings.Contains(page, "autofocus") {
		t.Error("something has the focus by default")
	}
	if d.decided != 0 {
		t.Error("opening the page decided")
	}
}

// TestConsentToAnything: what is ticked is given alone, and a client that wants
// to connect is said to want no more.
func TestConsentToAnything(t *testing.T) {
	form := func(b *visitor, action ...string) url.Values {
		return url.Values{"form": {b.token("/consent/q1")}, "scope": {"all"}, "action": action, "life": {"60"}, "answer": {"accept"}}
	}
	for _, tc := range []struct {
		ticked, given []string
	}{{nil, []string{"*"}}, {[]string{"bank___get_balance"}, []string{"bank___get_balance"}}} {
		d := newDesk(t)
		d.ask.Wants.Actions, d.ask.Wants.Ceilings, d.ask.Scopes = []string{"*"}, nil, []string{"mcp", "server:bank"}
		b := d.signIn("dana")
		if _, page := b.get("/consent/q1"); !strings.Contains(page, "everything that policy allows on") || strings.Contains(page, "It can call nothing") {
			t.Error("the page does not say where")
		}
		if b.post("/consent/q1", form(b, tc.ticked...)); d.granted == nil || !slices.Equal(d.granted.Actions, tc.given) {
			t.Errorf("%v is ticked: %+v", tc.ticked, d.granted)
		}
	}
	d := newDesk(t)
	d.ask.Wants.Actions, d.ask.Wants.Resources, d.ask.Wants.Ceilings, d.ask.Scopes = []string{"*"}, []string{ostiary.NoServer}, nil, []string{"mcp"}
	b := d.signIn("dana")
	if _, page := b.get("/consent/q1"); !strings.Contains(page, "It can call nothing") || strings.Contains(page, "everything that policy allows") || strings.Contains(page, ostiary.NoServer) {
		t.Error("the page says that it wants more than to connect")
	}
	if b.post("/consent/q1", form(b)); d.granted == nil || !slices.Equal(d.granted.Resources, []string{ostiary.NoServer}) {
		t.Errorf("%+v", d.granted)
	}
	d.given["person:dana"] = []Given{{Mandate: ostiary.Mandate{ID: "m1", Agent: "spiffe://x/client/0123456789abcdef", Actions: []string{"*"}, Resources: []string{ostiary.NoServer}, Expires: start.Add(time.Hour)}, State: InForce}}
	if _, page := b.get("/mandates"); !strings.Contains(page, "client 01234567<") || strings.Contains(page, "everything that policy allows") {
		t.Error("the list says that it may use something")
	}
}

func TestInWords(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "over", time.Second: "1 minute", 15 * time.Minute: "15 minutes", 90 * time.Minute: "90 minutes", 24*time.Hour - 5*time.Second: "1 day",
		8*time.Hour - time.Minute: "8 hours", 5*time.Hour + 20*time.Minute: "5 hours", 30*24*time.Hour - time.Hour: "30 days",
	} {
		if got := inWords(start, start.Add(d)); got != want {
			t.Errorf("%s is %q, want %q", d, got, want)
		}
	}
}

func TestMandates(t *testing.T) {
	d := newDesk(t)
	b := d.signIn("dana")
	if _, page := b.get("/mandates"); !strings.Contains(page, "what operators gave agents in your name") {
		t.Error("an empty page teaches nothing")
	}
	m := ostiary.Mandate{ID: "m1", Agent: "spiffe://x/agent/a", Actions: []string{"*"}, Expires: start.Add(time.Hour)}
	d.given["person:dana"] = []Given{{Mandate: m, State: "in force"}}
	other := m
	other.ID = "m2"
	d.given["person:kim"] = []Given{{Mandate: other, State: "in force"}}
	if resp, page := b.get("/mandates/m1"); resp.StatusCode != 200 || !strings.Contains(page, "The task is done") {
		t.Errorf("%d", resp.StatusCode)
	}
	form := url.Values{"form": {b.token("/mandates")}, "how": {"revoked"}}
	if resp, _ := b.get("/mandates/m2"); resp.StatusCode != 404 {
		t.Errorf("O06: somebody else's mandate gets %d", resp.StatusCode)
	}
	if resp, _ := b.post("/mandates/m2/end", form); resp.StatusCode != 404 || len(d.ended) != 0 {
		t.Errorf("O06: ending somebody else's mandate gets %d", resp.StatusCode)
	}
	if resp, _ := b.post("/mandates/m1/end", form); resp.StatusCode != 303 || len(d.ended) != 1 {
		t.Errorf("%d, ended %v", resp.StatusCode, d.ended)
	}
}

func TestSessionEnds(t *testing.T) {
	d := newDesk(t)
	d.signIn("root", people.Operator)
	b := d.signIn("dana", people.Operator)
	before := b.cookie()
	if resp, _ := b.get("/people"); resp.StatusCode != 200 {
		t.Fatal(resp.StatusCode)
	}
	if _, err := d.people.SetRoles(t.Context(), "dana", nil, "root"); err != nil {
		t.Fatal(err)
	}
	if resp, _ := b.get("/people"); resp.StatusCode != 303 {
		t.Errorf("after other roles: %d", resp.StatusCode)
	}
	b = d.signIn("kim")
	if b.cookie() == before {
		t.Error("a session's token is somebody else's")
	}
	stolen := b.cookie()
	if resp, _ := b.post("/sign-out", url.Values{"form": {b.token("/me")}}); resp.StatusCode != 303 {
		t.Errorf("signing out: %d", resp.StatusCode)
	}
	thief := d.browser()
	if resp, _ := thief.get("/me", func(r *http.Request) { r.AddCookie(&http.Cookie{Name: "ostiary-localhost", Value: stolen}) }); resp.StatusCode != 303 {
		t.Errorf("the cookie of a session that was signed out: %d", resp.StatusCode)
	}
	// A visit's cookie that somebody planted is not the session's.
	b = d.browser()
	visit := b.token("/sign-in")
	b = d.signIn("lee")
	if b.token("/me") == visit {
		t.Error("the token of before signing in is good after it")
	}
}

func (b *visitor) cookie() string {
	u, _ := url.Parse(b.d.url)
	for _, c := range b.c.Jar.Cookies(u) {
		return c.Value
	}
	return ""
}

func TestRate(t *testing.T) {
	d := newDesk(t)
	b := d.browser()
	form := b.token("/sign-in")
	d.slow = true
	limited := 0
	const burst = 40 // of one source
	for range 2 * burst {
		if resp, _ := b.message("/sign-in/passkey/ask", map[string]any{"form": form}); resp.StatusCode == 429 {
			limited++
		}
	}
	if limited != burst {
		t.Errorf("%d of %d were refused", limited, 2*burst)
	}
}

// TestO03Foreign: O03, I05: what a reader could not see is shown, and what is
// somebody else's cannot leave its place.
func TestO03Foreign(t *testing.T) {
	for in, want := range map[string]string{
		"plain":              "plain",
		"<script>":           "&lt;script&gt;",
		"a\u200bb":           `a<span class="cp">U+200B</span>b`,
		"a\u202eb":           `a<span class="cp">U+202E</span>b`,
		"\U000e0041x":        `<span class="cp">U+E0041</span>x`,
		"p\u0430ypal":        "p\u0430" + `<span class="cp">U+0430</span>ypal`,
		"\u0420\u0430\u0443": "\u0420" + `<span class="cp">U+0420</span>` + "\u0430" + `<span class="cp">U+0430</span>` + "\u0443" + `<span class="cp">U+0443</span>`,
		"привет":             "привет",
		"a\nb":               `a<span class="cp">U+000A</span>b`,
		"a\x1b[31m":          `a<span class="cp">U+001B</span>[31m`,
		"\xff":               `<span class="cp">0xFF</span>`,
		"a\u00a0b":           `a<span class="cp">U+00A0</span>b`,
		`" onclick="x`:       "&#34; onclick=&#34;x",
	} {
		got := string(NewForeign(in).Short())
		got = strings.TrimSuffix(strings.TrimPrefix(got, `<span class="foreign" dir="ltr">`), "</span>")
		if got != want {
			t.Errorf("%q is shown as %s, want %s", in, got, want)
		}
	}
	long := NewForeign(strings.Repeat("harmless ", 1200) + "</div><script>alert(1)</script>")
	for name, text := range map[string]string{"short": string(long.Short()), "block": string(long.Block()), "plain": long.String()} {
		if strings.Contains(text, "<script") && name != "plain" || !strings.Contains(text, "characters") {
			t.Errorf("%s: %.200s", name, text)
		}
	}
	if text := NewForeign("one\ntwo").Block(); !strings.Contains(string(text), "one\ntwo") {
		t.Errorf("lines: %s", text)
	}
}

func FuzzForeign(f *testing.F) {
	f.Add("p\u0430ypal \u202e<script>")
	f.Fuzz(func(t *testing.T, s string) {
		for _, html := range []string{string(NewForeign(s).Short()), string(NewForeign(s).Block())} {
			plain := regexp.MustCompile(`</?(span|div|details|summary)( class="(foreign|cp|more|fold)"( dir="ltr")?)?>`).ReplaceAllString(html, "")
			if strings.ContainsAny(plain, "<>\x00\u202e\u200b") {
				t.Errorf("%q is shown as %s", s, html)
			}
		}
	})
}

// TestO02NoFrames: no page of ours frames anything, so no text can be put into
// a frame.
func TestO02NoFrames(t *testing.T) {
	pages, err := files.ReadDir("pages")
	if err != nil || len(pages) < 10 {
		t.Fatalf("%d pages, %v", len(pages), err)
	}
	for _, p := range pages {
		b, err := files.ReadFile("pages/" + p.Name())
		if err != nil {
			t.Fatal(err)
		}
		for _, word := range []string{"srcdoc", "<iframe", "<object", "<embed", "style=", "onclick", "javascript:", "<script>", "<style"} {
			if strings.Contains(string(b), word) {
				t.Errorf("%s has %s", p.Name(), word)
			}
		}
	}
}

// TestRevokedWhileDeciding: what a person decided in the moment they were
// revoked leads nowhere: the client gets no answer.
func TestRevokedWhileDeciding(t *testing.T) {
	d := newDesk(t)
	d.signIn("max", people.Operator)
	b := d.signIn("dana")
	form := url.Values{"form": {b.token("/consent/q1")}, "scope": {"chosen"}, "action": {"bank___get_balance"}, "life": {"15"}, "ceiling-0": {"1"}, "answer": {"accept"}}
	d.meanwhile = func() {
		if _, err := d.people.Revoke(t.Context(), "dana", "left", "max"); err != nil {
			t.Error(err)
		}
	}
	resp, page := b.post("/consent/q1", form)
	if resp.StatusCode != http.StatusUnauthorized || resp.Header.Get("Refresh") != "" || strings.Contains(page, "code=x") || d.decided != 1 {
		t.Errorf("%d %q after %d decisions\n%s", resp.StatusCode, resp.Header.Get("Refresh"), d.decided, page)
	}
}

// TestConsentToGroups: the name of a group is no tool that is missing: it
// stands for whatever policy puts into it, and the page says so. A mandate that
// names one is for more actions than it has names.
func TestConsentToGroups(t *testing.T) {
	d := newDesk(t)
	d.ask.Wants.Actions = []string{"bank___get_balance", "irreversible"}
	_, page := d.signIn("dana").get("/consent/q1")
	at := strings.Index(page, `value="irreversible"`)
	if at < 0 {
		t.Fatal(page)
	}
	label, _, _ := strings.Cut(page[at:], "</label>")
	if !strings.Contains(label, "every action") || strings.Contains(label, "not there now") {
		t.Errorf("a group is shown as\n%s", label)
	}
	if strings.Contains(page, "2 actions") {
		t.Error("a group is counted as one action")
	}
	if strings.Contains(page, "No server that is known") {
		t.Error("a group is shown as if no server had it")
	}
}

// TestLeave: a page says where the browser goes next: to a host, or to
// whichever program has the scheme, whatever its address looks like.
func TestLeave(t *testing.T) {
	for to, said := range map[string]string{
		"https://client.example/cb":            "client.example",
		"com.example.app:/cb":                  "the program com.example.app",
		"com.example.app://accounts.example/c": "the program com.example.app",
	} {
		d := newDesk(t)
		d.answers = to
		b := d.signIn("dana")
		resp, page := b.post("/consent/q1", url.Values{"form": {b.token("/consent/q1")}, "answer": {"refuse"}})
		lead, _, _ := strings.Cut(page[strings.Index(page, "goes on to"):], "</p>")
		if resp.StatusCode != 200 || !strings.Contains(lead, said) || strings.Contains(lead, "accounts.example") {
			t.Errorf("%s: %d %s", to, resp.StatusCode, lead)
		}
	}
}

// TestCeilingsOfNothing: a client can ask to be limited in what it never asked
// for, under a name that looks like what it did. The page says which limits
// are of nothing.
func TestCeilingsOfNothing(t *testing.T) {
	d := newDesk(t)
	d.ask.Wants.Ceilings = nil
	for _, name := range []string{"bank___send_payment", "*", "bank___send_payments", "inbox___read", "payments"} {
		d.ask.Wants.Ceilings = append(d.ask.Wants.Ceilings, ostiary.Ceiling{Action: name, Pointer: "/amount", Max: "10"})
	}
	_, page := d.signIn("dana").get("/consent/q1")
	for i, want := range []string{"", "", "limits nothing", "limits nothing", "only what policy has in a group"} {
		at := strings.Index(page, `id="ceiling-`+strconv.Itoa(i)+`"`)
		if at < 0 {
			t.Fatal(page)
		}
		line, _, _ := strings.Cut(page[at:], "</div>")
		if strings.Contains(line, "limits nothing") != (want == "limits nothing") || !strings.Contains(line, want) || want == "" && strings.Contains(line, "tag") {
			t.Errorf("ceiling %d is shown as\n%s", i, line)
		}
	}
}

// TestWhoApproves: a client may ask that nobody but a friend of its own can
// approve what goes further; a person is told.
func TestWhoApproves(t *testing.T) {
	for said, approvers := range map[string][]string{"": {"*"}, "person:friend": {"person:friend"}} {
		d := newDesk(t)
		d.ask.Wants.Approvers = approvers
		_, page := d.signIn("dana").get("/consent/q1")
		if strings.Contains(page, "may approve more") != (said != "") || !strings.Contains(page, said) {
			t.Errorf("%q is not as the page says", approvers)
		}
	}
}
