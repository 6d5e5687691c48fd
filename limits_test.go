package ostiary_test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// limit is how long something may take, and who waits for it: what is inside
// ends first, so that whoever waits outside hears why and does not give up
// just before.
type limit struct {
	name   string // package and constant, or package and the field that has a default
	of     string
	within []string // who waits for it
}

// limits is the one table of what waits, from the inside out.
var limits = []limit{
	{"internal/egress.resolveTimeout", "the addresses of a tool server's name", []string{"internal/egress.breaker.Slow"}},
	{"internal/egress.dialTimeout", "one attempt to connect to a tool server", []string{"internal/egress.breaker.Slow"}},
	{"internal/egress.fetchTimeout", "a client's metadata document, or an issuer's keys, while a person's browser waits", []string{"internal/egress.breaker.Slow"}},
	{"internal/egress.handshakeTimeout", "TLS with a tool server", []string{"internal/egress.breaker.Slow"}},
	{"internal/egress.probePatience", "a stdio server's answer to which revision it speaks", []string{"internal/egress.limits.Start"}},
	{"internal/egress.writePatience", "a stdio server to take a message", []string{"internal/egress.limits.Start"}},
	{"internal/egress.limits.Start", "a stdio server to be ready", []string{"internal/egress.limits.Head", "internal/daemon.Ledger.MaxActionTime"}},
	{"internal/egress.breaker.Slow", "the first answer of a server before the call counts as failed; `servers.NAME.breaker.slow`", []string{"internal/egress.limits.Head"}},
	{"internal/egress.limits.Head", "the start of a server's answer", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/egress.limits.Idle", "the next piece of a server's answer", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/egress.drainTime", "the rest of an answer that nobody wants any more", []string{"internal/egress.limits.Idle", "internal/daemon.drainTimeout"}},
	{"internal/egress.limits.Stop", "a stdio server at each of the three steps of ending it", []string{"internal/daemon.drainTimeout"}},
	{"internal/door/mcp.clientTimeout", "a person at the client to answer what a server asked", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/door/mcp.writeTimeout", "the agent to take a piece of its answer", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/stricthttp.Limits.Arrival", "the head of an agent's request", []string{"internal/door/mcp.bodyTimeout"}},
	{"internal/door/mcp.headerTimeout", "the same, in net/http", []string{"internal/door/mcp.bodyTimeout"}},
	{"internal/door/mcp.bodyTimeout", "the body of an agent's request", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/people.providerTimeout", "one question to the OpenID provider", []string{"internal/console.answerTimeout"}},
	{"internal/daemon.consoleHeadTime", "the head of a browser's request", []string{"internal/daemon.consoleReadTime"}},
	{"internal/daemon.consoleReadTime", "all of a browser's request, where a page says nothing narrower", []string{"internal/daemon.consoleWriteTime"}},
	{"internal/daemon.consoleWriteTime", "an answer to a browser, where a page says nothing narrower", []string{"internal/daemon.consoleIdleTime"}},
	{"internal/daemon.consoleIdleTime", "the next request on a browser's connection", nil},
	{"internal/daemon.controlHeadTime", "the head of a command's request", []string{"internal/daemon.controlIdleTime"}},
	{"internal/daemon.controlIdleTime", "the next request on a command's connection", nil},
	{"internal/people.removingTimeout", "an operator to be removed, or to lose the role", []string{"internal/people.removingLife", "internal/console.answerTimeout"}},
	{"internal/people.removingLife", "another gateway, of which nobody can say whether it removed one", nil},
	{"internal/console.bodyTimeout", "what a browser sends", []string{"internal/console.answerTimeout"}},
	{"internal/console.answerTimeout", "a page of the console", nil},
	{"internal/console.liveWrite", "a browser to take one event of a live page", []string{"internal/console.answerTimeout"}},
	{"internal/control/oauth.bodyTimeout", "what a client sends to the authorization server", []string{"internal/door/mcp.idleTimeout"}},
	{"internal/control/oauth.endTimeout", "a mandate to end whose code or refresh token was shown twice", []string{"internal/control/oauth.claimLife"}},
	{"internal/control/oauth.claimLife", "what a code stands for to be handed out", nil},
	{"internal/identity.bodyTimeout", "the body of an enrolment", []string{"internal/door/mcp.idleTimeout"}},
	{"internal/provenance.storeTimeout", "what a session read to be stored, before it is shown", []string{"internal/store.batchTimeout", "internal/gate.settleTimeout"}},
	{"internal/budget.settleTimeout", "the store to take what a call cost, at the end of its reply; after that it is told again", []string{"internal/store.batchTimeout", "internal/gate.settleTimeout"}},
	{"internal/store.connectTimeout", "the database server to let us in", []string{"internal/store.batchTimeout"}},
	{"internal/store.batchTimeout", "the database server to answer a read or a batch of writes", []string{"internal/control/oauth.endTimeout", "internal/gate.settleTimeout"}},
	{"internal/ledger.fullWithin", "room in the log before a call is refused for want of it", []string{"internal/gate.settleTimeout"}},
	{"internal/gate.settleTimeout", "an outcome to be durable, also when the caller left", []string{"internal/daemon.settleMargin"}},
	{"internal/daemon.settleMargin", "a call that was ended for its length to settle; then its intent is Unknown", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/daemon.Ledger.MaxActionTime", "one call as a whole; `ledger.max_action_time`", nil},
	{"internal/daemon.storeAnswers", "the store to answer a question about health", []string{"internal/containment.Lease"}},
	{"internal/daemon.refreshEvery", "the next look at changes of the control state", []string{"internal/containment.Lease", "internal/daemon.lease"}},
	{"internal/containment.Lease", "word from the store before containment is not established", nil},
	{"internal/daemon.lease", "word from a shared store before nobody is authenticated", nil},
	{"internal/daemon.firstReadingTimeout", "what servers offer, before the doors open", []string{"internal/control.readTimeout"}},
	{"internal/control.readTimeout", "all that one server offers", []string{"internal/daemon.Tools.Recheck"}},
	{"internal/daemon.Tools.Recheck", "the next reading of what servers offer; `tools.recheck`", nil},
	{"internal/control.undoTimeout", "a call that takes another one back, while an operator waits", []string{"internal/daemon.Ledger.MaxActionTime"}},
	{"internal/control.indexPatience", "the index to hold what the log held when it was asked for", []string{"internal/control.readTimeout"}},
	{"internal/daemon.pulseEvery", "the next look at whether logs move", []string{"internal/daemon.pulseStops"}},
	{"internal/daemon.pulseStops", "a log that does not move, before the process counts as dead", nil},
	{"internal/daemon.rewrapEvery", "the next pass over data keys that are to be wrapped under another storage key", []string{"internal/daemon.wrapSettles"}},
	{"internal/daemon.wrapSettles", "an old storage key after its last use, since another gateway may be storing what it wrapped", []string{"internal/daemon.keyWindow"}},
	{"internal/daemon.keyWindow", "a key that signs no more to be refused; `ostiary keys rotate --window`", nil},
	{"internal/daemon.storageWindow", "the same of a storage key, and so how old a backup may be whose payloads open", nil},
	{"internal/daemon.signingLead", "a new key for requests to be put into tool servers; `ostiary keys rotate --lead`", nil},
	{"internal/daemon.folderTimeout", "another gateway that looks at sockets in the same folder", nil},
	{"internal/telemetry.exportTimeout", "the collector to take spans", nil},
	{"internal/telemetry.headTimeout", "the head of a request for metrics", []string{"internal/telemetry.scrapeTimeout"}},
	{"internal/telemetry.scrapeTimeout", "an answer with metrics", nil},
	{"internal/daemon.flushTimeout", "the last spans at shutdown", []string{"internal/daemon.drainTimeout"}},
	{"internal/daemon.drainTimeout", "running calls at shutdown; what has not settled then is Unknown to the next start", nil},
	{"internal/door/mcp.idleTimeout", "the next request on an agent's connection", nil},
	{"internal/stricthttp.answerTime", "a stranger to take the answer that refuses it", []string{"internal/stricthttp.Limits.Arrival"}},
	{"internal/stricthttp.lingerTime", "a stranger to read it before the connection ends", []string{"internal/stricthttp.answerTime"}},
}

// noWaits are durations of the same packages that nobody waits for: how long
// things live, and how often something is done.
var noWaits = map[string]bool{
	"internal/daemon.clockApart": true, "internal/daemon.indexAgain": true, "internal/daemon.rootSoon": true, "internal/daemon.wakeEvery": true, "internal/daemon.thriftEvery": true, "internal/daemon.intermediateSoon": true,
	"internal/daemon.sweepEvery": true, "internal/daemon.settleEvery": true, "internal/daemon.keptAccounts": true, "internal/daemon.certificateSoon": true, "internal/daemon.lookAgain": true,
	"internal/door/mcp.keepalive": true, "internal/door/mcp.sessionIdle": true, "internal/door/mcp.listenPoll": true, "internal/door/mcp.stateLife": true,
	"internal/egress.idleTimeout": true, "internal/egress.idleLook": true, "internal/egress.signatureLife": true, "internal/egress.firstPause": true, "internal/egress.longestPause": true,
	"internal/egress.settled": true, "internal/egress.breaker.OpenFor": true, "internal/egress.limits.Total": true, // the daemon sets it to max_action_time
	"internal/gate.throttleEvery": true, "internal/ledger.retryPrepare": true, "internal/ledger.indexPause": true, "internal/ledger.tick": true,
	"internal/ledger.DefaultLongest": true, "internal/control.indexPoll": true, "internal/store.postgresPrime": true, "internal/telemetry.pause": true,
	"internal/people.SessionLife": true, "internal/people.SessionIdle": true, "internal/people.LoginLife": true, "internal/people.CeremonyLife": true,
	"internal/people.InviteLife": true, "internal/people.MaxInviteLife": true, "internal/people.FirstLife": true, "internal/people.seenEvery": true,
	"internal/daemon.maxHoldLife": true, "internal/daemon.maxHoldWait": true, "internal/door/mcp.progressEvery": true,
	"internal/people.askAgain": true, "internal/people.clockApart": true, "internal/console.maxLife": true, "internal/console.aDay": true,
	"internal/console.liveLook": true, "internal/console.liveEvery": true, "internal/console.liveLife": true, "internal/console.shadowLooked": true, "internal/console.slot": true,
	"internal/control/oauth.PendingLife": true, "internal/control/oauth.CodeLife": true, "internal/control/oauth.WantLife": true, "internal/control/oauth.MaxWantLife": true,
	"internal/control/oauth.documentLife": true, "internal/control/oauth.registeredLife": true, "internal/control/oauth.skew": true, "internal/control/oauth.retryGrace": true,
	"internal/daemon.Identity.SVIDLife": true, "internal/daemon.Identity.TokenLife": true, "internal/daemon.Identity.MandateLife": true,
}

// waiting are the packages of the flow and of signing in, whose every duration is in one of the
// two tables.
var waiting = []string{"internal/gate", "internal/egress", "internal/ledger", "internal/door/mcp", "internal/daemon", "internal/containment", "internal/budget", "internal/control", "internal/provenance", "internal/store", "internal/stricthttp", "internal/telemetry", "internal/people", "internal/console", "internal/control/oauth"}

// durations evaluates every named duration of the packages: constants, and
// defaults of fields, which are set as set(&l.Head, 5*time.Minute), dur(…), a
// map of pointers, or in a literal.
func durations(t *testing.T) map[string]time.Duration {
	t.Helper()
	all := map[string]time.Duration{}
	for _, f := range goFiles(t) {
		if f.test || !slices.Contains(waiting, f.pkg) && f.pkg != "internal/identity" {
			continue
		}
		file, err := parser.ParseFile(token.NewFileSet(), f.name, f.source, 0)
		if err != nil {
			t.Fatal(err)
		}
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if i < len(n.Values) {
						note(all, f.pkg+"."+name.Name, n.Values[i])
					}
				}
			case *ast.CallExpr:
				if id, ok := n.Fun.(*ast.Ident); ok && (id.Name == "set" || id.Name == "dur") && len(n.Args) == 2 {
					note(all, f.pkg+"."+fieldOf(n.Args[0]), n.Args[1])
				}
			case *ast.KeyValueExpr:
				if u, ok := n.Key.(*ast.UnaryExpr); ok {
					note(all, f.pkg+"."+fieldOf(u), n.Value)
				} else if id, ok := n.Key.(*ast.Ident); ok && id.Name == "Arrival" {
					note(all, f.pkg+".Limits.Arrival", n.Value)
				}
			}
			return true
		})
	}
	return all
}

