package console

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// The door of the console: signing in and out, and what is said to those who
// may not come in.

func (c *Console) home(x *exchange) error {
	to := "/sign-in"
	if x.session != nil {
		to = c.start(x.who())
	}
	return x.redirect(to)
}

// redirect goes to a page of ours.
func (x *exchange) redirect(to string) error {
	x.w.Header().Set("Location", to)
	x.w.WriteHeader(http.StatusSeeOther)
	return nil
}

// leave sends the browser to another site. It is a page and no redirect: a
// form of ours may lead nowhere else, and a person sees where they go.
func (c *Console) leave(x *exchange, title, to string) error {
	u, err := url.Parse(to)
	if err != nil {
		return err
	}
	switch u.Scheme { // what a browser would run or open itself
	case "javascript", "data", "vbscript", "file", "blob", "about", "view-source", "":
		return ostiary.Errorf(ostiary.Denied, "address", "the answer cannot be taken to such an address")
	}
	host := u.Host
	if u.Scheme != "http" && u.Scheme != "https" { // what looks like a host says nothing of who gets it
		host = "the program " + u.Scheme
	}
	x.w.Header().Set("Refresh", "0;url="+to)
	return c.show(x, http.StatusOK, "leave", title, frame{Content: leaving{NewForeign(host), safeURL(to)}})
}

// signInPage is what the page of that name shows.
type signInPage struct {
	Provider string
	Next     string
}

func (c *Console) signIn(x *exchange) error {
	next := c.next(x.r.URL.Query().Get("next"))
	if x.arrived() {
		return c.comeIn(x)
	}
	if x.session != nil {
		return x.redirect(next)
	}
	return c.show(x, http.StatusOK, "sign-in", "Sign in", frame{Script: "passkey.js", Content: signInPage{c.o.People.Provider(), next}})
}

// comeIn asks a browser that followed a link on another site for the same page
// again.
func (c *Console) comeIn(x *exchange) error {
	x.w.Header().Set("Refresh", "0;url="+x.again())
	return c.show(x, http.StatusOK, "arrive", "One moment", frame{Content: x.again()})
}

// answer sends JSON to a script of ours.
func (x *exchange) answer(b []byte) error {
	x.w.Header().Set("Content-Type", "application/json")
	x.w.WriteHeader(http.StatusOK)
	_, _ = x.w.Write(b)
	return nil
}

func (c *Console) askPasskey(x *exchange) error {
	options, err := c.o.People.AskSignIn(x.r.Context(), x.token)
	if err != nil {
		return err
	}
	return x.answer(options)
}

func (c *Console) takePasskey(x *exchange) error {
	token, _, err := c.o.People.SignIn(x.r.Context(), x.token, x.body.Get("answer").Bytes())
	if err != nil {
		return err
	}
	return c.signedIn(x, token, c.next(x.body.Get("next").Text()))
}

// signedIn gives the browser its session; the visit is forgotten with it.
func (c *Console) signedIn(x *exchange, token ostiary.Secret, next string) error {
	c.remember(x, string(token.Reveal()))
	b, err := json.Marshal(map[string]string{"next": next})
	if err != nil {
		return err
	}
	return x.answer(b)
}

func (c *Console) toProvider(x *exchange) error {
	to, err := c.o.People.AskProvider(x.r.Context(), x.token, c.next(x.form.Get("next")))
	if err != nil {
		return err
	}
	return c.leave(x, "Sign in", to)
}

// cameBack is where the provider sends a browser to. Opening it does nothing
// but draw the form that ends the sign-in, which a script sends at once.
func (c *Console) cameBack(x *exchange) error {
	if x.arrived() {
		return c.comeIn(x)
	}
	return c.show(x, http.StatusOK, "back", "Finish signing in", frame{Script: "back.js", Content: x.r.URL.RawQuery})
}

func (c *Console) fromProvider(x *exchange) error {
	back, err := url.ParseQuery(x.form.Get("back"))
	if err != nil {
		return ostiary.Errorf(ostiary.Malformed, "back", "what the sign-in provider sent cannot be read")
	}
	token, next, err := c.o.People.FromProvider(x.r.Context(), x.token, back)
	if err != nil {
		return err
	}
	c.remember(x, string(token.Reveal()))
	return x.redirect(c.next(next))
}

