package identity

import (
	"encoding/json"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Terms are what somebody asks a mandate to say, in the words of files,
// commands and the API. What is left out is for whoever gives it to fill in.
type Terms struct {
	Agent     string        `json:"agent,omitempty"`
	Principal string        `json:"principal,omitempty"`
	Purpose   string        `json:"purpose,omitempty"`
	Task      string        `json:"task,omitempty"`
	Reason    string        `json:"reason,omitempty"`
	Actions   []string      `json:"actions,omitempty"`
	Servers   []string      `json:"servers,omitempty"`
	Classes   []string      `json:"classes,omitempty"`
	Ceilings  []TermCeiling `json:"ceilings,omitempty"`
	Budget    TermBudget    `json:"budget,omitzero"`
	Approvers []string      `json:"approvers,omitempty"`
	Depth     int64         `json:"depth,omitempty"`
	For       string        `json:"for,omitempty"`  // a duration from now: "15m", "36h", "30d"
	Until     time.Time     `json:"until,omitzero"` // instead of For
	NotBefore time.Time     `json:"not_before,omitzero"`
}

// TermCeiling is one [ostiary.Ceiling].
type TermCeiling struct {
	Action  string `json:"action"`
	Pointer string `json:"pointer"`
	Max     string `json:"max"` // in JSON also a number: its text counts
	Unit    string `json:"unit,omitempty"`
}

// TermBudget is an [ostiary.Budget].
type TermBudget struct {
	Money  []TermMoney `json:"money,omitempty"`
	Calls  int64       `json:"calls,omitempty"`
	Tokens int64       `json:"tokens,omitempty"`
	Bytes  int64       `json:"bytes,omitempty"`
}

// TermMoney is one [ostiary.Money].
type TermMoney struct {
	Currency string `json:"currency"`
	Minor    int64  `json:"minor"`
}

// maxTerms bounds terms in bytes; what is signed has bounds of its own.
const maxTerms = 48 << 10

var termLimits = strictjson.Limits{Bytes: maxTerms, Depth: 4, Nodes: 8192, Elements: 1024, Literal: 64, Key: 16}

// ParseTerms reads terms strictly: one JSON object, no name twice or unknown,
// every value of its type. Errors are Malformed and name the field.
func ParseTerms(b []byte) (Terms, error) {
	doc, err := strictjson.Parse(b, termLimits)
	if err != nil {
		return Terms{}, err
	}
	return readTerms(doc.Root())
}

func readTerms(v ostiary.Value) (t Terms, err error) {
	r := termReader{}
	r.object("", v, map[string]func(string, ostiary.Value){
		"agent": r.text(&t.Agent), "principal": r.text(&t.Principal), "purpose": r.text(&t.Purpose), "task": r.text(&t.Task), "reason": r.text(&t.Reason),
		"actions": r.list(&t.Actions), "servers": r.list(&t.Servers), "classes": r.list(&t.Classes), "approvers": r.list(&t.Approvers),
		"depth": r.number(&t.Depth), "for": r.life(&t.For), "until": r.time(&t.Until), "not_before": r.time(&t.NotBefore),
		"ceilings": r.each(func(at string, v ostiary.Value) {
			var c TermCeiling
			r.object(at, v, map[string]func(string, ostiary.Value){"action": r.text(&c.Action), "pointer": r.text(&c.Pointer), "max": r.decimal(&c.Max), "unit": r.text(&c.Unit)})
			t.Ceilings = append(t.Ceilings, c)
		}),
		"budget": func(at string, v ostiary.Value) {
			r.object(at, v, map[string]func(string, ostiary.Value){
				"calls": r.number(&t.Budget.Calls), "tokens": r.number(&t.Budget.Tokens), "bytes": r.number(&t.Budget.Bytes),
				"money": r.each(func(at string, v ostiary.Value) {
					var m TermMoney
					r.object(at, v, map[string]func(string, ostiary.Value){"currency": r.text(&m.Currency), "minor": r.number(&m.Minor)})
					t.Budget.Money = append(t.Budget.Money, m)
				}),
			})
		},
	})
	if r.err == nil && t.For != "" && !t.Until.IsZero() {
		r.fail("/for", "write for or until, not both")
	}
	if r.err != nil {
		return Terms{}, r.err
	}
	return t, nil
}

// termReader keeps the first error of reading terms.
type termReader struct{ err error }

func (r *termReader) fail(at, format string, args ...any) {
	if r.err == nil {
		r.err = ostiary.Errorf(ostiary.Malformed, "terms", format, args...).At(at)
	}
}

func (r *termReader) object(at string, v ostiary.Value, known map[string]func(string, ostiary.Value)) {
	if v.Kind() != ostiary.Object {
		r.fail(at, "terms are written as an object with names")
	}
	for name, x := range v.Members() {
		read, ok := known[name]
		if here := ostiary.Pointer(at, name); ok {
			read(here, x)
		} else {
			r.fail(here, "terms do not have %q", name)
		}
	}
}

func (r *termReader) each(read func(string, ostiary.Value)) func(string, ostiary.Value) {
	return func(at string, v ostiary.Value) {
		if v.Kind() != ostiary.Array {
			r.fail(at, "it must be a list")
		}
		for _, e := range v.Elements() {
			read(at, e)
		}
	}
}

func (r *termReader) text(to *string) func(string, ostiary.Value) {
	return func(at string, v ostiary.Value) {
		if *to = v.Text(); v.Kind() != ostiary.String {
			r.fail(at, "it must be a text")
		}
	}
}

func (r *termReader) list(to *[]string) func(string, ostiary.Value) {
	return r.each(func(at string, v ostiary.Value) {
		var s string
		r.text(&s)(at, v)
		*to = append(*to, s)
	})
}

func (r *termReader) number(to *int64) func(string, ostiary.Value) {
	return func(at string, v ostiary.Value) {
		n, ok := v.Int()
		if *to = n; !ok {
			r.fail(at, "it must be a whole number")
		}
	}
}

// decimal takes a number by its text.
func (r *termReader) decimal(to *string) func(string, ostiary.Value) {
	return func(at string, v ostiary.Value) {
		if v.Kind() == ostiary.Number {
			*to = v.Literal()
			return
		}
		r.text(to)(at, v)
	}
}

func (r *termReader) time(to *time.Time) func(string, ostiary.Value) {
	return func(at string, v ostiary.Value) {
		t, err := time.Parse(time.RFC3339, v.Text())
		if *to = t; err != nil {
			r.fail(at, "it must be a time like 2026-11-20T12:00:00Z")
		}
	}
}

func (r *termReader) life(to *string) func(string, ostiary.Value) {
	return func(at string, v ostiary.Value) {
		r.text(to)(at, v)
		if _, err := parseLife(*to); err != nil {
			r.fail(at, "it must be a duration like 15m, 36h or 30d")
		}
	}
}

// parseLife reads a positive duration, also in whole days.
func parseLife(s string) (time.Duration, error) {
	bad := ostiary.Errorf(ostiary.Malformed, "terms", "%q is no duration; write for example 15m, 36h or 30d", s).At("for")
	unit := time.Duration(1)
	if n := len(s); n > 1 && s[n-1] == 'd' {
		s, unit = s[:n-1]+"h", 24
	}
	d, err := time.ParseDuration(s)
	if err != nil || d <= 0 || d > maxLife/unit {
		return 0, bad
	}
	return d * unit, nil
}

// maxLife bounds what a duration may say: ten years, far above every limit.
const maxLife = 10 * 366 * 24 * time.Hour

// JSON writes terms as [ParseTerms] reads them.
func (t *Terms) JSON() []byte {
	b, err := json.Marshal(t)
	if err != nil { // no field can fail to marshal
		panic(err)
	}
	return b
}

// Mandate puts the terms into a mandate, with times counted from now. Whatever
// the terms do not say is zero.
func (t *Terms) Mandate(now time.Time) ostiary.Mandate {
	m := ostiary.Mandate{
		Agent: ostiary.AgentID(t.Agent), Principal: ostiary.PrincipalID(t.Principal), Purpose: t.Purpose, Task: t.Task, Reason: t.Reason,
		Actions: t.Actions, Resources: t.Servers, Classes: t.Classes, Approvers: t.Approvers, Depth: t.Depth,
		Budget: ostiary.Budget{Calls: t.Budget.Calls, Tokens: t.Budget.Tokens, Bytes: t.Budget.Bytes}, NotBefore: t.NotBefore, Expires: t.Until,
	}
	if d, err := parseLife(t.For); err == nil {
		m.Expires = now.Add(d)
	}
	for _, c := range t.Ceilings {
		m.Ceilings = append(m.Ceilings, ostiary.Ceiling(c))
	}
	for _, x := range t.Budget.Money {
		m.Budget.Money = append(m.Budget.Money, ostiary.Money(x))
	}
	return m
}

// TermsOf is the other way: what a mandate says, with its times.
func TermsOf(m *ostiary.Mandate) Terms {
	t := Terms{
		Agent: string(m.Agent), Principal: string(m.Principal), Purpose: m.Purpose, Task: m.Task, Reason: m.Reason,
		Actions: m.Actions, Servers: m.Resources, Classes: m.Classes, Approvers: m.Approvers, Depth: m.Depth,
		Budget: TermBudget{Calls: m.Budget.Calls, Tokens: m.Budget.Tokens, Bytes: m.Budget.Bytes}, NotBefore: m.NotBefore, Until: m.Expires,
	}
	for _, c := range m.Ceilings {
		t.Ceilings = append(t.Ceilings, TermCeiling(c))
	}
	for _, x := range m.Budget.Money {
		t.Budget.Money = append(t.Budget.Money, TermMoney(x))
	}
	return t
}
