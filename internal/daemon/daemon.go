// Package daemon wires the gateway: it alone knows everyone. One function
// builds every part bottom-up from the configuration, one runs them, and
// shutting down loses nothing: doors close, running calls settle, the log is
// closed, in that order.
//
// It holds no logic of its own beyond order and lifetime.
package daemon

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/budget"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/containment"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/control/oauth"
	"github.com/ostiary/ostiary/internal/door/mcp"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/keyring"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/rotation"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/telemetry"
)

// drainTimeout bounds how long running calls may take to settle at shutdown;
// what has not settled then is Unknown to the next start.
const drainTimeout = 20 * time.Second

// firstReadingTimeout bounds how long the doors stay closed for servers that
// do not answer.
const firstReadingTimeout = 10 * time.Second

// refreshEvery is how often what other processes changed in the control state
// is read: often enough that what was revoked there is refused here within
// 250 ms. A change made through this process is read at once.
const refreshEvery = 100 * time.Millisecond

// Daemon is one gateway with its control side, built and not yet serving.
type Daemon struct {
	cfg   *Config // as the gateway started with; see Reload
	log   *slog.Logger
	clock func() time.Time
	files ledger.FS

	confirming bool // the fence of a restored data folder is being taken down

	started time.Time // by wall and monotonic clock

	ring      *keyring.Ring
	keys      *keys
	store     *store.SQL
	journal   *journal
	contained *containment.Levels
	entities  entities
	budgets   *budget.Budgets
	authority *identity.Authority
	book      *catalog.Book
	engine    *policy.Engine
	egress    *egress.Egress
	gate      *gate.Gate
	control   *control.Control
	door      *mcp.Door
	approvals *approval.Approvals // nil if nobody can consent
	live      live                // what Reload replaces
	health    health

	agents   net.Listener
	loopback net.Listener // nil if off
	probing  net.Listener // nil if off
	socket   net.Listener

	pages pages         // zero if off
	oauth *oauth.Server // nil if off

	telemetry *telemetry.Telemetry // nil if off
	metrics   net.Listener         // nil if off
	issued    *provenance.Sessions

	closers []func() error // in the order things were opened
}

// Open builds a gateway from its configuration: everything that can be wrong
// with keys, store, log, policy or addresses is found here. Close it, or Run it.
func Open(ctx context.Context, cfg *Config, log *slog.Logger) (*Daemon, error) {
	return open(ctx, cfg, log, machine{ledger.OS{}, time.Now})
}

// machine is what a gateway stands on and tests let fail.
type machine struct {
	files ledger.FS // under the logs
	clock func() time.Time
}

func open(ctx context.Context, cfg *Config, log *slog.Logger, on machine) (_ *Daemon, err error) {
	d := &Daemon{cfg: cfg, log: log, clock: on.clock, files: on.files, started: time.Now()}
	defer func() {
		if err != nil {
			d.Close()
		}
	}()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"environment", d.openEnvironment},
		{"data folder and keys", d.openKeys},
		{"store", d.openStore},
		{"schedule of keys", d.openSchedule},
		{"log", d.openLog},
		{"containment", d.openContainment},
		{"registry", d.openRegistry},
		{"addresses", d.listen},
		{"telemetry", d.openTelemetry},
		{"identity", d.openIdentity},
		{"catalog", d.openCatalog},
		{"egress", d.openEgress},
		{"approvals", d.openApprovals},
		{"budgets", d.openBudgets},
		{"gate", d.openGate},
		{"test of the budgets", d.probeBudgets},
		{"people", d.openPeople},
		{"control", d.openControl},
		{"policy", d.openPolicy},
		{"door", d.openDoor},
		{"sign-in of clients", d.openOAuth},
		{"console", d.openConsole},
	} {
		if err := step.do(ctx); err != nil {
			return nil, fmt.Errorf("opening %s: %w", step.name, err)
		}
	}
	return d, nil
}

// onClose adds what must be closed, last opened first.
func (d *Daemon) onClose(f func() error) { d.closers = append(d.closers, f) }

// Close ends everything Open built.
func (d *Daemon) Close() error {
	var all []error
	for _, f := range slices.Backward(d.closers) {
		if err := f(); err != nil && !errors.Is(err, net.ErrClosed) {
			all = append(all, err)
		}
	}
	d.closers = nil
	return errors.Join(all...)
}

func (d *Daemon) openEnvironment(context.Context) error {
	if all := effective(); len(all) > 0 {
		d.log.Warn("the environment changes how this process parses or whom it trusts", all...)
	}
	return CheckEnvironment()
}

