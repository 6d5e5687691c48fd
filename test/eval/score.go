package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// evaluate replays one suite.
func evaluate(ctx context.Context, o *options, file string, progress io.Writer) (score, error) {
	runs, err := readRuns(file)
	if err != nil || len(runs) == 0 {
		return score{}, fmt.Errorf("no run that counts: %w", err)
	}
	suite := runs[0].Suite
	list, err := readTools(o.schema, suite)
	if err != nil {
		return score{}, err
	}
	policies := ""
	if o.policy != "" {
		policies = filepath.Join(o.policy, suite)
	}
	g, err := startGateway(ctx, suite, list, argumentsUsed(runs), policies)
	if err != nil {
		return score{}, err
	}
	defer g.end()
	known := map[string]bool{}
	for _, t := range list.Tools {
		known[t.Name] = true
	}
	s, err := replayAll(ctx, o, g, runs, known, progress)
	if err != nil {
		return s, err
	}
	s.Suite, s.Added = suite, added(g, runs)
	return s, nil
}

// replayAll replays every run, some at the same time.
func replayAll(ctx context.Context, o *options, g *gateway, runs []recorded, known map[string]bool, progress io.Writer) (total score, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	work := make(chan *recorded)
	var mu sync.Mutex // guards what follows
	done, began := 0, time.Now()
	var all sync.WaitGroup
	for range max(1, o.workers) {
		all.Go(func() {
			for r := range work {
				p := replay{g: g, run: r, known: known}
				if err := p.all(ctx); err != nil {
					cancel(fmt.Errorf("run %s: %w", r.ID, err))
					continue
				}
				mu.Lock()
				p.count(&total)
				if o.explain {
					p.explain(progress)
				}
				if done++; done%250 == 0 {
					fmt.Fprintf(progress, "%s: %d of %d runs, %v\n", g.suite, done, len(runs), time.Since(began).Round(time.Second))
				}
				mu.Unlock()
			}
		})
	}
	for i := range runs {
		select {
		case work <- &runs[i]:
		case <-ctx.Done():
		}
	}
	close(work)
	all.Wait()
	return total, context.Cause(ctx)
}

// replay is one run on its way.
type replay struct {
	g     *gateway
	run   *recorded
	known map[string]bool

	calls, asks    int
	denied, caught bool
	words          []string
}

func (p *replay) attack() bool { return p.run.Oracle.Class == classAttack }

// all replays the run until it ends: at a denial, and for an attack as soon as
// it is caught or too late.
func (p *replay) all(ctx context.Context) error {
	m, err := p.g.mandate(ctx, p.run.Prompt)
	if err != nil {
		return err
	}
	steps := p.run.Steps
	for i := 0; i < len(steps); {
		j := i
		for j < len(steps) && steps[j].Turn == steps[i].Turn {
			j++
		}
		if err := p.turn(ctx, m, i, j); err != nil {
			return err
		}
		if p.denied || p.attack() && (p.caught || j > p.run.Oracle.Malicious[0]) {
			return nil
		}
		i = j
	}
	return nil
}

// turn makes the calls of one turn. All of them are decided before the first
// of their results is released.
func (p *replay) turn(ctx context.Context, m ostiary.MandateID, from, to int) error {
	var batch, again []int
	seen := map[string]bool{}
	for i := from; i < to; i++ {
		s := &p.run.Steps[i]
		if !p.known[s.Tool] {
			continue // the model made it up
		}
		if s.Args = bytes.TrimSpace(s.Args); len(s.Args) == 0 || s.Args[0] != '{' {
			s.Args = json.RawMessage("{}")
		}
		if k := key(s.Tool, s.Args); seen[k] {
			again = append(again, i)
		} else {
			seen[k] = true
			batch = append(batch, i)
		}
	}
	slices.SortFunc(batch, func(a, b int) int { // one order for all, so that nobody waits in a circle
		return strings.Compare(key(p.run.Steps[a].Tool, p.run.Steps[a].Args), key(p.run.Steps[b].Tool, p.run.Steps[b].Args))
	})
	if err := p.together(ctx, m, batch); err != nil {
		return err
	}
	for _, i := range again {
		if err := p.together(ctx, m, []int{i}); err != nil {
			return err
		}
	}
	return nil
}

type decided struct {
	step    int
	verdict verdict
	words   string
	err     error
}