func note(all map[string]time.Duration, name string, e ast.Expr) {
	if d, isTime, ok := evaluate(e); ok && isTime {
		all[name] = time.Duration(d)
	}
}

// fieldOf names &l.Head by the kind of its receiver: limits.Head,
// breaker.Slow, Ledger.MaxActionTime.
func fieldOf(e ast.Expr) string {
	u, ok := e.(*ast.UnaryExpr)
	if !ok {
		return "?"
	}
	s, ok := u.X.(*ast.SelectorExpr)
	if !ok {
		return "?"
	}
	switch x := s.X.(type) {
	case *ast.SelectorExpr:
		return x.Sel.Name + "." + s.Sel.Name
	case *ast.Ident:
		return map[string]string{"l": "limits", "b": "breaker"}[x.Name] + "." + s.Sel.Name
	}
	return "?"
}

// evaluate computes products of numbers and units of package time.
func evaluate(e ast.Expr) (n int64, isTime, ok bool) {
	switch e := e.(type) {
	case *ast.BasicLit:
		n, err := strconv.ParseInt(e.Value, 0, 64)
		return n, false, err == nil
	case *ast.SelectorExpr:
		unit := map[string]time.Duration{"Millisecond": time.Millisecond, "Second": time.Second, "Minute": time.Minute, "Hour": time.Hour}[e.Sel.Name]
		return int64(unit), true, isPackage(e, "time") && unit != 0
	case *ast.BinaryExpr:
		a, t1, ok1 := evaluate(e.X)
		b, t2, ok2 := evaluate(e.Y)
		return a * b, t1 || t2, ok1 && ok2 && e.Op == token.MUL
	}
	return 0, false, false
}