func (d *Daemon) openKeys(context.Context) (err error) {
	if err := os.MkdirAll(d.cfg.Data, 0o700); err != nil {
		return err
	}
	lock, err := lockData(d.cfg.Data)
	if err != nil {
		return err
	}
	d.onClose(lock.Close)
	if err := notFenced(d.cfg.Data); err != nil && !d.confirming {
		return err
	}
	if d.ring, err = keyring.Open(d.cfg.keysDir()); err != nil {
		return err
	}
	d.onClose(d.ring.Close)
	return nil
}

func (d *Daemon) openLog(ctx context.Context) (err error) {
	if d.journal, err = openJournal(ctx, d.cfg, d.keys, d.store, d.files, d.clock, d.log); err != nil {
		return err
	}
	d.onClose(d.journal.Close)
	return nil
}

func (d *Daemon) listen(context.Context) (err error) {
	if err := checkFiles(); err != nil {
		return err
	}
	if d.agents, err = net.Listen("tcp", d.cfg.Listen.Agents); err != nil {
		return d.cfg.bad("listen.agents", err.Error())
	}
	d.onClose(d.agents.Close)
	if d.cfg.Listen.Loopback != "" {
		if d.loopback, err = net.Listen("tcp", d.cfg.Listen.Loopback); err != nil {
			return d.cfg.bad("listen.loopback", err.Error())
		}
		d.onClose(d.loopback.Close)
	}
	if d.cfg.Listen.Health != "" {
		if d.probing, err = net.Listen("tcp", d.cfg.Listen.Health); err != nil {
			return d.cfg.bad("listen.health", err.Error())
		}
		d.onClose(d.probing.Close)
	}
	if err := d.listenConsole(); err != nil {
		return err
	}
	if d.socket, err = listenUnix(d.cfg.Listen.Control); err != nil {
		return d.cfg.bad("listen.control", err.Error())
	}
	d.onClose(d.socket.Close)
	return nil
}

func (d *Daemon) openIdentity(ctx context.Context) error {
	if err := d.keys.prepare(d.cfg.TrustDomain); err != nil {
		return err
	}
	release, err := oneAtATime(d.cfg.keysDir())
	if err != nil {
		return err
	}
	defer release()
	d.authority, err = identity.Open(ctx, identity.Options{
		TrustDomain: d.cfg.TrustDomain, Dir: d.cfg.identityDir(), Fence: filepath.Join(d.cfg.Data, "identity"), Lease: d.lease(), Keys: d.ring, Schedules: d.keys.book, Registry: d.store, Mandates: d.keys, Issuer: d.signIn(),
		Groups: d.groups,
		Record: control.RefuseSuspended(d.contained, control.RecordEvent(d.journal.deployment, d.clock)), Clock: d.clock, Log: d.log,
		SVIDLife: time.Duration(d.cfg.Identity.SVIDLife), TokenLife: time.Duration(d.cfg.Identity.TokenLife), MandateLife: time.Duration(d.cfg.Identity.MandateLife),
		Grace: grace(*d.cfg.Identity.ReturnWithin), Hosts: d.cfg.Listen.Names, Refused: d.stranger,
	})
	return err
}

// groups answers for the authority; before there is a policy nothing is in any.
func (d *Daemon) groups(action string) []string {
	if d.engine == nil {
		return nil
	}
	return d.engine.Groups(action)
}

// grace is the authority's word for return_within, where negative is off.
func grace(d Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return time.Duration(d)
}

func (d *Daemon) openCatalog(ctx context.Context) error {
	d.book = catalog.New(control.RecordPins(d.store, d.journal.deployment, d.authority.Self().Agent, d.clock), d.clock)
	return d.book.Load(ctx)
}

func (d *Daemon) openEgress(context.Context) error {
	key, id, err := d.keys.current(rotation.Signing)
	if err != nil {
		return err
	}
	o := egress.Options{Tools: d.book, Signer: key, KeyID: id, Signing: d.keys.signing, Clock: d.clock, Logger: d.log, Version: ostiary.Version, Capabilities: `{"sampling":{},"elicitation":{"form":{},"url":{}},"roots":{}}`,
		Limits: egress.Limits{Total: time.Duration(d.cfg.Ledger.MaxActionTime), Conns: mostHere()},
	}
	if o.Servers, err = d.cfg.upstreams(); err != nil {
		return err
	}
	if d.egress, err = egress.New(o); err != nil {
		return d.cfg.blame(err)
	}
	d.onClose(d.egress.Close)
	return nil
}

