package mandate

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"flag"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/proof"
)

var update = flag.Bool("update", false, "write the vectors of the mandate format anew")

// drawing signs the chain that a text draws, one link a word: the name of its
// key and trust domain (a, b: keys of acme.example; x: of evil.example), an id,
// and the id of its parent after "<". "!" in the end takes a link out of the
// chain that is shown; other links may still be derived from it.
type drawing struct {
	keys map[byte]*Signer
	jws  map[string]string
}

func draw(t testing.TB) *drawing {
	return &drawing{map[byte]*Signer{'a': signer(t), 'b': signer(t), 'x': domain(t, "evil.example")}, map[string]string{}}
}

func domain(t testing.TB, name string) *Signer {
	t.Helper()
	s, err := New(name, signer(t).key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func (d *drawing) chain(t testing.TB, text string, change func(*ostiary.Mandate)) (shown []string) {
	t.Helper()
	for word := range strings.FieldsSeq(text) {
		word, hidden := strings.CutSuffix(word, "!")
		id, parent, _ := strings.Cut(word[1:], "<")
		if d.jws[id] == "" || parent != "" {
			d.jws[id] = d.sign(t, d.keys[word[0]], id, parent, change)
		}
		if !hidden {
			shown = append(shown, d.jws[id])
		}
	}
	return shown
}

func (d *drawing) sign(t testing.TB, s *Signer, id, parent string, change func(*ostiary.Mandate)) string {
	n := int64(id[len(id)-1] - '0')
	m := standing()
	m.ID, m.Kind, m.Depth, m.Agent = ostiary.MandateID(id), ostiary.TaskMandate, 9-n, ostiary.AgentID(s.issuer+fmt.Sprint("/agent/", n))
	var under ostiary.Digest
	if parent != "" {
		m.Parent, under = ostiary.MandateID(parent), ostiary.DigestOf([]byte(d.jws[parent]))
	}
	if change != nil {
		change(&m)
	}
	jws, err := s.IssueUnder(m, under)
	if err != nil {
		t.Fatal(err)
	}
	return jws
}

func (d *drawing) public(t testing.TB) proof.MandateKeys {
	keys := proof.MandateKeys{}
	for _, s := range d.keys {
		id, err := proof.MandateKeyID(&s.key.PublicKey)
		if err != nil || id != s.kid {
			t.Fatal(id, err)
		}
		keys[id] = &s.key.PublicKey
	}
	return keys
}

// J01, J03: chains as an auditor may be shown them.
func TestChains(t *testing.T) {
	only := func(id string, f func(*ostiary.Mandate)) func(*ostiary.Mandate) {
		return func(m *ostiary.Mandate) {
			if string(m.ID) == id {
				f(m)
			}
		}
	}
	for _, c := range []struct {
		name, chain string
		change      func(*ostiary.Mandate)
		want        string // what the refusal says; "" verifies
	}{
		{"one", "am0", nil, ""},
		{"five", "am0 am1<m0 am2<m1 am3<m2 am4<m3", nil, ""},
		{"two keys, one taking over from the other", "am0 bm1<m0 bm2<m1", nil, ""},
		{"the first dropped", "am0! am1<m0 am2<m1", nil, "link 0 was derived from another"},
		{"one dropped from the middle", "am0 am1<m0! am2<m1", nil, "link 1 was derived from another"},
		{"the last dropped is another chain, and verifies", "am0 am1<m0 am2<m1!", nil, ""},
		{"reordered", "am0 am1<m0! am2<m1 am1", nil, "link 1 was derived from another"},
		{"replayed", "am0 am1<m0 am1", nil, "link 2 was derived from another"},
		{"a link of another chain", "am0 an0! an1<n0", nil, "link 1 was derived from another"},
		{"a first link that is not the one signed below", "am0! an0 am1<m0", nil, "link 1 was derived from another"},
		{"a foreign trust domain", "xm0", nil, "is of spiffe://evil.example"},
		{"a link by a foreign trust domain", "am0 xm1<m0", nil, "is of spiffe://evil.example"},
		{"a parent named and another one's digest", "am0 am1<m0", only("m1", func(m *ostiary.Mandate) { m.Parent = "m-9" }), "was not derived from m0"},
		{"a cycle", "am0 am1<m0 am2<m1", only("m2", func(m *ostiary.Mandate) { m.Agent = "spiffe://acme.example/agent/0" }), "in the chain already"},
		{"too deep", "am0 am1<m0 am2<m1", only("m1", func(m *ostiary.Mandate) { m.Depth = 0 }), "further delegations"},
		{"wider in resources", "am0 am1<m0", only("m1", func(m *ostiary.Mandate) { m.Resources = []string{"*"} }), "does not have"},
		{"wider in time", "am0 am1<m0", only("m1", func(m *ostiary.Mandate) { m.Expires = m.Expires.Add(time.Second) }), "outlive"},
		{"wider in a ceiling", "am0 am1<m0", only("m1", func(m *ostiary.Mandate) { m.Ceilings[0].Max = "2000.51" }), "at most"},
		{"wider in budget", "am0 am1<m0", only("m1", func(m *ostiary.Mandate) { m.Budget.Calls++ }), "budget"},
	} {
		t.Run(c.name, func(t *testing.T) {
			d := draw(t)
			shown := d.chain(t, c.chain, c.change)
			links, effective, err := proof.VerifyMandateChain(shown, "acme.example", d.public(t))
			if c.want == "" {
				if err != nil || len(links) != len(shown) || len(effective.Links) != len(shown) {
					t.Fatalf("%d links of %d, %v", len(links), len(shown), err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), c.want) || effective.ID != "" {
				t.Fatalf("want %q, got %v", c.want, err)
			}
		})
	}
	d := draw(t)
	shown := d.chain(t, "am0 bm1<m0", nil)
	if _, _, err := proof.VerifyMandateChain(shown, "acme.example", proof.MandateKeys{d.keys['a'].kid: &d.keys['a'].key.PublicKey}); err == nil {
		t.Error("a link by a key the auditor does not know verifies")
	}
	if _, _, err := proof.VerifyMandateChain(nil, "acme.example", d.public(t)); err == nil {
		t.Error("no chain verifies")
	}
}

// vector is the example of docs/reference/mandate-format.md: a chain, and what
// a reader must find.
type vector struct {
	TrustDomain string   `json:"trust_domain"`
	Key         string   `json:"key"`
	Chain       []string `json:"chain"`
	Links       []string `json:"links"`
	Agent       string   `json:"agent"`
	Principal   string   `json:"principal"`
	By          string   `json:"by"`
	Actions     []string `json:"actions"`
	Resources   []string `json:"resources"`
	Ceilings    []string `json:"ceilings"`
	Calls       int64    `json:"calls"`
	Depth       int64    `json:"depth"`
	NotBefore   int64    `json:"nbf"`
	Expires     int64    `json:"exp"`
}

const vectorFile = "../../proof/testdata/mandate-chain.json"

func TestVectors(t *testing.T) {
	if *update {
		writeVectors(t)
	}
	b, err := os.ReadFile(vectorFile)
	if err != nil {
		t.Fatal(err)
	}
	var v vector
	if err := json.Unmarshal(b, &v); err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(v.Key))
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	for i, jws := range v.Chain {
		m, err := Verify(jws, "spiffe://"+v.TrustDomain, key.(*ecdsa.PublicKey))
		if err != nil || string(m.ID) != v.Links[i] {
			t.Fatalf("link %d: %v", i, err)
		}
	}
}

func writeVectors(t *testing.T) {
	s := signer(t)
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	pay := ostiary.Ceiling{Action: "bank___pay", Pointer: "/amount", Max: "500", Unit: "EUR"}
	first, second := standing(), standing()
	second.ID, second.Kind, second.Parent, second.Agent, second.Depth = "m-2", ostiary.TaskMandate, "m-1", "spiffe://acme.example/agent/payer", 0
	second.Task, second.Actions, second.Resources, second.Classes = "pay invoice 4711", []string{"bank___pay"}, []string{"bank"}, []string{"invoices"}
	second.Ceilings, second.Budget, second.Issued, second.NotBefore, second.Expires = []ostiary.Ceiling{pay}, ostiary.Budget{Calls: 10}, time.Unix(1100, 0), time.Unix(1100, 0), time.Unix(1400, 0)
	one, err := s.Issue(first)
	if err != nil {
		t.Fatal(err)
	}
	two, err := s.IssueUnder(second, ostiary.DigestOf([]byte(one)))
	if err != nil {
		t.Fatal(err)
	}
	e, err := ostiary.Effective([]ostiary.Mandate{first, second})
	if err != nil {
		t.Fatal(err)
	}
	v := vector{
		"acme.example", string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})), []string{one, two}, []string{"m-1", "m-2"},
		string(e.Agent), string(e.Principal), string(e.By), e.Actions, e.Resources, nil, e.Budget.Calls, e.Depth, e.NotBefore.Unix(), e.Expires.Unix(),
	}
	for _, c := range e.Ceilings {
		v.Ceilings = append(v.Ceilings, strings.Join([]string{c.Action, c.Pointer, c.Max, c.Unit}, " "))
	}
	out, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(vectorFile, append(out, '\n'), 0o644); err != nil {
		t.Fatal(err)
	}
}

