package daemon

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/rotation"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/proof"
)

const (
	rootSoon         = 90 * 24 * time.Hour // a new root reaches every agent by hand
	intermediateSoon = 7 * 24 * time.Hour  // a new one is made at a start
	lowDisk          = 1 << 30             // bytes: hours of a busy gateway
	clockApart       = 2 * time.Second     // more than any clock is slewed in a while
	manyOpen         = 1000                // actions under way on the largest gateway measured
	farBehind        = 10_000              // entries an index is behind after a burst
	wholeLog         = 1 << 30             // bytes of log verified on the spot: some seconds
)

// checkup collects what was looked at.
type checkup []control.Check

func (c *checkup) ok(name, format string, a ...any) {
	*c = append(*c, control.Check{Name: name, State: control.CheckOK, Detail: fmt.Sprintf(format, a...)})
}

func (c *checkup) warn(name, do, format string, a ...any) {
	*c = append(*c, control.Check{Name: name, State: control.CheckWarn, Detail: fmt.Sprintf(format, a...), Do: do})
}

func (c *checkup) fail(name, do, format string, a ...any) {
	*c = append(*c, control.Check{Name: name, State: control.CheckFail, Detail: fmt.Sprintf(format, a...), Do: do})
}

// Surroundings checks what can be seen from outside, whether a gateway runs
// or not: environment, files, certificates, room and clock.
func Surroundings(cfg *Config) []control.Check {
	var c checkup
	if err := CheckEnvironment(); err != nil {
		c.fail("environment", "start it with a clean environment", "%s", ostiary.AsError(err).Detail)
	} else {
		c.ok("environment", "nothing in it weakens TLS or parsing")
	}
	if n := len(cfg.Listen.Control); n > maxSocketPath {
		c.fail("control socket", "set listen.control to a shorter path", "its path has %d bytes, and a Unix socket's may have %d", n, maxSocketPath)
	} else {
		c.ok("control socket", "%s", cfg.Listen.Control)
	}
	c.clock()
	if _, err := os.Stat(cfg.Data); errors.Is(err, fs.ErrNotExist) {
		c.warn("data", "start the gateway once", "there is no data folder %s yet", cfg.Data)
		return c
	}
	c.modes(cfg)
	c.room(cfg)
	c.certificates(cfg)
	c.console(cfg)
	return c
}

// clock asks the kernel whether anything keeps the clock right.
func (c *checkup) clock() {
	var t unix.Timex
	state, err := unix.Adjtimex(&t)
	if err != nil || state == unix.TIME_ERROR {
		c.warn("clock", "run chrony or systemd-timesyncd; in a container, on its host", "nothing keeps this machine's clock synchronized, and certificates, tokens and the log depend on it")
		return
	}
	c.ok("clock", "synchronized")
}

// modes looks for what others may read.
func (c *checkup) modes(cfg *Config) {
	var open []string
	secret := func(path string) {
		st, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			c.fail("file modes", "run this as the user the gateway runs as", "%v", err)
		case st.Mode().Perm()&0o077 != 0:
			open = append(open, fmt.Sprintf("%s (%o)", path, st.Mode().Perm()))
		}
	}
	before := len(*c)
	for _, path := range []string{cfg.Data, cfg.keysDir(), cfg.identityDir(), filepath.Join(cfg.Data, "log"), filepath.Join(cfg.Data, "state.db")} {
		secret(path)
	}
	keys, err := os.ReadDir(cfg.keysDir())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		c.fail("file modes", "run this as the user the gateway runs as", "%v", err)
	}
	for _, k := range keys {
		secret(filepath.Join(cfg.keysDir(), k.Name()))
	}
	for _, name := range cfg.serverNames() {
		if b := cfg.Servers[name].Bearer; b != "" {
			secret(b)
			if _, err := os.Stat(b); err != nil {
				c.fail("credential of "+name, "write the file, or take bearer_file out", "%v", err)
			}
		}
	}
	switch {
	case len(open) > 0:
		c.fail("file modes", "chmod go= each of them, and think about who may have read it", "others may read %s", strings.Join(open, ", "))
	case len(*c) == before:
		c.ok("file modes", "only their owner can read store, log and %d keys", len(keys))
	}
}

func (c *checkup) room(cfg *Config) {
	s, err := ledger.OS{}.Free(cfg.Data)
	// Two spare segments and a reserve are prepared beside the live one, of
	// each of the two logs.
	least := uint64(3 * int64(cfg.Ledger.SegmentSize) * 2)
	switch {
	case err != nil:
		c.fail("disk", "", "%v", err)
	case s.Free < least:
		c.fail("disk", "make room: actions are refused when the log finds none", "%d MiB are free, and the log prepares up to %d", s.Free>>20, least>>20)
	case s.Free < lowDisk || s.Free < s.Total/20:
		c.warn("disk", "make room: actions are refused when the log finds none", "%d MiB of %d are free", s.Free>>20, s.Total>>20)
	case s.AllInodes > 0 && s.FreeInodes < s.AllInodes/20:
		c.warn("disk", "make room: tiles are many small files", "%d of %d inodes are free", s.FreeInodes, s.AllInodes)
	default:
		c.ok("disk", "%d MiB are free", s.Free>>20)
	}
}