// RequestKey returns the public key, in PEM, that requests of the gateway with
// this data folder are signed with until it is rotated. It makes folder and key if they do not
// exist, so that a tool server can be set up before its gateway first starts.
func RequestKey(data string) ([]byte, error) {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return nil, err
	}
	ring, err := keyring.Open(filepath.Join(data, "keys"))
	if err != nil {
		return nil, err
	}
	defer ring.Close()
	key, err := ring.Ed25519(requestKey)
	if err != nil {
		return nil, err
	}
	text, err := publicPEM(key.Public())
	return []byte(text), err
}

func (d *Daemon) openGate(context.Context) error {
	d.issued = d.sessions()
	d.engine = policy.New()
	traced := newTracer(d.issued, d.authority, d.book, d.engine)
	r := &gate.Resolver{
		Tools: d.book, Groups: d.engine, Registry: agentFacts{d.authority, d.clock}, Sessions: sessionFacts{d.issued, d.authority}, Containments: d.contained, Tracer: traced, Entities: &d.entities,
		Servers: d.cfg.resources(), Own: ostiary.Resource{Zone: "default", Trusted: true}, Clock: d.clock,
	}
	o := gate.Options{
		Identity: d.authority, Validator: d.book, Policy: d.engine, Ledger: d.journal.gateway, Egress: d.egress,
		Containments: d.contained, Tainter: tainter{d.issued}, Inspectors: []gate.Inspector{mcp.Envelope{}, traced}, Observer: d.observer(), Clock: d.clock, Logger: d.log,
	}
	o.Budgets, o.Keeps = spends{d.budgets}, d.keeps
	d.withApprovals(&o, r)
	o.Facts = d.live.resolving(r)
	d.gate = gate.New(o)
	return nil
}

// reachable is the address of the agents' listener as an agent on another
// machine writes it. Listening everywhere is no address: then the first of the
// configured names stands for it.
func (d *Daemon) reachable() string {
	a := d.agents.Addr().(*net.TCPAddr)
	if !a.IP.IsUnspecified() {
		return a.String()
	}
	return net.JoinHostPort(append(slices.Clone(d.cfg.Listen.Names), "localhost")[0], strconv.Itoa(a.Port))
}

func (d *Daemon) publicURL() string { return "https://" + d.reachable() }

func (d *Daemon) openControl(context.Context) error {
	desc := control.Description{
		Deployment: d.cfg.Deployment, Gateway: d.cfg.Gateway, TrustDomain: d.cfg.TrustDomain,
		Agents: d.reachable(), Endpoint: d.Endpoint(), Keys: d.publicKeys,
	}
	if d.loopback != nil {
		desc.Loopback = d.loopback.Addr().String()
	}
	d.control = control.New(control.Options{
		Authority: d.authority, People: d.pages.people, Sessions: d.issued, Approvals: d.approvals, Book: d.book, Engine: d.engine, Snapshots: d.store, Signing: d.keys.snapshots, PolicyDir: d.cfg.Policy,
		Gate: d.gate, Changes: d.journal.deployment, Log: d.journal.view(d.journal.gateway), Changelog: d.journal.view(d.journal.deployment), Settings: d.cfg.watching(), Process: d, Budgets: d.budgets, Records: d.store,
		Registry: d.entities.book, Owned: d.entities.owned,
		Describe: desc, Containments: d.contained, Conducts: d.conducts, Clock: d.clock, Logger: d.log,
	})
	return nil
}

func publicPEM(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", err
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), nil
}

// openPolicy activates the last good snapshot and publishes the folder if it
// says something else. A folder that does not compile keeps the last good one
// and is an error only if there is none.
func (d *Daemon) openPolicy(ctx context.Context) error {
	had, err := d.control.Restore(ctx)
	if err != nil {
		return err
	}
	p, err := d.control.Publish(ctx)
	for _, problem := range p.Problems {
		d.log.Warn("policy", "file", problem.File, "line", problem.Line, "problem", problem.Message, "suggestion", problem.Suggestion)
	}
	if err != nil && had {
		d.log.Error("the policy folder is refused; the last good snapshot stays", "snapshot", p.Number, "error", err)
		return nil
	}
	if err != nil {
		return policyError(err, p)
	}
	return nil
}

// policyError puts the problems into the error, since there is no gateway yet
// that could be asked for them.
func policyError(err error, p control.Publication) error {
	e := *ostiary.AsError(err)
	var lines []string
	for _, x := range p.Problems {
		if x.Severity == policy.Error {
			lines = append(lines, strings.TrimSuffix(fmt.Sprintf("%s:%d:%d: %s; %s", x.File, x.Line, x.Column, x.Message, x.Suggestion), "; "))
		}
	}
	if len(lines) > 0 {
		e.Detail = "the policy folder does not compile, and there is no earlier snapshot:\n" + strings.Join(lines, "\n")
	}
	return &e
}

