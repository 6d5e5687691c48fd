package mcp

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/http"
	"time"
)

const (
	// headerTimeout bounds how long a request's head may take.
	headerTimeout = 10 * time.Second
	// idleTimeout ends a kept-alive connection nobody uses.
	idleTimeout = 2 * time.Minute
	// maxHeader bounds a request's head: mirrored headers and a token fit
	// many times over.
	maxHeader = 32 << 10
	// maxStreams bounds concurrent requests on one HTTP/2 connection.
	maxStreams = 100
)

// NewServer returns an HTTP server for a door with every limit and time-out
// set. With a TLS configuration it serves HTTP/1.1 and HTTP/2, without one
// HTTP/1.1 only. Its listener must come from package stricthttp. Bodies,
// writes and streams have deadlines of their own, kept by the door.
func NewServer(h http.Handler, t *tls.Config, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(t != nil)
	s := &http.Server{
		Handler:           h,
		TLSConfig:         t,
		Protocols:         protocols,
		ReadHeaderTimeout: headerTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		HTTP2: &http.HTTP2Config{
			MaxConcurrentStreams: maxStreams,
			MaxReadFrameSize:     1 << 16,
			SendPingTimeout:      30 * time.Second,
			PingTimeout:          15 * time.Second,
			WriteByteTimeout:     writeTimeout,
		},
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return WithConn(ctx, ConnOf(c))
		},
	}
	if d, ok := h.(*Door); ok {
		s.RegisterOnShutdown(d.Close)
	}
	return s
}
