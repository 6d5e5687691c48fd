package mcp

import (
	"log/slog"
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
)

// NewServer returns an HTTP server for a door with every limit and time-out
// set. It speaks HTTP/1.1 alone, because its listener must come from package
// stricthttp, over TLS or not, which sees every byte of a request's head.
// Bodies, writes and streams have deadlines of their own, kept by the door.
// Shutdown ends the streams of a door that is h itself.
func NewServer(h http.Handler, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	s := &http.Server{
		Handler:                      h,
		Protocols:                    protocols,
		ReadHeaderTimeout:            headerTimeout,
		IdleTimeout:                  idleTimeout,
		MaxHeaderBytes:               maxHeader,
		ErrorLog:                     slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		DisableGeneralOptionsHandler: true,
		ConnContext:                  noteConn,
	}
	if d, ok := h.(*Door); ok {
		s.RegisterOnShutdown(d.Close)
	}
	return s
}
