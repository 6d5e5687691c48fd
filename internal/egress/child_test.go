package egress

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// child is what the test binary becomes when it is started as a server.
func child(kind string) {
	switch kind {
	case "sdk":
		sdkServer().Run(context.Background(), &mcp.StdioTransport{})
	case "sleep":
		time.Sleep(time.Hour)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		script("legacy")
		time.Sleep(time.Hour)
	default:
		script(kind)
	}
}

// script answers line by line; the tool's name says how.
func script(kind string) {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 8<<20)
	var asking [][]byte // ids of calls that wait for an answer from the other side
	for in.Scan() {
		line := append([]byte(nil), in.Bytes()...)
		m, err := mcpwire.Parse(line, strictjson.Request)
		if err != nil {
			fmt.Fprintln(os.Stderr, "cannot parse", err)
			os.Exit(3)
		}
		say := func(result string) {
			os.Stdout.Write(append(mcpwire.AppendResult(nil, m.ID.Bytes(), []byte(result)), '\n'))
		}
		text := func(s string) { say(`{"text":` + string(mcpwire.AppendString(nil, s)) + `}`) }
		switch m.Method {
		case mcpwire.MethodDiscover:
			switch kind {
			case "modern":
				say(`{"supportedVersions":["2026-07-28"]}`)
			case "dies":
				os.Exit(1)
			case "silent":
			default:
				os.Stdout.Write(append(mcpwire.AppendError(nil, m.ID.Bytes(), -32601, "no such method", nil), '\n'))
			}
		case mcpwire.MethodInitialize:
			if kind == "modern" {
				os.Exit(4)
			}
			say(`{"protocolVersion":"2025-06-18","capabilities":{}}`)
		case mcpwire.NotifyCancelled:
			fmt.Fprintln(os.Stderr, "cancelled", string(m.Params.Bytes()))
		case mcpwire.MethodToolsCall:
			if m.Params.Get("name").Is("ask") {
				asking = append(asking, m.ID.Bytes())
			}
			tool(m, m.Params.Get("name").Text(), string(line), say, text)
		}
		if m.Method == "" && len(asking) > 0 {
			os.Stdout.Write(append(mcpwire.AppendResult(nil, asking[0], []byte(`{"answered":`+string(m.Result.Bytes())+string(m.Error.Bytes())+`}`)), '\n'))
			asking = asking[1:]
		}
	}
}

func tool(m mcpwire.Message, name, line string, say, text func(string)) {
	switch name {
	case "line":
		text(line)
	case "crash":
		os.Exit(1)
	case "foreign":
		fmt.Println(`{"jsonrpc":"2.0","id":99999,"result":{"stolen":true}}`)
		say(`{}`)
	case "foreign string":
		fmt.Println(`{"jsonrpc":"2.0","id":"x","result":{"stolen":true}}`)
	case "twice":
		say(`{"n":1}`)
		say(`{"n":2}`)
	case "duplicate":
		fmt.Printf(`{"jsonrpc":"2.0","id":%s,"result":{},"result":{"x":1}}`+"\n", m.ID.Bytes())
	case "long":
		fmt.Println(`{"x":"` + strings.Repeat("x", 1<<20) + `"}`)
	case "junk":
		fmt.Println("Server started!\n\x1b[31mhello")
		say(`{}`)
	case "tells all": // what servers in good order say to everybody, and one thing about nobody's call
		for _, what := range []string{"tools/list_changed", "prompts/list_changed", "resources/list_changed", "resources/updated", "message", "progress"} {
			fmt.Println(`{"jsonrpc":"2.0","method":"notifications/` + what + `","params":{}}`)
		}
		say(`{}`)
	case "stderr":
		fmt.Fprintf(os.Stderr, "\x1b[2Jforged\u202e\nlevel=ERROR msg=fake\n%s\n", strings.Repeat("y", 10_000))
		say(`{}`)
	case "hang":
	case "slow":
		time.Sleep(30 * time.Millisecond)
		text(m.Params.Get("arguments").Get("text").Text())
	case "flood":
		for range 3000 {
			fmt.Printf(`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":%s,"progress":1}}`+"\n", m.ID.Bytes())
		}
		say(`{}`)
	case "pings":
		for i := range 20_000 {
			fmt.Printf(`{"jsonrpc":"2.0","id":"p-%d","method":"ping"}`+"\n", i)
		}
		say(`{}`)
		time.Sleep(time.Second)
	case "ask":
		fmt.Println(`{"jsonrpc":"2.0","id":"q-1","method":"` + m.Params.Get("arguments").Get("method").Text() + `","params":{}}`)
	case "env":
		fds, _ := os.ReadDir("/proc/self/fd")
		var open []string
		for _, f := range fds {
			if to, err := os.Readlink("/proc/self/fd/" + f.Name()); err == nil && !strings.HasPrefix(to, "anon_inode:") && !strings.HasSuffix(to, "/fd") && !strings.HasPrefix(to, "/sys/fs/cgroup") { // the runtime's own
				open = append(open, f.Name())
			}
		}
		dir, _ := os.Getwd()
		group, _ := syscall.Getpgid(0)
		text(fmt.Sprintf("env %q fds %v dir %s leader %v args %q", os.Environ(), open, dir, group == os.Getpid(), os.Args[1:]))
	case "grandchild":
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{childVariable + "=sleep"}
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr // holds our pipes open
		if err := cmd.Start(); err != nil {
			text(err.Error())
			return
		}
		text(fmt.Sprint(cmd.Process.Pid))
	default:
		say(`{}`)
	}
}