// rotated looks at the authorities that followed the first ones.
func (c *checkup) rotated(d *Daemon) {
	now := d.clock()
	for p, soon := range map[rotation.Purpose]time.Duration{rotation.Root: rootSoon, rotation.Intermediate: intermediateSoon} {
		k := d.keys.book.Schedule().Current(p, now)
		if k.Generation < 2 {
			continue
		}
		if s := d.keyState(d.keys.book.Schedule(), k); s.Expires.Sub(now) < soon {
			c.warn(k.String(), "ostiary keys rotate "+string(p), "its certificate ends %s", s.Expires.UTC().Format(time.DateOnly))
		}
	}
}

func (c *checkup) certificates(cfg *Config) {
	for _, x := range []struct {
		name string
		soon time.Duration
		do   string
	}{{"root", rootSoon, "rotate it long before then: ostiary keys rotate root"}, {"intermediate", intermediateSoon, "restart the gateway, or rotate it: ostiary keys rotate intermediate"}} {
		name := x.name + " certificate"
		if _, err := os.Stat(filepath.Join(cfg.keysDir(), "g2-ca-"+x.name+".pem")); err == nil {
			c.ok(name, "it was rotated; the running gateway knows until when the present one lasts: ostiary keys list --json")
			continue
		}
		b, err := os.ReadFile(filepath.Join(cfg.identityDir(), x.name+".pem"))
		if errors.Is(err, fs.ErrNotExist) {
			c.warn(name, "start the gateway once", "there is none yet")
			continue
		}
		block, _ := pem.Decode(b)
		if err != nil || block == nil {
			c.fail(name, "restore it from a backup", "it cannot be read: %v", err)
			continue
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			c.fail(name, "restore it from a backup", "it is no certificate: %v", err)
			continue
		}
		switch left := time.Until(cert.NotAfter); {
		case left <= 0:
			c.fail(name, x.do, "it ended on %s", cert.NotAfter.Format(time.DateOnly))
		case left < x.soon:
			c.warn(name, x.do, "it ends on %s", cert.NotAfter.Format(time.DateOnly))
		default:
			c.ok(name, "good until %s", cert.NotAfter.Format(time.DateOnly))
		}
	}
}

// Examine checks store, log and policy of a gateway that is stopped.
func Examine(ctx context.Context, cfg *Config) []control.Check {
	var c checkup
	if _, err := os.Stat(cfg.Data); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if pid, held := inUse(cfg.Data); held {
		c.fail("gateway", "look into its log, and end it if it hangs", "process %s holds the data folder and does not answer at %s", pid, cfg.Listen.Control)
		return c
	}
	if err := notFenced(cfg.Data); err != nil {
		c.fail("fence", "see docs/operations.md, Back up and restore", "%s", ostiary.AsError(err).Detail)
	}
	c.warn("gateway", "ostiary serve", "none is running; what only a running one knows is not checked")
	c.store(ctx, cfg)
	c.verify(cfg)
	src, err := policy.ReadDir(cfg.Policy)
	if err != nil {
		c.fail("policy folder", "write one with \"ostiary policy init\"", "%v", err)
		return c
	}
	set, problems := policy.Compile(src, nil)
	c.compiled(set, problems)
	return c
}

func (c *checkup) store(ctx context.Context, cfg *Config) {
	if cfg.Store.shared() {
		return // its pages are PostgreSQL's to check; that it answers is the gateway's health
	}
	path := filepath.Join(cfg.Data, "state.db")
	switch err := store.CheckSQLite(ctx, path); {
	case errors.Is(err, fs.ErrNotExist):
		c.warn("store", "start the gateway once", "there is none yet")
	case err != nil:
		c.fail("store", "copy the data folder to a sound device, then restore a backup", "%v", err)
	default:
		c.ok("store", "its pages hold together")
	}
}

// verify verifies the whole log, if that is a matter of seconds.
func (c *checkup) verify(cfg *Config) {
	dir := filepath.Join(cfg.Data, "log")
	var size int64
	filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(e.Name(), ".seg") {
			if i, err := e.Info(); err == nil {
				size += i.Size()
			}
		}
		return nil // what cannot be read fails below
	})
	if size > wholeLog {
		c.warn("log", "ostiary log verify on a copy", "it has %d MiB, too many to verify here", size>>20)
		return
	}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		c.warn("log", "start the gateway once", "there is none yet")
		return
	}
	r, err := proof.VerifyDir(dir, proof.Options{})
	if err != nil {
		c.fail("log", "keep the data as it is, copy it to a sound device, and compare with checkpoints kept elsewhere", "it does not verify: %v", err)
		return
	}
	open, newest := 0, time.Time{}
	for _, l := range r.Logs {
		open += l.Open
		if l.Last.After(newest) {
			newest = l.Last
		}
	}
	c.ok("log", "%d entries verify; not independently witnessed", r.Entries)
	c.newest(newest)
	if open > 0 {
		c.warn("open actions", "start the gateway: they become Unknown and are never sent again", "%d have no outcome", open)
	}
}

