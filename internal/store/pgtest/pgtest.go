// Package pgtest starts throw-away PostgreSQL clusters for tests from the
// server that is installed: in a folder of their own, on a Unix socket, with
// text ordered by a language, so that nothing comes to rest on bytes by
// accident. A server that is missing is an error, never a reason to skip. It
// trusts the machine's temporary folder. It is for tests alone.
package pgtest

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// startTimeout bounds how long a server may take to make its files, and to
// answer.
const startTimeout = time.Minute

// Cluster is a running server. Safe for concurrent use.
type Cluster struct {
	dir  string
	cred *syscall.Credential // nil: this process's own
	bin  string
	args []string
	cmd  *exec.Cmd
	made atomic.Int64
}

// Start makes a cluster and starts its server, with further settings such as
// "fsync=off". The caller stops it.
func Start(settings ...string) (_ *Cluster, err error) {
	c := &Cluster{}
	if c.bin, err = binaries(); err != nil {
		return nil, err
	}
	if c.dir, err = os.MkdirTemp("", "ostiary-pg-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.Stop()
		}
	}()
	if err := c.unprivileged(); err != nil {
		return nil, err
	}
	data := filepath.Join(c.dir, "data")
	made := c.command("initdb", "-D", data, "-U", "ostiary", "-A", "trust", "-E", "UTF8", "--locale=C", "--locale-provider=icu", "--icu-locale=en-US", "--no-sync")
	if out, err := made.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("making a PostgreSQL cluster: %w\n%s", err, out)
	}
	c.args = []string{"-D", data, "-k", c.dir, "-c", "listen_addresses=", "-c", "shared_buffers=16MB"}
	for _, s := range settings {
		c.args = append(c.args, "-c", s)
	}
	return c, c.run()
}

// binaries finds the newest installed server: where Debian puts it, or on the
// path.
func binaries() (string, error) {
	found, _ := filepath.Glob("/usr/lib/postgresql/*/bin/postgres")
	newest := func(p string) int {
		n, _ := strconv.Atoi(filepath.Base(filepath.Dir(filepath.Dir(p))))
		return n
	}
	if len(found) > 0 {
		return filepath.Dir(slices.MaxFunc(found, func(a, b string) int { return newest(a) - newest(b) })), nil
	}
	p, err := exec.LookPath("postgres")
	if err != nil {
		return "", errors.New("no PostgreSQL server is installed, and the tests need one: install Debian's package postgresql, or put initdb and postgres on the path")
	}
	return filepath.Dir(p), nil
}

// unprivileged finds a user for the server, which refuses to run as root.
func (c *Cluster) unprivileged() error {
	if os.Geteuid() != 0 {
		return nil
	}
	u, err := user.Lookup("postgres")
	if err != nil {
		if u, err = user.Lookup("nobody"); err != nil {
			return err
		}
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return err
	}
	gid, err := strconv.Atoi(u.Gid)
	if err != nil {
		return err
	}
	c.cred = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	return os.Chown(c.dir, uid, gid)
}

func (c *Cluster) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(c.bin, name), args...)
	cmd.Dir, cmd.Env = c.dir, []string{"PATH=" + os.Getenv("PATH"), "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: c.cred, Pdeathsig: syscall.SIGQUIT}
	return cmd
}

// run starts the server and waits until it answers.
func (c *Cluster) run() error {
	log, err := os.OpenFile(filepath.Join(c.dir, "server.log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer log.Close()
	c.cmd = c.command("postgres", c.args...)
	c.cmd.Stdout, c.cmd.Stderr = log, log
	if err := c.cmd.Start(); err != nil {
		c.cmd = nil
		return err
	}
	deadline := time.Now().Add(startTimeout)
	for {
		err := c.Exec("postgres", "SELECT 1")
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) || syscall.Kill(c.cmd.Process.Pid, 0) != nil {
			text, _ := os.ReadFile(log.Name())
			return fmt.Errorf("the PostgreSQL server does not answer: %w\n%s", err, text)
		}
		time.Sleep(20 * time.Millisecond) // another program's start-up has nothing to wait on
	}
}

// Kill ends the server as a crash would. Restart starts it again.
func (c *Cluster) Kill() {
	if c.cmd != nil {
		c.cmd.Process.Signal(syscall.SIGQUIT)
		c.cmd.Wait()
		c.cmd = nil
	}
}

// Restart starts the server on the files a Kill left.
func (c *Cluster) Restart() error { return c.run() }

// Stop ends the server and removes its files.
func (c *Cluster) Stop() error {
	c.Kill()
	return os.RemoveAll(c.dir)
}

// Address returns the address of a database.
func (c *Cluster) Address(database string) string {
	return "postgres:///" + database + "?" + url.Values{"host": {c.dir}, "user": {"ostiary"}}.Encode()
}

// NewDatabase makes an empty database and returns its address.
func (c *Cluster) NewDatabase() (string, error) {
	name := fmt.Sprint("t", c.made.Add(1))
	return c.Address(name), c.Exec("postgres", "CREATE DATABASE "+name)
}

// Exec runs one statement in a database.
func (c *Cluster) Exec(database, statement string) error {
	_, err := c.Ask(database, statement)
	return err
}

// Ask runs one statement and returns the first column of its rows as text.
func (c *Cluster) Ask(database, statement string) (out []string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	conn, err := pgx.Connect(ctx, c.Address(database))
	if err != nil {
		return nil, err
	}
	defer conn.Close(ctx)
	rs, err := conn.Query(ctx, statement, pgx.QueryExecModeSimpleProtocol)
	if err != nil {
		return nil, err
	}
	defer rs.Close()
	for rs.Next() {
		vs, err := rs.Values()
		if err != nil {
			return nil, err
		}
		if len(vs) > 0 {
			out = append(out, fmt.Sprint(vs[0]))
		}
	}
	return out, rs.Err()
}
