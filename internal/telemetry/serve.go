package telemetry

import (
	"log/slog"
	"net"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ostiary/ostiary/internal/stricthttp"
)

const (
	// maxConns bounds who may stand at the metrics address: a few scrapers.
	maxConns = 32
	// maxScrapes bounds the scrapes under way at once.
	maxScrapes = 4
	// scrapeTimeout bounds one, the slow reader's included.
	scrapeTimeout = 10 * time.Second
	// headTimeout bounds a request's head, which is all there is to one.
	headTimeout = 5 * time.Second
	maxHead     = 8 << 10
)

// Handler answers GET /metrics and nothing else. A request must name one of
// hosts, so that a page in somebody's browser cannot read an address on this
// machine under a name of its own; with none, any name will do. Only with
// Options.Metrics.
func (t *Telemetry) Handler(hosts []string, log *slog.Logger) http.Handler {
	serve := promhttp.HandlerFor(t.metrics.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.HTTPErrorOnError,
		DisableCompression: true, MaxRequestsInFlight: maxScrapes, Timeout: scrapeTimeout,
	})
	named := closedTo(hosts...)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case len(named) > 0 && !named[strings.ToLower(r.Host)]:
			http.Error(w, "this address is not known by that host name", http.StatusForbidden)
		case r.URL.EscapedPath() != "/metrics" || r.URL.RawQuery != "":
			http.NotFound(w, r)
		case r.Method != http.MethodGet:
			w.Header().Set("Allow", http.MethodGet)
			http.Error(w, "only GET is served", http.StatusMethodNotAllowed)
		default:
			serve.ServeHTTP(w, r)
		}
	})
}

// Server returns a server for [Telemetry.Handler] with every limit and
// time-out set. Its listener must come from Listen.
func (t *Telemetry) Server(hosts []string, log *slog.Logger) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	return &http.Server{
		Handler: t.Handler(hosts, log), Protocols: protocols, ReadHeaderTimeout: headTimeout, ReadTimeout: headTimeout,
		WriteTimeout: scrapeTimeout + headTimeout, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: maxHead,
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug), DisableGeneralOptionsHandler: true,
	}
}

// Listen puts limits in front of a listener: few connections, strict heads, no
// bodies worth the name.
func Listen(l net.Listener) net.Listener {
	limits := stricthttp.Standard()
	limits.Head, limits.Body, limits.Arrival = maxHead, 1, headTimeout
	crowd := &stricthttp.Crowd{Total: maxConns, Source: maxConns, Strangers: maxConns}
	return stricthttp.NewListener(crowd.Listen(l), limits)
}
