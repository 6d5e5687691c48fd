package mcp

import (
	"context"
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/policy"
)

const (
	// clientTimeout is how long a client may take to answer a server's
	// request: a person may be reading it.
	clientTimeout = 10 * time.Minute
	// maxInputs bounds the requests in one input_required result.
	maxInputs = 16
)

// capabilities are what a client declared it can be asked.
type capabilities struct {
	sampling, samplingTools bool
	form, url               bool
	roots                   bool
}

func capabilitiesOf(v ostiary.Value) capabilities {
	is := func(v ostiary.Value) bool { return v.Kind() == ostiary.Object }
	e := v.Get("elicitation")
	return capabilities{
		sampling:      is(v.Get("sampling")),
		samplingTools: is(v.Get("sampling").Get("tools")),
		form:          is(e) && (is(e.Get("form")) || !e.Get("url").Exists()),
		url:           is(e.Get("url")),
		roots:         is(v.Get("roots")),
	}
}

// askable is what a server that is told the capabilities with each request may
// know of this client: those it declared and that this door understands. A
// client of an older revision cannot be asked by such a server at all.
func (x *visit) askable() string {
	if x.legacy() {
		return "{}"
	}
	var b []byte
	member := func(dst []byte, name, value string) []byte {
		if len(dst) > 0 {
			dst = append(dst, ',')
		}
		return append(append(mcpwire.AppendString(dst, name), ':'), value...)
	}
	var inner []byte
	if x.caps.form {
		inner = member(inner, "form", "{}")
	}
	if x.caps.url {
		inner = member(inner, "url", "{}")
	}
	if inner != nil {
		b = member(b, "elicitation", "{"+string(inner)+"}")
	}
	if x.caps.roots {
		b = member(b, "roots", "{}")
	}
	if x.caps.samplingTools {
		b = member(b, "sampling", `{"tools":{}}`)
	} else if x.caps.sampling {
		b = member(b, "sampling", "{}")
	}
	return "{" + string(b) + "}"
}

// lacks reports whether a server that names these capabilities as required
// is right that this client did not declare them all.
func (c capabilities) lacks(required ostiary.Value) bool {
	if required.Kind() != ostiary.Object || required.Len() == 0 {
		return false
	}
	e := required.Get("elicitation")
	return required.Get("sampling").Exists() && !c.sampling ||
		required.Get("sampling").Get("tools").Exists() && !c.samplingTools ||
		e.Exists() && !c.form && !c.url || e.Get("form").Exists() && !c.form || e.Get("url").Exists() && !c.url ||
		required.Get("roots").Exists() && !c.roots
}

// capabilityField begins the Field of a missing_capability error.
const capabilityField = "capabilities/"

// backwards are the requests a server may make of a client, and policy's
// names for them.
func backwards(method string) (action string, ok bool) {
	switch method {
	case "sampling/createMessage":
		return policy.ActionSample, true
	case "elicitation/create":
		return policy.ActionElicit, true
	case "roots/list":
		return policy.ActionListRoots, true
	}
	return "", false
}

// asked carries a legacy server's request to a legacy client, as a call of
// its own through the gate inside the call it came from, and the answer back.
func (x *visit) asked(ctx context.Context, reply *gate.Reply, f gate.Frame) error {
	nested, err := x.ask(ctx, reply, f.Method, f.Body, func(ctx context.Context) (gate.Stream, error) {
		return x.carry(ctx, f)
	})
	if err != nil {
		return reply.Answer(ctx, f.ID, gate.FrameError, backwardError(err))
	}
	return reply.Answer(ctx, f.ID, nested.Kind, nested.Body.Bytes())
}

// ask makes one request of a server to the client a call of its own, and
// returns its final frame. What the protocol or we forbid never reaches the
// client; it is recorded either way.
func (x *visit) ask(ctx context.Context, reply *gate.Reply, method string, params ostiary.Value, deliver func(context.Context) (gate.Stream, error)) (gate.Frame, error) {
	action, known := backwards(method)
	if !known {
		action = actionUntranslated
	}
	server := reply.Request.Action.Server
	call := x.call(ostiary.Action{Name: action, Method: bounded(method), Server: server, Arguments: params}, gate.Target{
		Kind:    gate.ToClient,
		Respond: func(ctx context.Context, _ *gate.Dispatch) (gate.Stream, error) { return deliver(ctx) },
	})
	call.Parent, call.Progress = reply.Intent.ID, false
	if e := x.mayAsk(server, method, params); e != nil {
		call.Fault = e
	}
	nested, err := x.door.gate.Handle(ctx, call)
	if err != nil {
		return gate.Frame{}, err
	}
	defer nested.Close()
	f, err := nested.Next(ctx)
	if err == nil && !f.Kind.Final() {
		err = ostiary.Errorf(ostiary.Internal, "frame", "internal error")
	}
	return f, err
}

// mayAsk says whether the client can be asked this at all: it declared the
// capability, and the question is none that nobody should answer to a server.
func (x *visit) mayAsk(server, method string, params ostiary.Value) *ostiary.Error {
	missing := func(name string, has bool) *ostiary.Error {
		if has {
			return nil
		}
		return ostiary.Errorf(ostiary.Denied, "capability", "the server asked for %s, which this client did not declare", name).At(capabilityField + name)
	}
	switch method {
	case "sampling/createMessage":
		if e := missing("sampling", x.caps.sampling); e != nil {
			return e
		}
		return missing("sampling.tools", x.caps.samplingTools || !params.Get("tools").Exists() && !params.Get("toolChoice").Exists())
	case "roots/list":
		return missing("roots", x.caps.roots)
	case "elicitation/create":
		mode := params.Get("mode")
		switch {
		case mode.Is("url"):
			if e := missing("elicitation.url", x.caps.url); e != nil {
				return e
			}
			return x.door.mayOpen(server, params.Get("url").Text())
		case !mode.Exists(), mode.Is("form"):
			if e := missing("elicitation.form", x.caps.form); e != nil {
				return e
			}
			return mayFill(params)
		}
	}
	return ostiary.Errorf(ostiary.Denied, "asks_unknown", "the server asked for something no client is asked")
}

