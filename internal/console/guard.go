package console

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/stricthttp"
	"github.com/ostiary/ostiary/internal/strictjson"
)

const (
	// maxForm bounds a body: the longest is a consent with a box for each of
	// a few hundred tools.
	maxForm = 64 << 10
	// bodyTimeout is how long a body may take to come.
	bodyTimeout = 15 * time.Second
	// answerTimeout is how long an answer may take until it is gone. Two
	// questions to an OpenID provider may be part of it.
	answerTimeout = 45 * time.Second
)

// policy is what a page may do: load our own files, send forms to us, and
// nothing else. 'none' as Trusted Types policy means that no script, not even
// ours, can turn text into markup.
const policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; " +
	"frame-ancestors 'none'; base-uri 'none'; require-trusted-types-for 'script'; trusted-types 'none'"

// livePolicy is that of a page that keeps itself up to date: what arrives is
// markup of ours, so one policy of that name may make markup, and none may
// make scripts. No page that asks for a decision has it.
var livePolicy = strings.Replace(policy, "trusted-types 'none'", "trusted-types default", 1)

func (c *Console) secure(h http.Header) {
	h.Set("Content-Security-Policy", policy)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("X-Frame-Options", "DENY")
	h.Set("Referrer-Policy", "no-referrer")
	h.Set("Cross-Origin-Opener-Policy", "same-origin")
	h.Set("Cross-Origin-Resource-Policy", "same-origin")
	h.Set("Permissions-Policy", "publickey-credentials-get=(self), publickey-credentials-create=(self), camera=(), microphone=(), geolocation=(), payment=(), usb=()")
	h.Set("Cache-Control", "no-store")
	if c.overTLS() {
		h.Set("Strict-Transport-Security", "max-age=31536000")
	}
}

// exchange is one request on its way through the console.
type exchange struct {
	w       http.ResponseWriter
	r       *http.Request
	token   string          // of this browser: of its session, or else of its visit
	session *people.Session // nil: nobody is signed in
	form    url.Values
	body    ostiary.Value // of a message
	raw     []byte
}

// who is who is signed in; routes for strangers do not ask.
func (x *exchange) who() *people.Person {
	if x.session == nil {
		return nil
	}
	return &x.session.Person
}

// serve takes one request through the same steps, whatever it is for.
func (c *Console) serve(w http.ResponseWriter, r *http.Request, to route) {
	x := &exchange{w: w, r: r}
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(bodyTimeout))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(answerTimeout))
	if err := c.take(x, to); err != nil {
		c.fail(x, to, err)
		return
	}
	if x.session != nil { // whatever is changed on the way is changed by them
		x.r = x.r.WithContext(control.WithOperator(x.r.Context(), string(x.session.Person.ID)))
	}
	if err := to.do(c, x); err != nil {
		c.fail(x, to, err)
	}
}

// take establishes who asks, whether they may, and what they sent.
func (c *Console) take(x *exchange, to route) error {
	if err := c.cross.Check(x.r); err != nil {
		return errCross()
	}
	if x.r.Method != http.MethodGet && x.r.Method != http.MethodHead {
		if err := c.sameOrigin(x.r); err != nil {
			return err
		}
		if !c.o.Pace.Allow(stricthttp.Source(x.r)) {
			return ostiary.Errorf(ostiary.Exhausted, "rate", "too many requests came from your address; wait a minute")
		}
	}
	if err := c.identify(x); err != nil {
		return err
	}
	if !to.who.admits(x.who()) {
		if x.session == nil {
			return ostiary.Errorf(ostiary.Unauthenticated, "not_signed_in", "sign in first")
		}
		return ostiary.Errorf(ostiary.Denied, "role", "your roles do not include this page")
	}
	return c.read(x, to.takes)
}

// cookie is the name of the one cookie. Browsers give the prefix a meaning:
// set by this host alone, over https, for all of it. On http, which is
// localhost, they would refuse it.
func (c *Console) cookie() string {
	if c.overTLS() {
		return "__Host-ostiary"
	}
	return "ostiary-localhost"
}

