package ostiary

import (
	"crypto/x509"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"testing"
)

func TestParseAgentID(t *testing.T) {
	for _, s := range []string{
		"spiffe://acme.example/agent/planner", "spiffe://a/b", "spiffe://a_b-c.d/X_y-z.0/...", "spiffe://acme.example/" + strings.Repeat("a", 2048-len("spiffe://acme.example/")),
	} {
		id, err := ParseAgentID(s)
		if err != nil || string(id) != s {
			t.Errorf("%q: %v", s, err)
		}
	}
	for _, s := range []string{
		"", "acme.example/a", "SPIFFE://acme.example/a", "spiffe:/acme.example/a", "spiffe://", "spiffe:///a", "spiffe://acme.example",
		"spiffe://acme.example/", "spiffe://acme.example/a/", "spiffe://acme.example//a", "spiffe://acme.example/./a", "spiffe://acme.example/a/..",
		"spiffe://acme.example/%2e%2e/a", "spiffe://Acme.example/a", "spiffe://acme.example:1/a", "spiffe://u@acme.example/a",
		"spiffe://acme.example/a?b", "spiffe://acme.example/a#b", "spiffe://acme.example/a b", "spiffe://acme.example/ä", "spiffe://äcme/a",
		"spiffe://acme.example/a\n", "spiffe://acme.example/a\x00", "spiffe://" + strings.Repeat("a", 256) + "/a",
		"spiffe://acme.example/" + strings.Repeat("a", 2049-len("spiffe://acme.example/")),
	} {
		if id, err := ParseAgentID(s); err == nil || id != "" {
			t.Errorf("E05 %q is read as %q", s, id)
		} else if KindOf(err) != Malformed {
			t.Errorf("%q: %v", s, err)
		}
	}
}

// What is accepted is the same text for every reader of URLs, so a name that
// went through a certificate comes back as it was.
func FuzzParseAgentID(f *testing.F) {
	f.Add("spiffe://acme.example/agent/planner")
	f.Add("spiffe://acme.example/a/../b")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseAgentID(s)
		if err != nil {
			return
		}
		u, err := url.Parse(s)
		if err != nil || u.String() != s || u.Scheme != "spiffe" || u.Host != id.TrustDomain() || u.Port() != "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
			t.Fatalf("%q: %v %v", s, u, err)
		}
		if !strings.HasSuffix(s, "/"+id.Name()) || id.Name() == "" {
			t.Fatalf("%q has name %q", s, id.Name())
		}
	})
}

func TestDigestText(t *testing.T) {
	d := DigestOf([]byte("x"))
	again, err := ParseDigest(d.String())
	if err != nil || again != d || d.IsZero() || len(d.Short()) != 12 {
		t.Fatal(again, err)
	}
	for _, s := range []string{"x", strings.ToUpper(d.String()), d.String()[2:], d.String() + "00"} {
		if _, err := ParseDigest(s); err == nil {
			t.Errorf("%q is read", s)
		}
	}
	var none Digest
	if none.String() != "" || none.Short() != "-" {
		t.Error(none.String(), none.Short())
	}
}

func TestSecretIsNeverPrinted(t *testing.T) {
	s := NewSecret([]byte("hunter2"))
	c := Credentials{Bearer: s, Peer: &x509.Certificate{}}
	var log strings.Builder
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "s", s)
	text, _ := s.MarshalText()
	for _, out := range []string{fmt.Sprint(s), fmt.Sprintf("%v %+v %#v %s %q %x %d", s, s, s, s, s, s, s), fmt.Sprintf("%v %+v", c, &c.Bearer), log.String(), string(text)} {
		if strings.Contains(out, "hunter2") || strings.Contains(out, "68756e74657232") || strings.Contains(out, "104 117") {
			t.Errorf("printed: %s", out)
		}
	}
	if string(s.Reveal()) != "hunter2" || s.IsZero() || !(Secret{}).IsZero() {
		t.Error("the secret is lost")
	}
}
