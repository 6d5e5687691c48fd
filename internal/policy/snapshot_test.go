package policy

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/binary"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
)

// seeded is a deterministic key, so that failures repeat.
func seeded() ed25519.PrivateKey { return ed25519.NewKeyFromSeed(make([]byte, 32)) }

func TestSnapshotKeys(t *testing.T) {
	set := compile(t, payFolder(), bank(t))
	p256, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"Ed25519": seeded(), "P-256": p256} {
		b, err := Sign(3, set, testTime, key)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		s, err := Open(b, key.Public())
		if err != nil || s.Number() != 3 || s.Digest() != set.Digest() || !s.Created().Equal(testTime) {
			t.Errorf("%s: %+v, %v", name, s, err)
		}
	}
	for name, key := range map[string]crypto.Signer{"P-384": p384, "none": nil, "failing": failing{seeded()}} {
		if b, err := Sign(3, set, testTime, key); err == nil {
			t.Errorf("%s: signed %d bytes", name, len(b))
		}
	}
	if _, err := Sign(0, set, testTime, seeded()); err == nil {
		t.Error("number 0 was signed")
	}
	if _, err := Sign(1, nil, testTime, seeded()); err == nil {
		t.Error("nothing was signed")
	}
}

type failing struct{ ed25519.PrivateKey }

func (failing) Sign(io.Reader, []byte, crypto.SignerOpts) ([]byte, error) {
	return nil, ostiary.Errorf(ostiary.Unavailable, "key", "the key is away")
}

// The same set signed twice is the same bytes, and what was opened decides
// and signs as what was compiled.
func TestSnapshotDeterministic(t *testing.T) {
	tools := bank(t)
	first, err := Sign(3, compile(t, payFolder(), tools), testTime, seeded())
	if err != nil {
		t.Fatal(err)
	}
	s, err := Open(first, seeded().Public())
	if err != nil {
		t.Fatal(err)
	}
	tools[0], tools[2] = tools[2], tools[0]
	for _, set := range []*Set{compile(t, payFolder(), tools), s.Set()} {
		again, err := Sign(3, set, testTime.In(time.FixedZone("x", 3600)), seeded())
		if err != nil || !bytes.Equal(again, first) {
			t.Errorf("the snapshot differs: %v", err)
		}
	}
	d := s.Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":2000}`))
	if d.Code != CodeForbid || len(d.Remedies) != 1 || d.Snapshot != 3 {
		t.Errorf("%+v", d)
	}
	if pin, ok := s.Pin("bank___send_money"); !ok || pin.IsZero() || strings.Join(s.Groups("bank___send_money"), " ") != "CallTool Mcp changes destructive irreversible payments" {
		t.Errorf("%v %v", pin, s.Groups("bank___send_money"))
	}
}

func TestSnapshotRefused(t *testing.T) {
	key := seeded()
	set := compile(t, payFolder(), bank(t))
	good, err := Sign(3, set, testTime, key)
	if err != nil {
		t.Fatal(err)
	}
	frame := func(body string, sig []byte) []byte {
		b := binary.BigEndian.AppendUint32([]byte(snapshotMagic), uint32(len(body)))
		b = append(b, body...)
		b = binary.BigEndian.AppendUint16(b, uint16(len(sig)))
		return append(b, sig...)
	}
	signed := func(body string) []byte {
		sig, err := sign(key, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return frame(body, sig)
	}
	body, sig, _ := cut(good)
	other := ed25519.NewKeyFromSeed(bytes.Repeat([]byte{1}, 32))
	foreign, err := Sign(3, set, testTime, other)
	if err != nil {
		t.Fatal(err)
	}
	bare, err := key.Sign(nil, body, crypto.Hash(0))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{
		"H04 empty":                        {},
		"H04 oversize":                     make([]byte, maxSnapshot+1),
		"H04 doubled":                      append(bytes.Clone(good), good...),
		"H04 truncated":                    good[:len(good)-1],
		"H04 truncated in the body":        good[:len(good)/2],
		"H04 unsigned":                     frame(string(body), nil),
		"H04 another deployment":           foreign,
		"H04 signature of another purpose": frame(string(body), bare),
		"H04 signature cut":                frame(string(body), sig[:63]),
		"length beyond the end":            append([]byte(snapshotMagic), 0xff, 0xff, 0xff, 0xff, '{', '}'),
		"magic alone":                      []byte(snapshotMagic),
		"signed nonsense":                  signed("x"),
		"signed nothing":                   signed("{}"),
		"signed unknown member":            signed(strings.Replace(string(body), `{"number"`, `{"later":1,"number"`, 1)),
		"signed twice":                     signed(string(body) + string(body)),
		"signed number 0":                  signed(strings.Replace(string(body), `"number":3`, `"number":0`, 1)),
		"signed wrong digest":              signed(strings.Replace(string(body), "@reason", "@Reason", 1)),
		"signed policies that fail":        signed(strings.Replace(string(body), "context.input.amount", "context.input.amont", 1)),
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(b, key.Public())
			var e *ostiary.Error
			if s != nil || err == nil {
				t.Fatal("opened")
			}
			if e, _ = err.(*ostiary.Error); e == nil || e.Kind != ostiary.Corrupt {
				t.Errorf("got %v", err)
			}
		})
	}
	t.Run("S01 one byte changed", func(t *testing.T) {
		for i := range good {
			b := bytes.Clone(good)
			b[i] ^= 1
			if s, err := Open(b, key.Public()); s != nil || err == nil {
				t.Fatalf("byte %d changed, opened", i)
			}
		}
	})
	for _, k := range []crypto.PublicKey{nil, ed25519.PublicKey(nil), (*ecdsa.PublicKey)(nil), "key"} {
		if s, err := Open(good, k); s != nil || err == nil {
			t.Errorf("opened with key %v", k)
		}
	}
}

