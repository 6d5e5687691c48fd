package daemon

import (
	"context"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/door/mcp"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/identity"
)

// live is what a reload replaces of the daemon itself.
type live struct {
	facts atomic.Pointer[gate.Resolver]

	mu  sync.Mutex // one reload at a time; guards cfg
	cfg *Config    // as it is in force, nil until the first reload
}

// resolving makes the resolver the one in place, and returns the gate's Facts,
// which ask whichever is.
func (l *live) resolving(r *gate.Resolver) gate.Facts {
	l.facts.Store(r)
	return l
}

// Resolve implements [gate.Facts].
func (l *live) Resolve(ctx context.Context, s ostiary.Subject, call *gate.Call) (*ostiary.Request, error) {
	return l.facts.Load().Resolve(ctx, s, call)
}

// changeable are the keys that a running gateway can change, with all below
// them. Whatever else differs needs a restart: addresses are open, keys and
// logs carry the names, the store and the log are where they are.
var changeable = []string{"servers", "budgets", "identity", "tools.recheck", "listen.origins"}

// Reload implements [control.Process]. The file is read and checked, what it
// would change is prepared, the policy folder is published, and only then is
// the change recorded and all of it put in place, which cannot fail. Calls
// under way finish on what they started with.
func (d *Daemon) Reload(ctx context.Context) (control.Reloaded, error) {
	d.live.mu.Lock()
	defer d.live.mu.Unlock()
	old := d.inForce()
	next, err := ReadConfig(old.file)
	if err != nil {
		return control.Reloaded{}, err
	}
	changed := changedKeys(old, next)
	if err := next.onlyChangeable(changed); err != nil {
		return control.Reloaded{}, err
	}
	commit, err := d.prepare(next, changed)
	if err != nil {
		return control.Reloaded{}, next.blame(err)
	}
	out := control.Reloaded{Changed: changed}
	p, err := d.control.Publish(ctx)
	out.Snapshot, out.Problems = p.Number, control.PolicyProblems(p.Problems)
	if err != nil || len(changed) == 0 {
		return out, err
	}
	if err := d.control.RecordReload(ctx, changed); err != nil {
		return out, err
	}
	commit(context.WithoutCancel(ctx)) // the operator's leaving must not leave it half done
	d.live.cfg = next
	d.log.Info("configuration reloaded", "changed", changed)
	return out, nil
}

// inForce is the configuration in force; d.live.mu must be held.
func (d *Daemon) inForce() *Config {
	if d.live.cfg != nil {
		return d.live.cfg
	}
	return d.cfg
}

// config is the configuration in force.
func (d *Daemon) config() *Config {
	d.live.mu.Lock()
	defer d.live.mu.Unlock()
	return d.inForce()
}

// prepare checks everything that the configuration would change, and returns
// the function that changes it.
func (d *Daemon) prepare(next *Config, changed []string) (commit func(context.Context), err error) {
	upstreams, err := next.upstreams()
	if err != nil {
		return nil, err
	}
	wayOut, err := d.egress.Prepare(upstreams)
	if err != nil {
		return nil, err
	}
	lives, err := d.authority.Prepare(identity.Lives{
		SVID: time.Duration(next.Identity.SVIDLife), Token: time.Duration(next.Identity.TokenLife),
		Mandate: time.Duration(next.Identity.MandateLife), Grace: grace(*next.Identity.ReturnWithin),
	})
	if err != nil {
		return nil, err
	}
	shown, err := d.door.Prepare(next.shown(), next.Listen.Origins)
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		lives()
		facts := *d.live.facts.Load()
		facts.Servers = next.resources()
		d.live.facts.Store(&facts)
		wayOut()
		d.budgets.Set(next.spending())
		d.control.Configure(next.watching())
		d.firstReading(ctx, next.toRead(changed)) // before agents are shown a server, what it offers is compared
		shown()
	}, nil
}

// toRead lists the servers that are new or not what they were.
func (c *Config) toRead(changed []string) (names []string) {
	for _, key := range changed {
		if name, ok := strings.CutPrefix(key, "servers."); ok {
			if _, ok := c.Servers[name]; ok {
				names = append(names, name)
			}
		}
	}
	return names
}

// onlyChangeable refuses the first key that needs a restart.
func (c *Config) onlyChangeable(changed []string) error {
	for _, key := range changed {
		if !slices.ContainsFunc(changeable, func(k string) bool { return key == k || strings.HasPrefix(key, k+".") }) {
			e := ostiary.AsError(c.bad(key, "this cannot change while the gateway runs; put it back or restart the gateway. Nothing was applied"))
			return ostiary.Errorf(ostiary.Conflict, "needs_restart", "%s", e.Detail).At(key)
		}
	}
	return nil
}

