package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/durable"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// A backup is a folder laid out like a data folder, with a manifest that is
// written last. A gateway refuses to start in it, as in any folder that was
// restored and not confirmed: both hold a mark.
const (
	manifestName = "backup.json" // in a backup
	fencedName   = "fenced.json" // in a data folder that was restored: the backup's manifest
	epochName    = "epoch"       // in a data folder: the deployment epoch, 1 if there is none
)

// manifest says what a backup is of.
type manifest struct {
	Format      int       `json:"format"` // 1
	Created     time.Time `json:"created"`
	Deployment  string    `json:"deployment"`
	Gateway     string    `json:"gateway"`
	TrustDomain string    `json:"trust_domain"`
	Epoch       uint64    `json:"epoch"`
	Keys        bool      `json:"keys"`
	Running     bool      `json:"running"` // the gateway ran meanwhile
	Version     string    `json:"version"`
	Complete    bool      `json:"complete"` // everything was copied
}

// maxManifest bounds a manifest: ten short members.
const maxManifest = 16 << 10

// alone refuses a gateway that has a part of itself elsewhere: its store in a
// database that others share, or keys in a folder of their own.
func (c *Config) alone() error {
	if c.Store.shared() {
		return c.bad("store", "the control state is PostgreSQL's: back it up as PostgreSQL does, and copy the data folder while this gateway is stopped")
	}
	if c.Keys != "" {
		return c.bad("keys", "the keys and certificates are in a folder of their own: copy that and the data folder while this gateway is stopped")
	}
	return nil
}

func (m manifest) write(path string) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return durable.Replace(path, append(text, '\n'), 0o600)
}

func readManifest(path string) (m manifest, err error) {
	f, err := os.Open(path)
	if err != nil {
		return m, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxManifest))
	if err != nil {
		return m, err
	}
	// A backup has travelled: its manifest is scanned like any foreign text
	// before it is read, so a key twice or a second document is refused.
	if _, err = strictjson.Parse(text, strictjson.Request); err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil || m.Format != 1 {
		return m, ostiary.Errorf(ostiary.Malformed, "manifest", "%s is no manifest of a backup that this version can read", path)
	}
	return m, nil
}

// Backup implements [control.Process]: a consistent copy while the gateway
// runs. The order makes it one: the authority's fence first, then the store,
// then the deployment's log, then the gateway's. Whatever one of them knows of
// the others is in the copies that come after it.
func (d *Daemon) Backup(ctx context.Context, r control.BackupRequest) (control.BackedUp, error) {
	b := backup{cfg: d.cfg, dir: r.Dir, keys: r.Keys, running: true, epoch: d.journal.epoch}
	b.record = func() error { return d.control.RecordBackup(ctx, r) }
	b.logs = func() ([]piece, error) {
		var all []piece
		for _, l := range []struct {
			name string
			log  *ledger.Log
		}{{deploymentLog, d.journal.deployment}, {d.cfg.Gateway, d.journal.gateway}} {
			extents, err := l.log.Flushed(ctx)
			if err != nil {
				return nil, err
			}
			for _, x := range extents {
				all = append(all, piece{filepath.Join("log", l.name, x.Month, x.Name), x.Length, x.Size})
			}
		}
		return all, nil
	}
	b.months = func() string { return d.journal.deployment.Newest().Month + " " + d.journal.gateway.Newest().Month }
	return b.make(ctx)
}

// Backup copies the data folder of a gateway that is stopped.
func Backup(ctx context.Context, cfg *Config, r control.BackupRequest) (control.BackedUp, error) {
	lock, err := lockData(cfg.Data)
	if err != nil {
		return control.BackedUp{}, err
	}
	defer lock.Close()
	epoch, err := readEpoch(cfg.Data)
	if err != nil {
		return control.BackedUp{}, err
	}
	if err := notFenced(cfg.Data); err != nil {
		return control.BackedUp{}, err
	}
	b := backup{cfg: cfg, dir: r.Dir, keys: r.Keys, epoch: epoch}
	b.record = func() error { return nil } // there is nobody to record it
	b.months = func() string { return "" }
	b.logs = func() (all []piece, err error) {
		names, err := filepath.Glob(filepath.Join(cfg.Data, "log", "*", "*", "*.seg"))
		for _, name := range names {
			st, err := os.Stat(name)
			if err != nil {
				return nil, err
			}
			rel, err := filepath.Rel(cfg.Data, name)
			if err != nil {
				return nil, err
			}
			all = append(all, piece{rel, st.Size(), st.Size()})
		}
		return all, err
	}
	return b.make(ctx)
}

// backup is one on its way.
type backup struct {
	cfg     *Config
	dir     string
	keys    bool
	running bool
	epoch   uint64
	record  func() error            // that it is made
	logs    func() ([]piece, error) // the segments, as they are when it is called
	months  func() string           // the months the logs are in
	bytes   int64
}

// piece is a segment file below the data folder: the first length bytes of it
// and zeros up to size.
type piece struct {
	path         string
	length, size int64
}

