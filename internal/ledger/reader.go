package ledger

import (
	"context"
	"errors"
	"path/filepath"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

// Reader reads a log's directory without writing to it: a copy, or one whose
// process is not asked. Of a log that is being written to it may show entries
// whose flush has not returned yet. It checks frames and leaf hashes as it
// reads; proof.VerifyDir checks everything. Safe for concurrent use.
type Reader struct {
	reading
	list []*volume
}

// OpenReader opens a log's directory (the one [Options].Dir named). wrap and
// keys open payloads; without them entries are shown sealed.
func OpenReader(dir string, wrap AEAD, keys DataKeys) (*Reader, error) {
	return openReader(OS{}, dir, wrap, keys)
}

func openReader(fsys FS, dir string, wrap AEAD, keys DataKeys) (*Reader, error) {
	names, err := fsys.ReadDir(dir)
	if err != nil {
		return nil, ostiary.Errorf(ostiary.Unavailable, "ledger_dir", "the ledger's directory cannot be read").Because(err)
	}
	r := &Reader{reading: reading{wrap: wrap, keys: keys}}
	r.volumes = func() []*volume { return r.list }
	for _, month := range names {
		if !monthSyntax.MatchString(month) {
			continue
		}
		v, err := readVolume(fsys, filepath.Join(dir, month))
		if err != nil {
			return nil, err
		}
		if v != nil {
			r.list = append(r.list, v)
			r.deployment = proof.Deployment(v.origin)
		}
	}
	if len(r.list) == 0 {
		return nil, ostiary.Errorf(ostiary.NotFound, "no_log", "there is no log in %s", dir)
	}
	return r, nil
}

// readVolume opens one month to read, nil if it was never begun.
func readVolume(fsys FS, dir string) (*volume, error) {
	v := newVolume(fsys, dir, filepath.Base(dir))
	segs, err := v.list()
	if err != nil || len(segs) == 0 {
		return nil, err
	}
	err = v.with(segs[0], func(f File, size int64) error {
		about, _, _, err := proof.ReadOpening(f, size, segs[0].number)
		v.origin = about.Origin
		return err
	})
	if errors.Is(err, proof.ErrSpare) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	v.id = ostiary.DigestOf([]byte(v.origin))
	if err := v.openClosed(); err != nil {
		return nil, err
	}
	return v, nil
}

// Newest returns the newest entry, the zero EntryRef if there is none.
func (r *Reader) Newest() ostiary.EntryRef { return r.newest() }

// Entry reads one entry with its payload; see [Log.Entry]. If the payload
// cannot be opened, the record is returned beside the error.
func (r *Reader) Entry(ctx context.Context, ref ostiary.EntryRef) (*Record, error) {
	return r.entry(ctx, ref)
}

// Unseal opens the payload of a record that Each delivered.
func (r *Reader) Unseal(ctx context.Context, rec *Record) error { return r.unseal(ctx, rec) }

// Each visits every entry from a place on, in order.
func (r *Reader) Each(from ostiary.EntryRef, visit func(*Record) error) error {
	_, err := r.each(from, visit)
	return err
}
