package demo

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
)

// maxJournalBody is how much of a received body the journal keeps: enough for
// every call the story and the attack suites make, little enough that a large
// one does not fill the disk of a demo.
const maxJournalBody = 64 << 10

// maxJournalLine bounds one line when reading back: a kept body may grow
// sixfold by escaping, and the other members are short.
const maxJournalLine = 8 * maxJournalBody

// What an [Event] says happened at the tool server.
const (
	Received  = "received"  // bytes arrived; written before anything looks at them
	Refused   = "refused"   // they were answered with an HTTP status of 400 or more
	Executed  = "executed"  // a tool ran to its effect
	Cancelled = "cancelled" // a tool stopped because the caller gave up
	Changed   = "changed"   // a tool's definition was changed, or changed back
)

// Event is one line of the journal.
type Event struct {
	Time    time.Time `json:"time"`
	What    string    `json:"what"`
	Via     string    `json:"via,omitempty"`     // "http" or "stdio"
	Method  string    `json:"method,omitempty"`  // HTTP method
	Path    string    `json:"path,omitempty"`    // HTTP path
	Entry   string    `json:"entry,omitempty"`   // the ledger entry it ran under, as the gateway named it
	Bytes   int       `json:"bytes,omitempty"`   // length of what arrived
	Body    string    `json:"body,omitempty"`    // the first 64 KiB of it
	Status  int       `json:"status,omitempty"`  // HTTP status of a refusal
	Tool    string    `json:"tool,omitempty"`    // of an effect
	Payment *Payment  `json:"payment,omitempty"` // of a payment
	Detail  string    `json:"detail,omitempty"`
}

// Journal writes events, one JSON object a line. A nil Journal discards them.
// Safe for concurrent use.
type Journal struct {
	mu  sync.Mutex
	out io.WriteCloser
	now func() time.Time
}

// OpenJournal appends to the file at path, creating it readable by its owner
// only: bodies may hold what agents sent.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("opening the journal: %w", err)
	}
	return &Journal{out: f, now: time.Now}, nil
}

// Write adds an event. An error means the caller must not go on to the
// effect the event announces.
func (j *Journal) Write(e Event) error {
	if j == nil {
		return nil
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	e.Time = j.now().UTC()
	line, err := json.Marshal(e)
	if err != nil {
		return err
	}
	_, err = j.out.Write(append(line, '\n')) // one write, so that lines of two processes do not mix
	return err
}

// Close closes the file.
func (j *Journal) Close() error {
	if j == nil {
		return nil
	}
	return j.out.Close()
}

// received writes what arrived, cut to what the journal keeps.
func (j *Journal) received(e Event, body []byte) error {
	e.What, e.Bytes = Received, len(body)
	e.Body = strings.ToValidUTF8(string(body[:min(len(body), maxJournalBody)]), "\uFFFD")
	return j.Write(e)
}

// ReadJournal returns the events written so far. A journal that does not
// exist yet is empty; a last line that is still being written is left out.
func ReadJournal(path string) ([]Event, error) {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()

	var events []Event
	r := bufio.NewReaderSize(f, maxJournalLine)
	for {
		line, err := r.ReadSlice('\n')
		if err == io.EOF {
			return events, nil
		}
		if err != nil {
			return nil, fmt.Errorf("reading the journal: %w", err)
		}
		var e Event
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("reading the journal, line %d: %w", len(events)+1, err)
		}
		events = append(events, e)
	}
}

// Payments returns the payments among the events, in order.
func Payments(events []Event) []Payment {
	var all []Payment
	for _, e := range events {
		if e.What == Executed && e.Payment != nil {
			all = append(all, *e.Payment)
		}
	}
	return all
}

// Arrived reports how many events show bytes that contain the text: zero
// means it never reached the tool server.
func Arrived(events []Event, text string) int {
	n := 0
	for _, e := range events {
		if e.What == Received && strings.Contains(e.Body, text) {
			n++
		}
	}
	return n
}
