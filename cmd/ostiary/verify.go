package main

import (
	"context"
	"fmt"
	"os"

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

func (c *logVerifyCmd) Run(e *env) error {
	o, err := c.options()
	if err != nil {
		return err
	}
	report, err := proof.VerifyDir(c.Dir, o)
	if e.cli.JSON {
		out := map[string]any{"verified": err == nil, "report": report}
		if err != nil {
			out["fault"] = ostiary.AsError(err).Detail
		}
		if perr := e.printJSON(out); perr != nil {
			return perr
		}
	} else {
		printReport(e, report)
	}
	if err != nil {
		return fmt.Errorf("the log does not verify: %w", err)
	}
	if !e.cli.JSON {
		fmt.Fprintf(e.stdout, "verified: %d entries in %d logs\n", report.Entries, len(report.Logs))
	}
	return nil
}

func printReport(e *env, r proof.Report) {
	for _, l := range r.Logs {
		key := "its own word for its key"
		if l.KeyKnown {
			key = "a key you gave"
		}
		fmt.Fprintf(e.stdout, "%s: %d entries, root %s, signed up to %d, by %s\n", l.Origin, l.Size, l.Root.Short(), l.Signed, key)
		if l.Open > 0 {
			fmt.Fprintf(e.stdout, "  %d actions have no outcome yet\n", l.Open)
		}
		if l.Torn > 0 {
			fmt.Fprintf(e.stdout, "  %d bytes of a write that never completed stand at the end\n", l.Torn)
		}
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
