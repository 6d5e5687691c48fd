package console

import (
	"bytes"
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
		a := asset{"/assets/" + name, "sha384-" + base64.StdEncoding.EncodeToString(long[:]), kinds[ext], b}
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
		"machine": func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
	}).ParseFS(files, "pages/base.html")
	if err != nil {
		return nil, err
	}
	all, err := fs.Glob(files, "pages/*.html")
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		name := strings.TrimSuffix(path.Base(f), ".html")
		if name == "base" {
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

// frame is what every page has around it.
type frame struct {
	Title   string
	Page    string         // which entry of the navigation it belongs to
	Who     *people.Person // nil: nobody is signed in
	Name    Foreign
	Form    string // the token of this browser's forms
	Gives   bool   // there are mandates to look at
	Sees    bool   // this person may see who else there is
	Now     time.Time
	Script  string // the asset the page runs, "" for none
	Content any
}

// show draws a page.
func (c *Console) show(x *exchange, status int, page, title string, f frame) error {
	f.Title, f.Form, f.Now, f.Gives = title, x.formToken(), c.o.Clock(), c.o.Mandates != nil
	if f.Who = x.who(); f.Who != nil {
		f.Name = NewForeign(f.Who.Name)
		if f.Who.Label != "" {
			f.Name = NewForeign(f.Who.Label)
		}
		f.Sees = having(people.Operator, people.Auditor).admits(f.Who)
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
	x.w.WriteHeader(http.StatusOK)
	_, _ = x.w.Write(a.content)
	return nil
}

// Times as people say them. The machine's own zone is the operator's.

func day(t time.Time) string       { return t.Local().Format("Mon 2 Jan 2006, 15:04 MST") }
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
