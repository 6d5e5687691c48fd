package control

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
)

// Settings are what may change while the gateway runs. They are never changed,
// only replaced.
type Settings struct {
	Servers []string      // configured names, sorted
	Recheck time.Duration // between readings of a server's definitions

	RequireMandate bool // a new agent is enrolled only with what its standing mandate covers
}

// Configure puts other settings in place.
func (c *Control) Configure(s Settings) {
	c.settings.Store(&s)
	select {
	case c.changed <- struct{}{}:
	default: // Watch has not looked since the last change: it will see this one
	}
}

// Process is the gateway as a whole, which control asks for what no single
// part can do. Safe for concurrent use.
type Process interface {
	// Reload reads the configuration again and applies all of it or nothing.
	// It is recorded before it takes effect.
	Reload(ctx context.Context) (Reloaded, error)
	// Health says whether the process works and whether it takes calls.
	Health(ctx context.Context) Health
	// Doctor looks into everything that only the process itself can see.
	Doctor(ctx context.Context) []Check
	// Backup copies store, log and identity, and keys if asked, into a new
	// folder while everything goes on. It is recorded first.
	Backup(ctx context.Context, r BackupRequest) (BackedUp, error)
	// Keys lists the deployment's keys.
	Keys(ctx context.Context) ([]KeyState, error)
	// RotateKeys makes the next keys. It is recorded first; a process that
	// is killed in the middle has rotated all of them or none.
	RotateKeys(ctx context.Context, r RotateRequest) ([]KeyState, error)
	// RevokeKey refuses a key from now on. It is recorded first.
	RevokeKey(ctx context.Context, r RevokeKeyRequest) (RevokedKey, error)
}

// BackupRequest asks for a backup.
type BackupRequest struct {
	Dir  string `json:"dir"`  // a whole path, as the gateway sees it, that does not exist
	Keys bool   `json:"keys"` // whoever reads the backup then can open and sign everything
}

// BackedUp is a backup that is complete and flushed.
type BackedUp struct {
	Dir     string    `json:"dir"`
	Created time.Time `json:"created"`
	Keys    bool      `json:"keys"`
	Bytes   int64     `json:"bytes"` // of files, without the store
}

// RecordBackup writes down that a backup is about to be made: it holds what
// happened, and perhaps the keys.
func (c *Control) RecordBackup(ctx context.Context, r BackupRequest) error {
	text := "backup to " + r.Dir
	if r.Keys {
		text += ", with all private keys"
	}
	_, err := c.change(ctx, "backup", "ok", detailJSON(map[string]string{"text": text, "by": operator(ctx)}))
	return err
}

// RecordRestore writes down that a restored data folder decides again, before
// there is a Control.
func RecordRestore(ctx context.Context, changes Changes, now time.Time, text, by string) error {
	_, err := recordChange(ctx, changes, "", now, "raise_epoch", "ok", detailJSON(map[string]string{"text": text, "by": by}))
	return err
}

func (c *Control) postBackup(ctx context.Context, in BackupRequest) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.Backup(ctx, in)
}

// Check is one thing that was looked at, and what to do about it.
type Check struct {
	Name   string `json:"name"`
	State  string `json:"state"` // "ok", "warn", "fail"
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"`
}

// The states of a Check: as it should be, worth a look, broken or unsafe.
const (
	CheckOK   = "ok"
	CheckWarn = "warn"
	CheckFail = "fail"
)

func (c *Control) getDoctor(r *http.Request) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.Doctor(r.Context()), nil
}

// Health is the answer of GET /v1/health.
type Health struct {
	Live   bool          `json:"live"`  // false: only a restart helps
	Ready  bool          `json:"ready"` // calls are taken: every check is ok
	Checks []HealthCheck `json:"checks"`
}

// HealthCheck is one thing that must be so for calls to be taken.
type HealthCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Detail string `json:"detail,omitempty"` // why it is not
}

func (c *Control) getHealth(r *http.Request) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.Health(r.Context()), nil
}

// Reloaded is what became of reading the configuration again.
type Reloaded struct {
	Changed  []string        `json:"changed"` // keys of the configuration, sorted
	Snapshot uint64          `json:"snapshot"`
	Problems []PolicyProblem `json:"problems,omitempty"`
}

// RecordReload writes down that a configuration is about to be applied: which
// keys changed, not to what, since values may be secrets.
func (c *Control) RecordReload(ctx context.Context, changed []string) error {
	detail := map[string]string{"text": "configuration reloaded: " + strings.Join(changed, ", "), "by": operator(ctx)}
	_, err := c.change(ctx, "reload_configuration", "ok", detailJSON(detail))
	return err
}

func (c *Control) process() (Process, error) {
	if c.o.Process == nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "embedded", "this gateway runs inside another program, which owns its configuration and data")
	}
	return c.o.Process, nil
}

func (c *Control) postReload(r *http.Request) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.Reload(r.Context())
}
