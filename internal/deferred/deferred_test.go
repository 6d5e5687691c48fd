package deferred

import (
	"reflect"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// What is read back is what was written, byte for byte: numbers beyond every
// float, escapes and spaces included.
func TestRoundTrip(t *testing.T) {
	args, err := Arguments([]byte(`{"account": 9007199254740993, "note":"\u0041 \u202e",  "amount":1.0}`))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Date(2026, 11, 20, 12, 0, 0, 1000, time.UTC)
	c := Call{
		Subject: ostiary.Subject{
			Agent: "spiffe://acme.test/agent/pay", Principal: "person:dana", Chain: []ostiary.AgentID{"spiffe://acme.test/agent/pay"}, Key: ostiary.Digest{1}, Bound: true,
			Mandate: "m", Client: "c", Scopes: []string{"s"}, Via: ostiary.ViaToken, Serial: "1", Signers: []string{"k1", "k2"}, Issued: at, Expires: at.Add(time.Hour), Epoch: 7,
		},
		Action: ostiary.Action{Name: "bank___send", Method: "tools/call", Server: "bank", Tool: "send", Pin: ostiary.Digest{2}, Arguments: args, State: []byte{}, Rewritten: true},
	}
	if n := reflect.TypeFor[ostiary.Subject]().NumField(); n != reflect.TypeFor[subject]().NumField() {
		t.Errorf("a subject has %d fields, and %d are stored", n, reflect.TypeFor[subject]().NumField())
	}
	b, err := Marshal(&c)
	if err != nil {
		t.Fatal(err)
	}
	back, err := Unmarshal(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(back.Subject, c.Subject) {
		t.Errorf("subject %+v, want %+v", back.Subject, c.Subject)
	}
	if back.Action.Digest() != c.Action.Digest() || !back.Action.Rewritten || string(back.Action.Arguments.Bytes()) != string(args.Bytes()) {
		t.Errorf("action %+v, want %+v", back.Action, c.Action)
	}
	if _, err := Unmarshal([]byte(`{"action":{"arguments":"eyJhIjoxLCJhIjoyfQ=="}}`)); ostiary.KindOf(err) != ostiary.Corrupt {
		t.Errorf("arguments with a name twice: %v", err)
	}
}

func FuzzUnmarshal(f *testing.F) {
	b, _ := Marshal(&Call{Subject: ostiary.Subject{Agent: "a"}})
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, err := Unmarshal(b)
		if err != nil {
			return
		}
		again, err := Marshal(&c)
		if err != nil {
			t.Fatal(err)
		}
		if d, err := Unmarshal(again); err != nil || d.Action.Digest() != c.Action.Digest() {
			t.Errorf("%v: it does not read back as itself", err)
		}
	})
}
