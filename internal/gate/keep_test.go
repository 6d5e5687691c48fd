package gate_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
)

// The result of an action that can be taken back with it is in the log, before
// its Outcome and so before anybody sees it. If it cannot be kept the reply is
// withheld, whether or not it stands there.
func TestKeep(t *testing.T) {
	big := `"` + strings.Repeat("x", 1<<20) + `"`
	for _, tc := range []struct {
		name, action, body string
		kind               gate.FrameKind
		fault              string // "no": not written; "late": written, and reported failed
		story, withheld    string
	}{
		{"kept", "bank___pay", `{"id": 1.0}`, gate.FrameResult, "", `intent | result {"id": 1.0} | outcome delivered`, ""},
		{"an action nobody takes back", "bank___look", `{}`, gate.FrameResult, "", "intent | outcome delivered", ""},
		{"no result", "bank___pay", `{}`, gate.FrameError, "", "intent | outcome delivered", ""},
		{"too long", "bank___pay", big, gate.FrameResult, "", "intent | outcome delivered", ""},
		{"not written", "bank___pay", `{}`, gate.FrameResult, "no", "intent | outcome withheld", "yes"},
		{"written, and reported failed", "bank___pay", `{}`, gate.FrameResult, "late", "intent | result {} | outcome withheld", "yes"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var story []string
			var intent ostiary.EntryID
			g := gatetest.New(gatetest.Neighbours{
				Append: func(_ context.Context, e *ostiary.Entry) (ostiary.Receipt, error) {
					line := e.Kind.String()
					switch e.Kind {
					case ostiary.KindIntent:
						intent = e.ID
					case ostiary.KindOutcome:
						line += " " + e.Disposition.String()
					case ostiary.KindResult:
						line += " " + string(e.Payload.Arguments)
						if e.Answers != intent || e.Payload.Result != ostiary.DigestOf(e.Payload.Arguments) {
							t.Errorf("%+v", e)
						}
						if tc.fault == "no" {
							return ostiary.Receipt{}, errors.New("injected")
						}
					}
					story = append(story, line)
					if e.Kind == ostiary.KindResult && tc.fault == "late" {
						return ostiary.Receipt{ID: e.ID}, errors.New("injected")
					}
					return ostiary.Receipt{ID: e.ID, Ref: ostiary.EntryRef{Month: "2026-11", Index: 1}}, nil
				},
				Forward: func(_ context.Context, c *gate.Clearance) (gate.Stream, error) {
					if _, err := c.Redeem(); err != nil {
						return nil, err
					}
					return &says{frames: []gate.Frame{{Kind: tc.kind, Body: document(tc.body)}}}, nil
				},
				Options: func(o *gate.Options) { o.Keeps = func(action string) bool { return action == "bank___pay" } },
			})
			err := play(t, g, tc.action)
			if got := strings.Join(story, " | "); got != tc.story || (err != nil) != (tc.withheld != "") {
				t.Errorf("%v, %s", err, got)
			}
			if slices.Contains(story, "outcome delivered") != (err == nil) {
				t.Error("what was released is not what is recorded")
			}
		})
	}
}
