package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/provenance"
	"github.com/ostiary/ostiary/internal/registry"
	"github.com/ostiary/ostiary/internal/rotation"
	"github.com/ostiary/ostiary/internal/store"
)

// StoreConfig says where control state is kept. Default: a file in the data
// folder, for this process alone.
type StoreConfig struct {
	// Postgres is the address of a PostgreSQL database, version 15 or later, which several gateways may share:
	// postgres://user@host/database?sslmode=verify-full. It may not hold a password. Whoever can write to the
	// database can enrol agents, accept definitions and lift revocations that no gateway has seen yet.
	Postgres string `yaml:"postgres"`
	// PostgresFile is a file that holds such an address with its password, readable by its owner alone.
	PostgresFile string `yaml:"postgres_file"`
}

// shared reports whether other processes may use the store too.
func (s StoreConfig) shared() bool { return s.Postgres != "" || s.PostgresFile != "" }

// maxAddress bounds the file of an address: a line.
const maxAddress = 8 << 10

// lease is how long a gateway that shares its store acts on what it knows of
// enrolments and revocations without having asked again. It is the bound of
// law 9 for one that lost its store.
const lease = 5 * time.Second

func (c *Config) checkStore() error {
	s := c.Store
	if s.Postgres != "" && s.PostgresFile != "" {
		return c.bad("store", "give either postgres or postgres_file")
	}
	if s.Postgres == "" {
		return nil
	}
	u, err := url.Parse(s.Postgres)
	if err != nil || u.Scheme != "postgres" && u.Scheme != "postgresql" {
		return c.bad("store.postgres", "write postgres://user@host/database?sslmode=verify-full")
	}
	if _, has := u.User.Password(); has || u.Query().Has("password") {
		return c.bad("store.postgres", "a password does not belong in this file; put the address into a file of its own, with mode 0600, and name it with postgres_file")
	}
	return nil
}

// address returns where the shared store is.
func (c *Config) address() (string, error) {
	if c.Store.PostgresFile == "" {
		return c.Store.Postgres, nil
	}
	f, err := os.Open(c.Store.PostgresFile)
	if err != nil {
		return "", c.bad("store.postgres_file", err.Error())
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", c.bad("store.postgres_file", err.Error())
	}
	if !info.Mode().IsRegular() || info.Mode().Perm()&0o077 != 0 {
		return "", c.bad("store.postgres_file", "only its owner may read it: chmod 600")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxAddress+1))
	if err != nil || len(b) > maxAddress {
		return "", c.bad("store.postgres_file", "it must hold one line")
	}
	text := strings.TrimSpace(string(b))
	if !strings.HasPrefix(text, "postgres://") && !strings.HasPrefix(text, "postgresql://") || strings.ContainsAny(text, "\r\n") {
		return "", c.bad("store.postgres_file", "it must hold one line that begins with postgres://")
	}
	return text, nil
}

// openStore opens the embedded store, or joins the shared one.
func (d *Daemon) openStore(ctx context.Context) (err error) {
	if d.cfg.Store.shared() {
		var address string
		if address, err = d.cfg.address(); err != nil {
			return err
		}
		d.store, err = store.OpenPostgres(ctx, address)
	} else {
		d.store, err = store.OpenSQLite(ctx, filepath.Join(d.cfg.Data, "state.db"))
	}
	if err != nil {
		return err
	}
	d.onClose(d.store.Close)
	return nil
}

// sessions returns the sessions; those of a shared store are asked for at
// each call, because another gateway may have tainted them since.
func (d *Daemon) sessions() *provenance.Sessions {
	if d.cfg.Store.shared() {
		return provenance.NewSharedSessions(d.store, d.clock)
	}
	return provenance.NewSessions(d.store, d.clock)
}

// lease is how long the authority answers from memory without a word from the
// store. The embedded store has no other writer to hear of.
func (d *Daemon) lease() time.Duration {
	if d.cfg.Store.shared() {
		return lease
	}
	return 0
}

// keysDir and identityDir are where private keys and certificates lie.
func (c *Config) keysDir() string {
	if c.Keys != "" {
		return c.Keys
	}
	return filepath.Join(c.Data, "keys")
}

func (c *Config) identityDir() string {
	if c.Keys != "" {
		return filepath.Join(c.Keys, "identity")
	}
	return filepath.Join(c.Data, "identity")
}

