package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// record is what tool servers received: which call under which entry. A process
// is not told the entry; its calls are known by their number.
type record struct {
	mu    sync.Mutex
	calls map[string]uint32
	twice []string // entries, or numbers, under which more than one call arrived
	piped map[uint32]bool
}

func (r *record) add(entry string, n uint32) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, had := r.calls[entry]; had {
		r.twice = append(r.twice, entry)
	}
	r.calls[entry] = n
}

// read adds what the stdio server wrote down.
func (r *record) read(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		n, err := strconv.ParseUint(sc.Text(), 10, 32)
		if err != nil {
			return err
		}
		if r.piped[uint32(n)] {
			r.twice = append(r.twice, "of call "+sc.Text())
		}
		r.piped[uint32(n)] = true
	}
	return sc.Err()
}

// bank is the tool server over HTTP. It can be killed, revived, and told to
// misbehave.
type bank struct {
	t    testing.TB
	addr string
	rec  *record
	came func(n uint32) // told of each call; nil if nobody wants to know

	mu     sync.Mutex // guards what follows
	server *http.Server
	mode   string
	held   chan struct{} // closed when hanging calls may go on
	odd    int
}

func newBank(t testing.TB, rec *record, came func(uint32)) *bank {
	b := &bank{t: t, addr: freeAddr(t), rec: rec, came: came, held: make(chan struct{})}
	b.revive()
	t.Cleanup(b.kill)
	return b
}

// kill closes listener and connections, whatever runs.
func (b *bank) kill() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		b.server.Close()
	}
	b.server = nil
}

func (b *bank) revive() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.server != nil {
		return
	}
	l, err := net.Listen("tcp", b.addr)
	if err != nil {
		b.t.Errorf("the tool server does not come back: %v", err)
		return
	}
	b.server = &http.Server{Handler: b}
	go b.server.Serve(l) // until kill
}

// behave changes the mode and lets go of what hangs.
func (b *bank) behave(mode string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mode = mode
	close(b.held)
	b.held = make(chan struct{})
}

func (b *bank) now() (mode string, held <-chan struct{}, odd int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.odd++
	return b.mode, b.held, b.odd
}

func (b *bank) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	var m message
	if err == nil {
		err = json.Unmarshal(body, &m)
	}
	if err != nil { // cut on the way: nothing was received
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	mode, held, odd := b.now()
	if m.Method != "tools/call" {
		mode = ""
	} else {
		if b.came != nil {
			b.came(m.Params.Arguments.N)
		}
		b.rec.add(r.Header.Get("Ostiary-Entry"), m.Params.Arguments.N)
	}
	if mode == "hang" {
		select {
		case <-held:
		case <-r.Context().Done():
			return
		}
	}
	w.Header().Set("Content-Type", "application/json")
	answer := m.answer()
	if mode == "garbage" {
		answer = b.garbage(w, r, answer, odd)
	}
	if answer == "" {
		w.WriteHeader(http.StatusAccepted)
		return
	}
	io.WriteString(w, answer)
}

// garbage is one of the ways to answer badly.
func (b *bank) garbage(w http.ResponseWriter, r *http.Request, good string, odd int) string {
	switch odd % 6 {
	case 0:
		return `{"jsonrpc":"2.0","id":987654321,"result":{}}`
	case 1:
		return strings.Repeat("\x00\xff", 5000)
	case 2: // half of it
		w.Header().Set("Content-Length", fmt.Sprint(len(good)))
		return good[:len(good)/2]
	case 3:
		w.Header().Set("Location", "http://169.254.169.254/")
		w.WriteHeader(http.StatusTemporaryRedirect)
		return "elsewhere"
	case 4:
		w.WriteHeader(http.StatusInternalServerError)
		return "out of order"
	default:
		return strings.Replace(good, `{`, `{"id":1,"id":2,`, 1)
	}
}
