package policy

import (
	"os"
	"strings"
	"testing"
)

func TestExpectations(t *testing.T) {
	tools := bank(t)
	src := payFolder()
	set := compile(t, src, tools)
	src.Files["tests/pay.json"] = []byte(`[
	{"name":"small","request":{"principal":"Ostiary::Agent::\"spiffe://x/a\"","roles":["clerk"],"action":"Ostiary::Action::\"bank___send_money\"","resource":"Ostiary::Server::\"bank\"","context":{"input":{"recipient":"x","amount":5}}},
	 "decision":"allow","reason":["pay"],"obligations":["notify"]},
	{"name":"large","request":{"roles":["clerk"],"action":"Ostiary::Action::\"bank___send_money\"","resource":"Ostiary::Server::\"bank\"","context":{"input":{"recipient":"x","amount":2000},"labels":{"recipient":["agent"]},"risk":{"score":3}}},
	 "decision":"requestable","remedies":["approval:finance"]},
	{"name":"agreed","request":{"roles":["clerk"],"action":"Ostiary::Action::\"bank___send_money\"","resource":"Ostiary::Server::\"bank\"","context":{"input":{"recipient":"x","amount":2000},"satisfied":["approval:finance"]}},
	 "decision":"allow"},
	{"name":"nobody","request":{"action":"Ostiary::Action::\"bank___send_money\"","resource":"Ostiary::Server::\"bank\"","context":{"input":{"recipient":"x","amount":5}}},
	 "decision":"deny","code":"no_permit","reason":[]},
	{"name":"wrong","request":{"action":"Ostiary::Action::\"ping\"","resource":"Ostiary::Server::\"ostiary\""},"decision":"allow"}
	]`)
	asked, problems := Test(src, set)
	if asked != 5 || len(problems) != 1 || problems[0].Severity != Error || !strings.Contains(problems[0].Message, `"wrong": expected decision allow; it is decision deny`) {
		t.Fatal(asked, problems)
	}
	for name, tc := range map[string]struct{ text, want string }{
		"not a list":       {`{}`, "list of tests"},
		"duplicate key":    {`[{"name":"a","name":"b"}]`, "duplicate"},
		"unknown member":   {`[{"nmae":"a"}]`, "did you mean name?"},
		"unknown fact":     {`[{"request":{"context":{"rsik":{}}},"decision":"deny"}]`, "did you mean risk?"},
		"no decision":      {`[{"name":"a"}]`, "decision must be"},
		"entity as text":   {`[{"request":{"action":"ping"},"decision":"deny"}]`, `Ostiary::Action::"..."`},
		"no such level":    {`[{"request":{"context":{"containment":"loose"}},"decision":"deny"}]`, "no level"},
		"fraction":         {`[{"request":{"context":{"risk":{"score":1.5}}},"decision":"deny"}]`, "whole number"},
		"text for a flag":  {`[{"request":{"context":{"session":{"bound":"no"}}},"decision":"deny"}]`, "true or false"},
		"number in a list": {`[{"request":{"roles":[1]},"decision":"deny"}]`, "list of strings"},
	} {
		asked, problems := Test(source("tests/x.json", tc.text), set)
		if asked != 0 || len(problems) != 1 || !strings.Contains(problems[0].Message, tc.want) {
			t.Errorf("%s: %v %v", name, asked, problems)
		}
	}
}

// What the documentation shows must compile.
func TestDocumentedPolicies(t *testing.T) {
	b, err := os.ReadFile("../../docs/reference/policy.md")
	if err != nil {
		t.Fatal(err)
	}
	var permits, obligations strings.Builder
	blocks := strings.Split(string(b), "```cedar\n")[1:]
	for _, block := range blocks {
		text, _, _ := strings.Cut(block, "```")
		if strings.Contains(text, "@obligation") {
			obligations.WriteString(text)
		} else {
			permits.WriteString(text)
		}
	}
	if len(blocks) < 4 {
		t.Errorf("only %d examples were found", len(blocks))
	}
	src := source("p.cedar", permits.String(), "obligate/o.cedar", obligations.String(), "groups.yaml", "payments: [bank___send_money]")
	if set, problems := Compile(src, bank(t)); set == nil || len(problems) > 0 {
		t.Errorf("%v", problems)
	}
	for _, m := range Methods() {
		if !strings.Contains(string(b), "`"+m.Name+"`") {
			t.Errorf("%s is not documented", m.Name)
		}
	}
	for _, f := range contextShape(record(), true).Fields {
		if !strings.Contains(string(b), "| `"+f.Name) {
			t.Errorf("context.%s is not documented", f.Name)
		}
	}
}
