package ledgertest

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"sync"
	"syscall"

	"github.com/ostiary/ostiary/internal/ledger"
)

// Mode is how an operation fails.
type Mode uint8

const (
	NotDone Mode = iota // it did not happen
	Done                // it happened, and was reported as failed
	Half                // a write of which half happened; like NotDone for other operations
)

// ErrInjected is the error of an operation that was made to fail.
var ErrInjected = errors.New("injected fault")

const sector = 512

// FS is a file system in memory. It keeps apart what a reader sees and what
// the device has: Sync and SyncDir carry over, and [FS.Crash] shows what a
// loss of power leaves: of what was not flushed, some sectors and some names,
// in no order. After a failed Sync, readers see data that the device lacks
// and that no later Sync writes, as on Linux.
type FS struct {
	// FailAt makes the operation of this number fail, from 1; 0 is none.
	FailAt int
	Mode   Mode
	Off    bool  // all later operations fail too: the power is off
	Err    error // what it fails with; nil is ErrInjected
	// Capacity bounds the bytes of all files; 0 is no bound.
	Capacity int64

	mu    sync.Mutex
	ops   int
	log   []string
	names map[string]*node // what a reader sees
	disk  map[string]*node // names the device has
	dirs  map[string]bool
	locks map[string]bool
	stall chan struct{}
}

type node struct {
	data  []byte // what a reader sees
	disk  []byte // what the device has
	dirty map[int64]bool
	links int
}

// NewFS returns an empty file system.
func NewFS() *FS {
	return &FS{names: map[string]*node{}, disk: map[string]*node{}, dirs: map[string]bool{".": true, "/": true}, locks: map[string]bool{}}
}

// Ops returns how many operations that can fail there were.
func (f *FS) Ops() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.ops
}

// Did returns a line for each of these operations, for failure messages.
func (f *FS) Did(n int) string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n < 1 || n > len(f.log) {
		return "nothing"
	}
	return f.log[n-1]
}

// Stall makes every Sync wait until the returned function is called.
func (f *FS) Stall() (release func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	c := make(chan struct{})
	f.stall = c
	return func() {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.stall = nil
		close(c)
	}
}

// SetCapacity changes Capacity while the file system is in use.
func (f *FS) SetCapacity(n int64) {
	f.mu.Lock()
	f.Capacity = n
	f.mu.Unlock()
}

// Used returns the bytes of all files.
func (f *FS) Used() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.used()
}

func (f *FS) used() (n int64) {
	for _, x := range f.names {
		n += int64(len(x.data))
	}
	return n
}

// step counts an operation. It reports how it fails, if it does.
func (f *FS) step(what string) (Mode, error) {
	f.ops++
	f.log = append(f.log, what)
	if f.ops != f.FailAt && !(f.Off && f.FailAt > 0 && f.ops > f.FailAt) {
		return NotDone, nil
	}
	if f.Err != nil {
		return f.Mode, f.Err
	}
	return f.Mode, ErrInjected
}

// Cut makes every operation from now on fail: the process that used it is
// gone, or the power is. What it left is what Restart or Crash returned before.
func (f *FS) Cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.FailAt, f.Mode, f.Off = max(1, f.ops), NotDone, true
}

// Restart returns the file system after the end of the process only: readers
// see everything written, and the device still lacks what it lacked.
func (f *FS) Restart() *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := NewFS()
	n.dirs = maps.Clone(f.dirs)
	moved := map[*node]*node{}
	move := func(from map[string]*node) map[string]*node {
		to := map[string]*node{}
		for p, x := range from {
			if moved[x] == nil {
				moved[x] = &node{data: bytes.Clone(x.data), disk: bytes.Clone(x.disk), dirty: maps.Clone(x.dirty), links: x.links}
			}
			to[p] = moved[x]
		}
		return to
	}
	n.names, n.disk = move(f.names), move(f.disk)
	return n
}

// Crash returns the file system after a loss of power.
func (f *FS) Crash(seed uint64) *FS {
	f.mu.Lock()
	defer f.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, 1))
	n := NewFS()
	n.dirs = maps.Clone(f.dirs)
	names := maps.Clone(f.disk)
	for _, dir := range slices.Sorted(maps.Keys(f.dirs)) {
		if rng.IntN(2) == 0 { // this directory's changes reached the device
			maps.DeleteFunc(names, func(p string, _ *node) bool { return path.Dir(p) == dir })
			for p, x := range f.names {
				if path.Dir(p) == dir {
					names[p] = x
				}
			}
		}
	}
	for _, p := range slices.Sorted(maps.Keys(names)) {
		data := names[p].afterCrash(rng)
		y := &node{data: data, disk: bytes.Clone(data), dirty: map[int64]bool{}, links: 1}
		n.names[p], n.disk[p] = y, y
	}
	return n
}

// afterCrash keeps some of the sectors that were not flushed.
func (x *node) afterCrash(rng *rand.Rand) []byte {
	data := bytes.Clone(x.disk)
	if len(x.data) > len(data) && rng.IntN(2) == 0 {
		data = append(data, make([]byte, len(x.data)-len(data))...)
	}
	for _, s := range slices.Sorted(maps.Keys(x.dirty)) {
		from, to := s*sector, min((s+1)*sector, int64(len(x.data)))
		if to > int64(len(data)) || from >= to {
			continue
		}
		switch rng.IntN(4) {
		case 0, 1: // it got there
			copy(data[from:to], x.data[from:to])
		case 2: // torn: its first half got there
			copy(data[from:(from+to)/2], x.data[from:(from+to)/2])
		}
	}
	return data
}

// MkdirAll makes directories; that they last is not simulated.
func (f *FS) MkdirAll(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for d := path.Clean(dir); !f.dirs[d]; d = path.Dir(d) {
		f.dirs[d] = true
	}
	return nil
}