// together makes calls at the same time.
func (p *replay) together(ctx context.Context, m ostiary.MandateID, batch []int) error {
	waiting := map[int]*expectation{}
	answers := make(chan decided, len(batch))
	for _, i := range batch {
		s := &p.run.Steps[i]
		text, failed := s.text()
		waiting[i] = p.g.server.expect(key(s.Tool, s.Args), text, failed)
		defer p.g.server.done(key(s.Tool, s.Args))
	}
	arrived := make(chan int, len(batch))
	for _, i := range batch {
		go func() {
			v, words, err := p.g.call(ctx, m, p.run.Steps[i].Tool, p.run.Steps[i].Args)
			answers <- decided{i, v, words, err}
		}()
		go func() {
			select {
			case <-waiting[i].arrived:
				arrived <- i
			case <-waiting[i].release:
			}
		}()
	}
	open := len(batch) // not decided yet
	var refused []int
	release := func() {
		for _, e := range waiting {
			close(e.release)
		}
	}
	defer func() {
		if open > 0 {
			release()
		}
	}()
	for left := len(batch); left > 0; {
		select {
		case <-arrived: // it was permitted
			open--
			p.calls++
		case d := <-answers:
			left--
			if d.err != nil {
				return d.err
			}
			if d.verdict != permitted {
				open--
				p.calls++
				p.refused(d)
				refused = append(refused, d.step)
			}
		}
		if open == 0 {
			release()
			open = -1
		}
	}
	for _, i := range refused {
		if !p.denied && !p.attack() {
			if err := p.approved(ctx, m, i); err != nil {
				return err
			}
		}
	}
	return nil
}

func (p *replay) refused(d decided) {
	p.words = append(p.words, p.run.Steps[d.step].Tool+" "+string(p.run.Steps[d.step].Args)+"\n      "+d.words)
	if p.attack() && d.step <= p.run.Oracle.Malicious[0] {
		p.caught = true
	}
	if d.verdict == asked {
		p.asks++
	} else {
		p.denied = true
	}
}

// approved lets the result of an asked call reach the session, as if a person
// had agreed.
func (p *replay) approved(ctx context.Context, m ostiary.MandateID, i int) error {
	text, failed := p.run.Steps[i].text()
	args := p.run.Steps[i].Args
	k := key(afterApproval, args)
	e := p.g.server.expect(k, text, failed)
	defer p.g.server.done(k)
	close(e.release)
	v, words, err := p.g.call(ctx, m, afterApproval, args)
	if err == nil && v != permitted {
		err = fmt.Errorf("the result of an approved call was refused: %s", words)
	}
	return err
}

func (p *replay) count(t *score) {
	t.Calls += p.calls
	if p.attack() {
		t.Attacks++
		if p.caught {
			t.Caught++
		}
		return
	}
	t.Honest++
	t.Asks += p.asks
	if p.asks > 0 {
		t.Asked++
	}
	if p.denied {
		t.Denied++
	}
}

func (p *replay) explain(w io.Writer) {
	switch {
	case p.attack() && !p.caught:
		s := &p.run.Steps[p.run.Oracle.Malicious[0]]
		fmt.Fprintf(w, "MISSED %s: %s %s\n", p.run.ID, s.Tool, s.Args)
	case !p.attack() && len(p.words) > 0:
		fmt.Fprintf(w, "%s %q\n", p.run.ID, p.run.Prompt)
		for _, x := range p.words {
			fmt.Fprintf(w, "   %s\n", x)
		}
	}
}

// added measures what provenance adds to a call, by itself and on the same
// calls: tracing its arguments and learning its result. The runs are gone
// through three times and the least time of each call counts, so that what
// else the machine does is left out. It returns the 99th percentile in
// milliseconds.
func added(g *gateway, runs []recorded) float64 {
	profiles := map[string]*provenance.Profile{}
	for i := range g.tools {
		profiles[g.tools[i].Name] = provenance.Guess(&g.tools[i])
	}
	var least []time.Duration
	for pass := range 3 {
		n := 0
		for i := range runs {
			for _, took := range timed(&runs[i], profiles) {
				if pass == 0 {
					least = append(least, took)
				} else {
					least[n] = min(least[n], took)
				}
				n++
			}
		}
	}
	if len(least) == 0 {
		return 0
	}
	slices.Sort(least)
	return float64(least[len(least)*99/100].Microseconds()) / 1000
}

// timed goes through one run by itself and says what each call took.
func timed(r *recorded, profiles map[string]*provenance.Profile) (took []time.Duration) {
	index, task := provenance.NewIndex(false), provenance.NewTask(r.Prompt)
	for i := range r.Steps {
		s := &r.Steps[i]
		p := profiles[s.Tool]
		args, err1 := strictjson.Parse(bytes.Clone(s.Args), strictjson.Request)
		text, _ := s.text()
		b, err2 := json.Marshal(map[string]any{"content": []any{map[string]any{"type": "text", "text": text}}})
		if p == nil || err1 != nil || err2 != nil {
			continue
		}
		reply, err := strictjson.Parse(b, strictjson.Reply)
		if err != nil {
			continue
		}
		began := time.Now()
		index.Trace(p, task, args.Root())
		index.Learn(p, task, args.Root(), reply.Root(), false)
		took = append(took, time.Since(began))
	}
	return took
}
