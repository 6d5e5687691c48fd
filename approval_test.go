package ostiary

import (
	"strings"
	"testing"
	"time"
)

func TestParseNeed(t *testing.T) {
	for fact, want := range map[string]Need{
		"approval:finance":   {Fact: "approval:finance", Kind: NeedApproval, Group: "finance", People: 1},
		"approval:finance:2": {Fact: "approval:finance:2", Kind: NeedApproval, Group: "finance", People: 2},
		"acr:mfa":            {Fact: "acr:mfa", Kind: NeedStepUp, Level: "mfa", People: 1},
		"justification":      {Fact: "justification", Kind: NeedStatement, People: 1},
	} {
		if got, err := ParseNeed(fact); err != nil || got != want {
			t.Errorf("ParseNeed(%q) = %+v, %v", fact, got, err)
		}
	}
	for _, fact := range []string{"", "approval", "approval:", "approval:a:1", "approval:a:0", "approval:a:10", "approval:a:2:3", "approval:a:+2", "approval:a b", "acr", "acr:", "acr:bronze", "justification:x", "Approval:a", "payment"} {
		if n, err := ParseNeed(fact); err == nil || n.Kind != NoNeed {
			t.Errorf("ParseNeed(%q) = %+v, %v; nobody can supply that", fact, n, err)
		}
	}
}

// Every field of a question is bound: whatever changes, the digest does.
func TestQuestionBindsEverything(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	base := Question{Hold: "h", Action: Digest{1}, Asked: Digest{1}, Agent: "a", Principal: "p", Mandate: "m", Session: "s", Policy: Digest{2}, Expires: at}
	seen := map[Digest]string{base.Digest(): "base"}
	for name, change := range map[string]func(*Question){
		"hold": func(q *Question) { q.Hold = "i" }, "salt": func(q *Question) { q.Salt[31] = 1 }, "action": func(q *Question) { q.Action[31]++ },
		"asked": func(q *Question) { q.Asked[31]++ }, "agent": func(q *Question) { q.Agent = "b" }, "principal": func(q *Question) { q.Principal = "q" },
		"mandate": func(q *Question) { q.Mandate = "n" }, "session": func(q *Question) { q.Session = "t" }, "policy": func(q *Question) { q.Policy[31]++ },
		"expires": func(q *Question) { q.Expires = at.Add(time.Microsecond) },
		"shifted": func(q *Question) { q.Agent, q.Principal = "ap", "" },
	} {
		q := base
		change(&q)
		if was, ok := seen[q.Digest()]; ok {
			t.Errorf("%s: the same digest as %s", name, was)
		}
		seen[q.Digest()] = name
	}
}

func TestVoteStatement(t *testing.T) {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	v := Vote{Hold: "abc", Question: Digest{1}, Consent: true, Approver: "person:dana", Cast: at, Expires: at.Add(time.Hour)}
	want := "ostiary vote v1\nhold abc\nquestion 01" + strings.Repeat("0", 62) + "\nvote consent\napprover person:dana\nreason -\ncast 2026-11-20T12:00:00Z\nexpires 2026-11-20T13:00:00.000000Z\n"
	if got := string(v.Statement()); got != want {
		t.Errorf("statement:\n%s\nwant:\n%s", got, want)
	}
	v.Consent = false
	if !strings.Contains(string(v.Statement()), "\nvote refuse\n") {
		t.Error("the zero vote does not refuse")
	}
}

func TestHoldStates(t *testing.T) {
	for s := HoldPending; s <= HoldUnknown; s++ {
		if back, err := ParseHoldState(s.String()); err != nil || back != s {
			t.Errorf("%v reads back as %v, %v", s, back, err)
		}
	}
	if _, err := ParseHoldState("none"); err == nil {
		t.Error("none is a state of nothing")
	}
	if HoldPending.Ended() || HoldGranted.Ended() || HoldSpent.Ended() || !HoldDone.Ended() || !NoHold.Ended() {
		t.Error("what has ended")
	}
}

func TestLowerNumber(t *testing.T) {
	for _, x := range []struct {
		literal, than string
		want          bool
	}{
		{"100", "200", true}, {"0", "200", true}, {"199.99", "200.00", true}, {"199", "2e2", true}, {"-100", "-200", true}, {"0", "-5", true},
		{"9007199254740992", "9007199254740993", true}, {"200", "200", false}, {"200", "200.0", false}, {"201", "200", false}, {"-1", "200", false}, {"1", "-5", false},
		{"-6", "-5", false}, {"-0", "5", false}, {"199.5", "200", false}, {"1e1", "200", false}, {"01", "200", false}, {"", "200", false}, {"+1", "2", false}, {"0", "0", false},
	} {
		if got := LowerNumber(x.literal, x.than); got != x.want {
			t.Errorf("LowerNumber(%q, %q) = %v", x.literal, x.than, got)
		}
	}
}