// oneAtATime holds the keys' folder until release is called, so that of
// several gateways that start at once one makes what is missing.
func oneAtATime(dir string) (release func() error, err error) {
	f, err := os.OpenFile(filepath.Join(dir, ".opening"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f.Close, nil
}

// changeLog names this process's log of control changes. Each log has one
// writer, so gateways that share a store have one each.
func (c *Config) changeLog() (name, signer string) {
	if c.Store.shared() {
		return deploymentLog + "." + c.Gateway, "changes-" + c.Gateway
	}
	return deploymentLog, "log-" + deploymentLog
}

// refresh follows what other processes change in the control state. It says
// once that it cannot, and once that it can again.
func (d *Daemon) refresh(ctx context.Context) {
	tick := time.NewTicker(refreshEvery)
	defer tick.Stop()
	f, lost := follower{daemon: d}, false
	for {
		switch err := f.follow(ctx); {
		case ctx.Err() != nil:
		case err != nil && !lost:
			lost = true
			d.log.Error("control state cannot be followed", "error", err)
		case err == nil && lost:
			lost = false
			d.log.Info("control state is followed again")
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// follower knows up to which change this process has read.
type follower struct {
	daemon *Daemon
	begun  bool
	seen   uint64

	schedule *rotation.Schedule // of keys, that is in force here
	until    time.Time          // and until when; zero: for good
}

// follow reads what changed, and turns keys whose time has come. Only when both
// are done does the lease begin anew: a gateway that cannot put in force what
// it read refuses everyone.
func (f *follower) follow(ctx context.Context) error {
	asked := f.daemon.clock()
	if err := f.catchUp(ctx); err != nil {
		return err
	}
	if err := f.turn(ctx); err != nil {
		return err
	}
	f.daemon.authority.Confirm(asked)
	return nil
}

// catchUp reads what changed since it last succeeded. What it could not read it
// reads again the next time, so that nothing here ever goes back: not to an
// older answer of a store that was restored or lags behind either.
func (f *follower) catchUp(ctx context.Context) error {
	d := f.daemon
	rev, err := d.store.Revision(ctx)
	if err != nil {
		return err
	}
	if rev < f.seen {
		return fmt.Errorf("the control state is at revision %d, and was at %d before: it was restored from an older copy, or another server answers; restart this gateway once it is right", rev, f.seen)
	}
	what, upTo := everything, rev
	if f.begun {
		if what, upTo, err = f.since(ctx, rev); err != nil {
			return err
		}
	}
	if err := f.read(ctx, what); err != nil {
		return err
	}
	f.begun, f.seen = true, upTo
	return nil
}

// turn passes on to the keys that sign and are believed now, if they are not
// those that were.
func (f *follower) turn(ctx context.Context) error {
	s, now := f.daemon.keys.book.Schedule(), f.daemon.clock()
	if s == f.schedule && (f.until.IsZero() || now.Before(f.until)) {
		return nil
	}
	if err := f.daemon.turn(ctx); err != nil {
		return err
	}
	f.schedule, f.until = s, s.Until(now)
	return nil
}

// since gathers what changed up to a revision at least.
func (f *follower) since(ctx context.Context, rev uint64) (what parts, upTo uint64, err error) {
	for upTo = f.seen; upTo < rev; {
		changes, err := f.daemon.store.Changes(ctx, upTo)
		if err != nil {
			return what, upTo, err
		}
		more, next := touched(upTo, changes)
		if next <= upTo { // there must be some, and newer ones
			return everything, rev, nil
		}
		what.add(more)
		upTo = next
	}
	return what, upTo, nil
}

func (f *follower) read(ctx context.Context, what parts) (err error) {
	d := f.daemon
	if what.keys { // before what they signed
		if err := d.keys.book.Load(ctx); err != nil {
			return err
		}
	}
	switch {
	case what.registry:
		err = d.authority.Refresh(ctx)
	case what.revoked:
		err = d.authority.CatchUp(ctx, what.ended...)
	}
	if err == nil && what.entities {
		err = d.entities.book.Refresh(ctx)
	}
	if err == nil && what.pins {
		err = d.book.Load(ctx)
	}
	if err == nil && what.policy {
		err = d.control.Follow(ctx)
	}
	return err
}

// parts are what this process holds in memory of the control state.
type parts struct {
	registry, revoked, pins, policy, entities, keys bool

	ended []ostiary.MandateID // if revoked
}

var everything = parts{registry: true, pins: true, policy: true, entities: true, keys: true}

func (p *parts) add(q parts) {
	p.registry, p.revoked, p.pins, p.policy = p.registry || q.registry, p.revoked || q.revoked, p.pins || q.pins, p.policy || q.policy
	p.entities = p.entities || q.entities
	p.keys = p.keys || q.keys
	p.ended = append(p.ended, q.ended...)
}

// touched says what changes made stale, and up to which revision. A kind that
// is not known here, and a gap, make everything stale.
func touched(seen uint64, changes []store.Change) (p parts, rev uint64) {
	rev = seen
	for _, c := range changes {
		if c.Rev != rev+1 {
			return everything, max(seen, changes[len(changes)-1].Rev)
		}
		rev = c.Rev
		switch c.Kind {
		case "agent", "join_token", "mandate":
			p.registry = true
		case "revocation":
			p.revoked = true
		case "mandate_end":
			p.revoked, p.ended = true, append(p.ended, ostiary.MandateID(c.Key))
		case "pins", "pin_drop":
			p.pins = true
		case "snapshot":
			p.policy = true
		case "record":
			p.entities = p.entities || c.Key == registry.Kind
			p.keys = p.keys || rotation.Changed(c.Key)
		case "session", "taint", "log", "fence", "data_key", "containment", "mandate_review", "hold": // read when needed, or followed elsewhere
		case "budget": // read where it is spent
		default:
			return everything, changes[len(changes)-1].Rev
		}
	}
	return p, rev
}
