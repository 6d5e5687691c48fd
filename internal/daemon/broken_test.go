package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary/internal/ledger"
)

// What the matrix breaks: the disk under the log, the wires to the database,
// the tool server and the collector, and the clock.

// skewed is a clock that can be moved. Its times keep the monotonic reading.
type skewed struct{ by atomic.Int64 }

func (c *skewed) now() time.Time            { return time.Now().Add(time.Duration(c.by.Load())) }
func (c *skewed) move(by time.Duration)     { c.by.Add(int64(by)) }
func (c *skewed) leasesPass(*stand)         { c.move(lease + time.Second) }
func (c *skewed) restore(was time.Duration) { c.by.Store(int64(was)) }

// disk is the machine's, of which the gateway's own log can be broken.
type disk struct {
	ledger.OS
	mu     sync.Mutex
	how    string
	freed  chan struct{} // closed when a stall ends
	failed int           // operations that failed
}

// breaks makes the disk fail from now on: full, eio, eio-done (it happened),
// short (half of a write happened), fsync, fsync-done, stall, slow, readonly.
func (d *disk) breaks(how string) (mend func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	freed := make(chan struct{})
	d.how, d.freed = how, freed
	return sync.OnceFunc(func() {
		d.mu.Lock()
		d.how = ""
		d.mu.Unlock()
		close(freed)
	})
}

// at returns how an operation of a file fails now.
func (d *disk) at(path string, ways ...string) string {
	d.mu.Lock()
	how, freed := d.how, d.freed
	hit := false
	for _, w := range ways {
		hit = hit || w == how && strings.Contains(path, "/gw1")
	}
	if hit {
		d.failed++
	}
	d.mu.Unlock()
	switch {
	case !hit:
		return ""
	case how == "stall":
		<-freed
		return ""
	case how == "slow":
		time.Sleep(100 * time.Millisecond) // this is the fault, not a wait for something
		return ""
	}
	return how
}

func (d *disk) Create(path string) (ledger.File, error) {
	switch d.at(path, "full", "readonly") {
	case "full":
		return nil, syscall.ENOSPC
	case "readonly":
		return nil, syscall.EROFS
	}
	f, err := d.OS.Create(path)
	return &diskFile{f, d, path}, err
}

func (d *disk) Open(path string, readOnly bool) (ledger.File, error) {
	f, err := d.OS.Open(path, readOnly)
	if err != nil {
		return nil, err
	}
	return &diskFile{f, d, path}, nil
}

func (d *disk) Rename(from, to string) error {
	if d.at(to, "readonly") != "" {
		return syscall.EROFS
	}
	return d.OS.Rename(from, to)
}

func (d *disk) Free(dir string) (ledger.Space, error) {
	s, err := d.OS.Free(dir)
	if d.at(dir, "full") != "" {
		s.Free = 0
	}
	return s, err
}

type diskFile struct {
	ledger.File
	d    *disk
	path string
}

func (f *diskFile) WriteAt(b []byte, off int64) (int, error) {
	switch f.d.at(f.path, "eio", "eio-done", "short", "readonly") {
	case "eio":
		return 0, syscall.EIO
	case "readonly":
		return 0, syscall.EROFS
	case "short":
		n, err := f.File.WriteAt(b[:len(b)/2], off)
		return n, errors.Join(err, io.ErrShortWrite)
	case "eio-done":
		n, err := f.File.WriteAt(b, off)
		return n, errors.Join(err, syscall.EIO)
	}
	return f.File.WriteAt(b, off)
}

func (f *diskFile) Sync() error {
	switch f.d.at(f.path, "fsync", "fsync-done", "stall", "slow") {
	case "fsync":
		return syscall.EIO
	case "fsync-done":
		return errors.Join(f.File.Sync(), syscall.EIO)
	}
	return f.File.Sync()
}

