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
	"text/tabwriter"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/daemon"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/policy"
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

func (e *env) problem(b []byte, status string) error {
	var p control.Problem
	if err := json.Unmarshal(b, &p); err != nil || p.Detail == "" {
		return fmt.Errorf("the gateway answered %s", status)
	}
	printProblems(e.stderr, p.Problems)
	err := ostiary.Errorf(ostiary.Denied, p.Code, "%s", p.Detail)
	if p.Field != "" && !strings.Contains(p.Detail, p.Field) {
		err.Detail = p.Field + ": " + p.Detail
	}
	return err
}

func printProblems(w io.Writer, problems []policy.Problem) {
	for _, p := range problems {
		where := p.File
		if p.Line > 0 {
			where = fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
		}
		fmt.Fprintf(w, "%s: %s: %s [%s]\n", where, p.Severity, p.Message, p.Code)
		if p.Suggestion != "" {
			fmt.Fprintf(w, "\t%s\n", p.Suggestion)
		}
	}
}

func (e *env) printJSON(v any) error {
	enc := json.NewEncoder(e.stdout)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// table prints rows under a head. Cells hold foreign text, so every one goes
// through show.
func (e *env) table(head []string, rows [][]string) error {
	w := tabwriter.NewWriter(e.stdout, 2, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, r := range rows {
		for i := range r {
			r[i] = show(r[i])
		}
		fmt.Fprintln(w, strings.Join(r, "\t"))
	}
	return w.Flush()
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
