package bench

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// caller is an agent that calls without end.
type caller struct {
	*agent
	url string

	mu         sync.Mutex // guards what follows
	token      string
	generation int // of what proves it
	conns      []net.Conn
}

// proof returns what the next connection shows.
func (c *caller) proof() (t *tls.Config, token string, generation int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.tls, c.token, c.generation
}

// keep notes a connection, so that it can be cut.
func (c *caller) keep(conn net.Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.conns = append(c.conns, conn)
}

// hangUp closes every connection of the agent, at once and without a word.
func (c *caller) hangUp() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns {
		if t, ok := conn.(*net.TCPConn); ok {
			t.SetLinger(0)
		}
		conn.Close()
	}
	c.conns = nil
}

func (c *caller) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, network, addr)
	if err == nil {
		c.keep(conn)
	}
	return conn, err
}

// client returns a client with connections of its own.
func (c *caller) client(t *tls.Config) *http.Client {
	return &http.Client{Timeout: patience, Transport: &http.Transport{TLSClientConfig: t, DialContext: c.dial, DisableCompression: true}}
}

// calling calls whenever the pace says so.
func (s *soak) calling(ctx context.Context, c *caller) {
	config, token, generation := c.proof()
	client := c.client(config)
	defer func() { client.CloseIdleConnections() }()
	for i := 0; ; i++ {
		select {
		case <-ctx.Done():
			return
		case <-s.pace:
		}
		if _, _, now := c.proof(); now != generation {
			client.CloseIdleConnections()
			config, token, generation = c.proof()
			client = c.client(config)
		}
		server := "bank"
		if i%3 == 2 {
			server = "files"
		}
		s.call(ctx, c, client, token, server, 0)
	}
}

// call makes one call and notes how it ended.
func (s *soak) call(ctx context.Context, c *caller, client *http.Client, token, server string, size int) {
	n := s.seen.next()
	s.seen.running.Add(1)
	defer s.seen.running.Add(-1)
	sent := time.Now()
	status, body, err := post(ctx, client, c.url, token, server+"___do", fmt.Sprintf(`{"n":%d,"size":%d}`, n, size))
	s.seen.ended.Add(1)
	switch {
	case err != nil && ctx.Err() != nil:
		s.seen.note(n, gaveUp, "")
	case err != nil:
		s.seen.note(n, broke, "")
		s.unless(sent, c.name, server, "transport", "", err.Error())
	case status == 200 && strings.Contains(body, fmt.Sprintf("did %d ", n)) && !strings.Contains(body, `"isError":true`):
		s.seen.note(n, done, "")
	default:
		kind, code, entry := refusedAs(body)
		s.seen.note(n, refused, entry)
		s.unless(sent, c.name, server, kind, code, fmt.Sprintf("status %d: %.300s", status, body))
	}
}

// refusedAs reads kind, code and entry of a refusal in either of its shapes.
func refusedAs(body string) (kind, code, entry string) {
	var m struct {
		Result struct {
			Meta map[string]any `json:"_meta"`
		} `json:"result"`
		Error struct {
			Data map[string]any `json:"data"`
		} `json:"error"`
	}
	if json.Unmarshal([]byte(body), &m) != nil {
		return "", "", ""
	}
	word := func(name string) string {
		if w, ok := m.Result.Meta["dev.ostiary/"+name].(string); ok {
			return w
		}
		w, _ := m.Error.Data[name].(string)
		return w
	}
	return word("kind"), word("code"), word("entry")
}

// listening keeps an event stream open, and opens it again when it ends.
func (s *soak) listening(ctx context.Context, c *caller) {
	for ctx.Err() == nil {
		if s.paused.Load() {
			wait(ctx, 50*time.Millisecond)
			continue
		}
		began := time.Now()
		s.seen.streams.Add(1)
		orderly, err := s.listen(ctx, c)
		s.seen.streams.Add(-1)
		if ctx.Err() == nil && !orderly {
			s.unless(began, c.name, "", "stream", "", fmt.Sprint(err))
			wait(ctx, 200*time.Millisecond)
		}
	}
}