func FuzzOpen(f *testing.F) {
	set := compile(f, payFolder(), bank(f))
	good, err := Sign(3, set, testTime, seeded())
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if s, err := Open(b, seeded().Public()); err == nil && (s.Digest() != set.Digest() || !bytes.Equal(b, good)) {
			t.Errorf("opened what was never signed")
		}
	})
}

// FuzzCompile looks for text that crashes the checks, and for policies that
// our splitter would lose.
func FuzzCompile(f *testing.F) {
	tools := bank(f)
	f.Add(payPolicies)
	f.Add(everyTool)
	f.Add(permitPay(`context.input has note && context.input["note"] like "a*\u{1F600}"`))
	f.Add(`@id("x") forbid (principal is Ostiary::Agent in Ostiary::Role::"r", action in [Ostiary::Action::"ping"], resource) unless { if true then [1,2].contains(3) else {"a":1}.a == 1 };`)
	f.Fuzz(func(t *testing.T, text string) {
		set, problems := Compile(source("x.cedar", text), tools)
		segs, e := split(text)
		switch {
		case set == nil && len(problems) == 0:
			t.Error("refused without saying why")
		case set != nil && (e != nil || set.Policies() > len(segs)+1 || set.Policies() < len(segs)+1 && !waits(problems)):
			t.Errorf("%d policies compiled from %d", set.Policies(), len(segs))
		}
		if set != nil {
			snapshot(t, set).Decide(request(t, tools, "bank___send_money", `{"recipient":"x","amount":1}`))
		}
	})
}

// waits reports whether a policy lies dormant until a tool it names is
// accepted: it is no part of the set, and a warning says so.
func waits(problems []Problem) bool {
	return slices.ContainsFunc(problems, func(p Problem) bool { return p.Severity == Warning && p.Code == "not_accepted" })
}

// FuzzInput looks for arguments that crash the conversion or pass with
// another type than their schema's: Cedar's request validation is the oracle.
func FuzzInput(f *testing.F) {
	tools := bank(f)
	set := compile(f, source("all.cedar", everyTool), tools)
	f.Add([]byte(`{"recipient":"x","amount":1e2,"rate":0.5,"tags":["a"],"grid":[[1]],"to":{"iban":"x"},"memo":null}`))
	f.Fuzz(func(t *testing.T, args []byte) {
		v, ok := scan1(args)
		if !ok {
			return
		}
		r := request(t, tools, "bank___send_money", "")
		r.Action.Arguments = v
		for n := range v.Members() {
			r.Context.Labels[n] = ostiary.Label{}
		}
		q, ref := set.world.ask(r)
		if ref != nil {
			return
		}
		if err := set.world.schema.request(q.cedar()); err != nil {
			t.Errorf("converted to something the schema refuses: %v", err)
		}
	})
}
