package console

import (
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/test/browser"
)

// open returns a tab in which a person is signed in.
func (d *desk) open(name string, roles ...people.Role) *browser.Tab {
	d.t.Helper()
	tab := browser.Open(d.t)
	secret, _, err := d.people.Invite(d.t.Context(), name, roles, 0, "root")
	if err != nil {
		d.t.Fatal(err)
	}
	tab.Go(d.people.Link(secret))
	tab.Click("#go")
	if len(roles) > 0 {
		tab.At("/now")
	} else {
		tab.At("/mandates")
	}
	return tab
}

// hostile are texts that want to be something else than text (O01, I05).
var hostile = []string{
	`<script>document.title='owned'</script>`,
	`<img src=x onerror="document.title='owned'">`,
	`"><svg onload=document.title='owned'>`,
	`'-alert(1)-'`, `{{.Form}}`, `javascript:alert(1)`, `</title><script>document.title='owned'</script>`,
	`<a href="javascript:document.title='owned'">Accept</a>`, `<form action=/sign-out method=post>`, `<base href=//evil.example>`, `<style>*{display:none}</style>`,
	"Claude\u202eedoC\u200b \U000e0041\U000e0042 p\u0430ypal", "Bank\r\n\r\nSet-Cookie: a=b", "\x00\x1b[31m", "Accept\u3000below",
}

func TestO01HostileTexts(t *testing.T) {
	d := newDesk(t)
	long := strings.Repeat("This is perfectly harmless. ", 380) + strings.Join(hostile, "\n")
	all := strings.Join(hostile, " ")
	d.ask.Client, d.ask.ClientID, d.ask.Redirect = all, hostile[2], hostile[1]
	d.ask.Wants.Task, d.ask.Wants.Purpose, d.ask.Wants.Reason = long, all, hostile[0]
	d.ask.Wants.Actions = append(hostile, "bank___get_balance")
	d.ask.Wants.Ceilings = []ostiary.Ceiling{{Action: hostile[0], Pointer: "/" + hostile[2], Max: "10", Unit: hostile[1]}}
	d.ask.Wants.Classes = hostile
	d.given["person:dana"] = []Given{
		{Mandate: ostiary.Mandate{ID: "m1", Agent: ostiary.AgentID("spiffe://x/" + hostile[1]), Task: long, Purpose: all, Actions: hostile, Expires: start.Add(time.Hour)}, State: "in force", Below: 2},
		{Mandate: ostiary.Mandate{ID: "m2", Agent: "spiffe://x/agent/b", Task: hostile[2], Actions: []string{"*"}, Expires: start}, State: "revoked"},
	}
	tab := d.open("dana")
	for _, path := range []string{"/mandates", "/mandates/m1", "/mandates/m2", "/consent/q1", "/people/%3Cscript%3E", "/sign-in/callback?error=x&error_description=" + "%3Cscript%3Ealert(1)%3C/script%3E"} {
		tab.Go(d.url + path)
		tab.Until("document.readyState === 'complete'")
		if title := tab.Value("document.title"); strings.Contains(title, "owned") {
			t.Errorf("%s: a text ran", path)
		}
		if n := tab.Value("document.querySelectorAll('main img, main script, main iframe, main style, main base, main a[href^=javascript]').length"); n != "0" {
			t.Errorf("%s: a text became %s elements", path, n)
		}
		if n := tab.Value("[...document.querySelectorAll('main *')].some(e => [...e.attributes].some(a => a.name.startsWith('on') || a.name === 'srcdoc'))"); n != "false" {
			t.Errorf("O02: %s: a text became an attribute", path)
		}
	}
	tab.Go(d.url + "/consent/q1")
	for _, want := range []string{"U+202E", "U+200B", "U+E0041", "U+0430", "U+3000"} {
		tab.See(want)
	}
	if raw := tab.Value("/[\\u202e\\u200b\\u{e0041}\\u0000\\u001b]/u.test(document.body.innerText)"); raw != "false" {
		t.Error("O03: an invisible character is on the page")
	}
	if n := tab.Value("document.querySelectorAll('details.fold').length"); n == "0" {
		t.Error("I05: ten kilobytes of harmless text are not folded")
	}
	tab.See("show all")
	tab.Shots("hostile-consent")
	tab.Go(d.url + "/mandates/m1")
	tab.Shots("hostile-mandate")
}

