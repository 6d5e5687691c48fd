package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/store"
)

// journal is the two logs of one machine, each with the index built from it.
type journal struct {
	deployment *ledger.Log // control changes and anchors
	gateway    *ledger.Log // every action
	indexes    map[*ledger.Log]*indexed
	epoch      uint64   // of the deployment
	names      []string // of the logs' first keys, the deployment's before the gateway's
	stop       context.CancelFunc
	wait       sync.WaitGroup
	closers    []func() error
}

// indexed is a log with its index.
type indexed struct {
	log     *ledger.Log
	index   ledger.Index
	indexer *ledger.Indexer
	keys    func(context.Context) ([]ledger.LogRecord, error) // of every log ever opened
}

// deploymentLog names the deployment's own log beside the gateways'.
const deploymentLog = "deployment"

// settleMargin is what a call that was ended for its length may take to settle
// before the log gives up on it: an outcome that comes later is refused, and
// the reply with it. The gate itself gives up after half of it.
const settleMargin = time.Minute

// controlState is the control state as the logs see it: with its revision,
// which heartbeats record, so that a control state that was rolled back is
// noticed and refused.
type controlState struct {
	*store.SQL
	epoch uint64 // rises when an operator confirms a restore
}

// Revision implements ledger.Revisions.
func (s controlState) Revision(ctx context.Context) (epoch, revision uint64, err error) {
	revision, err = s.SQL.Revision(ctx)
	return s.epoch, revision, err
}

func openJournal(ctx context.Context, cfg *Config, keys *keys, db *store.SQL, files ledger.FS, clock func() time.Time, log *slog.Logger) (_ *journal, err error) {
	run, stop := context.WithCancel(context.Background())
	j := &journal{indexes: map[*ledger.Log]*indexed{}, stop: stop}
	defer func() {
		if err != nil {
			j.Close()
		}
	}()
	epoch, err := readEpoch(cfg.Data)
	if err != nil {
		return nil, err
	}
	j.epoch = epoch
	open := func(dir, name, key string, parent *ledger.Log) (*ledger.Log, error) {
		signer, older, err := keys.logSigners(key)
		if err != nil {
			return nil, err
		}
		l, err := ledger.Open(ctx, ledger.Options{
			Dir: filepath.Join(cfg.Data, "log", dir), Deployment: cfg.Deployment, Gateway: name, Signer: signer, Older: older, Wrap: keys, Control: controlState{db, epoch},
			Parent: parent, SegmentSize: int64(cfg.Ledger.SegmentSize), Reserve: reserve(cfg, parent), Longest: time.Duration(cfg.Ledger.MaxActionTime) + settleMargin, FS: files, Clock: clock, Logger: log.With("log", name),
		})
		if err != nil {
			return nil, err
		}
		j.closers = append(j.closers, l.Close)
		return l, j.follow(run, l, filepath.Join(cfg.Data, "index-"+dir+".db"), db.Logs, log)
	}
	name, _ := cfg.changeLog()
	j.names = cfg.logKeyNames()
	if j.deployment, err = open(deploymentLog, name, j.names[0], nil); err != nil {
		return nil, err
	}
	if j.gateway, err = open(cfg.Gateway, cfg.Gateway, j.names[1], j.deployment); err != nil {
		return nil, err
	}
	return j, nil
}

// turn goes on under the keys that sign now.
func (j *journal) turn(ctx context.Context, keys *keys) error {
	for i, l := range []*ledger.Log{j.deployment, j.gateway} {
		signer, _, err := keys.logSigners(j.names[i])
		if err != nil {
			return err
		}
		if err := l.Rotate(ctx, signer); err != nil {
			return fmt.Errorf("going on under another key in log %s: %w", l.Origin(), err)
		}
	}
	return nil
}

// indexAgain is how long an index that failed is left alone before it is tried
// again.
const indexAgain = time.Second

// mostReserve bounds the reserve that grows with the segments.
const mostReserve = 64 << 20

