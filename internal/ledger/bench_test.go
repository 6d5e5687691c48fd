package ledger_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// raw is the ceiling: group commit and nothing else. A frame with a checksum,
// one committer, one positioned write into a zeroed file, one flush.
type raw struct {
	mu     sync.Mutex
	filled sync.Cond
	queue  []*rawItem
	closed bool
	file   ledger.File
	off    int64
	size   int64
}

type rawItem struct {
	b    []byte
	done chan error
}

func newRaw(b *testing.B) *raw {
	f, err := ledger.OS{}.Create(filepath.Join(b.TempDir(), "raw"))
	if err != nil {
		b.Fatal(err)
	}
	r := &raw{file: f, size: 64 << 20}
	r.filled.L = &r.mu
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < r.size; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, off); err != nil {
			b.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil {
		b.Fatal(err)
	}
	go r.run()
	b.Cleanup(func() {
		r.mu.Lock()
		r.closed = true
		r.filled.Broadcast()
		r.mu.Unlock()
	})
	return r
}

func (r *raw) append(it *rawItem) error {
	r.mu.Lock()
	r.queue = append(r.queue, it)
	if len(r.queue) == 1 {
		r.filled.Signal()
	}
	r.mu.Unlock()
	return <-it.done
}

func (r *raw) run() {
	var batch []*rawItem
	var buf []byte
	table := crc32.MakeTable(crc32.Castagnoli)
	for {
		r.mu.Lock()
		for len(r.queue) == 0 && !r.closed {
			r.filled.Wait()
		}
		if r.closed {
			r.mu.Unlock()
			return
		}
		batch, r.queue = r.queue, batch[:0]
		r.mu.Unlock()
		buf = append(buf[:0], make([]byte, 16)...)
		for _, it := range batch {
			buf = append(buf, it.b...)
		}
		binary.BigEndian.PutUint32(buf[4:], uint32(len(buf)))
		binary.BigEndian.PutUint32(buf, crc32.Checksum(buf[4:], table))
		if r.off+int64(len(buf)) > r.size {
			r.off = 0
		}
		_, err := r.file.WriteAt(buf, r.off)
		if err == nil {
			err = r.file.Sync()
		}
		r.off += int64(len(buf))
		for _, it := range batch {
			it.done <- err
		}
	}
}

// load runs callers for a time and returns entries per second.
func load(callers int, d time.Duration, one func(caller, n int) error) (float64, error) {
	var n atomic.Int64
	var failed atomic.Pointer[error]
	var wg sync.WaitGroup
	start := time.Now()
	for c := range callers {
		wg.Go(func() {
			for k := 0; time.Since(start) < d; k++ {
				if err := one(c, k); err != nil {
					failed.Store(&err)
					return
				}
				n.Add(1)
			}
		})
	}
	wg.Wait()
	if err := failed.Load(); err != nil {
		return 0, *err
	}
	return float64(n.Load()) / time.Since(start).Seconds(), nil
}

// BenchmarkAppend reports the log's throughput as a ratio to the ceiling, in
// slices that alternate. Entries take about 1,024 bytes with their payload;
// Intents and Outcomes alternate.
func BenchmarkAppend(b *testing.B) {
	const slice, rounds = 200 * time.Millisecond, 7
	for _, callers := range []int{1, 64, 1024} {
		b.Run(fmt.Sprint(callers), func(b *testing.B) {
			r := newRaw(b)
			w := newWorld(b.TempDir())
			w.SegmentSize, w.Reserve = 64<<20, 32<<20
			l := w.open(b)
			items := make([]*rawItem, callers)
			last := make([]ostiary.Receipt, callers)
			agents := make([]ostiary.AgentID, callers)
			payload := make([]byte, 560)
			for i := range items {
				items[i] = &rawItem{make([]byte, 1024), make(chan error, 1)}
				agents[i] = ostiary.AgentID(fmt.Sprintf("spiffe://test/agent/%d", i%64))
			}
			ctx := context.Background()
			ours := func(c, _ int) error {
				e := ostiary.Entry{Kind: ostiary.KindIntent, Agent: agents[c], Principal: "person:dana", Session: "s", Action: "bank___pay",
					Server: "bank", Permit: true, Code: "permit", Snapshot: 1, Policy: ostiary.Digest{1}, Pin: ostiary.Digest{2}, Payload: ostiary.Payload{Arguments: payload}}
				if !last[c].ID.IsZero() {
					e.Kind, e.Answers, e.Disposition = ostiary.KindOutcome, last[c].ID, ostiary.Delivered
				}
				rec, err := l.Append(ctx, &e)
				if last[c] = rec; e.Kind == ostiary.KindOutcome {
					last[c] = ostiary.Receipt{}
				}
				return err
			}
			ceiling := func(c, _ int) error { return r.append(items[c]) }
			for b.Loop() {
				var top, got, ratio, topUsed, used []float64
				for range rounds {
					before := processor()
					t, err := load(callers, slice, ceiling)
					if err != nil {
						b.Fatal(err)
					}
					between := processor()
					o, err := load(callers, slice, ours)
					if err != nil {
						b.Fatal(err)
					}
					top, got, ratio = append(top, t), append(got, o), append(ratio, o/t)
					micros := func(d time.Duration, rate float64) float64 {
						return float64(d.Microseconds()) / (rate * slice.Seconds())
					}
					topUsed, used = append(topUsed, micros(between-before, t)), append(used, micros(processor()-between, o))
				}
				b.ReportMetric(median(top), "ceiling/s")
				b.ReportMetric(median(got), "ours/s")
				b.ReportMetric(median(ratio), "ratio")
				b.ReportMetric(median(topUsed), "ceiling-cpu-us")
				b.ReportMetric(median(used), "ours-cpu-us")
			}
			b.ReportMetric(0, "ns/op")
		})
	}
}

// processor returns the processor time this process has used. It is steadier
// than throughput where the machine is shared.
func processor() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func median(x []float64) float64 {
	slices.Sort(x)
	return x[len(x)/2]
}