func TestConsentInBrowser(t *testing.T) {
	var came []string
	client := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/callback" {
			came = append(came, r.URL.RawQuery)
		}
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte("the client has its answer"))
	}))
	defer client.Close()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Write([]byte(`<a id="there" href="` + r.URL.Query().Get("to") + `">there</a>`))
	}))
	defer elsewhere.Close()

	d := newDesk(t)
	d.answers = client.URL + "/callback"
	tab := d.open("dana")
	tab.Shots("mandates-empty")

	// A link on another site arrives without the cookie, and then with it.
	tab.Go(elsewhere.URL + "/?to=" + d.url + "/consent/q1")
	tab.Click("#there")
	tab.At("/consent/q1")
	tab.See("Claude Code asks to act for you")
	tab.Shots("consent")
	if focus := tab.Value("document.activeElement.tagName"); focus != "BODY" {
		t.Errorf("the focus is on %s by default", focus)
	}

	// By keyboard alone: the first button that Tab reaches refuses.
	for range 40 {
		tab.Keys("\t")
		if tab.Value("document.activeElement.tagName === 'BUTTON' && document.activeElement.name") == "answer" {
			break
		}
	}
	if v := tab.Value("document.activeElement.value"); v != "refuse" {
		t.Fatalf("the keyboard reaches %q first", v)
	}
	tab.Keys("\r")
	tab.See("the client has its answer")
	if d.decided != 1 || d.granted != nil {
		t.Fatalf("decided %d times: %+v", d.decided, d.granted)
	}
	tab.Go(d.url + "/consent/q1")
	tab.See("This question was answered")

	// Narrowed, then accepted, without scripts.
	d.decided = 0
	tab.Scripts(false)
	tab.Go(d.url + "/consent/q1")
	tab.Click(`input[value="bank___send_payment"]`)
	tab.Click(`input[name="life"][value="60"]`)
	tab.Click(`button[value="accept"]`)
	tab.See("the client has its answer")
	if d.decided != 1 || d.granted == nil || len(d.granted.Actions) != 1 || !d.granted.Expires.Equal(start.Add(time.Hour)) || len(came) != 2 {
		t.Fatalf("decided %d times: %+v, %d answers", d.decided, d.granted, len(came))
	}
	tab.Scripts(true)

	d.ask.Wants.Actions, d.ask.Wants.Resources, d.ask.Loopback, d.ask.Redirect, d.decided = []string{"*"}, []string{"*"}, false, "claude.example", 0
	tab.Go(d.url + "/consent/q1")
	tab.See("Everything that policy allows")
	tab.Shots("consent-all")

	d.given["person:dana"] = []Given{
		{Mandate: ostiary.Mandate{ID: "m1", Agent: "spiffe://example.org/agent/payments", Task: "pay the invoices of October", Actions: []string{"bank___get_balance", "bank___send_payment"}, Depth: 1, Expires: start.Add(6 * time.Hour)}, State: "in force", Below: 1},
		{Mandate: ostiary.Mandate{ID: "m2", Agent: "spiffe://example.org/client/4f1c", Purpose: "answer letters", Actions: []string{"*"}, Expires: start.Add(26 * 24 * time.Hour)}, State: "in force"},
		{Mandate: ostiary.Mandate{ID: "m3", Agent: "spiffe://example.org/agent/travel", Task: "book the train", Actions: []string{"rail___book"}, Expires: start.Add(-time.Hour)}, State: "completed"},
		{Mandate: ostiary.Mandate{ID: "m4", Agent: "spiffe://example.org/agent/old", Task: "x", Actions: []string{"*"}, Expires: start.Add(-time.Hour)}, State: "revoked"},
	}
	tab.Go(d.url + "/mandates")
	tab.Shots("mandates")
	tab.Click(`a[href="/mandates/m1"]`)
	tab.See("pay the invoices")
	tab.Shots("mandate")
	tab.Click(`button[value="revoked"]`)
	tab.See("that is over")
	if len(d.ended) != 1 || d.ended[0] != "m1" {
		t.Errorf("ended %v", d.ended)
	}
}

