package attack

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/ostiary/ostiary/test/story"
)

// TestBattery tries what can be said on one connection against one gateway,
// while a bystander works beside it. The story is in testdata/battery.
func TestBattery(t *testing.T) {
	story.Run(t, "testdata/battery", map[string]func(*testscript.TestScript, bool, []string){"battery": battery})
}

// assault is one thing an attacker says who holds a good token.
type assault struct {
	name   string
	raw    func(*target) string // the bytes on the wire
	status string               // of the answer
	code   string               // of the refusal
	// counted: the attacker is a stranger to whoever refuses, because the head
	// is refused before anybody reads a credential, or the credential is for
	// another address. Then the code is counted; else it is in an entry of its
	// own.
	counted bool
	cut     bool // the attacker hangs up after the last byte
}

// target is what an assault is written for.
type target struct{ host, token string }

// secret stands in every body. No answer may repeat it.
const secret = "c4n4ry-argument-31d7"

const batteryMeta = `"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}`

// request writes a request with a good head, each part of which can be
// replaced ("Name: value") or taken away ("Name:").
func request(line, body string, change ...string) func(*target) string {
	return func(t *target) string {
		fields := []string{
			"Host: " + t.host, "Authorization: Bearer " + t.token, "Content-Type: application/json", "Accept: application/json, text/event-stream",
			"MCP-Protocol-Version: 2026-07-28", "Mcp-Method: tools/call", "Mcp-Name: bank___send_payment", fmt.Sprintf("Content-Length: %d", len(body)),
		}
		for _, c := range change {
			name, value, _ := strings.Cut(c, ":")
			at := slices.IndexFunc(fields, func(f string) bool { return strings.HasPrefix(f, name+":") })
			switch {
			case at < 0 || strings.HasPrefix(name, "+"):
				fields = append(fields, strings.TrimPrefix(c, "+"))
			case value == "":
				fields = slices.Delete(fields, at, at+1)
			default:
				fields[at] = c
			}
		}
		return line + "\r\n" + strings.Join(fields, "\r\n") + "\r\n\r\n" + body
	}
}

func says(body string, change ...string) func(*target) string {
	return request("POST /mcp HTTP/1.1", body, change...)
}

// pays is a good call, or nearly.
func pays(arguments string) string {
	return `{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"bank___send_payment","arguments":` + arguments + `,` + batteryMeta + `}}`
}

func at(target string) func(*target) string {
	return request("POST "+target+" HTTP/1.1", pays(good))
}

const good = `{"to":"` + secret + `","amount":1}`

