package egress

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// TestG08HostsShareNothing: two servers at one address, known by different
// names. Each request says the name it was configured with, in TLS and in HTTP
// alike, and no connection of one is used for the other.
func TestG08HostsShareNothing(t *testing.T) {
	type seen struct{ sni, host, from string }
	var mu sync.Mutex
	var all []seen
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		all = append(all, seen{r.TLS.ServerName, r.Host, r.RemoteAddr})
		mu.Unlock()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		m, err := mcpwire.Parse(b, strictjson.Request)
		if err != nil {
			t.Error(err)
			return
		}
		modern(func(w http.ResponseWriter, _ *http.Request, m mcpwire.Message) { reply(w, m, `{}`) })(w, r, m)
	}))
	srv.EnableHTTP2 = true
	srv.StartTLS()
	defer srv.Close()
	port := srv.URL[strings.LastIndex(srv.URL, ":"):]
	config := srv.Client().Transport.(*http.Transport).TLSClientConfig.Clone()
	config.InsecureSkipVerify = true // its certificate is for an address
	var servers []Server
	for name, host := range map[string]string{"named": "localhost", "numbered": "127.0.0.1"} {
		servers = append(servers, Server{Name: name, URL: "https://" + host + port + "/mcp", AllowPrivate: []string{"127.0.0.1", "::1"}, TLS: config})
	}
	e := newEgress(t, Options{Servers: servers})
	for range 3 {
		for _, s := range servers {
			if _, err := result(t, e, toolCall(t, s.Name, "x", `{}`)); err != nil {
				t.Fatal(err)
			}
		}
	}
	of := map[string]string{} // whose each connection is
	for _, x := range all {
		if sni, _ := strings.CutSuffix(x.host, port); x.sni != sni && (x.sni != "" || sni != "127.0.0.1") { // an address is not asked for by name
			t.Errorf("TLS asked for %q and HTTP for %q", x.sni, x.host)
		}
		if was, ok := of[x.from]; ok && was != x.host {
			t.Errorf("a connection for %s was used for %s", was, x.host)
		}
		of[x.from] = x.host
	}
	if len(of) != 2 {
		t.Errorf("%d connections: %+v", len(of), all)
	}
}