// The intersection of a five-link chain, and where it is held: an agent's
// action against the effective mandate and its ceilings.
func BenchmarkFiveLinks(b *testing.B) {
	d := draw(b)
	var links []ostiary.Mandate
	for _, jws := range d.chain(b, "am0 am1<m0 am2<m1 am3<m2 am4<m3", nil) {
		m, _, err := d.keys['a'].Verify(jws)
		if err != nil {
			b.Fatal(err)
		}
		links = append(links, m)
	}
	e, err := ostiary.Effective(links)
	if err != nil || !reflect.DeepEqual(e.Resources, []string{"bank", "inbox"}) {
		b.Fatal(e, err)
	}
	action := &ostiary.Action{Name: "bank___pay", Groups: []string{"CallTool", "destructive"}}
	bank, now := &ostiary.Resource{Server: "bank"}, time.Unix(1500, 0)
	b.Run("sha256 of 64 bytes, the primitive", func(b *testing.B) {
		buf := make([]byte, 64)
		for b.Loop() {
			ostiary.DigestOf(buf)
		}
	})
	b.Run("intersection", func(b *testing.B) {
		for b.Loop() {
			if _, err := ostiary.Effective(links); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("use of the cached one", func(b *testing.B) {
		for b.Loop() {
			if !e.Covers(action, bank, now) || e.CheckCeilings(action) != nil {
				b.Fatal("not covered")
			}
		}
	})
}