// wire is a proxy in front of a server that can do to a connection what
// networks and servers do.
type wire struct {
	l       net.Listener
	network string
	target  string
	mu      sync.Mutex
	how     string
	conns   map[net.Conn]bool
	ended   bool
	all     sync.WaitGroup
}

// newWire listens and passes on to target.
func newWire(t testing.TB, l net.Listener, network, target string) *wire {
	t.Helper()
	w := &wire{l: l, network: network, target: target, conns: map[net.Conn]bool{}}
	w.all.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			w.all.Go(func() { w.serve(c) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		w.mu.Lock()
		w.ended = true
		w.mu.Unlock()
		w.cut()
		w.all.Wait()
	})
	return w
}

// breaks makes the wire fail from now on; connections that stand fail too.
// refuse: each is reset; silent: nothing is read or answered; garbage: noise
// is answered; half: what is asked passes, and the answer ends in its middle.
func (w *wire) breaks(how string) (mend func()) {
	w.mu.Lock()
	w.how = how
	w.mu.Unlock()
	w.cut()
	return func() {
		w.mu.Lock()
		w.how = ""
		w.mu.Unlock()
		w.cut()
	}
}

func (w *wire) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for c := range w.conns {
		c.Close()
	}
}

// hold keeps c to be cut, and tells how the wire is broken now.
func (w *wire) hold(c net.Conn) (how string, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.ended {
		w.conns[c] = true
	}
	return w.how, !w.ended
}

func (w *wire) drop(c net.Conn) {
	w.mu.Lock()
	delete(w.conns, c)
	w.mu.Unlock()
	c.Close()
}

func (w *wire) serve(c net.Conn) {
	how, ok := w.hold(c)
	defer w.drop(c)
	switch {
	case !ok:
	case how == "refuse":
		if t, ok := c.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
	case how == "silent":
		c.Read(make([]byte, 1))
		w.untilCut(c)
	case how == "garbage":
		c.Read(make([]byte, 1))
		io.WriteString(c, "\x00\xff{\"]HTTP/9 \r\n\r\n\x01\x02E\x00\x00")
	default:
		w.pass(c, how == "half")
	}
}

// untilCut waits until the connection is closed by either side.
func (w *wire) untilCut(c net.Conn) {
	io.Copy(io.Discard, c)
}

// pass carries bytes both ways; of a half answer only the first bytes.
func (w *wire) pass(c net.Conn, half bool) {
	far, err := net.DialTimeout(w.network, w.target, 5*time.Second)
	if err != nil {
		return
	}
	if _, ok := w.hold(far); !ok {
		far.Close()
		return
	}
	defer w.drop(far)
	var back sync.WaitGroup
	back.Go(func() {
		if half {
			io.CopyN(c, far, 40)
		} else {
			io.Copy(c, far)
		}
		c.Close()
	})
	io.Copy(far, c)
	far.Close()
	back.Wait()
}

// tcpWire is a proxy on a loopback port, and its address.
func tcpWire(t testing.TB, target string) (*wire, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, l, "tcp", target), l.Addr().String()
}

// socketWire is a proxy in front of a database server's socket, in a folder of
// its own.
func socketWire(t testing.TB, dir, target string) *wire {
	t.Helper()
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, l, "unix", target)
}

// scribble overwrites files with noise and returns what puts them back.
func scribble(t testing.TB, paths ...string) (mend func()) {
	t.Helper()
	was := map[string][]byte{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		was[p] = b
		over(t, p, []byte(strings.Repeat("\xa5garbage", len(b)/8+1))[:len(b)])
	}
	return func() {
		for p, b := range was {
			over(t, p, b)
		}
	}
}

// over writes into the file that is there, as a bad disk would.
func over(t testing.TB, path string, b []byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Error(err)
		return
	}
	if _, err := f.WriteAt(b, 0); err != nil {
		t.Error(err)
	}
	f.Close()
}

// within asks until f says yes, for at most patience.
func within(ctx context.Context, patience time.Duration, f func() bool) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !f() {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}
