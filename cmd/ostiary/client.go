package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/egress"
)

// maxAnswer bounds what a command reads from its gateway; ten thousand log
// rows are a few megabytes.
const maxAnswer = 64 << 20

// socket finds the gateway's control socket.
func (e *env) socket() (string, error) {
	if e.cli.Socket != "" {
		return e.cli.Socket, nil
	}
	c, err := daemon.ReadConfig(e.cli.Config)
	if err != nil {
		return "", err
	}
	return c.Listen.Control, nil
}

// ask sends one request to the running gateway and decodes its answer.
func (e *env) ask(method, path string, query url.Values, in, out any) error {
	socket, err := e.socket()
	if err != nil {
		return err
	}
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(b)
	}
	u := "http://ostiary" + path
	if len(query) > 0 {
		u += "?" + query.Encode()
	}
	req, err := http.NewRequestWithContext(e.ctx, method, u, body)
	if err != nil {
		return err
	}
	resp, err := egress.UnixClient(socket).Do(req)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "connection refused") {
			return ostiary.Errorf(ostiary.Unavailable, "not_running", "no gateway answers at %s; start one with \"ostiary serve\"", socket)
		}
		return fmt.Errorf("asking the gateway at %s: %w", socket, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return fmt.Errorf("reading the gateway's answer: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
		return e.problem(b, resp.Status)
	}
	if raw, ok := out.(*json.RawMessage); ok {
		*raw = b
		return nil
	}
	return json.Unmarshal(b, out)
}

// problem turns the gateway's refusal back into an error. Problems of the
// policy folder are printed where they belong: in the JSON if that is asked
// for, else before the error.
func (e *env) problem(b []byte, status string) error {
	var p control.Problem
	if err := json.Unmarshal(b, &p); err != nil || p.Detail == "" {
		return fmt.Errorf("the gateway answered %s", status)
	}
	if e.cli.JSON && len(p.Problems) > 0 {
		if err := e.printJSON(p); err != nil {
			return err
		}
	} else {
		printProblems(e.stderr, p.Problems)
	}
	err := ostiary.Errorf(kindNamed(p.Kind), p.Code, "%s", p.Detail)
	if p.Field != "" && !strings.Contains(p.Detail, p.Field) {
		err.Detail = p.Field + ": " + p.Detail
	}
	if p.Cause != "" {
		err = err.Because(errors.New(show(p.Cause)))
	}
	return err
}

// kindNamed is the kind of error with this name; an unknown one is Internal.
func kindNamed(name string) ostiary.Kind {
	for k := ostiary.Internal; k <= ostiary.Corrupt; k++ {
		if k.String() == name {
			return k
		}
	}
	return ostiary.Internal
}

func printProblems(w io.Writer, problems []control.PolicyProblem) {
	for _, p := range problems {
		where := p.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
		}
		fmt.Fprintf(w, "%s: %s: %s [%s]\n", where, p.Severity, show(p.Message), p.Code)
		if p.Suggestion != "" {
			fmt.Fprintf(w, "    %s\n", show(p.Suggestion))
		}
	}
}

func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows under a head.
func (e *env) table(head []string, rows [][]string) error {
	return (&grid{w: e.stdout}).print(head, rows)
}

// grid prints rows in columns that stay where they are from one printing to
// the next: a column only ever grows. Cells hold foreign text, so every one
// goes through show.
type grid struct {
	w      io.Writer
	widths []int // in characters, by column
}

// gap stands between two columns.
const gap = "  "

// print writes the head, if there is one, and the rows.
func (g *grid) print(head []string, rows [][]string) error {
	var lines [][]string
	if head != nil {
		lines = append(lines, head)
	}
	for _, r := range rows {
		line := make([]string, len(r))
		for i := range r {
			line[i] = show(r[i])
		}
		lines = append(lines, line)
	}
	for _, l := range lines {
		for i, cell := range l {
			if i == len(g.widths) {
				g.widths = append(g.widths, 0)
			}
			g.widths[i] = max(g.widths[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, l := range lines {
		for i, cell := range l {
			b.WriteString(cell)
			if i < len(l)-1 { // the last column ends where it ends
				b.WriteString(strings.Repeat(" ", g.widths[i]-utf8.RuneCountInString(cell)) + gap)
			}
		}
		b.WriteByte('\n')
	}
	_, err := io.WriteString(g.w, b.String())
	return err
}

func when(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func dash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}
