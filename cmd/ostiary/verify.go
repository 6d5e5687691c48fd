package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/demo"
	"github.com/ostiary/ostiary/proof"
)

type logVerifyCmd struct {
	Dir        string   `arg:"" type:"existingdir" help:"A copy of the log folder, or of one log in it."`
	Checkpoint []string `type:"existingfile" placeholder:"FILE" help:"A checkpoint kept elsewhere, which the log must extend; may be repeated."`
	Key        []string `placeholder:"KEY" help:"A log's verifier key as \"ostiary keys\" prints it; may be repeated."`
}

// maxCheckpoint bounds a checkpoint file: a note with a few cosignatures.
const maxCheckpoint = 64 << 10

func (c *logVerifyCmd) options() (proof.Options, error) {
	o := proof.Options{Keys: map[string]string{}}
	for _, k := range c.Key {
		origin, _, err := proof.ParseVerifierKey(k)
		if err != nil {
			return o, fmt.Errorf("--key %s: %w", k, err)
		}
		o.Keys[origin] = k
	}
	for _, f := range c.Checkpoint {
		b, err := os.ReadFile(f)
		if err != nil {
			return o, err
		}
		if len(b) > maxCheckpoint {
			return o, ostiary.Errorf(ostiary.Malformed, "checkpoint", "%s is too large to be a checkpoint", f)
		}
		o.Held = append(o.Held, b)
	}
	return o, nil
}

// verified is what verification showed, as JSON.
type verified struct {
	Verified bool          `json:"verified"`
	Entries  uint64        `json:"entries"`
	Votes    uint64        `json:"votes"`    // of people, each with a signature that verified
	Complete bool          `json:"complete"` // every log that is named somewhere was there
	Logs     []verifiedLog `json:"logs"`
	Notes    []string      `json:"notes,omitempty"` // what could not be shown
	Fault    *fault        `json:"fault,omitempty"`
}

type verifiedLog struct {
	Origin   string    `json:"log"`
	Dir      string    `json:"dir"`
	Key      string    `json:"key"`
	KeyKnown bool      `json:"key_known"` // given by you, not taken from the copy
	Size     uint64    `json:"size"`
	Root     string    `json:"root"`
	Signed   uint64    `json:"signed"`
	Closed   bool      `json:"closed"`
	Open     int       `json:"open"` // actions without an outcome
	Torn     int64     `json:"torn"` // bytes of a write that never completed
	First    time.Time `json:"first,omitzero"`
	Last     time.Time `json:"last,omitzero"`
}

// fault is the first thing that does not fit.
type fault struct {
	Log     string `json:"log,omitempty"`
	Entry   string `json:"entry,omitempty"`
	Segment uint64 `json:"segment,omitempty"`
	Offset  int64  `json:"offset,omitempty"`
	Text    string `json:"text"`
}

func verifiedOf(r proof.Report, err error) verified {
	v := verified{Verified: err == nil, Entries: r.Entries, Votes: r.Votes, Complete: r.Complete, Logs: []verifiedLog{}, Notes: r.Notes}
	for _, l := range r.Logs {
		v.Logs = append(v.Logs, verifiedLog{
			Origin: l.Origin, Dir: l.Dir, Key: l.Key, KeyKnown: l.KeyKnown, Size: l.Size, Root: l.Root.String(), Signed: l.Signed,
			Closed: l.Closed, Open: l.Open, Torn: l.Torn, First: l.First, Last: l.Last,
		})
	}
	if err == nil {
		return v
	}
	v.Fault = &fault{Text: err.Error()}
	if f := new(proof.Fault); errors.As(err, &f) {
		v.Fault = &fault{Log: f.Log, Segment: f.Segment, Offset: f.Offset, Text: f.What}
		if !f.Ref.IsZero() {
			v.Fault.Entry = f.Ref.String()
		}
	}
	return v
}

func (c *logVerifyCmd) Run(e *env) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	report, err := proof.VerifyDir(c.Dir, o)
	if e.cli.JSON {
		if perr := e.printJSON(verifiedOf(report, err)); perr != nil {
			return perr
		}
	} else {
		printReport(e, report)
	}
	if err != nil {
		return fmt.Errorf("the log does not verify: %w", err)
	}
	if !e.cli.JSON {
		fmt.Fprintf(e.stdout, "verified: %d entries in %s\n", report.Entries, plural(len(report.Logs), "log"))
	}
	return nil
}

func plural(n int, word string) string {
	if n != 1 {
		word += "s"
	}
	return strconv.Itoa(n) + " " + word
}

func printReport(e *env, r proof.Report) {
	for _, l := range r.Logs {
		key := "the key in the copy"
		if l.KeyKnown {
			key = "the key you gave"
		}
		fmt.Fprintf(e.stdout, "%s: %d entries, root %s, checkpoint over %d signed by %s\n", l.Origin, l.Size, l.Root.Short(), l.Signed, key)
		if l.Open > 0 {
			fmt.Fprintf(e.stdout, "  without an outcome yet: %s\n", plural(l.Open, "action"))
		}
		if l.Torn > 0 {
			fmt.Fprintf(e.stdout, "  %d bytes of a write that never completed stand at the end\n", l.Torn)
		}
	}
	if r.Votes > 0 {
		fmt.Fprintf(e.stdout, "%s of people, each with a signature of theirs that verified\n", plural(int(r.Votes), "vote"))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(e.stdout, "note: %s\n", n)
	}
}

// verifyCopy is the demo's verifier.
func verifyCopy(_ context.Context, dir string) (demo.Verified, error) {
	r, err := proof.VerifyDir(dir, proof.Options{})
	v := demo.Verified{Entries: r.Entries}
	if len(r.Logs) > 0 {
		v.Log = r.Logs[len(r.Logs)-1].Origin
	}
	return v, err
}
