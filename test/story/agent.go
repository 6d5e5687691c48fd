package story

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"time"
)

// headers collects repeated -H flags.
type headers []string

func (h *headers) String() string     { return strings.Join(*h, "\n") }
func (h *headers) Set(s string) error { *h = append(*h, s); return nil }

// agentMain is the "agent" program: an agent that can say anything.
//
//	agent [flags] call TOOL ARGUMENTS   a tools/call of revision 2026-07-28
//	agent [flags] ask METHOD [PARAMS]   any other method
//	agent [flags] post FILE             the file's bytes as a POST body
//	agent [flags] raw FILE              the file's bytes as they are, on a TCP connection
//
// It prints the status on the first line and then the body.
func agentMain() {
	var h headers
	fs := flag.NewFlagSet("agent", flag.ExitOnError)
	url := fs.String("url", "", "endpoint")
	token := fs.String("token", "", "file with a bearer token")
	state := fs.String("svid", "", "folder in which \"ostiary connect\" keeps an SVID")
	method := fs.String("X", "POST", "HTTP method")
	anyone := fs.Bool("trust-anyone", false, "show no certificate and believe any")
	bare := fs.Bool("bare", false, "send no protocol headers of its own")
	host := fs.String("host", "", "Host header")
	where := fs.Bool("where", false, "print where the answer leads, and what it asks for, before its body")
	fs.Var(&h, "H", "header, may be repeated")
	fs.Parse(os.Args[1:])
	args := fs.Args()
	if len(args) < 1 {
		fatal("agent: call, ask, post or raw?")
	}
	if args[0] == "raw" {
		raw(*url, args[1])
		return
	}
	body, own := compose(args)
	if *method == http.MethodGet {
		body = nil
	}
	req, err := http.NewRequest(*method, *url, bytes.NewReader(body))
	check(err)
	if *host != "" {
		req.Host = *host
	}
	if !*bare {
		req.Header.Set("Content-Type", "application/json")
		req.Header.Set("Accept", "application/json, text/event-stream")
		for k, v := range own {
			req.Header.Set(k, v)
		}
	}
	if *token != "" {
		b, err := os.ReadFile(*token)
		check(err)
		req.Header.Set("Authorization", "Bearer "+strings.TrimSpace(string(b)))
	}
	for _, line := range h {
		k, v, _ := strings.Cut(line, ":")
		req.Header[k] = append(req.Header[k], strings.TrimSpace(v)) // exactly as written
	}
	resp, err := (&http.Client{Transport: transport(*state, *anyone), Timeout: 30 * time.Second, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}).Do(req)
	if err != nil {
		fmt.Println("no answer:", err)
		os.Exit(1)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	fmt.Println(resp.StatusCode)
	if *where {
		fmt.Printf("Location: %s\nWWW-Authenticate: %s\n", resp.Header.Get("Location"), resp.Header.Get("WWW-Authenticate"))
	}
	os.Stdout.Write(b)
	fmt.Println()
	check(err)
}

// meta is what revision 2026-07-28 wants in every request.
const meta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"story","version":"1"}}`

func compose(args []string) (body []byte, own map[string]string) {
	own = map[string]string{"MCP-Protocol-Version": "2026-07-28"}
	switch args[0] {
	case "post":
		b, err := os.ReadFile(args[1])
		check(err)
		return bytes.TrimRight(b, "\n"), nil
	case "call":
		own["Mcp-Method"], own["Mcp-Name"] = "tools/call", mirror(args[1])
		return []byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":%q,"arguments":%s,%s}}`, args[1], args[2], meta)), own
	case "ask":
		own["Mcp-Method"] = args[1]
		params := "{" + meta + "}"
		if len(args) > 2 {
			params = "{" + strings.TrimSuffix(strings.TrimPrefix(args[2], "{"), "}") + "," + meta + "}"
		}
		return []byte(fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":%q,"params":%s}`, args[1], params)), own
	}
	fatal("agent: call, ask, post or raw?")
	return nil, nil
}

// mirror writes a value as a header may carry it.
func mirror(s string) string {
	for i := range len(s) {
		if s[i] < 0x21 || s[i] > 0x7e {
			return "=?base64?" + base64.StdEncoding.EncodeToString([]byte(s)) + "?="
		}
	}
	return s
}

func transport(state string, anyone bool) *http.Transport {
	t := &http.Transport{DisableCompression: true, DisableKeepAlives: true}
	if anyone {
		t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true}
	}
	if state == "" {
		return t
	}
	// One file: a comment, the key, the chain, a comment, the trust bundle.
	text, err := os.ReadFile(state + "/svid.pem")
	check(err)
	own, bundle, found := bytes.Cut(text, []byte("# trust bundle\n"))
	pool := x509.NewCertPool()
	if !found || !pool.AppendCertsFromPEM(bundle) {
		fatal("agent: no trust bundle in svid.pem")
	}
	cert, err := tls.X509KeyPair(own, own)
	check(err)
	t.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{cert}}
	return t
}

// raw sends a file's bytes, with \r\n written as they stand in the file's
// escapes, and prints whatever comes back until the far side closes.
func raw(addr, file string) {
	b, err := os.ReadFile(file)
	check(err)
	text := strings.NewReplacer("\n", "", `\r`, "\r", `\n`, "\n", `\0`, "\x00").Replace(string(b))
	c, err := net.Dial("tcp", strings.TrimPrefix(addr, "http://"))
	check(err)
	defer c.Close()
	_, err = io.WriteString(c, text)
	check(err)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	answer, err := io.ReadAll(c)
	os.Stdout.Write(answer)
	if err != nil {
		fmt.Println("\nstill open")
		return
	}
	fmt.Println("\nclosed")
}

func check(err error) {
	if err != nil {
		fatal(err.Error())
	}
}

func fatal(s string) {
	fmt.Fprintln(os.Stderr, s)
	os.Exit(2)
}
