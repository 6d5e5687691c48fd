package bench

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// stdioTool is the argument with which the gateway starts this test binary as a
// tool server on its standard input and output: stdio-tool RECORD CONTROL.
const stdioTool = "stdio-tool"

// message is what both tool servers read of a request.
type message struct {
	ID     json.RawMessage `json:"id"`
	Method string          `json:"method"`
	Params struct {
		Arguments struct {
			N    uint32 `json:"n"`
			Size int    `json:"size"`
		} `json:"arguments"`
	} `json:"params"`
}

const soakTools = `[{"name":"do","description":"Do one thing.","inputSchema":{"type":"object","properties":{"n":{"type":"integer"},"size":{"type":"integer"}},"required":["n"]}}]`

// answer is the response to a request, "" to a notification.
func (m *message) answer() string {
	result := ""
	switch m.Method {
	case "server/discover":
		result = `{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"soak","version":"1"},"ttlMs":0,"cacheScope":"private"}`
	case "tools/list":
		result = `{"resultType":"complete","ttlMs":0,"cacheScope":"private","tools":` + soakTools + `}`
	case "tools/call":
		result = fmt.Sprintf(`{"resultType":"complete","content":[{"type":"text","text":"did %d %s"}]}`, m.Params.Arguments.N, strings.Repeat("x", m.Params.Arguments.Size))
	}
	switch {
	case len(m.ID) == 0:
		return ""
	case result == "":
		return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"error":{"code":-32601,"message":"no such method"}}`, m.ID)
	}
	return fmt.Sprintf(`{"jsonrpc":"2.0","id":%s,"result":%s}`, m.ID, result)
}

// serveStdio answers lines. It writes down each call before it answers, its
// process id beside the control file, and says something unseemly once when it
// finds the control file.
func serveStdio(record, control string) int {
	f, err := os.OpenFile(record, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return 2
	}
	if os.WriteFile(control+".pid", []byte(strconv.Itoa(os.Getpid())), 0o600) != nil {
		return 2
	}
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 8<<20)
	for in.Scan() {
		var m message
		if json.Unmarshal(in.Bytes(), &m) != nil {
			return 2
		}
		if m.Method == "tools/call" {
			if _, err := fmt.Fprintln(f, m.Params.Arguments.N); err != nil {
				return 2
			}
		}
		if os.Remove(control) == nil {
			fmt.Println("this is no message")
		}
		if a := m.answer(); a != "" {
			fmt.Println(a)
		}
	}
	return 0
}