// Create makes an empty file.
func (f *FS) Create(p string) (ledger.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	mode, err := f.step("create " + p)
	if err != nil && mode != Done {
		return nil, err
	}
	if old := f.names[p]; old != nil {
		old.links--
	}
	x := &node{dirty: map[int64]bool{}, links: 1}
	f.names[p] = x
	if err != nil {
		return nil, err
	}
	return &file{f, x, p, false}, nil
}

// Open opens a file.
func (f *FS) Open(p string, readOnly bool) (ledger.File, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := f.names[p]
	if x == nil {
		return nil, &fs.PathError{Op: "open", Path: p, Err: fs.ErrNotExist}
	}
	return &file{f, x, p, readOnly}, nil
}

// Rename renames a file.
func (f *FS) Rename(from, to string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	mode, err := f.step("rename " + from + " " + to)
	if err != nil && mode != Done {
		return err
	}
	x := f.names[from]
	if x == nil {
		return &fs.PathError{Op: "rename", Path: from, Err: fs.ErrNotExist}
	}
	if old := f.names[to]; old != nil {
		old.links--
	}
	delete(f.names, from)
	f.names[to] = x
	return err
}

// Remove removes a file.
func (f *FS) Remove(p string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	mode, err := f.step("remove " + p)
	if err != nil && mode != Done {
		return err
	}
	x := f.names[p]
	if x == nil {
		return &fs.PathError{Op: "remove", Path: p, Err: fs.ErrNotExist}
	}
	x.links--
	delete(f.names, p)
	return err
}

// SyncDir makes the names in a directory last.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	mode, err := f.step("syncdir " + dir)
	if err != nil && mode != Done {
		return err
	}
	dir = path.Clean(dir)
	maps.DeleteFunc(f.disk, func(p string, _ *node) bool { return path.Dir(p) == dir })
	for p, x := range f.names {
		if path.Dir(p) == dir {
			f.disk[p] = x
		}
	}
	return err
}

// ReadDir lists a directory.
func (f *FS) ReadDir(dir string) ([]string, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	dir = path.Clean(dir)
	var names []string
	for p := range f.names {
		if path.Dir(p) == dir {
			names = append(names, path.Base(p))
		}
	}
	for d := range f.dirs {
		if path.Dir(d) == dir && d != dir {
			names = append(names, path.Base(d))
		}
	}
	slices.Sort(names)
	return names, nil
}

// Free says how much room is left.
func (f *FS) Free(string) (ledger.Space, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.Capacity == 0 {
		return ledger.Space{Free: 1 << 40, Total: 1 << 40}, nil
	}
	return ledger.Space{Free: uint64(max(0, f.Capacity-f.used())), Total: uint64(f.Capacity)}, nil
}

// Lock takes a lock that lasts until it is closed.
func (f *FS) Lock(p string) (io.Closer, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.locks[p] {
		return nil, &ledger.Held{PID: 1}
	}
	f.locks[p] = true
	return unlock{f, p}, nil
}

type unlock struct {
	f *FS
	p string
}

func (u unlock) Close() error {
	u.f.mu.Lock()
	defer u.f.mu.Unlock()
	delete(u.f.locks, u.p)
	return nil
}

// Write replaces a file's bytes as nobody should, for tests of damage.
func (f *FS) Write(p string, b []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	x := &node{data: bytes.Clone(b), disk: bytes.Clone(b), dirty: map[int64]bool{}, links: 1}
	f.names[p], f.disk[p] = x, x
}

// Read returns a file's bytes, nil if there is none.
func (f *FS) Read(p string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	if x := f.names[p]; x != nil {
		return bytes.Clone(x.data)
	}
	return nil
}

// Files lists all files.
func (f *FS) Files() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.names))
}

type file struct {
	fs       *FS
	x        *node
	path     string
	readOnly bool
}

func (h *file) ReadAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if off >= int64(len(h.x.data)) {
		return 0, io.EOF
	}
	n := copy(b, h.x.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (h *file) WriteAt(b []byte, off int64) (int, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if h.readOnly {
		return 0, fs.ErrPermission
	}
	mode, err := h.fs.step("write " + h.path)
	if err != nil && mode == NotDone {
		return 0, err
	}
	if err != nil && mode == Half {
		b = b[:len(b)/2]
	}
	end := off + int64(len(b))
	if grow := end - int64(len(h.x.data)); grow > 0 {
		if c := h.fs.Capacity; c > 0 && h.fs.used()+grow > c {
			return 0, syscall.ENOSPC
		}
		h.x.data = append(h.x.data, make([]byte, grow)...)
	}
	copy(h.x.data[off:], b)
	for s := off / sector; s*sector < end; s++ {
		h.x.dirty[s] = true
	}
	return len(b), err
}

func (h *file) Sync() error {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	if stall := h.fs.stall; stall != nil {
		h.fs.mu.Unlock()
		<-stall
		h.fs.mu.Lock()
	}
	mode, err := h.fs.step("sync " + h.path)
	x := h.x
	if err == nil || mode == Done {
		if len(x.disk) < len(x.data) {
			x.disk = append(x.disk, make([]byte, len(x.data)-len(x.disk))...)
		}
		for s := range x.dirty {
			copy(x.disk[s*sector:], x.data[s*sector:min((s+1)*sector, int64(len(x.data)))])
		}
	}
	clear(x.dirty) // a failed flush leaves pages that look clean
	return err
}

func (h *file) Size() (int64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return int64(len(h.x.data)), nil
}

func (h *file) Links() (uint64, error) {
	h.fs.mu.Lock()
	defer h.fs.mu.Unlock()
	return uint64(h.x.links), nil
}

func (h *file) Close() error { return nil }