func (s *soak) listen(ctx context.Context, c *caller) (orderly bool, err error) {
	config, _, _ := c.proof()
	raw, err := c.dial(ctx, "tcp", s.rig.agents)
	if err != nil {
		return false, err
	}
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	defer raw.Close()
	conn := tls.Client(raw, config)
	st, err := subscribe(conn, s.rig.agents)
	if err != nil {
		return false, err
	}
	for {
		conn.SetReadDeadline(time.Now().Add(patience)) // a keepalive comes every 15 seconds
		line, err := st.in.ReadString('\n')
		if strings.Contains(line, `"resultType":"complete"`) {
			return true, nil
		}
		if err != nil {
			return false, err
		}
	}
}

func wait(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

// renewing keeps what proves the agent fresh.
func (s *soak) renewing(ctx context.Context, c *caller) {
	for due := time.Now().Add(renewEvery); ctx.Err() == nil; wait(ctx, time.Second) {
		if time.Now().After(due) && s.renew(c) == nil { // a fault may be in the way; there is time to try again
			due = time.Now().Add(renewEvery)
		}
	}
}

func (s *soak) renew(c *caller) error {
	if c.agent.tls == nil {
		token, err := s.try("token", c.name)
		if err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		c.token = strings.TrimSpace(token)
		c.generation++
		return nil
	}
	old, _, generation := c.proof()
	if generation == 0 { // it was enrolled just now
		c.mu.Lock()
		defer c.mu.Unlock()
		c.generation++
		return nil
	}
	next, err := s.renewed(old)
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.agent.tls = next
	c.generation++
	return nil
}

// renewed asks for another certificate with the present one.
func (r *rig) renewed(old *tls.Config) (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: old}}
	resp, err := client.Post("https://"+r.agents+"/v1/renew", "application/json", strings.NewReader(fmt.Sprintf(`{"csr":%q}`, base64.StdEncoding.EncodeToString(csr))))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var issued struct{ Chain string }
	b, err := io.ReadAll(resp.Body)
	if err == nil {
		err = json.Unmarshal(b, &issued)
	}
	if err != nil || resp.StatusCode != 200 {
		return nil, fmt.Errorf("renewing: status %d, %w", resp.StatusCode, errors.Join(err, errors.New(string(b))))
	}
	next := old.Clone()
	next.Certificates = []tls.Certificate{{Certificate: certificates(issued.Chain), PrivateKey: key}}
	return next, nil
}

// certificates reads a chain in PEM.
func certificates(text string) (chain [][]byte) {
	for rest := []byte(text); ; {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			return chain
		}
		chain = append(chain, b.Bytes)
	}
}

// How a call ended for its caller.
type ending uint8

const (
	done    ending = iota + 1
	refused        // with an answer that says so
	broke          // without an answer
	gaveUp         // the caller left
)

// seen is what callers saw, by the number of the call.
type seen struct {
	ended, running, streams atomic.Int64

	mu      sync.Mutex // guards what follows
	ends    []ending
	entries map[uint32]string // of refused calls
	bad     []string          // what no fault explains
	more    int
	codes   map[string]int
}

func newSeen() *seen {
	return &seen{ends: make([]ending, 1), entries: map[uint32]string{}, codes: map[string]int{}}
}

func (s *seen) next() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends = append(s.ends, gaveUp)
	return uint32(len(s.ends) - 1)
}

func (s *seen) note(n uint32, e ending, entry string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ends[n] = e
	if entry != "" {
		s.entries[n] = entry
	}
}

// unless notes an error that no fault explains.
func (s *soak) unless(sent time.Time, agent, server, kind, code, text string) {
	explained := s.faults.explain(sent, agent, server, kind, code)
	s.seen.mu.Lock()
	defer s.seen.mu.Unlock()
	s.seen.codes[strings.Trim(kind+" "+code, " ")]++
	if explained {
		return
	}
	if s.seen.more++; len(s.seen.bad) < 10 {
		s.seen.bad = append(s.seen.bad, fmt.Sprintf("%s calls %q, kind %q, code %q, sent %v ago: %s", agent, server, kind, code, time.Since(sent).Round(time.Millisecond), text))
	}
}

func (s *seen) report(t testing.TB) {
	var all bytes.Buffer
	for _, code := range slices.Sorted(maps.Keys(s.codes)) {
		fmt.Fprintf(&all, " %s (%d)", code, s.codes[code])
	}
	t.Logf("%d calls; errors seen:%s", len(s.ends)-1, all.String())
	for _, b := range s.bad {
		t.Errorf("unexplained: %s", b)
	}
	if s.more > len(s.bad) {
		t.Errorf("and %d more", s.more-len(s.bad))
	}
}
