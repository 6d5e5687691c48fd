package console

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"crypto/sha512"
	"embed"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
)

//go:embed pages/*.html assets/*
var files embed.FS

// looks are the pages and what they load.
type looks struct {
	pages  map[string]*template.Template // by name
	assets map[string]asset              // by name with digest
	links  map[string]asset              // by plain name
}

// asset is one file that pages load. Its address holds its digest, so it never
// changes and is kept for ever; its integrity is in each page.
type asset struct {
	Path      string
	Integrity string
	kind      string
	content   []byte
	packed    []byte // with gzip
}

var kinds = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

func loadLooks() (*looks, error) {
	l := &looks{pages: map[string]*template.Template{}, assets: map[string]asset{}, links: map[string]asset{}}
	found, err := fs.Glob(files, "assets/*")
	if err != nil {
		return nil, err
	}
	for _, f := range found {
		b, err := files.ReadFile(f)
		if err != nil {
			return nil, err
		}
		ext := path.Ext(f)
		sum, long := sha256.Sum256(b), sha512.Sum384(b)
		name := strings.TrimSuffix(path.Base(f), ext) + "." + hex.EncodeToString(sum[:6]) + ext
		a := asset{"/assets/" + name, "sha384-" + base64.StdEncoding.EncodeToString(long[:]), kinds[ext], b, packed(b)}
		l.assets[name], l.links[path.Base(f)] = a, a
	}
	base, err := template.New("base.html").Funcs(template.FuncMap{
		"asset": func(name string) (asset, error) {
			a, ok := l.links[name]
			if !ok {
				return a, fmt.Errorf("there is no asset %s", name)
			}
			return a, nil
		},
		"day": day, "clock": clockTime, "in": inWords, "both": both, "date": func(t time.Time) string { return t.Local().Format("2 Jan 2006") },
		"second": func(t time.Time) string { return t.Local().Format("15:04:05") }, "moment": moment, "shown": shown, "exact": func(t time.Time) string { return t.Local().Format("Mon 2 Jan 2006, 15:04:05.000 MST") }, "span": span, "short": func(s string) string { return s[:min(12, len(s))] },
		"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}).ParseFS(files, "pages/base.html", "pages/parts.html")
	if err != nil {
		return nil, err
	}
	all, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		name := strings.TrimSuffix(path.Base(f), ".html")
		if name == "base" || name == "parts" {
			continue
		}
		t, err := base.Clone()
		if err == nil {
			t, err = t.ParseFS(files, f)
		}
		if err != nil {
			return nil, err
		}
		l.pages[name] = t
	}
	return l, nil
}

// packed is a file as browsers take it over a slow network.
func packed(b []byte) []byte {
	var out bytes.Buffer
	z, err := gzip.NewWriterLevel(&out, gzip.BestCompression)
	if err == nil {
		_, err = z.Write(b)
	}
	if err == nil {
		err = z.Close()
	}
	if err != nil || out.Len() >= len(b) {
		return nil
	}
	return out.Bytes()
}

// entry is one way to another page.
type entry struct {
	Href, Name string
	Page       string // the pages that belong to it
	Key        string // that opens it, after g
	Count      int    // of what waits there
}

// entries are the ways that a person may take, in the order of the day: what
// happens, what waits, what there is, and oneself.
func (c *Console) entries(ctx context.Context, who *people.Person) (out []entry) {
	may := func(a access, there bool, e entry) {
		if there && a.admits(who) {
			out = append(out, e)
		}
	}
	desk := c.o.Desk != nil
	may(watching, desk, entry{"/now", "Now", "now", "n", 0})
	may(person, c.o.Approvals != nil, entry{"/approvals", "Approvals", "approvals", "i", c.waiting(ctx, who)})
	may(reading, desk, entry{"/log", "Log", "log", "l", 0})
	may(watching, desk, entry{"/agents", "Agents", "agents", "a", 0})
	may(watching, desk, entry{"/tools", "Tools", "tools", "t", 0})
	may(reading, desk, entry{"/policy", "Policy", "policy", "p", 0})
	may(reading, c.o.Budgets != nil, entry{"/budgets", "Budgets", "budgets", "b", 0})
	may(person, c.o.Mandates != nil, entry{"/mandates", "Mandates", "mandates", "m", 0})
	may(having(people.Operator, people.Auditor), true, entry{"/people", "People", "people", "e", 0})
	may(person, true, entry{"/me", "You", "me", "y", 0})
	return out
}

// waiting is how many actions wait for people, for those who have a role: 0
// also if that cannot be told, which the pages themselves say.
func (c *Console) waiting(ctx context.Context, who *people.Person) int {
	if c.o.Approvals == nil || !watching.admits(who) {
		return 0
	}
	n, err := c.o.Approvals.Count(ctx)
	if err != nil {
		return 0
	}
	return n[ostiary.HoldPending]
}

// frame is what every page has around it.
type frame struct {
	Title   string
	Page    string         // which entry of the navigation it belongs to
	Who     *people.Person // nil: nobody is signed in
	Name    Foreign
	Form    string // the token of this browser's forms
	Nav     []entry
	Now     time.Time
	Script  string // the asset the page runs, "" for none
	Live    bool   // it keeps itself up to date
	Content any
}

// show draws a page.
func (c *Console) show(x *exchange, status int, page, title string, f frame) error {
	f.Title, f.Form, f.Now = title, x.formToken(), c.o.Clock()
	if f.Who = x.who(); f.Who != nil {
		f.Name = NewForeign(f.Who.Name)
		if f.Who.Label != "" {
			f.Name = NewForeign(f.Who.Label)
		}
		f.Nav = c.entries(x.r.Context(), f.Who)
	}
	t := c.looks.pages[page]
	if t == nil {
		return fmt.Errorf("there is no page %s", page)
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "base.html", f); err != nil {
		return fmt.Errorf("drawing %s: %w", page, err)
	}
	x.w.Header().Set("Content-Type", "text/html; charset=utf-8")
	if f.Live {
		x.w.Header().Set("Content-Security-Policy", livePolicy)
	}
	x.w.WriteHeader(status)
	_, _ = x.w.Write(b.Bytes()) // whoever left does not read it
	return nil
}

// asset serves a file by its name with digest.
func (c *Console) asset(x *exchange) error {
	a, ok := c.looks.assets[x.r.PathValue("name")]
	if !ok {
		return ostiary.Errorf(ostiary.NotFound, "no_page", "there is no such page")
	}
	return c.sendAsset(x, a)
}

func (c *Console) icon(x *exchange) error { return c.sendAsset(x, c.looks.links["door.svg"]) }

func (c *Console) sendAsset(x *exchange, a asset) error {
	h := x.w.Header()
	h.Del("Set-Cookie") // a file is nobody's
	h.Set("Content-Type", a.kind)
	h.Set("Cache-Control", "public, max-age=31536000, immutable")
	h.Set("Vary", "Accept-Encoding")
	content := a.content
	if a.packed != nil && strings.Contains(x.r.Header.Get("Accept-Encoding"), "gzip") {
		h.Set("Content-Encoding", "gzip")
		content = a.packed
	}
	x.w.WriteHeader(http.StatusOK)
	_, _ = x.w.Write(content)
	return nil
}

// Times as people say them. The machine's own zone is the operator's.

func day(t time.Time) string { return t.Local().Format("Mon 2 Jan 2006, 15:04 MST") }

// moment is a time in a list: today's without its day.
func moment(now, t time.Time) string {
	if t = t.Local(); t.Format(time.DateOnly) == now.Local().Format(time.DateOnly) {
		return t.Format("15:04:05")
	}
	return t.Format("2 Jan 15:04:05")
}

func clockTime(t time.Time) string { return t.Local().Format("15:04") }

// inWords is how long something is from now, in the largest unit that says
// enough.
func inWords(now, t time.Time) string {
	d := t.Sub(now)
	if d <= 0 {
		return "over"
	}
	n, unit := int((d+time.Minute-1)/time.Minute), "minute"
	d = time.Duration(n) * time.Minute
	const aDay = 24 * time.Hour
	switch {
	case d >= 3*aDay || d%aDay == 0:
		n, unit = int((d+aDay/2)/aDay), "day"
	case d >= 3*time.Hour || d%time.Hour == 0:
		n, unit = int((d+time.Hour/2)/time.Hour), "hour"
	}
	if n == 1 {
		return "1 " + unit
	}
	return fmt.Sprintf("%d %ss", n, unit)
}

// both is a pair, for templates that take two.
func both(a, b any) [2]any { return [2]any{a, b} }