// identify finds out whose browser this is. Without a session a browser has a
// visit: a random token that opens nothing and ties forms and passkey
// questions to it.
func (c *Console) identify(x *exchange) error {
	if all := x.r.CookiesNamed(c.cookie()); len(all) == 1 && len(all[0].Value) <= 128 {
		x.token = all[0].Value
	}
	if x.token != "" {
		s, err := c.o.People.Session(x.r.Context(), x.token)
		switch {
		case err == nil:
			x.session = &s
		case ostiary.KindOf(err) != ostiary.Unauthenticated:
			return err
		}
	}
	// A browser that comes from elsewhere has a token and did not send it: it
	// may not be given another one.
	if x.token == "" && x.r.Method == http.MethodGet && x.r.Header.Get("Sec-Fetch-Site") != "cross-site" {
		c.remember(x, rand.Text()+rand.Text())
	}
	return nil
}

// remember gives this browser another token. It is never sent along from
// another site, so a link from elsewhere arrives without it; see arrive.
func (c *Console) remember(x *exchange, token string) {
	x.token = token
	http.SetCookie(x.w, &http.Cookie{Name: c.cookie(), Value: token, Path: "/", Secure: c.overTLS(), HttpOnly: true, SameSite: http.SameSiteStrictMode})
}

// formToken is what a form of this browser must bring back.
func (x *exchange) formToken() string {
	m := hmac.New(sha256.New, []byte(x.token))
	m.Write([]byte("form"))
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

func errCross() error {
	return ostiary.Errorf(ostiary.Denied, "cross_origin", "this request did not come from a page of this console")
}

// sameOrigin looks at what the library compares by host only or lets pass if
// it is absent: browsers send Origin with every POST, and its scheme counts.
// From a page that gives no referrer a form comes with the origin null, so
// there the browser's own word must say that the page was ours.
func (c *Console) sameOrigin(r *http.Request) error {
	site, origin := r.Header.Get("Sec-Fetch-Site"), r.Header.Get("Origin")
	if origin == c.origin.String() && (site == "" || site == "same-origin") || origin == "null" && site == "same-origin" {
		return nil
	}
	return errCross()
}

// read takes the body a route declares, and nothing else, with the token of a
// form that was drawn for this browser.
func (c *Console) read(x *exchange, takes sends) (err error) {
	if takes == nothing {
		return nil
	}
	kind, _, _ := mime.ParseMediaType(x.r.Header.Get("Content-Type"))
	if x.raw, err = io.ReadAll(http.MaxBytesReader(nil, x.r.Body, maxForm)); err != nil {
		return ostiary.Errorf(ostiary.Malformed, "body", "what was sent could not be read or is larger than %d KiB", maxForm>>10)
	}
	var token string
	switch {
	case takes == aForm && kind == "application/x-www-form-urlencoded":
		if x.form, err = url.ParseQuery(string(x.raw)); err != nil {
			return ostiary.Errorf(ostiary.Malformed, "body", "the form cannot be read")
		}
		token = x.form.Get("form")
	case takes == aMessage && kind == "application/json":
		doc, err := strictjson.Parse(x.raw, strictjson.Request)
		if err != nil {
			return err
		}
		x.body = doc.Root()
		token = x.body.Get("form").Text()
	default:
		return ostiary.Errorf(ostiary.Malformed, "content_type", "this takes another kind of content").At("Content-Type")
	}
	if x.token == "" || subtle.ConstantTimeCompare([]byte(token), []byte(x.formToken())) != 1 {
		return ostiary.Errorf(ostiary.Denied, "form", "this page is out of date; open it again")
	}
	return nil
}

// arrived reports whether a link on another site was followed. The cookie is
// not sent then, though the browser has it: the page is asked for once more,
// by ourselves.
func (x *exchange) arrived() bool {
	h := x.r.Header
	return x.session == nil && h.Get("Sec-Fetch-Site") == "cross-site" && h.Get("Sec-Fetch-Mode") == "navigate"
}

// again asks the browser for the same page from within this origin. The
// address is the request's own path and query, never a host.
func (x *exchange) again() string {
	u := url.URL{Path: x.r.URL.Path, RawPath: x.r.URL.RawPath, RawQuery: x.r.URL.RawQuery}
	text := u.RequestURI()
	if !strings.HasPrefix(text, "/") || strings.HasPrefix(text, "//") {
		return "/"
	}
	return text
}