func assaults() []assault {
	rep := strings.Repeat
	withID := func(id string) func(*target) string {
		return says(strings.Replace(pays(good), `"id":1`, `"id":`+id, 1))
	}
	method := func(m string) func(*target) string {
		return says(`{"jsonrpc":"2.0","id":1,"method":"`+m+`","params":{"name":"bank___send_payment","arguments":`+good+`,`+batteryMeta+`}}`, "Mcp-Method: "+m)
	}
	chunked := func(body string) func(*target) string {
		return func(t *target) string { return says("", "Content-Length:", "Transfer-Encoding: chunked")(t) + body }
	}
	whole := fmt.Sprintf("%x\r\n%s\r\n", len(pays(good)), pays(good))
	list := `{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{` + batteryMeta + `}}`
	return []assault{
		{name: "A01 two methods", raw: says(`{"jsonrpc":"2.0","id":1,"method":"tools/list","method":"tools/call","params":{"name":"bank___send_payment","arguments":` + good + `,` + batteryMeta + `}}`), status: "400", code: "duplicate_key"},
		{name: "A02 two methods, one escaped", raw: says(`{"jsonrpc":"2.0","id":1,"method":"tools/list","\u006dethod":"tools/call","params":{"name":"bank___send_payment","arguments":` + good + `,` + batteryMeta + `}}`), status: "400", code: "duplicate_key"},
		{name: "A03 two names", raw: says(strings.Replace(pays(good), `"name":`, `"name":"bank___get_balance","name":`, 1)), status: "400", code: "duplicate_key"},
		{name: "A03 two of one argument", raw: says(pays(`{"to":"landlord","amount":1,"to":"` + secret + `"}`)), status: "400", code: "duplicate_key"},
		{name: "A03 two deep inside", raw: says(pays(`{"to":"x","amount":1,"note":[{"a":[{"b":1,"b":2}]}]}`)), status: "400", code: "duplicate_key"},
		{name: "A04 METHOD beside it", raw: says(strings.Replace(pays(good), `"method"`, `"METHOD":"tools/list","method"`, 1)), status: "400", code: "case_folded_key"},
		{name: "A04 METHOD instead", raw: says(strings.Replace(pays(good), `"method"`, `"METHOD"`, 1)), status: "400", code: "unknown_member"},
		{name: "A04 Params instead", raw: says(strings.Replace(pays(good), `"params"`, `"Params"`, 1)), status: "400", code: "unknown_member"},
		{name: "A04 long s", raw: says(strings.Replace(pays(good), `"params"`, `"paramſ":{},"params"`, 1)), status: "400", code: "case_folded_key"},
		{name: "A04 Kelvin sign in the arguments", raw: says(pays(`{"to":"x","amount":1,"k":1,"\u212a":2}`)), status: "400", code: "case_folded_key"},
		{name: "A05 a second document", raw: says(list + pays(good)), status: "400", code: "trailing_data"},
		{name: "A05 junk behind", raw: says(pays(good) + " junk"), status: "400", code: "trailing_data"},
		{name: "A06 0xFF in an argument", raw: says(pays("{\"to\":\"" + secret + "\xff\",\"amount\":1}")), status: "400", code: "utf8"},
		{name: "A06 overlong slash in the name", raw: says(strings.Replace(pays(good), "send_payment", "send\xc0\xafpayment", 1)), status: "400", code: "utf8"},
		{name: "A06 half a character in the method", raw: says(strings.Replace(pays(good), "tools/call", "tools/call\xe2\x82", 1)), status: "400", code: "utf8"},
		{name: "A07 half a pair", raw: says(pays(`{"to":"` + secret + `\ud800","amount":1}`)), status: "400", code: "surrogate"},
		{name: "A07 NUL in the method", raw: says(strings.Replace(pays(good), "tools/call", `tools/call\u0000x`, 1)), status: "400", code: "nul"},
		{name: "A07 NUL in a name", raw: says(pays(`{"to\u0000":"x","to":"y","amount":1}`)), status: "400", code: "nul"},
		{name: "A08 NaN", raw: says(pays(`{"to":"x","amount":NaN}`)), status: "400", code: "syntax"},
		{name: "A08 Infinity", raw: says(pays(`{"to":"x","amount":Infinity}`)), status: "400", code: "syntax"},
		{name: "A08 1e400", raw: says(pays(`{"to":"x","amount":1e400}`)), status: "400", code: "number"},
		{name: "A08 hexadecimal", raw: says(pays(`{"to":"x","amount":0x10}`)), status: "400", code: "syntax"},
		{name: "A08 a comment", raw: says(pays(`{"to":"x",/* y */"amount":1}`)), status: "400", code: "syntax"},
		{name: "A08 a comma too many", raw: says(pays(`{"to":"x","amount":1,}`)), status: "400", code: "syntax"},
		{name: "A08 single quotes", raw: says(pays(`{'to':'x',"amount":1}`)), status: "400", code: "syntax"},
		{name: "A09 beyond what doubles hold", raw: says(pays(`{"to":"x","amount":9007199254740993}`)), status: "200", code: "no_permit"},
		{name: "A11 nesting 65", raw: says(pays(`{"to":"x","amount":1,"note":` + rep("[", 65) + rep("]", 65) + `}`)), status: "400", code: "depth"},
		{name: "A11 nesting 1,000,000", raw: says(pays(`{"to":"x","amount":1,"note":` + rep("[", 1000000))), status: "400", code: "depth"},
		{name: "A11 nesting in an id", raw: withID(rep("[", 5000)), status: "400", code: "depth"},
		{name: "A11 nesting in _meta", raw: says(strings.Replace(pays(good), `"_meta":{`, `"_meta":{"x":`+rep(`{"a":`, 10001), 1)), status: "400", code: "depth"},
		{name: "A12 100,000 keys", raw: says(pays(`{"to":"x","amount":1` + keys(100000) + `}`)), status: "400", code: "elements"},
		{name: "A12 a key of 1 MiB", raw: says(pays(`{"` + rep("k", 1<<20) + `":1}`)), status: "400", code: "key"},
		{name: "A12 100,000 elements", raw: says(pays(`{"to":"x","amount":1,"note":[` + rep("1,", 100000) + `1]}`)), status: "400", code: "elements"},
		{name: "A12 a number of 1 MiB", raw: says(pays(`{"to":"x","amount":` + rep("1", 1<<20) + `}`)), status: "400", code: "literal"},
		{name: "A13 a batch of nothing", raw: says(`[]`), status: "400", code: "batch"},
		{name: "A13 a batch of a number", raw: says(`[1]`), status: "400", code: "batch"},
		{name: "A13 an allowed and a denied call", raw: says(`[` + list + `,` + pays(good) + `]`), status: "400", code: "batch"},
		{name: "A14 id null", raw: withID("null"), status: "400", code: "id"},
		{name: "A14 id 1.5", raw: withID("1.5"), status: "400", code: "id"},
		{name: "A14 id 1.0", raw: withID("1.0"), status: "400", code: "id"},
		{name: "A14 id {}", raw: withID("{}"), status: "400", code: "id"},
		{name: "A14 id beyond what doubles hold", raw: withID("9007199254740993"), status: "400", code: "id"},
		{name: "A14 id of 1 MiB", raw: withID(`"` + rep("x", 1<<20) + `"`), status: "400", code: "id"},
		{name: "A15 a response", raw: says(`{"jsonrpc":"2.0","id":1,"result":{"x":"` + secret + `"}}`), status: "400", code: "response"},
		{name: "A15 an error", raw: says(`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"` + secret + `"}}`), status: "400", code: "response"},
		{name: "A16 in capitals", raw: method("Tools/Call"), status: "404", code: "method_not_found"},
		{name: "A16 two slashes", raw: method("tools//call"), status: "404", code: "method_not_found"},
		{name: "A16 unknown", raw: method("tools/exec"), status: "404", code: "method_not_found"},
		{name: "A16 a space behind", raw: says(strings.Replace(pays(good), "tools/call", "tools/call ", 1)), status: "404", code: "method_not_found"},
		{name: "A16 a Cyrillic o", raw: says(strings.Replace(pays(good), "tools/call", "tооls/call", 1)), status: "404", code: "method_not_found"},
		{name: "A19 text/plain", raw: says(pays(good), "Content-Type: text/plain"), status: "415", code: "content_type"},
		{name: "A19 a form", raw: says(pays(good), "Content-Type: application/x-www-form-urlencoded"), status: "415", code: "content_type"},
		{name: "A19 no type", raw: says(pays(good), "Content-Type:"), status: "415", code: "content_type"},

		{name: "B01 the header says list", raw: says(pays(good), "Mcp-Method: tools/list"), status: "400", code: "header_mismatch"},
		{name: "B01 the header names another tool", raw: says(pays(good), "Mcp-Name: bank___get_balance"), status: "400", code: "header_mismatch"},
		{name: "B01 no headers", raw: says(pays(good), "Mcp-Method:", "Mcp-Name:"), status: "400", code: "header_mismatch"},
		{name: "B02 two methods", raw: says(pays(good), "+Mcp-Method: tools/list"), status: "400", code: "http:repeated_header", counted: true},
		{name: "B02 two names", raw: says(pays(good), "+Mcp-Name: bank___get_balance"), status: "400", code: "http:repeated_header", counted: true},
		{name: "B03 another case of base64", raw: says(pays(good), "Mcp-Name: =?BASE64?"+b64("bank___send_payment")+"?="), status: "400", code: "header_mismatch"},
		{name: "B03 bad base64", raw: says(pays(good), "Mcp-Name: =?base64?!!!?="), status: "400", code: "header_mismatch"},
		{name: "B03 another value", raw: says(pays(good), "Mcp-Name: =?base64?"+b64("bank___get_balance")+"?="), status: "400", code: "header_mismatch"},
		{name: "B03 a plain value like the mark", raw: says(strings.Replace(pays(good), "bank___send_payment", "=?base64?YQ==?=", 1), "Mcp-Name: =?base64?YQ==?="), status: "400", code: "header_mismatch"},
		{name: "B05 versions that differ", raw: says(pays(good), "MCP-Protocol-Version: 2025-11-25"), status: "400", code: "header_mismatch"},
		{name: "B05 no version", raw: says(pays(good), "MCP-Protocol-Version:"), status: "400", code: "header_mismatch"},
		{name: "B05 an old version and no session", raw: says(strings.Replace(pays(good), ","+batteryMeta, "", 1), "MCP-Protocol-Version: 2025-03-26", "Mcp-Method:", "Mcp-Name:"), status: "400", code: "session_required"},
		{name: "B06 a session nobody has", raw: says(strings.Replace(pays(good), ","+batteryMeta, "", 1), "MCP-Protocol-Version: 2025-11-25", "Mcp-Method:", "Mcp-Name:", "Mcp-Session-Id: 0123456789abcdef0123456789abcdef"), status: "404", code: "session_not_found"},
		{name: "B09 a hidden tool", raw: says(strings.ReplaceAll(pays(`{"account":"`+secret+`"}`), "send_payment", "close_account"), "Mcp-Name: bank___close_account"), status: "200", code: "no_permit"},
		{name: "B10 another route", raw: at("/mcp_message"), status: "404", code: "unauthenticated:credentials", counted: true},

		{name: "D01 two framings", raw: says("0\r\n\r\nPOST /mcp HTTP/1.1\r\n", "+Transfer-Encoding: chunked"), status: "400", code: "http:framing", counted: true},
		{name: "D02 two lengths", raw: says("{}", "+Content-Length: 2"), status: "400", code: "http:repeated_header", counted: true},
		{name: "D02 a length with a sign", raw: says("{}", "Content-Length: +2"), status: "400", code: "http:content_length", counted: true},
		{name: "D02 a list of lengths", raw: says("{}", "Content-Length: 2, 2"), status: "400", code: "http:content_length", counted: true},
		{name: "D03 a folded line", raw: says(pays(good), "X-A: b\r\n c"), status: "400", code: "http:folded_header", counted: true},
		{name: "D03 a bare line feed", raw: says(pays(good), "X-A: b\nX-B: c"), status: "400", code: "http:line_end", counted: true},
		{name: "D03 a space before the colon", raw: says(pays(good), "X-A : b"), status: "400", code: "http:header_name", counted: true},
		{name: "D03 NUL", raw: says(pays(good), "X-A: b\x00"), status: "400", code: "http:header_value", counted: true},
		{name: "D03 a bare carriage return", raw: says(pays(good), "X-A: b\rX-B: c"), status: "400", code: "http:header_value", counted: true},
		{name: "D04 an extension that ends in a line feed", raw: chunked("5;a\n" + whole + "0\r\n\r\n"), status: "400", code: "body_cut"},
		{name: "D04 cut in the middle of a chunk", raw: chunked(whole[:40]), status: "400", code: "body_cut", cut: true},
		{name: "D04 cut before the last chunk", raw: chunked(whole), status: "400", code: "body_cut", cut: true},
		{name: "D04 cut in the middle of a length", raw: says(pays(good), "Content-Length: 99999"), status: "400", code: "body_cut", cut: true},
		{name: "D05 Connection names a header", raw: says(pays(good), "Connection: X-Agent-Id", "X-Agent-Id: root"), status: "400", code: "http:connection_header", counted: true},
		{name: "D06 an underscore", raw: says(pays(good), "X_Agent_Id: root"), status: "400", code: "http:header_name", counted: true},
		{name: "D07 two credentials", raw: says(pays(good), "+Authorization: Bearer x"), status: "400", code: "http:repeated_header", counted: true},
		{name: "D07 a list of credentials", raw: says(pays(good), "Authorization: Bearer x, Bearer y"), status: "400", code: "http:header_list", counted: true},
		{name: "D08 h2c", raw: says(pays(good), "Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"), status: "400", code: "http:upgrade", counted: true},
		{name: "D08 websocket", raw: says(pays(good), "Connection: Upgrade", "Upgrade: websocket"), status: "400", code: "http:upgrade", counted: true},
		{name: "D09 CONNECT", raw: request("CONNECT evil:443 HTTP/1.1", ""), status: "405", code: "http:method", counted: true},
		{name: "D09 CONNECT to a path", raw: request("CONNECT /x/../admin HTTP/1.1", ""), status: "405", code: "http:method", counted: true},
		{name: "D10 a whole URL", raw: at("http://internal/mcp"), status: "400", code: "http:absolute_target", counted: true},
		{name: "D11 a path in the host", raw: says(pays(good), "Host: x/@evil"), status: "400", code: "http:host", counted: true},
		{name: "D11 a user in the host", raw: says(pays(good), "Host: a@x"), status: "400", code: "http:host", counted: true},
		{name: "D11 two hosts", raw: says(pays(good), "Host: a, b"), status: "400", code: "http:host", counted: true},
		{name: "D12 two slashes", raw: at("//mcp"), status: "400", code: "http:path", counted: true},
		{name: "D12 escaped dots", raw: at("/mcp/%2e%2e/mcp"), status: "400", code: "http:path", counted: true},
		{name: "D12 an escaped slash", raw: at("/mcp%2fbank"), status: "400", code: "http:path", counted: true},
		{name: "D12 a parameter", raw: at("/mcp;x"), status: "400", code: "http:path", counted: true},
		{name: "D12 in capitals", raw: at("/MCP"), status: "404", code: "unauthenticated:credentials", counted: true},
		{name: "D13 a query", raw: at("/mcp?a=1"), status: "400", code: "query"},
		{name: "D13 a semicolon", raw: at("/mcp?a=1;b=2"), status: "400", code: "http:query", counted: true},
		{name: "D13 a bad escape", raw: at("/mcp?a=%zz"), status: "400", code: "http:query", counted: true},
		{name: "D17 another host", raw: says(pays(good), "Host: evil.example"), status: "403", code: "host"},
		{name: "D17 another origin", raw: says(pays(good), "Origin: https://evil.example"), status: "403", code: "origin"},
		{name: "D17 no origin", raw: says(pays(good), "Origin: null"), status: "403", code: "origin"},

		{name: "E08 alg none", raw: says(pays(good), "Authorization: Bearer eyJhbGciOiJub25lIiwidHlwIjoiYXQrand0In0.e30."), status: "401", code: "unauthenticated:credentials", counted: true},
		{name: "E14 quotes", raw: says(pays(good), "Authorization: Bearer ' OR '1'='1"), status: "400", code: "unauthenticated:no_credentials", counted: true},
		{name: "E14 words of another language", raw: says(pays(good), "Authorization: Bearer "+secret+".é.x"), status: "400", code: "http:header_value", counted: true},
		{name: "E14 1 MiB", raw: says(pays(good), "Authorization: Bearer "+rep("A", 1<<20)), status: "431", code: "http:head_length", counted: true},
		{name: "R02 a head of 1 MiB", raw: says(pays(good), "X-A: "+rep("a", 1<<20)), status: "431", code: "http:head_length", counted: true},
		{name: "R02 10,000 headers", raw: says(pays(good), strings.TrimSuffix(manyHeaders(10000), "\r\n")), status: "431", code: "http:head_length", counted: true},
		{name: "R02 a body over every limit", raw: says("", "Content-Length: 104857600"), status: "413", code: "http:body_length", counted: true},
		{name: "R02 a body over the route's limit", raw: says(pays(good) + rep(" ", 5<<20)), status: "413", code: "too_large"},
	}
}

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func keys(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, `,"k%d":0`, i)
	}
	return b.String()
}