func (c *Console) signOut(x *exchange) error {
	if err := c.o.People.SignOut(x.r.Context(), x.token); err != nil {
		return err
	}
	http.SetCookie(x.w, &http.Cookie{Name: c.cookie(), Path: "/", Secure: c.overTLS(), HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	x.w.Header().Set("Clear-Site-Data", `"cache"`)
	return x.redirect("/signed-out")
}

func (c *Console) signedOut(x *exchange) error {
	if x.session != nil {
		return x.redirect(home)
	}
	return c.show(x, http.StatusOK, "signed-out", "Signed out", frame{})
}

func (c *Console) join(x *exchange) error {
	others, err := c.o.People.HasOperator(x.r.Context())
	if err != nil {
		return err
	}
	title := "You are invited"
	if !others {
		title = "You are the first operator"
	}
	return c.show(x, http.StatusOK, "join", title, frame{Script: "passkey.js", Content: title})
}

// lookAtInvitation tells the holder of an invitation what it is for. Its
// secret comes from the part of the link that browsers do not send.
func (c *Console) lookAtInvitation(x *exchange) error {
	in, err := c.o.People.Invited(x.r.Context(), x.body.Get("secret").Text())
	if err != nil {
		return err
	}
	roles := []string{}
	for _, r := range in.Roles {
		roles = append(roles, r.String())
	}
	b, err := json.Marshal(map[string]any{"name": in.Name, "roles": roles, "by": in.By, "until": day(in.Expires), "known": in.Known, "first": in.First})
	if err != nil {
		return err
	}
	return x.answer(b)
}

func (c *Console) askEnrol(x *exchange) error {
	options, err := c.o.People.AskEnrol(x.r.Context(), x.body.Get("secret").Text(), x.token, x.body.Get("name").Text(), x.body.Get("label").Text())
	if err != nil {
		return err
	}
	return x.answer(options)
}

func (c *Console) enrol(x *exchange) error {
	token, _, err := c.o.People.Enrol(x.r.Context(), x.body.Get("secret").Text(), x.token, x.body.Get("answer").Bytes())
	if err != nil {
		return err
	}
	return c.signedIn(x, token, home)
}

// statusOf is the table of what kinds of errors are in HTTP.
var statusOf = map[ostiary.Kind]int{
	ostiary.Internal: 500, ostiary.Malformed: 400, ostiary.Unauthenticated: 401, ostiary.Denied: 403, ostiary.Contained: 403,
	ostiary.Exhausted: 429, ostiary.Conflict: 409, ostiary.NotFound: 404, ostiary.Unavailable: 503, ostiary.Upstream: 502, ostiary.Corrupt: 500,
}

// heading is the first thing an error page says.
var heading = map[ostiary.Kind]string{
	ostiary.Malformed: "That cannot be read", ostiary.Unauthenticated: "You are not signed in", ostiary.Denied: "Refused", ostiary.Contained: "Refused",
	ostiary.Exhausted: "Too many requests", ostiary.Conflict: "Not as things stand", ostiary.NotFound: "Not found", ostiary.Unavailable: "Not just now",
}

// sentence makes an error's words one that can stand alone.
func sentence(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	if n == 0 {
		return s
	}
	s = string(unicode.ToUpper(r)) + s[n:]
	if last := s[len(s)-1]; last != '.' && last != '?' && last != '!' {
		s += "."
	}
	return s
}

// before is the page that the form of a request stands on: the step's own
// address, or the one above it.
func (c *Console) before(x *exchange) string {
	at := x.r.URL.EscapedPath()
	if id, ok := strings.CutPrefix(at, "/contain/"); ok {
		at = "/agents/" + id
	}
	for _, step := range []string{"/end", "/revoke", "/accept", "/publish", "/vote"} {
		at = strings.TrimSuffix(at, step)
	}
	return c.next(at)
}

// trouble is what an error page shows.
type trouble struct {
	Heading, Detail, Code string
	Status                int
	Back                  string // the page whose form was refused, "" for none
}

// fail answers what went wrong: to a script as JSON, to a person as a page. A
// person who is not signed in and only looked is asked to sign in.
func (c *Console) fail(x *exchange, to route, err error) {
	e := ostiary.AsError(err)
	status := statusOf[e.Kind]
	if status >= 500 {
		c.o.Logger.Error("a page of the console failed", "error", err)
	} else {
		c.o.Logger.Debug("a request to the console was refused", "error", err)
	}
	if x.session == nil && status < 500 && e.Kind != ostiary.NotFound {
		c.refused(x.r, "console:"+e.Code)
	}
	if e.Kind == ostiary.Unauthenticated && x.r.Method == http.MethodGet && to.takes == nothing && !to.who.anyone {
		if x.arrived() {
			err = c.comeIn(x)
		} else {
			err = x.redirect("/sign-in?next=" + url.QueryEscape(x.r.URL.EscapedPath()))
		}
		if err == nil {
			return
		}
	}
	t := trouble{Heading: heading[e.Kind], Detail: sentence(e.Detail), Code: e.Code, Status: status}
	if to.takes == aForm && x.session != nil && e.Kind != ostiary.NotFound {
		t.Back = c.before(x)
	}
	if t.Heading == "" {
		t.Heading, t.Detail = "Something went wrong here", "It was written down in the gateway's log."
	}
	if to.takes == aMessage {
		b, _ := json.Marshal(map[string]string{"code": t.Code, "detail": t.Detail}) // strings always encode
		x.w.Header().Set("Content-Type", "application/json")
		x.w.WriteHeader(status)
		_, _ = x.w.Write(b)
		return
	}
	if err := c.show(x, status, "error", t.Heading, frame{Content: t}); err != nil {
		c.o.Logger.Error("the page of an error failed", "error", errors.Join(err, e), slog.Int("status", status))
	}
}
