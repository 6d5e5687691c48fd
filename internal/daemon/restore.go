package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/durable"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/proof"
)

// readEpoch returns the deployment epoch of a data folder: it rises whenever
// an operator confirms a restore, and never falls.
func readEpoch(data string) (uint64, error) {
	b, err := os.ReadFile(filepath.Join(data, epochName))
	if errors.Is(err, fs.ErrNotExist) {
		return 1, nil
	}
	if err != nil {
		return 0, err
	}
	n, err := strconv.ParseUint(strings.TrimSuffix(string(b), "\n"), 10, 63)
	if err != nil || n == 0 {
		return 0, ostiary.Errorf(ostiary.Corrupt, "deployment_epoch", "%s does not hold an epoch", filepath.Join(data, epochName))
	}
	return n, nil
}

// notFenced refuses a folder that is a backup, or was restored from one and
// not confirmed. It may be verified; nothing may be decided or signed in it.
func notFenced(data string) error {
	for _, name := range []string{fencedName, manifestName} {
		_, err := os.Lstat(filepath.Join(data, name))
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return err
		case name == manifestName:
			return ostiary.Errorf(ostiary.Conflict, "fenced", "%s is a backup: restore it into another folder with \"ostiary restore\"", data)
		default:
			return ostiary.Errorf(ostiary.Conflict, "fenced", "%s was restored from a backup and decides nothing until somebody who knows that no other copy runs says so: ostiary restore --confirm-epoch", data)
		}
	}
	return nil
}

// Restored says what a restore brought back.
type Restored struct {
	Data    string    `json:"data"`
	Created time.Time `json:"created"` // of the backup
	Entries uint64    `json:"entries"` // of all logs, verified
	Keys    bool      `json:"keys"`    // the keys are in place
}

// Restore verifies a backup and copies it into the configured data folder,
// which must be empty except for keys, and leaves it fenced.
func Restore(ctx context.Context, cfg *Config, dir string) (out Restored, err error) {
	if err := cfg.alone(); err != nil {
		return out, err
	}
	m, err := readManifest(filepath.Join(dir, manifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return out, ostiary.Errorf(ostiary.NotFound, "no_backup", "%s holds no %s: it is no backup, or one that was not finished", dir, manifestName)
	}
	if err != nil {
		return out, err
	}
	for _, x := range []struct{ key, have, want string }{
		{"deployment", cfg.Deployment, m.Deployment}, {"gateway", cfg.Gateway, m.Gateway}, {"trust_domain", cfg.TrustDomain, m.TrustDomain},
	} {
		if x.have != x.want {
			return out, cfg.bad(x.key, fmt.Sprintf("the backup is of %q", x.want))
		}
	}
	report, err := proof.VerifyDir(filepath.Join(dir, "log"), proof.Options{})
	if err != nil {
		return out, fmt.Errorf("the backup's log does not verify; nothing was restored: %w", err)
	}
	if err := emptyData(cfg.Data, m.Keys); err != nil {
		return out, err
	}
	lock, err := lockData(cfg.Data)
	if err != nil {
		return out, err
	}
	defer lock.Close()
	// The fence is up before anything else is there.
	fence := filepath.Join(cfg.Data, fencedName)
	m.Complete = false
	if err := m.write(fence); err != nil {
		return out, err
	}
	if err := durable.Replace(filepath.Join(cfg.Data, epochName), strconv.AppendUint(nil, m.Epoch, 10), 0o600); err != nil {
		return out, err
	}
	if err := bringBack(ctx, cfg.Data, dir, m.Keys); err != nil {
		return out, fmt.Errorf("restoring: %w", err)
	}
	m.Complete = true
	if err := m.write(fence); err != nil {
		return out, err
	}
	out = Restored{Data: cfg.Data, Created: m.Created, Entries: report.Entries}
	_, err = os.Stat(filepath.Join(cfg.Data, "keys", "log-"+cfg.Gateway+".pem"))
	out.Keys = err == nil
	return out, nil
}

// emptyData makes the data folder, or finds it empty except for keys that the
// backup does not have.
func emptyData(data string, keys bool) error {
	if err := os.MkdirAll(data, 0o700); err != nil {
		return err
	}
	list, err := os.ReadDir(data)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Name() == "gateway.lock" || e.Name() == "keys" && !keys {
			continue
		}
		return ostiary.Errorf(ostiary.Conflict, "data_not_empty", "%s holds %s already, and nothing is ever restored over what is there; move it away or configure another data folder", data, e.Name())
	}
	return nil
}