func manyHeaders(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "X-%d: a\r\n", i)
	}
	return b.String()
}

// battery ADDRESS TOKENFILE BYSTANDERTOKEN RECORD tries every assault and asks
// five observers: the attacker's own connection, the recorder, a bystander,
// the log, and the search for what no answer may hold. The gateway's own output
// and files are searched by the story.
func battery(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 4 {
		ts.Fatalf("usage: battery ADDRESS TOKEN BYSTANDERTOKEN RECORD")
	}
	to := &target{host: args[0], token: strings.TrimSpace(ts.ReadFile(args[1]))}
	record := ts.MkAbs(args[3])
	before := size(ts, record)
	b := standBy(to.host, strings.TrimSpace(ts.ReadFile(args[2])))
	var faults []string
	entries, counted := map[string]assault{}, map[string]int{}
	for _, a := range assaults() {
		status, answer, err := a.say(to)
		fault := func(format string, args ...any) {
			faults = append(faults, a.name+": "+fmt.Sprintf(format, args...))
		}
		switch m := entry.FindSubmatch(answer); {
		case a.cut && err != nil: // whether its answer arrives is up to the race of two closings
		case err != nil:
			fault("no answer: %v", err)
			continue
		case status != a.status:
			fault("answered %s, want %s: %.300s", status, a.status, answer)
		case a.counted:
		case m == nil:
			fault("the answer names no entry: %.300s", answer)
		default:
			entries[string(m[1])] = a
		}
		if a.counted {
			counted[a.code]++
		}
		if bytes.Contains(answer, []byte(secret)) || bytes.Contains(answer, []byte(to.token)) {
			fault("the answer repeats what was said: %.300s", answer)
		}
		if after := size(ts, record); after != before {
			fault("the tool server received %d bytes", after-before)
			before = after
		}
	}
	if n, err := b.leave(); err != nil || n == 0 {
		faults = append(faults, fmt.Sprintf("the bystander, after %d calls: %v", n, err))
	}
	faults = append(faults, recorded(ts, entries)...)
	faults = append(faults, strangers(ts, counted)...)
	ts.Logf("%d assaults, %d entries, %v counted", len(assaults()), len(entries), counted)
	if len(faults) > 0 {
		ts.Fatalf("%s", strings.Join(faults, "\n"))
	}
}