// mayOpen allows a page to be shown to a person only over https, without
// credentials in its address, and on an origin configured for the server.
func (d *Door) mayOpen(server, address string) *ostiary.Error {
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Opaque != "" {
		return ostiary.Errorf(ostiary.Denied, "elicitation_url", "the server asked to open an address that is not plain https").At("url")
	}
	if !slices.Contains(d.settings.Load().servers[server].Origins, "https://"+strings.ToLower(u.Host)) {
		return ostiary.Errorf(ostiary.Denied, "elicitation_origin", "the server asked to open a page of an origin it is not configured for").At("url")
	}
	return nil
}

// mayFill refuses forms that ask for secrets or payment data: a person must
// not type these into a form a server made up.
func mayFill(params ostiary.Value) *ostiary.Error {
	texts := []string{params.Get("message").Text()}
	for name, p := range params.Get("requestedSchema").Get("properties").Members() {
		texts = append(texts, name, p.Get("title").Text(), p.Get("description").Text())
		if p.Get("format").Is("password") {
			texts = append(texts, "password")
		}
	}
	for _, t := range texts {
		if secretive(t) {
			return ostiary.Errorf(ostiary.Denied, "elicitation_secret", "the server asked a person for a password, key, token or payment data in a form")
		}
	}
	return nil
}

// secretive reports whether a text speaks of a secret. It reads words, also
// in identifiers, and cannot be complete: policy may refuse all forms.
func secretive(text string) bool {
	list := words(text)
	for i, w := range list {
		switch strings.TrimSuffix(w, "s") {
		case "password", "passwd", "pwd", "passphrase", "passcode", "secret", "token", "credential", "apikey", "accesskey", "privatekey", "secretkey", "sshkey", "otp", "totp", "cvv", "cvc", "cvv2", "iban", "pin", "mnemonic", "creditcard", "cardnumber":
			return true
		}
		if i+1 == len(list) {
			break
		}
		switch w + " " + strings.TrimSuffix(list[i+1], "s") {
		case "api key", "access key", "private key", "secret key", "ssh key", "signing key", "encryption key", "recovery key", "recovery code", "one time", "security code", "verification code",
			"credit card", "debit card", "card number", "account number", "bank account", "sort code", "routing number", "seed phrase", "pass word", "pass phrase":
			return true
		}
	}
	return false
}

// words splits a text or an identifier in any of the usual spellings.
func words(s string) []string {
	var all []string
	var w strings.Builder
	flush := func() {
		if w.Len() > 0 {
			all = append(all, strings.ToLower(w.String()))
			w.Reset()
		}
	}
	lower := false
	for _, r := range s {
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
			flush()
			lower = false
			continue
		}
		if unicode.IsUpper(r) && lower {
			flush()
		}
		lower = unicode.IsLower(r)
		w.WriteRune(r)
	}
	flush()
	return all
}

// carry writes a server's request on the stream of the call it belongs to,
// under an id of ours, and waits for the answer the client posts.
func (x *visit) carry(ctx context.Context, f gate.Frame) (gate.Stream, error) {
	if x.session == nil || !x.acceptsStream() {
		return nil, ostiary.Errorf(ostiary.Denied, "cross_era", "this client cannot be asked inside a call").Because(gate.ErrNotSent)
	}
	id, answer, forget, err := x.session.expect()
	if err != nil {
		return nil, err
	}
	defer forget()
	params := []byte(nil)
	if f.Body.Exists() {
		params = rewrite(f.Body, nil, "")
	}
	if err := x.out.event(mcpwire.AppendRequest(nil, mcpwire.AppendString(nil, id), f.Method, params)); err != nil {
		return nil, ostiary.Errorf(ostiary.Upstream, "client_gone", "the client left").Because(err)
	}
	t := time.NewTimer(clientTimeout)
	defer t.Stop()
	select {
	case m := <-answer:
		if m.Kind == mcpwire.Error {
			return gate.Whole(gate.FrameError, m.Error), nil
		}
		return gate.Whole(gate.FrameResult, m.Result), nil
	case <-x.session.ended:
		return nil, ostiary.Errorf(ostiary.Upstream, "client_gone", "the client ended its session")
	case <-t.C:
		return nil, ostiary.Errorf(ostiary.Upstream, "client_silent", "the client did not answer in time")
	case <-ctx.Done():
		return nil, ostiary.Errorf(ostiary.Upstream, "client_gone", "the client left").Because(ctx.Err())
	}
}

// backwardError is what a server is told when its request to a client came to
// nothing. Why is between us and the operator.
func backwardError(err error) []byte {
	e := ostiary.AsError(err)
	code, message := mcpwire.CodeDenied, "the gateway did not pass this request to the client"
	if e.Code == "capability" || e.Code == "cross_era" || e.Code == "asks_unknown" {
		code, message = mcpwire.CodeMethodNotFound, "this client cannot be asked that"
	}
	b, merr := json.Marshal(map[string]any{"code": code, "message": message}) // our own data
	if merr != nil {
		return []byte(`{"code":-32603,"message":"internal error"}`)
	}
	return b
}