// TestLimitsNest: what is inside ends before what waits for it, and every
// duration of the flow is in a table.
func TestLimitsNest(t *testing.T) {
	have := durations(t)
	listed := maps.Clone(noWaits)
	for _, l := range limits {
		listed[l.name] = true
		if have[l.name] == 0 {
			t.Errorf("%s is listed, and there is no such duration", l.name)
		}
		for _, outer := range l.within {
			if have[l.name] >= have[outer] {
				t.Errorf("%s (%v) does not end before %s (%v), which waits for it", l.name, have[l.name], outer, have[outer])
			}
			if !slices.ContainsFunc(limits, func(o limit) bool { return o.name == outer }) {
				t.Errorf("%s waits for %s and is not listed", outer, l.name)
			}
		}
	}
	for name, d := range have {
		if !listed[name] && !strings.HasPrefix(name, "internal/identity.") {
			t.Errorf("%s (%v) is in no table: who waits for it?", name, d)
		}
	}
	for name := range noWaits {
		if have[name] == 0 {
			t.Errorf("%s is listed, and there is no such duration", name)
		}
	}
	if len(have) < 50 {
		t.Errorf("found %d durations: looked in the wrong place", len(have))
	}
}

// TestNobodyWaitsForEver: every server bounds what it reads, every dialer how
// long it tries, and what goes on after its caller left has an end of its own.
func TestNobodyWaitsForEver(t *testing.T) {
	// detached says why a context without its caller's end needs none.
	detached := map[string]string{
		"internal/daemon/contain.go": "the follower ends when the gateway closes, which waits for it",
		"internal/daemon/reload.go":  "readings inside have their own limit",
		"internal/bridge/stdio.go":   "it ends its streams first, and the last message has a limit of its own",
		"internal/egress/remote.go":  "a timer, the caller and the owner end it, in the next lines",
		"internal/ledger/recover.go": "the workers end when the log closes, which waits for them",
		"internal/store/index.go":    "undoing a transaction of a local file",
	}
	servers, dialers, contexts := 0, 0, 0
	for _, f := range goFiles(t) {
		if _, floor, _ := floorOf(f.pkg); f.test || floor == 7 || strings.HasSuffix(f.pkg, "test") {
			continue
		}
		lines := strings.Split(f.source, "\n")
		for i, line := range lines {
			near := strings.Join(lines[i:min(i+9, len(lines))], "\n")
			if strings.Contains(line, "http.Server{") && !strings.Contains(line, "[]") {
				servers++
				if !strings.Contains(near, "ReadHeaderTimeout") && !strings.Contains(near, "ReadTimeout") || !strings.Contains(near, "IdleTimeout") {
					t.Errorf("%s:%d: a server without limits", f.name, i+1)
				}
			}
			if strings.Contains(line, "net.Dialer{") {
				dialers++
				if !strings.Contains(near, "Timeout:") {
					t.Errorf("%s:%d: a dialer without a limit", f.name, i+1)
				}
			}
			if strings.Contains(line, "context.WithoutCancel(") {
				contexts++
				if !strings.Contains(line, "WithTimeout") && detached[f.name] == "" {
					t.Errorf("%s:%d: it goes on without its caller and has no end", f.name, i+1)
				}
			}
		}
	}
	if servers < 4 || dialers < 2 || contexts < 3 {
		t.Errorf("found %d servers, %d dialers, %d contexts: looked in the wrong place", servers, dialers, contexts)
	}
}

// TestLimitsReference: the page for operators says what the table says.
func TestLimitsReference(t *testing.T) {
	have := durations(t)
	short := func(name string) string { return strings.TrimPrefix(name, "internal/") }
	var b strings.Builder
	b.WriteString("| limit | default | for | inside of |\n|---|---|---|---|\n")
	for _, l := range limits {
		var outer []string
		for _, o := range l.within {
			outer = append(outer, fmt.Sprintf("%s (%v)", short(o), have[o]))
		}
		fmt.Fprintf(&b, "| %s | %v | %s | %s |\n", short(l.name), have[l.name], l.of, strings.Join(outer, ", "))
	}
	const page, begin, end = "docs/operations.md", "<!-- limits, from limits_test.go -->\n", "<!-- end of limits -->\n"
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	head, rest, ok := strings.Cut(string(text), begin)
	old, tail, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the limits", page)
	}
	if *update {
		if err := os.WriteFile(page, []byte(head+begin+b.String()+end+tail), 0o644); err != nil {
			t.Fatal(err)
		}
	} else if old != b.String() {
		t.Errorf("%s is not what the table says; go test . -run TestLimitsReference -update", page)
	}
}
