package sim

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/strictjson"
)

var snapshotKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{5}, 32))

// attempt is one call as its agent knows it.
type attempt struct {
	agent  ostiary.AgentID
	uid    string
	tool   string // server/tool
	args   string
	amount int64
	misfit bool // its arguments do not fit the pinned schema, in a way that policy does not know
	began  time.Time
}

// agent makes its calls, one after another, whichever process runs.
func (w *world) agent(i int) {
	rng := rand.New(rand.NewPCG(w.plan.seed, uint64(100+i)))
	name := fmt.Sprintf("a%d", i)
	for n := 0; n < perLot; n++ {
		time.Sleep(odd(rng, wholeTime/perLot))
		l := w.enter()
		for l == nil {
			time.Sleep(odd(rng, 100*time.Millisecond))
			l = w.enter()
		}
		l.one(rng, name, n)
		l.calls.Done()
	}
}

// enter returns the process that runs now, which waits for its caller's Done.
func (w *world) enter() *life {
	w.mu.Lock()
	defer w.mu.Unlock()
	l := w.now.Load()
	if l == nil || l.dead.Load() {
		return nil
	}
	l.calls.Add(1)
	return l
}

func parse(text string) ostiary.Value {
	d, err := strictjson.Parse([]byte(text), strictjson.Request)
	if err != nil {
		panic(err)
	}
	return d.Root()
}

// one is one call of an agent.
func (l *life) one(rng *rand.Rand, name string, n int) {
	a := attempt{agent: agentID(name), uid: fmt.Sprintf("%s.%d", name, n), began: time.Now()}
	server, tool := "bank", "pay"
	a.amount = []int64{1, 50, 500, 999, 5000, -3}[rng.IntN(6)]
	a.args = fmt.Sprintf(`{"to":"x",  "amount":%d,"note":%q}`, a.amount, a.uid)
	switch rng.IntN(8) {
	case 0, 1:
		tool, a.args = "balance", fmt.Sprintf(`{"note":%q}`, a.uid)
	case 2:
		server, tool, a.args = "mail", "inbox", fmt.Sprintf(`{"note":%q}`, a.uid)
	case 3:
		if rng.IntN(2) == 0 {
			a.misfit, a.args = true, fmt.Sprintf(`{"to":"longer","amount":1,"note":%q}`, a.uid)
		} else {
			tool = "close" // there is none
		}
	}
	a.tool = server + "/" + tool
	ctx, cancel := context.WithTimeout(l.ctx, 100*time.Millisecond+odd(rng, 20*time.Second))
	defer cancel()
	early := rng.IntN(10) == 0
	l.w.mu.Lock()
	l.w.n.calls++
	l.w.mu.Unlock()
	l.w.up.expect(a)

	got, r, err := l.ask(ctx, name, server, tool, a, early)
	if l.dead.Load() {
		return // its connection broke
	}
	w := l.w
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case got:
		w.n.delivered++
		w.ended[r.Intent.ID] = a.uid
	default:
		w.n.refused++
	}
	_ = err
}

// ask makes the call and reads what comes back.
func (l *life) ask(ctx context.Context, name, server, tool string, a attempt, early bool) (got bool, r *gate.Reply, err error) {
	r, err = l.gate.Handle(ctx, gate.Call{
		Credentials: ostiary.Credentials{Bearer: ostiary.NewSecret([]byte(name)), Remote: "10.0.0.1"}, Protocol: "sim/1",
		Action: ostiary.Action{Name: server + "___" + tool, Method: "tools/call", Server: server, Tool: tool, Arguments: parse(a.args)},
	})
	l.w.tell("%s %s %s: %v", a.uid, a.tool, a.args, err)
	if err != nil {
		return false, r, err
	}
	defer r.Close()
	finals := 0
	for !early {
		f, err := r.Next(ctx)
		if err != nil {
			l.w.tell("%s ends: %v, %d finals", a.uid, err, finals)
			break
		}
		if l.dead.Load() {
			break
		}
		l.w.overhears(a)
		if server == "mail" {
			l.w.mu.Lock()
			if _, before := l.w.read[a.agent]; !before {
				l.w.read[a.agent] = time.Now()
			}
			l.w.mu.Unlock()
		}
		if f.Kind.Final() {
			finals++
		}
	}
	if finals > 1 {
		l.w.problem("%s got %d ends", a.uid, finals)
	}
	return finals == 1, r, nil
}

// overhears looks at who is told something: nobody who was revoked or is
// contained.
func (w *world) overhears(a attempt) {
	w.mu.Lock()
	revoked, ended := w.revoked[a.agent]
	contained, cut := w.contained[a.agent]
	w.mu.Unlock()
	if ended && revoked.Add(bound).Before(time.Now()) || cut && contained.Add(bound).Before(time.Now()) {
		w.problem("law 9: %s is told what became of %s", a.agent, a.uid)
	}
}

// operator does what operators do, at its own times.
func (w *world) operator(stop <-chan struct{}) {
	rng := rand.New(rand.NewPCG(w.plan.seed, 7))
	for {
		select {
		case <-stop:
			return
		case <-time.After(odd(rng, 3*time.Second)):
		}
		l := w.enter()
		if l == nil {
			continue
		}
		l.operate(rng)
		l.calls.Done()
	}
}

