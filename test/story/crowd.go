package story

import (
	"errors"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"
)

// crowd opens connections that say nothing, from one loopback address, and
// holds them: crowd HOST:PORT FROM N KEPT. It fails unless exactly KEPT of the
// N stay open, or some but not all if KEPT is "fewer".
func crowd(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: crowd HOST:PORT FROM N KEPT")
	}
	st := ts.Value(stateKey{}).(*state)
	n, err := strconv.Atoi(args[2])
	ts.Check(err)
	want := -1
	if args[3] != "fewer" {
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
	st.crowd = append(st.crowd, kept...)
	// Connections are accepted in the order in which they came, and those beyond
	// a bound closed there and then: when a later one is answered, or closed,
	// that has happened to all of them.
	last, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 250)}, Timeout: patience}).Dial("tcp", args[0])
	ts.Check(err)
	defer last.Close()
	last.SetDeadline(time.Now().Add(patience))
	last.Write([]byte("?\r\n\r\n"))
	if _, err := last.Read(make([]byte, 1)); errors.Is(err, os.ErrDeadlineExceeded) {
		ts.Fatalf("nobody answers at %s", args[0])
	}
	got := n
	for late := time.Now().Add(patience); time.Now().Before(late); time.Sleep(5 * time.Millisecond) {
		if got = stillOpen(ts, kept); got <= want || want < 0 && got < n {
			break
		}
	}
	if want >= 0 && got != want || want < 0 && got == n {
		ts.Fatalf("%d of %d connections stay open, want %s", got, n, args[3])
	}
}

// stillOpen counts the connections that the far side has not closed.
func stillOpen(ts *testscript.TestScript, all []net.Conn) (open int) {
	for _, c := range all {
		raw, err := c.(*net.TCPConn).SyscallConn()
		ts.Check(err)
		ts.Check(raw.Control(func(fd uintptr) {
			if n, _, err := unix.Recvfrom(int(fd), make([]byte, 1), unix.MSG_PEEK|unix.MSG_DONTWAIT); n > 0 || errors.Is(err, unix.EAGAIN) {
				open++
			}
		}))
	}
	return open
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
			c.SetWriteDeadline(time.Now().Add(time.Second))
			c.Write([]byte("P")) // whoever was sent away may not hear it
			c.SetReadDeadline(time.Now().Add(time.Millisecond))
			c.Read(make([]byte, 512)) // the words it was sent away with
		}
		return stillOpen(ts, st.crowd) == 0
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
