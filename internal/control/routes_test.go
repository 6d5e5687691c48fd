package control

import (
	"context"
	"encoding/json"
	"net/url"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/approval"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
)

// TestReference keeps the reference complete: every route, every member of
// every form, every filter, every kind of error.
func TestReference(t *testing.T) {
	text, err := os.ReadFile("../../docs/reference/api.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(text)
	if len(routes()) < 15 {
		t.Errorf("only %d routes", len(routes()))
	}
	for _, r := range routes() {
		if !strings.Contains(doc, "`"+r.Pattern) {
			t.Errorf("%s is not documented", r.Pattern)
		}
	}
	if n := strings.Count(doc, "\n`GET /v1/") + strings.Count(doc, "\n`POST /v1/"); n != len(routes()) {
		t.Errorf("%d routes are documented, %d are there", n, len(routes()))
	}
	words := map[string]bool{}
	for _, w := range strings.FieldsFunc(doc, func(r rune) bool { return r != '_' && (r < 'a' || r > 'z') }) {
		words[w] = true
	}
	forms := []any{Problem{}, PolicyProblem{}, Status{}, Key{}, ServerStatus{}, AgentRequest{}, Join{}, Agent{}, RevokeRequest{}, Revoked{},
		ContainRequest{}, Containment{}, Breaker{}, Conduct{}, TokenRequest{}, Token{}, Tool{}, Difference{}, Holds{}, ToolRequest{}, Accepted{}, Published{}, Entry{}, Listing{}, Story{},
		Explanation{}, NearMiss{}, Shadow{}, ShadowSummary{}, ShadowDifference{}, Person{}, PersonRequest{}, PersonInvitation{}, People{}, Held{}, HeldField{}, HeldOrigin{}, HeldNeed{}, HeldReason{}, HeldVote{}, HeldFinding{}, HeldRisk{}, HeldEnding{}, HeldPreview{}, ChoiceRequest{}, VoteAsked{}, VoteRequest{}, PersonKeyRequest{}, PersonKey{}, approval.Edit{},
		Mandate{}, MandateRequest{}, MandateEndRequest{}, MandateNameRequest{}, identity.Terms{}, identity.TermCeiling{}, identity.TermBudget{}, identity.TermMoney{}}
	forms = append(forms, Entity{}, EntityTerms{}, RegistryRequest{}, RegistryChanges{}, EntityChange{}, EntityField{})
	forms = append(forms, KeyState{}, RotateRequest{}, RevokeKeyRequest{}, RevokedKey{}, UndoRequest{}, Undone{})
	for _, f := range forms {
		typ := reflect.TypeOf(f)
		for i := range typ.NumField() {
			name, _, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
			if name == "" || name != strings.ToLower(name) || !words[name] {
				t.Errorf("%s.%s: its name %q is not lower case, or not documented", typ.Name(), typ.Field(i).Name, name)
			}
		}
	}
	for k := range statusOf {
		if !words[k.String()] && k != ostiary.Unauthenticated { // nobody authenticates here
			t.Errorf("kind %s is not documented", k)
		}
	}
}

// TestM12ChangesAreRecorded: these are all the routes that can change anything,
// and the story of M12 looks for the entry of each; of persons, who need a
// browser to be there, test/browser does, of budgets, which need a killed gateway, K03's. Whoever adds one adds it there. M09: nothing here takes anything away from a log.
func TestM12ChangesAreRecorded(t *testing.T) {
	recorded := []string{"/v1/agents/join", "/v1/agents/add", "/v1/registry", "/v1/revocations", "/v1/people/invite", "/v1/people/roles", "/v1/people/revoke", "/v1/people/add", "/v1/people/key", "/v1/people/key/drop", "/v1/approvals/vote", "/v1/containments", "/v1/tokens",
		"/v1/mandates", "/v1/mandates/end", "/v1/mandates/renew", "/v1/mandates/review", "/v1/tools/read", "/v1/tools/accept",
		"/v1/policy/load", "/v1/keys/rotate", "/v1/keys/revoke", "/v1/backup", "/v1/reload"}
	questions := []string{"/v1/approvals/narrow", "/v1/approvals/ask"} // they take a body, and change nothing
	recorded = append(recorded, "/v1/budgets/resolve", "/v1/undo")
	var changing []string
	for _, r := range routes() {
		method, path, _ := strings.Cut(r.Pattern, " ")
		switch method {
		case "POST":
			if slices.Contains(questions, path) {
				continue
			}
			changing = append(changing, path)
			if strings.Contains(path, "log") {
				t.Errorf("M09: %s changes a log", r.Pattern)
			}
		case "GET":
		default:
			t.Errorf("%s: only GET and POST are served", r.Pattern)
		}
	}
	if !slices.Equal(changing, recorded) {
		t.Errorf("routes that change something are %v, recorded are %v", changing, recorded)
	}
}

func TestFilter(t *testing.T) {
	for _, tc := range []struct {
		query string
		field string // of the refusal, "" if it is none
	}{
		{"", ""},
		{"agent=a&tool=b", "tool"},
		{"agent=a&agent=b", "agent"},
		{"decision=maybe", "decision"},
		{"decision=permit", ""},
		{"disposition=lost", "disposition"},
		{"limit=0", "limit"},
		{"limit=10001", "limit"},
		{"limit=10000", ""},
		{"since=yesterday", "since"},
		{"since=2026-11-20T10:00:00Z&until=2026-11-20T10:00:00Z", "until"},
		{"since=2026-11-20T10:00:00Z&until=2026-11-20T11:00:00Z", ""},
		{"kind=nothing", "kind"},
		{"kind=intent,outcome&latest=true&except=x&newest=true", ""},
	} {
		q, err := url.ParseQuery(tc.query)
		if err != nil {
			t.Fatal(err)
		}
		f, err := filterOf(q)
		if got := ""; err != nil {
			if got = ostiary.AsError(err).Field; got != tc.field || tc.field == "" {
				t.Errorf("%s: refused for %q, want %q", tc.query, got, tc.field)
			}
		} else if tc.field != "" {
			t.Errorf("%s: taken as %+v", tc.query, f)
		}
	}
	t.Run("a disposition means outcomes", func(t *testing.T) {
		f, err := filterOf(url.Values{"disposition": {"refused"}, "kind": {"intent,outcome"}})
		want := ledger.Filter{Kinds: []ostiary.EntryKind{ostiary.KindOutcome}, Disposition: &dispositions[0]}
		if err != nil || !reflect.DeepEqual(f, want) {
			t.Errorf("got %+v, %v", f, err)
		}
	})
}

// laggard is a log whose index gets one entry further with each question.
type laggard struct {
	Log
	indexed, size, step uint64
	asked               int
}

func (l *laggard) Query(context.Context, ledger.Filter) ([]ledger.Row, uint64, uint64, error) {
	l.asked++
	l.indexed += l.step
	l.size++ // and the log grows meanwhile
	return nil, l.indexed, l.size, nil
}

func TestListingWaitsForTheIndex(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		l := &laggard{indexed: 7, size: 9, step: 1}
		if _, n, _, err := settled(t.Context(), l, ledger.Filter{}); err != nil || n != 10 || time.Since(began) != 2*indexPoll {
			t.Errorf("up to %d after %v, %v", n, time.Since(began), err)
		}
		began = time.Now()
		l = &laggard{size: 9}
		if _, n, m, err := settled(t.Context(), l, ledger.Filter{}); err != nil || n != 0 || m < 9 || time.Since(began) != indexPatience {
			t.Errorf("a stuck index: up to %d of %d after %v, %v", n, m, time.Since(began), err)
		}
		l = &laggard{indexed: 99}
		if settled(t.Context(), l, ledger.Filter{}); l.asked != 1 {
			t.Errorf("asked %d times", l.asked)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, _, _, err := settled(ctx, &laggard{size: 9}, ledger.Filter{}); err == nil {
			t.Error("the operator left, and it waited on")
		}
	})
}

func TestPolicyProblemForm(t *testing.T) {
	b, err := json.Marshal(PolicyProblems([]policy.Problem{{File: "a.cedar", Line: 2, Column: 3, Severity: policy.Warning, Code: "c", Message: "m", Suggestion: "s"}, {File: "b.cedar", Code: "d"}}))
	want := `[{"file":"a.cedar","line":2,"column":3,"severity":"warning","code":"c","message":"m","suggestion":"s"},{"file":"b.cedar","severity":"error","code":"d","message":""}]`
	if err != nil || string(b) != want {
		t.Errorf("got %s, %v", b, err)
	}
	if b, _ := json.Marshal(PolicyProblems(nil)); string(b) != "[]" {
		t.Errorf("none: %s", b)
	}
}
