package verify

import (
	"net/http"
	"sync"
)

// memory remembers nonces until their signatures have expired. It forgets
// none before: when it is full it refuses.
type memory struct {
	limit int

	mu      sync.Mutex // guards what follows
	seen    map[nonce]struct{}
	byEnd   map[int64][]nonce // what ends in each second
	cleaned int64             // all seconds before it are forgotten
}

type nonce struct{ keyID, value string }

// use takes a nonce once, until the given second.
func (m *memory) use(keyID, value string, end, now int64) *Error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen == nil {
		m.seen, m.byEnd = map[nonce]struct{}{}, map[int64][]nonce{}
	}
	m.forget(now)
	if end <= m.cleaned { // the clock was ahead once, and its nonce may be forgotten
		return refuse("expires", "the signature ends before what is remembered here begins")
	}
	n := nonce{keyID, value}
	if _, used := m.seen[n]; used {
		return refuse("nonce", "this request was received before")
	}
	if len(m.seen) >= m.limit {
		return &Error{http.StatusServiceUnavailable, "", "too many requests are inside their window; try again in a minute"}
	}
	m.seen[n] = struct{}{}
	m.byEnd[end] = append(m.byEnd[end], n)
	return nil
}

// forget drops what has ended. Windows are short, so there are few seconds.
// A clock that steps back forgets nothing more.
func (m *memory) forget(now int64) {
	if now <= m.cleaned {
		return
	}
	m.cleaned = now
	for end, nonces := range m.byEnd {
		if end <= now {
			for _, n := range nonces {
				delete(m.seen, n)
			}
			delete(m.byEnd, end)
		}
	}
}