// newest compares the clock with the newest entry.
func (c *checkup) newest(at time.Time) {
	if ahead := time.Until(at); ahead > clockApart {
		c.fail("clock and log", "set the clock right, or wait: time in the log never falls", "the newest entry is %v ahead of this machine's clock", ahead.Round(time.Second))
		return
	}
	c.ok("clock and log", "the newest entry is of %s", at.UTC().Format(time.RFC3339))
}

func (c *checkup) compiled(set *policy.Set, problems []policy.Problem) {
	var errs []string
	for _, p := range problems {
		if p.Severity == policy.Error {
			errs = append(errs, fmt.Sprintf("%s:%d: %s", p.File, p.Line, p.Message))
		}
	}
	switch {
	case set == nil:
		c.fail("policy folder", "ostiary policy check", "it does not compile: %s", strings.Join(errs, "; "))
	case len(problems) > 0:
		c.warn("policy folder", "ostiary policy check", "it compiles, with %d warnings", len(problems))
	default:
		c.ok("policy folder", "it compiles")
	}
}

// Doctor implements [control.Process]: what only the running gateway knows.
func (d *Daemon) Doctor(ctx context.Context) []control.Check {
	var c checkup
	h := d.Health(ctx)
	if h.Ready {
		c.ok("gateway", "it takes calls")
	}
	for _, x := range h.Checks {
		if !x.OK {
			c.fail(x.Name, "look into the gateway's log; if it does not heal, restart it", "%s", x.Detail)
		}
	}
	c.store(ctx, d.cfg)
	c.rotated(d)
	for _, l := range []*ledger.Log{d.journal.deployment, d.journal.gateway} {
		c.running(l, d.journal.indexes[l])
	}
	if e, err := d.journal.gateway.Entry(ctx, d.journal.gateway.Newest()); err == nil || e != nil {
		c.newest(e.Entry.Time)
	}
	if apart := time.Now().Round(0).Sub(d.started.Round(0)) - time.Since(d.started); apart.Abs() > clockApart {
		c.warn("clock steps", "find out who sets the clock", "since the gateway started, the clock was moved by %v", apart.Round(time.Second))
	}
	c.signIn(ctx, d)
	c.approvers(ctx, d)
	c.upstreams(ctx, d)
	c.registry(d)
	src, err := policy.ReadDir(d.cfg.Policy)
	if err != nil {
		c.fail("policy folder", "put it back: the last good snapshot is active until then", "%v", err)
		return c
	}
	set, problems := policy.Compile(src, d.book.Tools())
	c.compiled(set, problems)
	if s := d.engine.Active(); set != nil && s != nil && s.Digest() != set.Digest() {
		c.warn("policy snapshot", "ostiary policy load", "the folder says something else than snapshot %d, which is active", s.Number())
	}
	return c
}

// running checks one log from inside. What was written by an earlier process
// is verified in the background after each start.
func (c *checkup) running(l *ledger.Log, x *indexed) {
	s := l.Status()
	switch {
	case s.Failed != "" || s.Full: // is said already
	case !s.Verified:
		c.warn("log "+s.Origin, "ask again later", "%d entries; the older segments are still being verified", s.Size)
	default:
		c.ok("log "+s.Origin, "%d entries, %d published, %d anchored; not independently witnessed", s.Size, s.Published, s.Anchored)
	}
	if s.Open > manyOpen {
		c.warn("open actions", "look for a tool server that hangs: ostiary log", "%d have no outcome yet", s.Open)
	}
	if _, n, m := x.indexer.Progress(); m > n && m-n > farBehind {
		c.warn("index of "+s.Origin, "wait; if it does not catch up, stop the gateway and delete index-*.db", "it is %d entries behind: queries show an older state", m-n)
	}
}

// upstreams reads every server's definitions once more.
func (c *checkup) upstreams(ctx context.Context, d *Daemon) {
	now := d.config()
	d.firstReading(ctx, now.serverNames())
	for _, s := range d.control.Servers() {
		name := "server " + s.Name
		switch {
		case s.Error != "":
			c.fail(name, "start it, or correct servers."+s.Name, "%s", s.Error)
		case s.Changed > 0:
			c.warn(name, "ostiary tools list "+s.Name+", then diff and accept", "%d definitions are not as they were accepted and are refused", s.Changed)
		case s.Waiting > 0:
			c.warn(name, "ostiary tools list "+s.Name, "%d definitions wait for somebody to accept them, or are quarantined", s.Waiting)
		default:
			c.ok(name, "as accepted")
		}
	}
}