// changedKeys lists the keys whose values differ, sorted. Of servers, each is
// one key.
func changedKeys(a, b *Config) (keys []string) {
	var walk func(prefix string, a, b reflect.Value)
	walk = func(prefix string, a, b reflect.Value) {
		for f := range a.Type().Fields() {
			key := f.Tag.Get("yaml")
			x, y := a.FieldByIndex(f.Index), reflect.Value{}
			if key == "" {
				continue
			}
			switch y = b.FieldByIndex(f.Index); {
			case f.Type == reflect.TypeFor[map[string]Server]():
				keys = append(keys, changedServers(prefix+key, x.Interface().(map[string]Server), y.Interface().(map[string]Server))...)
			case f.Type.Kind() == reflect.Struct:
				walk(prefix+key+".", x, y)
			case !reflect.DeepEqual(x.Interface(), y.Interface()):
				keys = append(keys, prefix+key)
			}
		}
	}
	walk("", reflect.ValueOf(*a), reflect.ValueOf(*b))
	slices.Sort(keys)
	return keys
}

func changedServers(prefix string, a, b map[string]Server) (keys []string) {
	for name := range a {
		if s, ok := b[name]; !ok || !reflect.DeepEqual(a[name], s) {
			keys = append(keys, prefix+"."+name)
		}
	}
	for name := range b {
		if _, ok := a[name]; !ok {
			keys = append(keys, prefix+"."+name)
		}
	}
	return keys
}

// serverNames returns the configured names, sorted.
func (c *Config) serverNames() []string { return slices.Sorted(maps.Keys(c.Servers)) }

// upstreams are the servers as egress knows them.
func (c *Config) upstreams() (all []egress.Server, err error) {
	for _, name := range c.serverNames() {
		s := c.Servers[name]
		digest, err := ostiary.ParseDigest(s.Digest)
		if err != nil {
			return nil, c.bad("servers."+name+".digest", err.Error())
		}
		all = append(all, egress.Server{
			Name: name, Zone: s.Zone, Trusted: s.Trusted, URL: s.URL, AllowPrivate: s.AllowAddresses, BearerFile: s.Bearer,
			Command: s.Command, Env: s.Env, Dir: s.Dir, Digest: digest,
			Breaker: egress.Breaker{Failures: s.Breaker.Failures, Window: s.Breaker.Window, Slow: time.Duration(s.Breaker.Slow), OpenFor: time.Duration(s.Breaker.OpenFor)},
		})
	}
	return all, nil
}

// resources are the servers as policy knows them.
func (c *Config) resources() map[string]ostiary.Resource {
	all := map[string]ostiary.Resource{}
	for name, s := range c.Servers {
		program, _ := ostiary.ParseDigest(s.Digest) // checked before; what is no digest shows nothing
		all[name] = ostiary.Resource{Server: name, Zone: s.Zone, Trusted: s.Trusted, Program: program}
	}
	return all
}

// shown are the servers as the door knows them.
func (c *Config) shown() (all []mcp.Server) {
	for _, name := range c.serverNames() {
		all = append(all, mcp.Server{Name: name, Origins: c.Servers[name].Origins})
	}
	return all
}

// watching is what control reads, and how often.
func (c *Config) watching() control.Settings {
	return control.Settings{Servers: c.serverNames(), Recheck: time.Duration(c.Tools.Recheck), RequireMandate: c.Identity.RequireMandate}
}

// blame gives an error about a server its line in the file.
func (c *Config) blame(err error) error {
	if e := ostiary.AsError(err); strings.HasPrefix(e.Field, "servers.") && !strings.HasPrefix(e.Detail, c.file) {
		return c.bad(e.Field, e.Detail)
	}
	return err
}

var _ control.Process = (*Daemon)(nil)

// ReloadOn reloads whenever something arrives, until ctx ends, and says in the
// gateway's log what became of it.
func (d *Daemon) ReloadOn(ctx context.Context, signals <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-signals:
		}
		r, err := d.Reload(ctx)
		if err != nil {
			for _, p := range r.Problems {
				d.log.Warn("policy", "file", p.File, "line", p.Line, "problem", p.Message, "suggestion", p.Suggestion)
			}
			d.log.Error("the configuration is not reloaded; everything stays as it was", "error", fmt.Sprint(err))
		}
	}
}
