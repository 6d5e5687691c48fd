package console

import (
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
)

// line is one action, or one change, in a list.
type line struct {
	Ref, Link string
	Time      time.Time
	Agent     Foreign
	AgentLink string
	Principal Foreign
	Action    Foreign
	Tool      Foreign // of an action on a server's tool: its name there
	Server    Foreign
	State     string // its colour, shape and word; see the template "fate"
	Code      string // why, where it is not plain from the state
	Policies  []string
	Text      Foreign // of a change: what it was
	By        Foreign
}

// lines are entries as rows; base is "log" or "changes".
func lines(entries []control.Entry, base string) []line {
	var out []line
	for i := range entries {
		out = append(out, lineOf(&entries[i], base))
	}
	return out
}

func lineOf(e *control.Entry, base string) line {
	l := line{
		Ref: e.Ref, Link: "/" + base + "/" + e.Ref, Time: e.Time, Action: NewForeign(e.Action), Server: NewForeign(e.Server), State: fate(e), Policies: e.Policies,
		Principal: NewForeign(e.Principal), Agent: NewForeign(ostiary.AgentID(e.Agent).Name()), AgentLink: agentLink(e.Agent),
	}
	if e.Code != "permit" && e.Code != "ok" {
		l.Code = e.Code
	}
	if name, ok := strings.CutPrefix(e.Action, e.Server+"___"); ok && e.Server != "" {
		l.Tool = NewForeign(name)
	}
	if base == "changes" {
		d := detailOf(e.Detail)
		l.Text, l.By = NewForeign(d.Text), NewForeign(shortName(d.By))
	}
	return l
}

// fate is what became of an action, in one word.
func fate(e *control.Entry) string {
	switch {
	case e.Kind == "outcome":
		return e.Disposition
	case e.Kind == "intent":
		return "running"
	}
	return e.Kind
}

// agentLink is an agent's page: its id is a path already, of characters that
// addresses may hold.
func agentLink(id string) string {
	if _, err := ostiary.ParseAgentID(id); err != nil {
		return "/agents"
	}
	return "/agents/" + strings.TrimPrefix(id, spiffe)
}

const spiffe = "spiffe://"

// logShown is how many rows a page of the log has.
const logShown = 50

// logPage is the log with its search.
type logPage struct {
	Changes  bool // the deployment's log, else the gateway's
	Search   search
	Rows     []line
	Older    string // address of the next page, "" if this is the last
	Newer    string
	Indexed  uint64
	Size     uint64
	Behind   uint64
	Filtered bool
	Command  string // the same on a command line
	At       time.Time
}

// search is what the form says. Texts that a person wrote come back as they
// were.
type search struct {
	Agent, Principal, Action, Server, Code, Session string
	Became                                          string
	Since, Until                                    string // as the form has them: local time
	Every                                           bool   // also what the gateway reads for itself
}

// became are the words of the choice of what became of actions, each with its
// filter.
var became = []struct{ Word, Filter, Value string }{
	{"permitted", "decision", "permit"}, {"denied", "decision", "deny"},
	{"delivered", "disposition", "delivered"}, {"refused", "disposition", "refused"}, {"held", "disposition", "held"},
	{"withheld", "disposition", "withheld"}, {"failed", "disposition", "failed"}, {"unknown", "disposition", "unknown"},
}

// Became are the choices, for the template.
func (logPage) Became() (out []string) {
	for _, b := range became {
		out = append(out, b.Word)
	}
	return out
}

// More reports whether a search uses what is folded away.
func (p logPage) More() bool {
	s := p.Search
	return s.Principal != "" || s.Server != "" || s.Code != "" || s.Session != "" || s.Since != "" || s.Until != "" || s.Every
}

const formTime = "2006-01-02T15:04"

// filters reads a search into the filters of GET /v1/log.
func (s *search) filters(q url.Values) (url.Values, error) {
	*s = search{
		Agent: q.Get("agent"), Principal: q.Get("principal"), Action: q.Get("action"), Server: q.Get("server"), Code: q.Get("code"), Session: q.Get("session"),
		Became: q.Get("became"), Since: q.Get("since"), Until: q.Get("until"), Every: q.Get("every") == "true",
	}
	f := url.Values{"newest": {"true"}, "latest": {"true"}}
	for key, v := range map[string]string{"agent": s.Agent, "principal": s.Principal, "action": s.Action, "server": s.Server, "code": s.Code, "session": s.Session} {
		if v = strings.TrimSpace(v); v != "" {
			f.Set(key, v)
		}
	}
	for _, b := range became {
		if b.Word == s.Became {
			f.Set(b.Filter, b.Value)
		}
	}
	for key, v := range map[string]string{"since": s.Since, "until": s.Until} {
		if v == "" {
			continue
		}
		t, err := time.ParseInLocation(formTime, v, time.Local)
		if err != nil {
			if t, err = time.Parse(time.RFC3339Nano, v); err != nil {
				return nil, ostiary.Errorf(ostiary.Malformed, "filter", "write %s as a date and a time, for example 2026-11-20T10:00", key).At(key)
			}
		}
		f.Set(key, t.UTC().Format(time.RFC3339Nano))
	}
	return f, nil
}