// entry is how an answer names the entry that records it.
var entry = regexp.MustCompile(`"(?:dev\.ostiary/)?entry":"([0-9-]+/[0-9]+)"`)

// say sends the bytes and reads one answer.
func (a *assault) say(to *target) (status string, answer []byte, err error) {
	c, err := net.Dial("tcp", to.host)
	if err != nil {
		return "", nil, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	wrote := make(chan bool)
	go func() { // whoever refuses early does not read on
		defer close(wrote)
		io.WriteString(c, a.raw(to))
		if a.cut {
			c.(*net.TCPConn).CloseWrite()
		}
	}()
	defer func() { c.Close(); <-wrote }()
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return "", nil, err
	}
	defer resp.Body.Close()
	if answer, err = io.ReadAll(resp.Body); a.counted {
		err = nil // closed in the middle of what it still had to hear
	}
	return fmt.Sprint(resp.StatusCode), answer, err
}

func size(ts *testscript.TestScript, file string) int64 {
	st, err := os.Stat(file)
	ts.Check(err)
	return st.Size()
}

// bystander is a well-behaved agent that works at a low rate meanwhile.
type bystander struct {
	done chan bool
	work sync.WaitGroup
	n    int   // owned by its goroutine until it has ended
	err  error // the first
}

func standBy(host, token string) *bystander {
	b := &bystander{done: make(chan bool)}
	b.work.Go(func() {
		client := &http.Client{Timeout: 30 * time.Second}
		for b.err == nil {
			b.err = list(client, host, token)
			b.n++
			select {
			case <-b.done:
				return
			case <-time.After(50 * time.Millisecond):
			}
		}
	})
	return b
}

