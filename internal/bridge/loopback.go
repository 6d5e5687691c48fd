package bridge

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/mcpwire"
)

const (
	headTimeout = 10 * time.Second
	idleTimeout = 2 * time.Minute
	maxHead     = 32 << 10 // bytes of request headers; a client on this machine sends a few hundred
	grace       = 2 * time.Second
)

// Loopback serves a local client that speaks streamable HTTP, on a listener
// of a loopback address, until ctx ends. Each request goes to the same path
// at the gateway with the SVID, and without any credential the client sent.
//
// Whoever can connect is the agent, so a page in a browser must not: requests
// under another host name than the listener's, and all that come from a web
// origin, are refused (DNS rebinding).
func (b *Bridge) Loopback(ctx context.Context, l net.Listener) error {
	a, ok := l.Addr().(*net.TCPAddr)
	if !ok || !a.IP.IsLoopback() {
		return ostiary.Errorf(ostiary.Malformed, "not_loopback", "%s is no loopback address: others could act as this agent", l.Addr()).At("listen")
	}
	h, err := b.proxy(hostNames(a))
	if err != nil {
		return err
	}
	srv := &http.Server{
		Handler: h, ReadHeaderTimeout: headTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHead,
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	keeping, stop := context.WithCancel(ctx)
	var keeper sync.WaitGroup
	keeper.Go(func() { b.keep(keeping) })
	keeper.Go(func() {
		<-keeping.Done()
		bye, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if srv.Shutdown(bye) != nil {
			srv.Close()
		}
	})
	err = srv.Serve(l)
	stop()
	keeper.Wait()
	if errors.Is(err, http.ErrServerClosed) {
		return ctx.Err()
	}
	return err
}

// hostNames are the names a client on this machine may use for the listener.
func hostNames(a *net.TCPAddr) map[string]bool {
	_, port, _ := net.SplitHostPort(a.String())
	names := map[string]bool{}
	for _, host := range []string{a.IP.String(), "localhost"} {
		names[net.JoinHostPort(host, port)] = true
	}
	return names
}

// passing lists the headers that go to the gateway, and answering those that
// come back. Nothing else does: no credential, no cookie, nothing a proxy on
// the way would act on.
func passing(name string) bool {
	switch name {
	case "Accept", "Content-Type", "User-Agent", mcpwire.HeaderProtocolVersion, mcpwire.HeaderSessionID, mcpwire.HeaderMethod, mcpwire.HeaderName, mcpwire.HeaderLastEventID:
		return true
	}
	return strings.HasPrefix(name, mcpwire.HeaderParamPrefix)
}

func answering(name string) bool {
	switch name {
	case "Content-Type", "Content-Length", "Cache-Control", "Allow", "Retry-After", mcpwire.HeaderSessionID, mcpwire.HeaderProtocolVersion:
		return true
	}
	return false
}

func (b *Bridge) proxy(hosts map[string]bool) (http.Handler, error) {
	gateway, err := url.Parse(b.gateway)
	if err != nil {
		return nil, err
	}
	forward := &httputil.ReverseProxy{
		Transport:     transport{b},
		FlushInterval: -1, // each event of a stream as it comes
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = gateway.Scheme, gateway.Host, gateway.Host
			r.Out.GetBody = nil
			r.Out.Header = http.Header{}
			for name, values := range r.In.Header {
				if passing(name) {
					r.Out.Header[name] = values
				}
			}
		},
		ModifyResponse: func(r *http.Response) error {
			for name := range r.Header {
				if !answering(name) {
					r.Header.Del(name)
				}
			}
			return nil
		},
		ErrorHandler: func(w http.ResponseWriter, r *http.Request, err error) {
			b.log.Warn("no answer from the gateway", "error", err)
			problem(w, http.StatusBadGateway, "the gateway gave no answer: the request may or may not have been carried out")
		},
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if status, why := screen(r, hosts); status != 0 {
			problem(w, status, why)
			return
		}
		if r.Body != nil {
			r.Body = http.MaxBytesReader(w, r.Body, maxLine)
		}
		forward.ServeHTTP(w, r)
	}), nil
}

// screen refuses what a local MCP client would not send. It returns 0 to let
// the request through.
func screen(r *http.Request, hosts map[string]bool) (int, string) {
	switch {
	case !hosts[strings.ToLower(r.Host)]:
		return http.StatusMisdirectedRequest, "this bridge is not known by that host name"
	case len(r.Header.Values("Origin")) > 0 || r.Header.Get("Sec-Fetch-Site") != "":
		return http.StatusForbidden, "this bridge does not serve web pages"
	case r.URL.Scheme != "" || r.URL.Host != "" || r.URL.RawQuery != "" || r.URL.ForceQuery || checkEndpoint(r.URL.EscapedPath()) != nil:
		return http.StatusNotFound, "nothing is served here: use /mcp or /mcp/<server>"
	case r.Method != http.MethodPost && r.Method != http.MethodGet && r.Method != http.MethodDelete:
		return http.StatusMethodNotAllowed, "this endpoint takes DELETE, GET, POST"
	case r.Header.Get("Upgrade") != "":
		return http.StatusBadRequest, "connections cannot be upgraded here"
	}
	for name, values := range r.Header {
		if passing(name) && len(values) > 1 && name != "Accept" {
			return http.StatusBadRequest, "the header " + name + " may be sent once"
		}
	}
	return 0, ""
}

func problem(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Content-Type", mcpwire.ContentTypeJSON)
	w.WriteHeader(status)
	w.Write(mcpwire.AppendError(nil, nil, mcpwire.CodeInternal, why, nil))
}

// transport sends with whatever SVID is held at that moment.
type transport struct{ b *Bridge }

func (t transport) RoundTrip(r *http.Request) (*http.Response, error) {
	client, err := t.b.client(r.Context())
	if err != nil {
		return nil, err
	}
	if client.Transport == nil {
		return nil, errors.New("the client has no transport of its own")
	}
	return client.Transport.RoundTrip(r)
}
