package egress

import (
	"bytes"
	"io"
	"log/slog"
	"os"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/mcpwire"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Whatever the arguments, name and state are, the envelope is one message
// that reads back as exactly them: nothing in them becomes envelope.
func FuzzEnvelope(f *testing.F) {
	f.Add([]byte(`{"a" : 1.0}`), "tool", []byte("state"), true)
	f.Add([]byte(`{"name":"evil","_meta":{}}`), `x","arguments":{"evil":1},"y":"`, []byte("\"}"), false)
	f.Add([]byte("{\n}"), "\u2028\x00", []byte(nil), true)
	f.Fuzz(func(t *testing.T, args []byte, tool string, state []byte, progress bool) {
		doc, err := strictjson.Parse(bytes.Clone(args), strictjson.Request)
		if err != nil || tool == "" {
			return
		}
		a := &ostiary.Action{Method: "tools/call", Tool: tool, Arguments: doc.Root(), State: state}
		b, err := appendCall(nil, 7, &gate.Dispatch{Action: a, Progress: progress}, []byte(`"k":"v"`))
		if err != nil {
			t.Fatal(err)
		}
		limits := strictjson.Reply
		limits.Literal = strictjson.Request.Literal
		m, err := mcpwire.Parse(b, limits)
		if err != nil {
			t.Fatalf("%s: %v", b, err)
		}
		p := m.Params
		if m.Kind != mcpwire.Request || !isOurs(m.ID, 7) || m.Method != "tools/call" || !bytes.Equal(p.Get("arguments").Bytes(), doc.Root().Bytes()) {
			t.Fatalf("%s", b)
		}
		if want := string(mcpwire.AppendString(nil, tool)); string(p.Get("name").Bytes()) != want {
			t.Fatalf("name %s, want %s", p.Get("name").Bytes(), want)
		}
		members := 3
		if state != nil {
			members++
		}
		if p.Len() != members || p.Get("_meta").Len() != map[bool]int{true: 2, false: 1}[progress] {
			t.Fatalf("%s", b)
		}
	})
}

// Whatever a process prints, only its reply to our id ends the call, and only
// for ids that were given out does it live on.
func FuzzMessages(f *testing.F) {
	for _, s := range []string{
		`{"jsonrpc":"2.0","id":1,"result":{}}`, `{"jsonrpc":"2.0","id":2,"result":{}}`, `{"jsonrpc":"2.0","id":"1","result":{}}`,
		`{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"x"}}`, `{"jsonrpc":"2.0","id":null,"error":{"code":1,"message":"x"}}`,
		`{"jsonrpc":"2.0","id":"q","method":"sampling/createMessage","params":{}}`, `{"jsonrpc":"2.0","id":1,"method":"ping"}`,
		`{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1}}`, `{"jsonrpc":"2.0","method":"notifications/message","params":{}}`,
	} {
		f.Add([]byte(s))
	}
	e, err := New(Options{Capabilities: `{"sampling":{}}`})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { e.Close() })
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { null.Close() })
	s := &shared{clock: time.Now, limits: Limits{}.withDefaults()}
	if err := s.introduce(`{"sampling":{}}`, ""); err != nil {
		f.Fatal(err)
	}
	p := &process{shared: s, owner: e, log: slog.New(slog.DiscardHandler)}
	f.Fuzz(func(t *testing.T, line []byte) {
		m, err := mcpwire.Parse(bytes.Clone(line), s.limits.Reply)
		if err != nil {
			return
		}
		c := &pipe{p: p, in: null, open: map[int64]*lineReply{}, dead: make(chan struct{})}
		w := newWatch(t.Context(), e.ctx, time.Minute, time.Minute)
		defer w.stop()
		call, err := c.register(w, &gate.Dispatch{Action: &ostiary.Action{Method: "tools/call"}, Progress: true})
		if err != nil {
			t.Fatal(err)
		}
		fatal := c.message(m)
		frame, ok, err := call.take()
		if err != nil && err != io.EOF {
			t.Fatal(err)
		}
		answer := m.Kind == mcpwire.Result || m.Kind == mcpwire.Error && m.ID.Exists()
		if ok && frame.Kind.Final() != (answer && isOurs(m.ID, 1)) {
			t.Errorf("%s became %+v", line, frame)
		}
		if (fatal != nil) != (answer && !isOurs(m.ID, 1)) {
			t.Errorf("%s: %v", line, fatal)
		}
	})
}
