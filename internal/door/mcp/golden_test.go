package mcp

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

var update = flag.Bool("update", false, "rewrite the golden conversations")

// TestConversations plays the files of testdata/conversations. In a file,
// sections named "> …" are requests: a request line, headers, an empty line
// and the body. The section behind each, named "<", is what came back.
// Sections named "server" hold what the played server answers from then on,
// one frame a line: its kind, and the JSON. A section named "policy" holds
// the word permit or deny. $SESSION and $STATE stand for the newest session
// id and sealed state.
func TestConversations(t *testing.T) {
	files, _ := filepath.Glob("testdata/conversations/*.txtar")
	if len(files) == 0 {
		t.Fatal("found no conversation")
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".txtar"), func(t *testing.T) {
			a, err := txtar.ParseFile(file)
			if err != nil {
				t.Fatal(err)
			}
			c := &conversation{w: newWorld(t), replace: map[string]string{}}
			for i := range a.Files {
				switch f := &a.Files[i]; {
				case f.Name == "server":
					c.server(string(f.Data))
				case f.Name == "policy":
					c.policy(strings.TrimSpace(string(f.Data)))
				case strings.HasPrefix(f.Name, ">"):
					c.last = c.send(t, string(f.Data))
				case f.Name == "<":
					if *update {
						f.Data = []byte(c.last)
					} else if string(f.Data) != c.last {
						t.Errorf("after section %d\n--- got\n%s--- want\n%s", i, c.last, f.Data)
					}
				default:
					t.Fatalf("a section named %q", f.Name)
				}
			}
			if *update {
				if err := os.WriteFile(file, txtar.Format(a), 0o644); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

type conversation struct {
	w       *world
	last    string
	replace map[string]string
}

func (c *conversation) server(text string) {
	c.w.forward = func(context.Context, *gate.Dispatch) (gate.Stream, error) {
		var frames []gate.Frame
		for line := range strings.Lines(text) {
			kind, rest, _ := strings.Cut(strings.TrimSpace(line), " ")
			switch kind {
			case "result":
				frames = append(frames, gate.Frame{Kind: gate.FrameResult, Body: value(rest)})
			case "error":
				frames = append(frames, gate.Frame{Kind: gate.FrameError, Body: value(rest)})
			default:
				frames = append(frames, gate.Frame{Kind: gate.FrameNotification, Method: kind, Body: value(rest)})
			}
		}
		return gatetest.Frames(frames...), nil
	}
}

func (c *conversation) policy(word string) {
	c.w.decide = nil
	if word != "permit" {
		c.w.decide = func(*ostiary.Request) ostiary.Decision {
			return ostiary.Decision{Code: "forbid", Reasons: []ostiary.Reason{{Policy: "limits", Text: "Over the limit."}}, Remedies: []ostiary.Remedy{{Fact: "approval:finance"}}}
		}
	}
}

var stateText = regexp.MustCompile(`"requestState":"([A-Za-z0-9_-]{40,})"`)

// send plays one request and returns the response as text.
func (c *conversation) send(t *testing.T, text string) string {
	for name, v := range c.replace {
		text = strings.ReplaceAll(text, name, v)
	}
	head, content, _ := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	method, path, _ := strings.Cut(lines[0], " ")
	r := raw(path, strings.TrimSuffix(content, "\n"))
	if r.Method = method; content == "" {
		r.Body, r.ContentLength = http.NoBody, 0
	}
	for _, l := range lines[1:] {
		name, v, ok := strings.Cut(l, ": ")
		if !ok {
			t.Fatalf("no header: %q", l)
		}
		set(r, []string{name, v})
	}
	rec := httptest.NewRecorder()
	c.w.door.ServeHTTP(rec, r)
	if id := rec.Header().Get("Mcp-Session-Id"); id != "" {
		c.replace["$SESSION"] = id
	}
	if m := stateText.FindSubmatch(rec.Body.Bytes()); m != nil {
		c.replace["$STATE"] = string(m[1])
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%d\n", rec.Code)
	var names []string
	for name := range rec.Header() {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		if name != "Content-Length" {
			fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(rec.Header()[name], ", "))
		}
	}
	fmt.Fprintf(&b, "\n%s", rec.Body)
	if rec.Body.Len() > 0 && !strings.HasSuffix(rec.Body.String(), "\n") {
		b.WriteByte('\n')
	}
	out := strings.ReplaceAll(b.String(), ostiary.Version, "$VERSION")
	for name, v := range c.replace {
		out = strings.ReplaceAll(out, v, name)
	}
	return out
}
