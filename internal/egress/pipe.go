package egress

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

// pipe is one run of the program.
type pipe struct {
	p       *process
	in      *os.File // its standard input
	out     *os.File
	err     *os.File
	pid     int
	born    time.Time
	modern  atomic.Bool    // settled by handshake
	foreign string         // set before dead is closed: it answered what nobody sent
	work    sync.WaitGroup // live, read, complain
	exited  chan struct{}  // closed when the program is gone
	dead    chan struct{}  // closed when no reply can come any more

	writing sync.Mutex // one line at a time
	waiting few        // answers of answerBehind

	mu     sync.Mutex // guards what follows
	lastID int64
	open   map[int64]*lineReply
	ending error // why it died, once it did
}

// run runs f on a goroutine that stopping this run, and closing the server,
// wait for.
func (c *pipe) run(f func()) {
	c.p.runs.Add(1)
	c.work.Go(func() {
		defer c.p.runs.Done()
		f()
	})
}

// live starts the program and waits for its end, on one thread: the kernel
// kills the child when the thread that started it ends, not the process.
func (c *pipe) live(cmd *exec.Cmd, started chan<- error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err := cmd.Start()
	if err == nil {
		c.pid = cmd.Process.Pid
	}
	started <- err
	if err != nil {
		close(c.exited)
		return
	}
	err = cmd.Wait()
	c.signal(syscall.SIGKILL) // whatever it left behind in its group
	c.p.log.Info("the server's process ended", "pid", c.pid, "how", describeExit(err))
	close(c.exited)
	c.out.SetReadDeadline(time.Now().Add(time.Second)) // what it wrote last may still be read
	c.err.SetReadDeadline(time.Now().Add(time.Second))
}

func describeExit(err error) string {
	if err == nil {
		return "exit status 0"
	}
	return err.Error()
}

// signal reaches the whole group. The group outlives its leader, so this is
// safe until the leader is waited for, and right after.
func (c *pipe) signal(s syscall.Signal) {
	if c.pid > 0 {
		syscall.Kill(-c.pid, s)
	}
}

// read takes the program's messages apart until it ends or misbehaves.
func (c *pipe) read() {
	cause := c.lines()
	c.mu.Lock()
	c.ending = cause
	if !errors.Is(cause, errDied) {
		c.p.log.Error("the server's process is given up", "pid", c.pid, "cause", cause)
	}
	open := c.open
	c.open = nil
	c.mu.Unlock()
	close(c.dead)
	for _, s := range open {
		s.end(lost(cause))
	}
	c.signal(syscall.SIGKILL)
	c.in.Close()
	c.out.Close()
}

// errDied says that the program ended or closed its output.
var errDied = errors.New("the server's process ended")

func (c *pipe) lines() (err error) {
	defer func() {
		if p := recover(); p != nil { // nobody above would, and what it prints must not end us
			err = badReply("the server printed something that could not be handled", ostiary.Panicked(p))
		}
	}()
	r := newLineReader(c.out)
	junk := 0
	for {
		line, err := readLine(r, c.p.limits.Line)
		if err != nil {
			if errors.Is(err, errLong) {
				return badReply("the server printed a line over its limit", err)
			}
			return errDied
		}
		if len(line) == 0 {
			continue
		}
		if line[0] != '{' {
			c.p.dropped.Add(1)
			if junk++; junk > junkLines {
				return badReply("the server prints something else than messages", nil)
			}
			if junk == 1 {
				c.p.log.Warn("the server prints something else than messages on its standard output", "line", quote(line))
			}
			continue
		}
		m, err := mcpwire.Parse(line, c.p.limits.Reply)
		if err != nil {
			return ambiguous(err)
		}
		if err := c.message(m); err != nil {
			return err
		}
	}
}

var errLong = errors.New("line over its limit")

func newLineReader(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(r, 64<<10) }

// readLine returns one line of its own memory, without its end.
func readLine(r *bufio.Reader, limit int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > limit+2 {
			return nil, errLong
		}
		if err == bufio.ErrBufferFull {
			continue
		}
		if err != nil {
			return nil, err
		}
		line = line[:len(line)-1]
		if n := len(line); n > 0 && line[n-1] == '\r' {
			line = line[:n-1]
		}
		return line, nil
	}
}

// complain carries the program's standard error to our log, escaped.
func (c *pipe) complain() {
	defer c.err.Close()
	r := bufio.NewReaderSize(c.err, stderrLine)
	for total := 0; ; {
		line, err := r.ReadSlice('\n')
		if len(line) > 0 && total < stderrTotal {
			total += len(line)
			c.p.log.Info("the server says", "stderr", quote(line))
			if total >= stderrTotal {
				c.p.log.Warn("the server says too much; the rest of its standard error is dropped")
			}
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// quote makes foreign bytes safe for a log: one line, visible ASCII, bounded.
func quote(b []byte) string {
	if len(b) > stderrLine {
		b = b[:stderrLine]
	}
	q := strconv.QuoteToASCII(strings.TrimRight(string(b), "\r\n"))
	return q[1 : len(q)-1]
}

// write sends one line whole, or ends the process: half a line cannot be
// taken back.
func (c *pipe) write(line []byte) error {
	line = append(line, '\n')
	c.writing.Lock()
	defer c.writing.Unlock()
	c.in.SetWriteDeadline(time.Now().Add(writePatience))
	n, err := c.in.Write(line)
	switch {
	case err == nil:
		return nil
	case n == 0:
		return unreachable(err)
	}
	c.signal(syscall.SIGKILL)
	return lost(fmt.Errorf("after %d of %d bytes: %w", n, len(line), err))
}

// stop ends the program: it is asked by closing its input, then by SIGTERM,
// then killed, with its whole group. It returns when nothing is left.
func (c *pipe) stop(patience time.Duration) {
	c.in.Close() // a write under way ends with it
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t := time.NewTimer(patience)
		select {
		case <-c.exited:
			t.Stop()
			c.work.Wait()
			return
		case <-t.C:
		}
		c.signal(s)
	}
	c.work.Wait()
}
