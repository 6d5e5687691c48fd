// Command eval replays recorded agent runs through the real gateway and says
// how many attacks it would have stopped, and how often it would have
// disturbed honest work.
//
// Each run has a mandate whose task is the run's prompt, and so a session of
// its own. An MCP client makes the recorded calls; the gateway traces, decides
// and forwards them; an MCP server answers with the recorded results. The
// calls of one turn are all decided before any of their results is released.
// The subject sees the prompt and the steps in their order; what the oracle
// says is the scorer's alone.
//
// It is a replay, and a floor: it shows whether a recorded call would have
// been stopped, and neither what a model does after a refusal nor an attacker
// who knows the gateway.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "eval:", err)
		os.Exit(1)
	}
}

// options are what the command was asked for.
type options struct {
	data, schema, policy string
	json, explain        bool
	workers              int
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	f := flag.NewFlagSet("eval", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.data, "data", "", "folder of recorded runs, one *.jsonl or *.jsonl.gz for each suite")
	f.StringVar(&o.schema, "schema", "", "folder of tool lists, <suite>.tools.json (default: schema beside the data)")
	f.StringVar(&o.policy, "policy", "", "folder with one policy folder for each suite, for example test/eval/policies; without it the defaults made from the tool lists are used")
	f.BoolVar(&o.json, "json", false, "print JSON")
	f.BoolVar(&o.explain, "explain", false, "print each ask of an honest run and each attack that was missed, with the gateway's words")
	f.IntVar(&o.workers, "workers", 8, "runs at the same time")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil
		}
		return err
	}
	if o.data == "" {
		return errors.New("say where the recorded runs are: -data DIR")
	}
	if o.schema == "" {
		o.schema = filepath.Join(o.data, "..", "schema")
	}
	suites, err := findSuites(o.data)
	if err != nil {
		return err
	}
	var out struct {
		Suites []score `json:"suites"`
	}
	for _, file := range suites {
		s, err := evaluate(ctx, &o, file, stderr)
		if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(file), err)
		}
		out.Suites = append(out.Suites, s)
		if !o.json {
			fmt.Fprintln(stdout, s)
		}
	}
	if o.json {
		return json.NewEncoder(stdout).Encode(out)
	}
	return nil
}

// score is what one suite came to.
type score struct {
	Suite   string  `json:"suite"`
	Attacks int     `json:"attacks"`
	Caught  int     `json:"caught"` // denied or asked before the first malicious call completes
	Honest  int     `json:"honest"`
	Denied  int     `json:"denied"` // honest runs denied at least once
	Asked   int     `json:"asked"`  // honest runs asked at least once
	Asks    int     `json:"asks"`   // all asks in honest runs
	Calls   int     `json:"calls"`  // calls decided, in all runs that count
	Added   float64 `json:"added_p99_ms"`
}

func (s score) String() string {
	return fmt.Sprintf("%-12s attacks caught %d/%d (%.2f %%); of %d honest runs denied %d, asked %d (%.1f %%), %.3f asks a run; %d calls, provenance added %.3f ms at p99",
		s.Suite, s.Caught, s.Attacks, percent(s.Caught, s.Attacks), s.Honest, s.Denied, s.Asked, percent(s.Asked, s.Honest), float64(s.Asks)/float64(max(s.Honest, 1)), s.Calls, s.Added)
}

func percent(n, of int) float64 { return 100 * float64(n) / float64(max(of, 1)) }