func (c *Console) log(x *exchange) error {
	q := x.r.URL.Query()
	p := logPage{Changes: q.Get("log") == "changes", At: c.o.Clock()}
	f, err := p.Search.filters(q)
	if err != nil {
		return err
	}
	p.Filtered = len(f) > 2
	base := "log"
	if p.Changes {
		base = "changes"
		f.Set("log", "deployment")
		f.Set("kind", "change,open,close,tombstone,erasure")
		f.Set("details", "true")
		f.Del("latest")
	} else {
		if f.Get("disposition") == "" {
			f.Set("kind", "intent,outcome")
		}
		if !p.Search.Every && f.Get("action") == "" {
			f.Set("except", ownReading)
		}
	}
	p.Command = command(f)
	if before := q.Get("before"); before != "" {
		if f, err = c.upTo(x, f, before, p.Changes); err != nil {
			return err
		}
		back := clone(q)
		back.Del("before")
		p.Newer = "/log?" + back.Encode()
	}
	f.Set("limit", strconv.Itoa(logShown+1+sameTime))
	found, err := c.o.Desk.Find(x.r.Context(), f)
	if err != nil {
		return err
	}
	entries := found.Entries
	if before := q.Get("before"); before != "" {
		if i := slices.IndexFunc(entries, func(e control.Entry) bool { return e.Ref == before }); i >= 0 {
			entries = entries[i+1:]
		}
	}
	if len(entries) > logShown {
		entries = entries[:logShown]
		more := clone(q)
		more.Set("before", entries[logShown-1].Ref)
		p.Older = "/log?" + more.Encode()
	}
	p.Rows, p.Indexed, p.Size, p.Behind = lines(entries, base), found.Indexed, found.Size, found.Size-min(found.Indexed, found.Size)
	title := "Log"
	if p.Changes {
		title = "Changes"
	}
	return c.show(x, http.StatusOK, "log", title, frame{Page: "log", Content: p})
}

// sameTime is how many entries of one moment a page can end among.
const sameTime = 20

// upTo moves the end of a search to the moment of an entry: what the page
// before showed of that moment is left out by its reader.
func (c *Console) upTo(x *exchange, f url.Values, ref string, changes bool) (url.Values, error) {
	q := url.Values{"entry": {ref}}
	if changes {
		q.Set("log", "deployment")
	}
	s, err := c.o.Desk.Story(x.r.Context(), q)
	if err != nil {
		return nil, err
	}
	for _, e := range s.Entries {
		if e.Ref == ref {
			f.Set("until", e.Time.Add(time.Nanosecond).UTC().Format(time.RFC3339Nano))
			return f, nil
		}
	}
	return nil, ostiary.Errorf(ostiary.NotFound, "no_entry", "there is no entry %s", NewForeign(ref))
}

func clone(q url.Values) url.Values {
	out := url.Values{}
	for k, v := range q {
		out[k] = slices.Clone(v)
	}
	return out
}

// command is a search on the command line, so that it can be pasted into an
// incident.
func command(f url.Values) string {
	flags := []string{"ostiary log"}
	if f.Get("log") == "deployment" {
		flags = append(flags, "--changes")
	}
	for _, k := range []string{"agent", "principal", "session", "action", "server", "code", "decision", "disposition", "since", "until"} {
		if v := f.Get(k); v != "" {
			flag := k
			if k == "action" {
				flag = "tool"
			}
			flags = append(flags, "--"+flag+" "+quoted(v))
		}
	}
	line := strings.Join(flags, " ")
	if strings.IndexFunc(line, func(r rune) bool { return r < ' ' || r > '~' }) >= 0 {
		return "" // nobody should paste what they cannot see
	}
	return line
}

// quoted is a word as a shell takes it.
func quoted(s string) string {
	if s != "" && strings.IndexFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-/:@=+", r))
	}) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