// harmless fails if a text of the page that is open ran, or became more than a
// text (O01, O02), or shows what a reader could not see (O03).
func harmless(t *testing.T, tab *browser.Tab, path string) {
	t.Helper()
	tab.Until("document.readyState === 'complete'")
	if title := tab.Value("document.title"); title == "owned" || !strings.HasSuffix(title, " · Ostiary") {
		t.Errorf("%s: a text ran", path)
	}
	if n := tab.Value("document.querySelectorAll('main img, main script, main iframe, main object, main embed, main style, main base, main meta, main a[href^=javascript], main [srcdoc]').length"); n != "0" {
		t.Errorf("%s: a text became %s elements", path, n)
	}
	if n := tab.Value("[...document.querySelectorAll('main *')].some(e => [...e.attributes].some(a => a.name.startsWith('on') || a.name === 'srcdoc' || a.name === 'style'))"); n != "false" {
		t.Errorf("O02: %s: a text became an attribute", path)
	}
	if raw := tab.Value("/[\\u202e\\u200b\\u{e0041}\\u0000\\u001b]/u.test(document.body.innerText)"); raw != "false" {
		t.Errorf("O03: %s: an invisible character is on the page", path)
	}
}

// TestO01HostileDesk: hostile texts in every field that an agent, a server or a
// provider writes, on every page of those who look after agents, live ones too.
func TestO01HostileDesk(t *testing.T) {
	d := newDesk(t)
	tab := d.open("root", people.Operator)
	for _, path := range deskPages {
		tab.Go(d.url + path)
		harmless(t, tab, path)
		if wide := tab.Value("document.documentElement.scrollWidth > document.documentElement.clientWidth"); wide != "false" {
			t.Errorf("%s is wider than its window", path)
		}
	}
	tab.Go(d.url + "/budgets")
	tab.See("1 is nearly used up")
	tab.Shots("budgets")
	tab.Go(d.url + "/log/2026-11/7")
	tab.See("hidden or disguised")
	tab.Value("document.querySelectorAll('details').forEach(d => { d.open = true })")
	for _, want := range []string{"U+202E", "U+200B", "U+E0041", "U+0430"} {
		tab.See(want)
	}
	tab.Shots("hostile-story")
	tab.Go(d.url + "/now")
	tab.Until("document.querySelector('[data-live=live]')") // drawn by the library at least once
	harmless(t, tab, "/now, live")
	d.console.o.Watch.Ended(&gate.Ending{Call: &gate.Call{}, Subject: &ostiary.Subject{Agent: "spiffe://x/a"}, Decision: &ostiary.Decision{}, Disposition: ostiary.Delivered, At: start})
	tab.Until("document.querySelector('.news .button')")
	tab.Click(".news .button")
	tab.Until("document.querySelector('#rows table')")
	harmless(t, tab, "/now, live rows")
	// Markup that the console never sends is not drawn, should it arrive.
	tab.Value("(() => { try { htmx.swap('#rows', '<p>x</p><script>document.title=\"owned\"</script><img src=x onerror=\"document.title=1\">', {swapStyle: 'innerHTML'}) } catch (e) { return 'nothing' } })()")
	if n := tab.Value("document.querySelectorAll('#rows script, #rows img').length"); n != "0" {
		t.Errorf("%s elements were drawn", n)
	}
	// Signed out elsewhere: the page says that it is not live any more.
	if _, err := d.people.SetRoles(t.Context(), "root", []people.Role{people.Operator, people.Auditor}, "root"); err != nil {
		t.Fatal(err)
	}
	tab.See("not live")
	tab.Shots("now-not-live")
}