func (b *backup) make(ctx context.Context) (out control.BackedUp, err error) {
	if err := b.cfg.alone(); err != nil {
		return out, err
	}
	if !filepath.IsAbs(b.dir) {
		return out, ostiary.Errorf(ostiary.Malformed, "backup_dir", "name the folder by its whole path").At("dir")
	}
	if rel, err := filepath.Rel(b.cfg.Data, b.dir); err == nil && filepath.IsLocal(rel) {
		return out, ostiary.Errorf(ostiary.Malformed, "backup_dir", "a backup inside the data folder is none").At("dir")
	}
	if err := b.record(); err != nil {
		return out, err
	}
	if err := os.Mkdir(b.dir, 0o700); err != nil {
		return out, ostiary.Errorf(ostiary.Conflict, "backup_dir", "the folder must not exist yet, in one that the gateway's user may write to: %v", err).At("dir")
	}
	defer func() {
		if err != nil {
			os.RemoveAll(b.dir) // made here, and no backup
		}
	}()
	m := manifest{Format: 1, Created: time.Now().UTC(), Deployment: b.cfg.Deployment, Gateway: b.cfg.Gateway, TrustDomain: b.cfg.TrustDomain,
		Epoch: b.epoch, Keys: b.keys, Running: b.running, Version: ostiary.Version, Complete: true}
	if err := b.copyAll(ctx); err != nil {
		return out, fmt.Errorf("backing up: %w", err)
	}
	if err := syncFS(b.dir); err != nil {
		return out, fmt.Errorf("flushing the backup: %w", err)
	}
	if err := m.write(filepath.Join(b.dir, manifestName)); err != nil {
		return out, err
	}
	return control.BackedUp{Dir: b.dir, Created: m.Created, Keys: b.keys, Bytes: b.bytes}, nil
}

func (b *backup) copyAll(ctx context.Context) error {
	month := b.months()
	if err := b.tree(ctx, "identity"); err != nil {
		return err
	}
	if b.keys {
		if err := b.tree(ctx, "keys"); err != nil {
			return err
		}
	}
	if err := store.CopySQLite(ctx, filepath.Join(b.cfg.Data, "state.db"), filepath.Join(b.dir, "state.db")); err != nil {
		return err
	}
	if b.keys { // what was made meanwhile: the copy of the store may name it
		if err := b.tree(ctx, "keys"); err != nil {
			return err
		}
	}
	// What is published of a log is behind its segments, so it goes first.
	for _, name := range []string{deploymentLog, b.cfg.Gateway} {
		if err := b.tree(ctx, filepath.Join("log", name)); err != nil {
			return err
		}
	}
	pieces, err := b.logs()
	if err != nil {
		return err
	}
	for _, p := range pieces {
		n, err := copySparse(ctx, filepath.Join(b.dir, p.path), filepath.Join(b.cfg.Data, p.path), p.length, p.size)
		if err != nil {
			return err
		}
		b.bytes += n
	}
	if b.months() != month {
		return ostiary.Errorf(ostiary.Conflict, "month_turned", "a new month began in the log meanwhile; make the backup again")
	}
	return nil
}

// tree copies a folder below the data folder, without segments, locks,
// reserves and files on their way. A file that goes away meanwhile was
// replaced by another one that says the same.
func (b *backup) tree(ctx context.Context, name string) error {
	root := filepath.Join(b.cfg.Data, name)
	return filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path != root {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		rel, err := filepath.Rel(b.cfg.Data, path)
		if err != nil {
			return err
		}
		to := filepath.Join(b.dir, rel)
		base := e.Name()
		switch {
		case e.IsDir():
			return os.MkdirAll(to, 0o700)
		case strings.HasSuffix(base, ".seg") || strings.HasPrefix(base, ".") || base == "LOCK" || base == "reserve" || !e.Type().IsRegular():
			return nil
		}
		st, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		n, err := copySparse(ctx, to, path, st.Size(), st.Size())
		if errors.Is(err, fs.ErrNotExist) || name == "keys" && errors.Is(err, fs.ErrExist) { // gone, or copied before: a key never changes
			return nil
		}
		b.bytes += n
		return err
	})
}

// copyStep is how much is copied between two looks at the context, and the
// smallest hole left in a copy.
const copyStep = 1 << 20

// copySparse copies the first length bytes into a new file of the given size,
// and leaves holes where there are only zeros. It returns how much it wrote.
func copySparse(ctx context.Context, to, from string, length, size int64) (written int64, err error) {
	src, err := os.Open(from)
	if err != nil {
		return 0, err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, dst.Close()) }()
	buf, zeros := make([]byte, copyStep), make([]byte, copyStep)
	for off := int64(0); off < length; off += copyStep {
		if err := ctx.Err(); err != nil {
			return written, err
		}
		part := buf[:min(copyStep, length-off)]
		if _, err := src.ReadAt(part, off); err != nil {
			return written, fmt.Errorf("reading %s: %w", from, err)
		}
		if slices.Equal(part, zeros[:len(part)]) {
			continue
		}
		if _, err := dst.WriteAt(part, off); err != nil {
			return written, err
		}
		written += int64(len(part))
	}
	return written, dst.Truncate(size)
}

// syncFS flushes the file system a folder is on: one flush, for a log has a
// file for every 256 entries.
func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Syncfs(int(f.Fd()))
}
