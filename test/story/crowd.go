package story

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// crowd opens connections that say nothing, from one loopback address, and
// holds them: crowd HOST:PORT FROM N KEPT. It fails unless exactly KEPT of the
// N stay open, unless KEPT is "any".
func crowd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: crowd HOST:PORT FROM N KEPT")
	}
	st := ts.Value(stateKey{}).(*state)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	want := -1
	if args[3] != "any" {
		want, err = strconv.Atoi(args[3])
		ts.Check(err)
	}
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(args[1])}, Timeout: patience}
	var kept []net.Conn
	for range n {
		c, err := dialer.Dial("tcp", args[0])
		ts.Check(err)
		kept = append(kept, c)
	}
	got := 0
	for _, c := range kept {
		// One that was sent away was closed before the last was accepted.
		c.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
		if _, err := c.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
			got++
		}
	}
	st.crowd = append(st.crowd, kept...)
	if want >= 0 && got != want {
		ts.Fatalf("%d of %d connections stay open, want %d", got, n, want)
	}
}

func limitFiles(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: limit-files N")
	}
	ts.Value(stateKey{}).(*state).files = args[0]
}

// crowdCut waits until the far side has closed every connection of the crowd:
// crowd-cut. Each says a byte of a head now and then, so that only its age can
// be the reason.
func crowdCut(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	if len(st.crowd) == 0 {
		ts.Fatalf("there is no crowd")
	}
	eventually(ts, "the crowd to be sent away", nil, func() bool {
		for _, c := range st.crowd {
			c.SetDeadline(time.Now().Add(5 * time.Millisecond))
			c.Write([]byte("P"))
			if _, err := c.Read(make([]byte, 512)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
				return false
			}
			c.SetDeadline(time.Time{})
		}
		return true
	})
	crowdLeaves(ts, false, nil)
}

// crowdLeaves closes what crowd holds.
func crowdLeaves(ts *testscript.TestScript, neg bool, args []string) {
	st := ts.Value(stateKey{}).(*state)
	for _, c := range st.crowd {
		c.Close()
	}
	st.crowd = nil
}

// killings kills the gateway and starts it again, five times or as often as
// OSTIARY_KILLS says, each time after the tool server has received something
// more: killings RECORD TOKENFILE AGENT. The token is made anew on the way, as
// it lives minutes.
func killings(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 3 {
		ts.Fatalf("usage: killings RECORD TOKENFILE AGENT")
	}
	n := 5
	if s := os.Getenv("OSTIARY_KILLS"); s != "" {
		var err error
		n, err = strconv.Atoi(s)
		ts.Check(err)
	}
	st := ts.Value(stateKey{}).(*state)
	size := func() int64 {
		f, err := os.Stat(ts.MkAbs(args[0]))
		ts.Check(err)
		return f.Size()
	}
	for i := range n {
		before := size()
		eventually(ts, "a call after start "+strconv.Itoa(i), st.gateway, func() bool { return size() > before })
		gatewayKill(ts, false, nil)
		gatewayStart(ts, false, nil)
		if i%20 == 19 {
			token, err := quietly(ts, "ostiary", "token", args[2])
			ts.Check(err)
			ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(strings.TrimSpace(token)), 0o600))
		}
	}
	ts.Logf("killed %d times", n)
}