func bringBack(ctx context.Context, data, dir string, keys bool) error {
	b := backup{cfg: &Config{Data: dir}, dir: data}
	names := []string{"identity", "log"}
	if keys {
		names = append(names, "keys")
	}
	for _, name := range names {
		if err := b.tree(ctx, name); err != nil {
			return err
		}
	}
	segments, err := filepath.Glob(filepath.Join(dir, "log", "*", "*", "*.seg"))
	if err != nil {
		return err
	}
	for _, from := range append(segments, filepath.Join(dir, "state.db")) {
		st, err := os.Stat(from)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, from)
		if err != nil {
			return err
		}
		if _, err := copySparse(ctx, filepath.Join(data, rel), from, st.Size(), st.Size()); err != nil {
			return err
		}
	}
	if err := store.CheckSQLite(ctx, filepath.Join(data, "state.db")); err != nil {
		return err
	}
	return syncFS(data)
}

// ConfirmEpoch takes the fence of a restored data folder down: it raises the
// deployment epoch above every one that a copy may have reached, recovers the
// logs under it, and records who said so. Interrupted, the fence stays up and
// it can be done again.
func ConfirmEpoch(ctx context.Context, cfg *Config, by string, log *slog.Logger) (epoch uint64, err error) {
	fence := filepath.Join(cfg.Data, fencedName)
	m, err := readManifest(fence)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, ostiary.Errorf(ostiary.Conflict, "not_fenced", "%s was not restored from a backup: there is nothing to confirm", cfg.Data)
	}
	if err != nil {
		return 0, err
	}
	if !m.Complete {
		return 0, ostiary.Errorf(ostiary.Conflict, "half_restored", "the restore of %s was interrupted: empty it, except for keys, and restore again", cfg.Data)
	}
	d := &Daemon{cfg: cfg, log: log, clock: time.Now, confirming: true}
	defer func() { err = errors.Join(err, d.Close()) }()
	if err := d.openKeys(ctx); err != nil {
		return 0, err
	}
	if _, err := os.Stat(filepath.Join(cfg.Data, "keys", "log-"+cfg.Gateway+".pem")); err != nil {
		return 0, ostiary.Errorf(ostiary.NotFound, "no_keys", "the keys are missing: copy them to %s, with mode 0600, from where they are kept", filepath.Join(cfg.Data, "keys"))
	}
	was, err := readEpoch(cfg.Data)
	if err != nil {
		return 0, err
	}
	// The time makes it higher than the epoch of any copy that was confirmed
	// before this one, without asking it.
	epoch = max(was+1, m.Epoch+1, uint64(max(0, d.clock().Unix())))
	if err := durable.Replace(filepath.Join(cfg.Data, epochName), strconv.AppendUint(nil, epoch, 10), 0o600); err != nil {
		return 0, err
	}
	if err := d.openStore(ctx); err != nil {
		return 0, err
	}
	if err := d.openSchedule(ctx); err != nil {
		return 0, err
	}
	if err := d.openLog(ctx); err != nil {
		return 0, err
	}
	text := fmt.Sprintf("restored from the backup of %s; deployment epoch %d", m.Created.UTC().Format(time.RFC3339), epoch)
	if err := control.RecordRestore(ctx, d.journal.deployment, d.clock(), text, by); err != nil {
		return 0, err
	}
	if err := os.Remove(fence); err != nil {
		return 0, err
	}
	return epoch, syncFS(cfg.Data)
}