func list(client *http.Client, host, token string) error {
	r, err := http.NewRequest("POST", "http://"+host+"/mcp", strings.NewReader(`{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{`+batteryMeta+`}}`))
	if err != nil {
		return err
	}
	for k, v := range map[string]string{
		"Authorization": "Bearer " + token, "Content-Type": "application/json", "Accept": "application/json, text/event-stream", "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list",
	} {
		r.Header.Set(k, v)
	}
	resp, err := client.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != 200 || !bytes.Contains(b, []byte("bank___get_balance"))) {
		err = fmt.Errorf("answered %d %s", resp.StatusCode, b)
	}
	return err
}

func (b *bystander) leave() (int, error) {
	close(b.done)
	b.work.Wait()
	return b.n, b.err
}

// recorded compares the entries that answers named with those in the log.
func recorded(ts *testscript.TestScript, want map[string]assault) (faults []string) {
	type row struct{ Entry, Kind, Decision, Disposition, Code string }
	have := map[string]row{}
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		clear(have)
		for line := range strings.Lines(story.Listing(ts)) { // its index lags behind
			var r row
			ts.Check(json.Unmarshal([]byte(line), &r))
			have[r.Entry] = r
		}
		if !slices.ContainsFunc(slices.Collect(maps.Keys(want)), func(e string) bool { _, ok := have[e]; return !ok }) {
			break
		}
	}
	for e, a := range want {
		r, ok := have[e]
		if !ok || r.Kind != "outcome" || r.Decision != "deny" || r.Disposition != "refused" || r.Code != a.code {
			faults = append(faults, fmt.Sprintf("%s: recorded as %+v, want a refusal with %s", a.name, r, a.code))
		}
	}
	return faults
}

// strangers compares how many were sent away with how many are counted.
func strangers(ts *testscript.TestScript, want map[string]int) (faults []string) {
	missing := func(got map[string]int) (faults []string) {
		for code, n := range want {
			if got[code] != n {
				faults = append(faults, fmt.Sprintf("%d were counted as %s, want %d", got[code], code, n))
			}
		}
		return faults
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(50 * time.Millisecond) {
		if faults = missing(story.Counts(ts)); len(faults) == 0 || time.Now().After(deadline) {
			return faults
		}
	}
}