// TestKeys: every page of the desk is used without a pointer.
func TestKeys(t *testing.T) {
	d := newDesk(t)
	tab := d.open("root", people.Operator)
	tab.At("/now")
	for key, path := range map[string]string{"l": "/log", "a": "/agents", "t": "/tools", "p": "/policy", "i": "/approvals", "b": "/budgets", "m": "/mandates", "e": "/people", "n": "/now"} {
		tab.Keys("g")
		tab.Keys(key)
		tab.At(path)
	}
	tab.Go(d.url + "/log")
	tab.Keys("j")
	tab.Keys("j")
	tab.Keys("k")
	if at := tab.Value("document.activeElement.getAttribute('href')"); at != "/log/2026-11/7" {
		t.Fatalf("j and k lead to %s", at)
	}
	tab.Keys("\r")
	tab.At("/log/2026-11/7")
	for range 60 {
		if tab.Value("document.activeElement.textContent") == "Verify inclusion" {
			break
		}
		tab.Keys("\t")
	}
	tab.Keys("\r")
	tab.See("It is in the log")
	tab.Until("document.readyState === 'complete'")
	for range 200 { // out of what has the focus, then up; a slow page hears a key late
		if tab.Value("location.pathname") == "/log" {
			break
		}
		tab.Keys("\x1b")
	}
	tab.At("/log")
	tab.Keys("/")
	if name := tab.Value("document.activeElement.name"); name != "agent" {
		t.Errorf("/ leads to %q", name)
	}
	tab.Value("document.activeElement.value = ''") // a slow browser may write the key too
	tab.Keys("payments\r")
	tab.Until("document.readyState === 'complete' && location.search.includes('agent=payments')")
	tab.Keys("?")
	tab.Until("document.getElementById('keys').open")
	tab.Keys("\x1b")
	tab.Until("!document.getElementById('keys').open")
	tab.Go(d.url + "/agents")
	tab.Keys("j")
	tab.Keys("\r")
	tab.At("/agents/example.org/agent/payments")
	for range 60 {
		if tab.Value("document.activeElement.id") == "reason" {
			break
		}
		tab.Keys("\t")
	}
	tab.Keys("odd\r")
	tab.Until("document.readyState === 'complete' && !document.getElementById('reason').value")
	if len(d.bureau.contained) != 1 || d.bureau.contained[0].Reason != "odd" {
		t.Errorf("contained %+v", d.bureau.contained)
	}
	tab.Go(d.url + "/tools")
	tab.Keys("j")
	tab.Keys("\r")
	tab.At("/tools/one")
}

// TestVoteInBrowser: a person decides with a passkey, by keyboard alone: what
// is refused first, narrowed, and approved.
func TestVoteInBrowser(t *testing.T) {
	d := newDesk(t)
	d.tray.holds = []control.Held{held("h1", start, "person:kim"), held("h2", start.Add(time.Second), "person:lee")}
	tab := d.open("kim", people.Approver)
	tab.Go(d.url + "/approvals")
	harmless(t, tab, "/approvals")
	tab.See("You may decide 1 of those below")
	tab.Shots("approvals")
	tab.Keys("j")
	tab.Keys("\r")
	tab.At("/approvals/h1")
	harmless(t, tab, "/approvals/h1")
	if focus := tab.Value("document.activeElement.tagName"); focus != "BODY" {
		t.Errorf("the focus is on %s by default", focus)
	}
	tab.Shots("approval")
	for range 80 {
		tab.Keys("\t")
		if tab.Value("document.activeElement.tagName === 'BUTTON' && !document.activeElement.closest('header')") == "true" {
			break
		}
	}
	if id := tab.Value("document.activeElement.id"); id != "refuse" {
		t.Fatalf("the keyboard reaches %q first", id)
	}
	tab.Keys("\r")
	tab.See("Say why")
	if d.tray.cast != 0 {
		t.Error("a refusal without a reason was cast")
	}
	tab.Go(d.url + "/approvals/h1?was%3A%2Famount=420000&to%3A%2Famount=90000")
	tab.See("narrower than what was asked")
	harmless(t, tab, "/approvals/h1, narrowed")
	tab.Shots("approval-narrowed")
	tab.Click("#approve")
	tab.See("about to be carried out")
	if len(d.tray.asked) != 1 || !d.tray.asked[0].Consent || len(d.tray.asked[0].Edits) != 1 || d.tray.asked[0].Edits[0].To != "90000" || d.tray.cast != 1 {
		t.Errorf("asked %+v, cast %d", d.tray.asked, d.tray.cast)
	}
	d.tray.holds[0] = held("h1", start, "person:kim")
	tab.Go(d.url + "/approvals/h1")
	tab.Type("#reason", "not this month")
	tab.Click("#refuse")
	tab.See("It was refused, and nothing left the gateway")
	if last := d.tray.asked[len(d.tray.asked)-1]; last.Consent || last.Reason != "not this month" || d.tray.cast != 2 {
		t.Errorf("asked %+v, cast %d", last, d.tray.cast)
	}
	tab.Shots("approval-refused")
	tab.Go(d.url + "/approvals/h2")
	tab.See("Not yours to decide")
	d.tray.holds = nil
	tab.Go(d.url + "/approvals")
	tab.See("Nothing waits here")
	tab.Shots("approvals-empty")
}