func (d *Daemon) openDoor(context.Context) (err error) {
	sealer, err := d.ring.AEAD("door-state")
	if err != nil {
		return err
	}
	o := mcp.Options{
		Gate: d.gate, Identity: d.authority, Catalog: d.book, Containments: d.contained, Visible: visibility{d.engine, &d.live, &d.entities}, PublicURL: d.publicURL(), SignIn: d.signIn(),
		Origins: d.cfg.Listen.Origins, Sealer: sealer, Longest: time.Duration(d.cfg.Ledger.MaxActionTime), Clock: d.clock, Logger: d.log,
	}
	for _, l := range []net.Listener{d.agents, d.loopback} {
		if l != nil {
			o.Hosts = append(o.Hosts, hosts(l.Addr(), d.cfg.Listen.Names)...)
		}
	}
	if d.approvals != nil {
		o.Holds, o.HoldFor = waiting{d.approvals}, d.holdFor()
	}
	o.Servers = d.cfg.shown()
	d.door, err = mcp.New(o)
	return err
}

// hosts lists how a request may name a listener: by its address, as this
// machine, or by a configured name.
func hosts(listener net.Addr, names []string) (all []string) {
	own, port, _ := net.SplitHostPort(listener.String())
	for _, h := range append([]string{own, "localhost", "127.0.0.1", "::1"}, names...) {
		all = append(all, net.JoinHostPort(h, port))
	}
	return all
}

// Endpoint returns the URL of the aggregated MCP endpoint as agents reach it.
func (d *Daemon) Endpoint() string { return d.publicURL() + "/mcp" }

// Control returns the administrative side, for a program that runs the
// gateway inside itself.
func (d *Daemon) Control() *control.Control { return d.control }

// Authority returns the identity side, for a program that runs the gateway
// inside itself.
func (d *Daemon) Authority() *identity.Authority { return d.authority }

// Run serves until ctx ends or a part fails that nothing can go on without.
// It returns nil after an orderly end.
func (d *Daemon) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, 8) // one for each listener and one for the logs, and nobody waits
	defer roomyHeap()()
	defer d.serveHealth()()
	d.firstReading(ctx, d.cfg.serverNames())
	servers := d.serveAll(failed)
	d.health.serving.Store(true)

	var background sync.WaitGroup
	background.Go(func() { d.journal.watch(ctx, failed) })
	background.Go(func() { d.control.Watch(ctx) })
	background.Go(func() { d.refresh(ctx) })
	background.Go(func() { d.rewraps(ctx) })
	background.Go(func() { d.sweep(ctx) })
	if d.approvals != nil {
		background.Go(func() { d.approvals.Run(ctx) })
	}
	background.Go(func() { d.settleLate(ctx) })
	background.Go(func() { d.feel(ctx) })
	background.Go(func() { d.thrift(ctx) })
	background.Go(func() { d.wakeListeners(ctx) })

	where := []any{"agents", d.Endpoint(), "control", d.cfg.Listen.Control}
	if d.cfg.Listen.Console != "" {
		where = append(where, "console", d.consoleURL())
	}
	d.log.Info("serving", where...)
	var err error
	select {
	case <-ctx.Done():
	case err = <-failed:
	}
	d.log.Info("stopping", "cause", err)
	d.health.draining.Store(true)
	cancel()
	return errors.Join(err, d.stop(servers, &background))
}

// firstReading reads what servers offer before anybody may call them, so that
// a definition which changed while the gateway was down is refused from the
// first call on. A server that does not answer in time is read later.
func (d *Daemon) firstReading(ctx context.Context, servers []string) {
	ctx, cancel := context.WithTimeout(ctx, firstReadingTimeout)
	defer cancel()
	var all sync.WaitGroup
	for _, s := range servers {
		all.Go(func() { d.control.Discover(ctx, s) })
	}
	all.Wait()
}

// stop closes doors first, then waits for running calls to settle, then
// closes everything else.
func (d *Daemon) stop(servers []*http.Server, background *sync.WaitGroup) error {
	ctx, cancel := context.WithTimeout(context.Background(), drainTimeout)
	defer cancel()
	var all []error
	for _, s := range servers {
		if err := s.Shutdown(ctx); err != nil {
			s.Close()
		}
	}
	background.Wait()
	if err := d.gate.Drain(ctx); err != nil {
		all = append(all, err)
	}
	return errors.Join(append(all, d.Close())...)
}