func (l *life) operate(rng *rand.Rand) {
	w := l.w
	switch rng.IntN(9) {
	case 0:
		pay := []int64{0, 100, 1000}[rng.IntN(3)]
		w.tell("publish %d: %v", pay, l.publish(pay))
	case 1:
		id := agentID(fmt.Sprintf("a%d", rng.IntN(agents)))
		w.mu.Lock()
		if _, done := w.revoked[id]; !done && len(w.revoked) < agents/2 {
			w.revoked[id] = time.Now()
		}
		w.mu.Unlock()
		w.tell("revoke %s", id)
	case 2:
		server := []string{"bank", "mail"}[rng.IntN(2)]
		w.up.change(server)
		w.tell("%s changes", server)
		l.observe(server)
	case 3, 4:
		server := []string{"bank", "mail"}[rng.IntN(2)]
		l.observe(server)
		w.tell("accept %s: %v, %v", server, l.accept(server), l.publish(1000))
	case 5:
		step := time.Duration(rng.Int64N(int64(10*time.Second))) - 5*time.Second
		if rng.IntN(4) == 0 {
			step = time.Duration(rng.Int64N(int64(time.Hour)))
		}
		w.shift.Add(int64(step))
		w.tell("the clock steps by %v", step)
	case 6:
		l.list()
	case 7:
		w.contain(agentID(fmt.Sprintf("a%d", rng.IntN(agents))))
	}
	l.keepCheckpoint()
}

// contain cuts an agent off, or releases it.
func (w *world) contain(id ostiary.AgentID) {
	w.mu.Lock()
	_, cut := w.contained[id]
	if cut {
		delete(w.contained, id)
	} else {
		w.contained[id] = time.Now()
		w.n.contained++
	}
	w.mu.Unlock()
	w.tell("%s is contained: %v", id, !cut)
}

// publish compiles a policy that lets agents pay so much, stores it and
// activates it.
func (l *life) publish(pay int64) error {
	w := l.w
	text := fmt.Sprintf(`@id("read")
permit (principal, action in [Ostiary::Action::"bank___balance", Ostiary::Action::"mail___inbox"], resource);
@id("pay")
permit (principal, action == Ostiary::Action::"bank___pay", resource) when { context.input.amount > 0 && context.input.amount <= %d };
@id("tainted")
forbid (principal, action == Ostiary::Action::"bank___pay", resource) when { context.taint.contains("server:mail") };
`, pay)
	set, problems := policy.Compile(policy.Source{Files: map[string][]byte{"main.cedar": []byte(text)}}, l.book.Tools())
	if set == nil {
		w.problem("the policy does not compile: %v", problems)
		return nil
	}
	newest, _, err := w.store.NewestSnapshot(l.ctx)
	if err != nil {
		return err
	}
	signed, err := policy.Sign(newest+1, set, w.clock(), snapshotKey)
	if err != nil {
		return err
	}
	s, err := policy.Open(signed, snapshotKey.Public())
	if err != nil {
		return err
	}
	// From here on it may be in force, at the latest with the next start.
	w.mu.Lock()
	w.limits = append(w.limits, limit{number: newest + 1, pay: pay, from: time.Now()})
	w.mu.Unlock()
	if err := l.lost("snapshots", func() error { return w.store.SaveSnapshot(l.ctx, newest+1, signed) }); err != nil {
		return err // whether it is stored, the next start finds out
	}
	if err := l.engine.Activate(s); err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for i := range w.limits {
		if x := &w.limits[i]; x.number < newest+1 && x.until.IsZero() {
			x.until = time.Now()
		}
	}
	w.n.published++
	return nil
}

// observe reads what a server offers.
func (l *life) observe(server string) {
	w := l.w
	var tools []ostiary.Tool
	offers := w.up.offers(server)
	for _, def := range offers {
		tools = append(tools, catalog.ParseDefinition(server, "tool", parse(def)))
	}
	l.book.Observe(server, "tool", tools)
	w.mu.Lock()
	defer w.mu.Unlock()
	for i, t := range tools {
		name := server + "/" + t.Name
		known := slices.Contains(w.accepted[name], offers[i])
		switch s := w.suspect[name]; {
		case known || len(w.accepted[name]) == 0:
			delete(w.suspect, name)
		case s == nil:
			w.suspect[name] = &span{from: time.Now()}
			w.n.changed++
		}
	}
}

// accept accepts what a server offers, and makes policy know it.
func (l *life) accept(server string) error {
	w := l.w
	w.mu.Lock()
	for _, def := range w.up.offers(server) {
		name := server + "/" + parse(def).Get("name").Text()
		w.accepted[name] = append(w.accepted[name], def)
		delete(w.suspect, name)
	}
	w.mu.Unlock()
	_, err := l.book.Accept(l.ctx, server, "", "operator")
	return err
}

// list is an agent reading what tools there are.
func (l *life) list() {
	w := l.w
	for _, t := range l.book.Tools() {
		if t.State != ostiary.ToolPinned {
			continue
		}
		w.mu.Lock()
		known := slices.Contains(w.accepted[t.Server+"/"+t.Name], string(t.Definition.Bytes()))
		w.mu.Unlock()
		if !known {
			w.problem("law 11: an agent reads %s as nobody accepted it: %s", t.Name, t.Definition.Bytes())
		}
	}
}
