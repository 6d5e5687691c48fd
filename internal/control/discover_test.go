package control

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// pages is a gate before a server whose lists go on and on.
type pages struct {
	Gate
	definition string
	served     int
}

func (p *pages) Handle(context.Context, gate.Call) (*gate.Reply, error) {
	p.served++
	doc, err := strictjson.Parse([]byte(fmt.Sprintf(`{"tools":[%s],"nextCursor":"%d"}`, p.definition, p.served)), strictjson.Reply)
	if err != nil {
		return nil, err
	}
	return &gate.Reply{Stream: gatetest.Result(doc)}, nil
}

// TestListsAreBounded: what a server says of itself is kept in memory, so a
// server must not decide how much that is.
func TestListsAreBounded(t *testing.T) {
	for name, c := range map[string]struct {
		size   int
		served int
		code   string
	}{
		"many pages":  {10, maxPages, "too_many_pages"},
		"large pages": {4 << 20, 4, "list_too_large"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &pages{definition: `{"name":"x","description":"` + strings.Repeat("x", c.size) + `","inputSchema":{"type":"object"}}`}
			_, err := New(Options{Gate: p, Authority: &identity.Authority{}}).readList(context.Background(), "srv", "tool", "tools/list", "tools")
			if e := ostiary.AsError(err); err == nil || e.Code != c.code || p.served != c.served {
				t.Errorf("%v after %d pages", err, p.served)
			}
		})
	}
}

type broken struct{ Gate }

func (broken) Handle(context.Context, gate.Call) (*gate.Reply, error) { panic("injected") }

// TestReadingSurvives: readings run on goroutines that nobody else watches.
func TestReadingSurvives(t *testing.T) {
	c := New(Options{Gate: broken{}, Authority: &identity.Authority{}, Clock: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if _, err := c.Discover(context.Background(), "srv"); ostiary.KindOf(err) != ostiary.Internal || c.last["srv"].Err == "" {
		t.Errorf("%v, noted %+v", err, c.last["srv"])
	}
}
