package bench

import (
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"syscall"
)

// flushes is the least a durable proxy can do: each call waits for one write
// and one fdatasync before it goes out and for another before its reply does.
// Callers share a flush as the ledger's do: one of them writes for all that
// wait, so a lone caller has nobody to wake.
type flushes struct {
	file *os.File
	off  int64

	mu      sync.Mutex // guards all below
	waiting []chan bool
	spare   []chan bool
	leads   bool
}

// recordSize is what a call's entries take: some 1,500 bytes each with payload,
// head and padding.
const recordSize = 1536

const flushFile = 64 << 20

func newFlushes(dir string) (*flushes, error) {
	f, err := os.Create(filepath.Join(dir, "flushes"))
	if err != nil {
		return nil, err
	}
	zeros := make([]byte, 1<<20)
	for off := int64(0); off < flushFile; off += int64(len(zeros)) {
		if _, err := f.WriteAt(zeros, off); err != nil {
			return nil, err
		}
	}
	return &flushes{file: f}, f.Sync()
}

// flush returns when a flush that covers the caller has succeeded.
func (s *flushes) flush() error {
	s.mu.Lock()
	if s.leads {
		turn := make(chan bool, 1)
		s.waiting = append(s.waiting, turn)
		s.mu.Unlock()
		if !<-turn { // written by another
			return nil
		}
		s.mu.Lock()
	}
	s.leads = true
	batch := s.waiting
	s.waiting, s.spare = s.spare[:0], nil
	s.mu.Unlock()
	err := s.write(1 + len(batch))
	for _, turn := range batch {
		turn <- false
	}
	if len(batch) > 0 {
		runtime.Gosched()
	}
	s.mu.Lock()
	s.spare = batch[:0]
	if s.leads = len(s.waiting) > 0; s.leads {
		s.waiting[0] <- true
		s.waiting = append(s.waiting[:0], s.waiting[1:]...)
	}
	s.mu.Unlock()
	return err
}

func (s *flushes) write(n int) error {
	b := make([]byte, n*recordSize)
	for i := range b {
		b[i] = byte(i)
	}
	if s.off+int64(len(b)) > flushFile {
		s.off = 0
	}
	_, err := s.file.WriteAt(b, s.off)
	s.off += int64(len(b))
	if err != nil {
		return err
	}
	return syscall.Fdatasync(int(s.file.Fd()))
}

// durable makes a handler wait for a flush before and after it.
func (s *flushes) durable(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if err := s.flush(); err != nil {
			http.Error(w, "flush", 500)
			return
		}
		next.ServeHTTP(&slowHead{ResponseWriter: w, s: s}, r)
	})
}

// slowHead flushes before the first byte of the reply.
type slowHead struct {
	http.ResponseWriter
	s *flushes
}

func (h *slowHead) WriteHeader(status int) {
	if err := h.s.flush(); err != nil {
		status = 500
	}
	h.ResponseWriter.WriteHeader(status)
}
