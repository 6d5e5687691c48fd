package policy

import (
	"strings"
	"testing"

	"github.com/ostiary/ostiary"
	"pgregory.net/rapid"
)

// undoTools are a payment, what takes it back, and a tool of another server.
func undoTools(t rapid.TB) []*ostiary.Tool {
	return append(bank(t),
		tool(t, "bank", "cancel", `{"type":"object","additionalProperties":false,"properties":{"id":{"type":"string"},"amount":{"type":"integer"},"note":{"type":"string"}},"required":["id"]}`),
		tool(t, "mail", "cancel", `{"type":"object","properties":{"id":{"type":"string"}},"required":["id"]}`))
}

func withUndo(text string) Source { return source("pay.cedar", allPay, "undo.yaml", text) }

// What takes a call back holds the bytes that stood there, and nothing else;
// what does not stand there is no argument left out, it is a refusal.
func TestUndoCompose(t *testing.T) {
	const table = `bank___send_money: {with: bank___cancel, arguments: {id: "result:/structuredContent/id", amount: "arguments:/amount", note: "text:so \"it\" is"}}`
	u, ok := compile(t, withUndo(table), undoTools(t)).Undo("bank___send_money")
	if !ok || !u.Keeps() || u.Action != "bank___cancel" || u.Server != "bank" || u.Tool != "cancel" {
		t.Fatalf("%+v %v", u, ok)
	}
	for _, tc := range []struct{ name, arguments, result, want string }{
		{"as it stood", `{"amount": 1.50e2}`, `{"structuredContent":{"id":"p-\u0031"}}`, `{"amount":1.50e2,"id":"p-\u0031","note":"so \"it\" is"}`},
		{"beyond every float", `{"amount":9007199254740993}`, `{"structuredContent":{"id":"x"}}`, `{"amount":9007199254740993,"id":"x","note":"so \"it\" is"}`},
		{"another type, for the definition to refuse", `{"amount":null}`, `{"structuredContent":{"id":{"a":[1, 2]}}}`, `{"amount":null,"id":{"a":[1, 2]},"note":"so \"it\" is"}`},
		{"what looks like more", `{"amount":1}`, `{"structuredContent":{"id":"x\",\"amount\":9,\"y\":\""}}`, `{"amount":1,"id":"x\",\"amount\":9,\"y\":\"","note":"so \"it\" is"}`},
		{"no such argument", `{}`, `{"structuredContent":{"id":"x"}}`, ""},
		{"no such part of the result", `{"amount":1}`, `{"structuredContent":{}}`, ""},
		{"no result", `{"amount":1}`, "", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var result ostiary.Value
			if tc.result != "" {
				result = value(t, tc.result)
			}
			b, err := u.Compose(value(t, tc.arguments), result)
			if string(b) != tc.want || (tc.want == "") != (err != nil) {
				t.Errorf("%s, %v", b, err)
			}
			if e := ostiary.AsError(err); err != nil && (e.Kind != ostiary.Conflict || e.Code != "undo_source") {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestUndoProblems(t *testing.T) {
	tools := undoTools(t)
	for _, tc := range []struct{ name, table, want string }{
		{"none", "", ""},
		{"empty", "# nothing yet\n", ""},
		{"good", "bank___send_money: {with: bank___cancel, arguments: {id: \"text:x\"}}", ""},
		{"a list", "[bank___send_money]", "each line must be a tool"},
		{"two documents", "a: b\n---\nc: d\n", "not one YAML document"},
		{"no document", "a: [", "not one YAML document"},
		{"misspelt", "bank___send_mony: {with: bank___cancel, arguments: {id: \"text:x\"}}", "there is no tool bank___send_mony"},
		{"misspelt undo", "bank___send_money: {with: bank___cancle, arguments: {id: \"text:x\"}}", "there is no tool bank___cancle"},
		{"not accepted yet", "crm___delete: {with: crm___restore, arguments: {id: \"text:x\"}}", ""},
		{"twice", "bank___send_money: {with: bank___cancel, arguments: {id: \"text:x\"}}\nbank___send_money: {with: bank___cancel, arguments: {id: \"text:y\"}}", "stands twice"},
		{"another server", "bank___send_money: {with: mail___cancel, arguments: {id: \"text:x\"}}", "mail___cancel is of another server"},
		{"another key", "bank___send_money: {with: bank___cancel, arguments: {id: \"text:x\"}, unless: never}", "an undo has no"},
		{"nothing to do it with", "bank___send_money: {arguments: {id: \"text:x\"}}", "needs the tool that undoes it"},
		{"no arguments", "bank___send_money: {with: bank___cancel}", "needs the tool that undoes it"},
		{"required", "bank___send_money: {with: bank___cancel, arguments: {note: \"text:x\"}}", "bank___cancel needs its argument id"},
		{"unknown argument", "bank___send_money: {with: bank___cancel, arguments: {id: \"text:x\", ID2: \"text:x\"}}", "has no argument ID2"},
		{"an argument twice", "bank___send_money: {with: bank___cancel, arguments: {id: \"text:x\", id: \"text:y\"}}", "id stands twice"},
		{"from nowhere", "bank___send_money: {with: bank___cancel, arguments: {id: \"/amount\"}}", "where id comes from"},
		{"from elsewhere", "bank___send_money: {with: bank___cancel, arguments: {id: \"secret:/amount\"}}", "where id comes from"},
		{"no pointer", "bank___send_money: {with: bank___cancel, arguments: {id: \"result:id\"}}", "where id comes from"},
		{"an argument that is not there", "bank___send_money: {with: bank___cancel, arguments: {id: \"arguments:/recipiant\"}}", "has no argument at /recipiant"},
		{"a value that is no text", "bank___send_money: {with: bank___cancel, arguments: {id: [1]}}", "where id comes from"},
		{"an alias", "x: &x bank___cancel\nbank___send_money: {with: *x, arguments: {id: \"text:x\"}}", "x"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			set, problems := Compile(withUndo(tc.table), tools)
			var all []string
			for _, p := range problems {
				all = append(all, p.String())
			}
			text := strings.Join(all, "\n")
			if (set == nil) != (tc.want != "") || !strings.Contains(text, tc.want) {
				t.Errorf("compiles: %v, problems %s", set != nil, text)
			}
		})
	}
}

// What may change something and has no way back is in a group of its own; the
// snapshot says the same when it is read again.
func TestUndoIrreversible(t *testing.T) {
	set := compile(t, withUndo("bank___send_money: {with: bank___cancel, arguments: {id: \"text:x\"}}"), undoTools(t))
	signed, err := Sign(1, set, testTime, seeded())
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(signed, seeded().Public())
	if err != nil {
		t.Fatal(err)
	}
	for action, want := range map[string]bool{"bank___send_money": false, "bank___cancel": true, "bank___get_balance": false, "list_tools": false} {
		if got := strings.Contains(" "+strings.Join(s.Groups(action), " ")+" ", " irreversible "); got != want {
			t.Errorf("%s: irreversible %v", action, got)
		}
	}
	if u, ok := s.Set().Undo("bank___send_money"); !ok || u.Keeps() {
		t.Errorf("%+v %v", u, ok)
	}
	if _, ok := s.Set().Undo("bank___cancel"); ok {
		t.Error("there is a way back from the way back")
	}
}

func FuzzUndo(f *testing.F) {
	f.Add("bank___send_money: {with: bank___cancel, arguments: {id: \"result:/a\"}}")
	f.Add("{*a: &a [")
	f.Fuzz(func(t *testing.T, text string) {
		set, problems := Compile(withUndo(text), undoTools(t))
		if set == nil && len(problems) == 0 {
			t.Error("it does not compile, and nobody says why")
		}
	})
}
