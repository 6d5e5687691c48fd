package daemon

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/user"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/door/mcp"
	"github.com/ostiary/ostiary/internal/stricthttp"
	"github.com/ostiary/ostiary/internal/telemetry"
)

const (
	// controlHeadTime bounds how long the head of a command's request may take,
	// controlIdleTime a silent connection of a command, controlHeader the head.
	controlHeadTime = 10 * time.Second
	controlIdleTime = time.Minute
	controlHeader   = 32 << 10
)

// serveAll starts every listener. A server that ends by itself reports to
// failed.
func (d *Daemon) serveAll(failed chan<- error) []*http.Server {
	var all []*http.Server
	start := func(name string, s *http.Server, l net.Listener) {
		all = append(all, s)
		go func() {
			if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				failed <- fmt.Errorf("%s: %w", name, err)
			}
		}()
	}
	// A request head that is refused before anybody authenticated is counted
	// like any other refusal of a stranger.
	front := stricthttp.Standard()
	front.Refused = func(source, code string) { d.stranger(source, "http:"+code) }
	crowd := d.crowd(front.Refused)
	start("agents", d.agentServer(), stricthttp.NewListener(tls.NewListener(crowd.Listen(d.agents), d.authority.ServerTLS()), front))
	if d.loopback != nil {
		start("loopback", mcp.NewServer(d.door, d.log), stricthttp.NewListener(crowd.Listen(d.loopback), front))
	}
	if d.pages.listener != nil {
		start("console", d.consoleServer(), d.consoleListener(crowd, front))
	}
	if d.metrics != nil {
		start("metrics", d.telemetry.Server(d.metricsHosts(), d.log), telemetry.Listen(d.metrics))
	}
	start("control", &http.Server{
		Handler: d.control.Handler(), ReadHeaderTimeout: controlHeadTime, IdleTimeout: controlIdleTime, MaxHeaderBytes: controlHeader,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			if p, ok := c.(*peerConn); ok {
				return control.WithOperator(ctx, p.name)
			}
			return ctx
		},
	}, d.socket)
	return all
}

// agentServer serves the MCP door, and enrolment below /v1/, over TLS. The
// strict front's connections show net/http their TLS state.
func (d *Daemon) agentServer() *http.Server {
	enrolment := d.authority.Handler()
	s := mcp.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasPrefix(r.URL.Path, "/v1/") {
			enrolment.ServeHTTP(w, r)
			return
		}
		if d.forAgents(w, r) {
			return
		}
		d.door.ServeHTTP(w, r)
	}), d.log)
	s.RegisterOnShutdown(d.door.Close)
	return s
}

// peerListener accepts only this process's own user and root, by the kernel's
// word, whatever the file's mode has become.
type peerListener struct{ *net.UnixListener }

type peerConn struct {
	net.Conn
	name string
}

func (l *peerListener) Accept() (net.Conn, error) {
	for {
		c, err := l.UnixListener.AcceptUnix()
		if err != nil {
			return nil, err
		}
		uid, err := peerUID(c)
		if err != nil || (uid != 0 && uid != os.Getuid()) {
			c.Close()
			continue
		}
		name := "uid " + strconv.Itoa(uid)
		if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
			name = u.Username
		}
		return &peerConn{c, name}, nil
	}
}

func peerUID(c *net.UnixConn) (uid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var cred *unix.Ucred
	if cerr := raw.Control(func(fd uintptr) { cred, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED) }); cerr != nil {
		return 0, cerr
	}
	if err != nil {
		return 0, err
	}
	return int(cred.Uid), nil
}
