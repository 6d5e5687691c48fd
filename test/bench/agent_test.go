package bench

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"
)

// meta is what revision 2026-07-28 wants in every request.
const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"bench","version":"1"}}`

// agent is one enrolled agent, with what proves it.
type agent struct {
	name string
	tls  *tls.Config
}

// enrol joins an agent as any agent is joined: a one-time token, a key of its
// own, a certificate.
func (r *rig) enrol(name string) *agent {
	r.t.Helper()
	secret := strings.TrimSpace(r.run("agent", "join", name, "--principal", "person:dana"))
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		r.t.Fatal(err)
	}
	csr, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		r.t.Fatal(err)
	}
	body, err := json.Marshal(map[string]string{"token": secret, "csr": base64.StdEncoding.EncodeToString(csr)})
	if err != nil {
		r.t.Fatal(err)
	}
	// This gateway is ours and on this machine; what comes back is used against it alone.
	first := &http.Client{Timeout: patience, Transport: &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}}
	resp, err := first.Post("https://"+r.agents+"/v1/enrol", "application/json", bytes.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var issued struct{ Chain, Bundle string }
	if err := json.NewDecoder(resp.Body).Decode(&issued); err != nil || resp.StatusCode != 200 {
		r.t.Fatalf("enrolling %s: status %d, %v", name, resp.StatusCode, err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM([]byte(issued.Bundle))
	cert := tls.Certificate{Certificate: certificates(issued.Chain), PrivateKey: key}
	return &agent{name: name, tls: &tls.Config{RootCAs: pool, ServerName: "127.0.0.1", MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}}
}

// request writes one POST of revision 2026-07-28 as it goes over the wire.
func request(host, method, name, params string) []byte {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":{%s%s}}`, method, params, meta)
	var b bytes.Buffer
	fmt.Fprintf(&b, "POST /mcp HTTP/1.1\r\nHost: %s\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: %s\r\n", host, method)
	if name != "" {
		fmt.Fprintf(&b, "Mcp-Name: %s\r\n", name)
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
	return b.Bytes()
}

// stream is an open event stream.
type stream struct {
	net.Conn
	in *bufio.Reader
}

// listen opens an event stream over mutual TLS from one local address, and
// returns when the gateway has acknowledged it.
func (a *agent) listen(ctx context.Context, host, from string) (*stream, error) {
	d := tls.Dialer{NetDialer: &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}}, Config: a.tls}
	c, err := d.DialContext(ctx, "tcp", host)
	if err != nil {
		return nil, err
	}
	s, err := subscribe(c, host)
	if err != nil {
		c.Close()
		return nil, err
	}
	return s, nil
}

// subscribe opens an event stream on a connection.
func subscribe(c net.Conn, host string) (*stream, error) {
	s := &stream{c, bufio.NewReaderSize(c, 512)}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write(request(host, "subscriptions/listen", "", `"notifications":{"toolsListChanged":true},`)); err != nil {
		return nil, err
	}
	if err := s.acknowledged(); err != nil {
		return nil, err
	}
	return s, c.SetDeadline(time.Time{})
}

func (s *stream) acknowledged() error {
	status, err := s.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(status, "HTTP/1.1 200 ") {
		rest, _ := io.ReadAll(io.LimitReader(s.in, 2000))
		return fmt.Errorf("a stream is refused: %s%s", status, rest)
	}
	for {
		line, err := s.in.ReadString('\n')
		if err != nil {
			return err
		}
		if strings.Contains(line, "notifications/subscriptions/acknowledged") {
			return nil
		}
	}
}

// post calls a tool and returns status and body.
func post(ctx context.Context, client *http.Client, url, token, tool, arguments string) (int, string, error) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s,%s}}`, tool, arguments, meta)
	req, err := http.NewRequestWithContext(ctx, "POST", url, strings.NewReader(body))
	if err != nil {
		return 0, "", err
	}
	req.Header = http.Header{
		"Content-Type": {"application/json"}, "Accept": {"application/json, text/event-stream"},
		"Mcp-Protocol-Version": {"2026-07-28"}, "Mcp-Method": {"tools/call"}, "Mcp-Name": {tool},
	}
	if token != "" {
		req.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, string(b), err
}