// reserve is a gateway's for the outcomes of calls and streams that are open:
// together with the two spare segments there is always room for 12,000 of them,
// if segments have their usual size. The deployment's log opens none.
func reserve(cfg *Config, parent *ledger.Log) int64 {
	if parent == nil {
		return ledger.DefaultReserve
	}
	return max(ledger.DefaultReserve, min(int64(cfg.Ledger.SegmentSize), mostReserve))
}

// follow builds the index of a log beside it, for as long as both live. An
// index that fails lags until it works again, and holds up nothing else.
func (j *journal) follow(ctx context.Context, l *ledger.Log, path string, keys func(context.Context) ([]ledger.LogRecord, error), log *slog.Logger) error {
	index, err := store.OpenIndex(path, l, log)
	if err != nil {
		return err
	}
	x := &indexed{log: l, index: index, indexer: ledger.NewIndexer(l, index), keys: keys}
	j.indexes[l] = x
	j.closers = append(j.closers, func() error {
		j.stop() // the followers read a log that closes after this
		j.wait.Wait()
		return index.Close()
	})
	j.wait.Go(func() {
		for said := false; ; {
			err := x.indexer.Run(ctx)
			if ctx.Err() != nil || l.Err() != nil {
				return
			}
			if !said { // once: one that is damaged fails each time
				log.Error("the log's index cannot be written; queries show what it has, and it is tried again", "error", err)
				said = true
			}
			select {
			case <-ctx.Done():
				return
			case <-time.After(indexAgain):
			}
		}
	})
	return nil
}

// Close ends each log after its index: the gateway's before the deployment's,
// which records its end.
func (j *journal) Close() error {
	j.stop()
	var all []error
	for _, f := range slices.Backward(j.closers) {
		all = append(all, f())
	}
	j.closers = nil
	return errors.Join(all...)
}

// watch reports the first log that nothing can be recorded in any more, until
// ctx ends.
func (j *journal) watch(ctx context.Context, failed chan<- error) {
	select {
	case <-ctx.Done():
	case <-j.gateway.Failed():
		failed <- j.gateway.Err()
	case <-j.deployment.Failed():
		failed <- j.deployment.Err()
	}
}

func (j *journal) keys() []control.Key {
	var out []control.Key
	for _, l := range []*ledger.Log{j.gateway, j.deployment} {
		out = append(out, control.Key{Use: "log", ID: l.Origin(), Key: l.Key()})
	}
	return out
}

// view answers control's questions about one of the logs.
func (j *journal) view(l *ledger.Log) control.Log { return j.indexes[l] }

// Query implements control.Log.
func (x *indexed) Query(ctx context.Context, f ledger.Filter) ([]ledger.Row, uint64, uint64, error) {
	rows, err := x.index.Query(ctx, f)
	_, n, m := x.indexer.Progress()
	return rows, n, m, err
}

// Entry implements control.Log.
func (x *indexed) Entry(ctx context.Context, ref ostiary.EntryRef) (control.LogEntry, error) {
	if ref.Month == "" {
		ref.Month = x.log.Newest().Month
	}
	rec, err := x.log.Entry(ctx, ref)
	if err != nil {
		return control.LogEntry{}, err
	}
	opened := len(rec.Sealed) == 0
	if !opened {
		err := x.log.Unseal(ctx, rec)
		if opened = err == nil; err != nil && ostiary.KindOf(err) != ostiary.NotFound {
			return control.LogEntry{}, err
		}
	}
	return control.LogEntry{Origin: rec.Origin, Ref: rec.Ref, Entry: rec.Entry, Raw: rec.Raw, Opened: opened}, nil
}

// Prove implements control.Log.
func (x *indexed) Prove(_ context.Context, ref ostiary.EntryRef) ([]byte, error) {
	return x.log.Prove(ref)
}

// Key implements control.Log: what the log was opened with, as the control
// state remembers it.
func (x *indexed) Key(ctx context.Context, origin string) (string, error) {
	logs, err := x.keys(ctx)
	if err != nil {
		return "", err
	}
	for _, l := range logs {
		if l.Origin == origin {
			return l.Key, nil
		}
	}
	return "", ostiary.Errorf(ostiary.NotFound, "no_log", "no log %s was ever opened here", origin)
}
