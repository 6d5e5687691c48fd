package proof

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"strings"
	"testing"
	"time"

	crypt "crypto"

	"github.com/ostiary/ostiary"
)

func aVote() ostiary.Vote {
	at := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	return ostiary.Vote{Hold: "abcd", Question: ostiary.Digest{1}, Consent: true, Approver: "person:dana", Reason: ostiary.Digest{2}, Cast: at, Expires: at.Add(time.Hour + time.Microsecond)}
}

// assert signs a vote as an authenticator does.
func assert(t testing.TB, v ostiary.Vote, key crypt.Signer, client string) *ostiary.Signed {
	t.Helper()
	sum := sha256.Sum256(v.Statement())
	if client == "" {
		client = `{"type":"webauthn.get","challenge":"CHALLENGE","origin":"https://console.example:8443","crossOrigin":false}`
	}
	client = strings.ReplaceAll(client, "CHALLENGE", base64.RawURLEncoding.EncodeToString(sum[:]))
	host := sha256.Sum256([]byte("console.example"))
	auth := append(host[:], userPresent|userVerified, 0, 0, 0, 7)
	digest := sha256.Sum256([]byte(client))
	return &ostiary.Signed{Vote: v, Key: spki(t, key), Credential: []byte("id"), Authenticator: auth, Client: []byte(client), Signature: signs(t, key, append(auth[:len(auth):len(auth)], digest[:]...))}
}

func spki(t testing.TB, key crypt.Signer) []byte {
	b, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func signs(t testing.TB, key crypt.Signer, b []byte) []byte {
	sum := sha256.Sum256(b)
	opts, in := crypt.SignerOpts(crypt.SHA256), sum[:]
	if _, ok := key.(ed25519.PrivateKey); ok {
		opts, in = crypt.Hash(0), b
	}
	s, err := key.Sign(rand.Reader, in, opts)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func voteKeys(t testing.TB) map[string]crypt.Signer {
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypt.Signer{"ES256": p256, "EdDSA": ed, "RS256": r}
}

func TestVotes(t *testing.T) {
	for name, key := range voteKeys(t) {
		for _, s := range []*ostiary.Signed{assert(t, aVote(), key, ""), {Vote: aVote(), Key: spki(t, key), Signature: signs(t, key, func() []byte { v := aVote(); return v.Statement() }())}} {
			if err := VerifyVote(s); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			text, err := MarshalVote(s)
			if err != nil {
				t.Fatal(err)
			}
			back, err := ParseVote(text)
			if err != nil || VerifyVote(back) != nil || back.Vote != s.Vote || back.ByPasskey() != s.ByPasskey() {
				t.Errorf("%s: %+v, %v", name, back, err)
			}
			for what, bend := range map[string]func(*ostiary.Signed){
				"hold": func(s *ostiary.Signed) { s.Hold += "e" }, "question": func(s *ostiary.Signed) { s.Question[5]++ },
				"consent": func(s *ostiary.Signed) { s.Consent = false }, "approver": func(s *ostiary.Signed) { s.Approver = "person:eve" },
				"reason": func(s *ostiary.Signed) { s.Reason = ostiary.Digest{} }, "cast": func(s *ostiary.Signed) { s.Cast = s.Cast.Add(time.Second) },
				"expires": func(s *ostiary.Signed) { s.Expires = s.Expires.Add(time.Microsecond) }, "signature": func(s *ostiary.Signed) { s.Signature[4] ^= 1 },
				"key": func(s *ostiary.Signed) { s.Key = nil }, "other key": func(s *ostiary.Signed) { k, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader); s.Key = spki(t, k) },
			} {
				c, _ := ParseVote(text)
				bend(c)
				if err := VerifyVote(c); ostiary.KindOf(err) != ostiary.Unauthenticated {
					t.Errorf("I01 %s with another %s: %v", name, what, err)
				}
			}
		}
	}
}

// What an authenticator signs for something else is no vote.
func TestAssertionsThatAreNoVote(t *testing.T) {
	key, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for _, client := range []string{
		`{"type":"webauthn.create","challenge":"CHALLENGE","origin":"https://console.example"}`,
		`{"type":"webauthn.get","challenge":"x","origin":"https://console.example"}`,
		`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"https://evil.example"}`,
		`{"type":"webauthn.get","challenge":"CHALLENGE"}`,
		`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"https://console.example","crossOrigin":true}`,
		`{"type":"webauthn.get","challenge":"x","origin":"https://console.example","challenge":"CHALLENGE"}`,
		`{"type":"webauthn.get","challenge":"CHALLENGE","origin":"https://console.example"} {}`,
		`["webauthn.get"]`, ``,
	} {
		s := assert(t, aVote(), key, client+" ")
		if client == "" {
			s.Client = nil
		}
		if err := VerifyVote(s); ostiary.KindOf(err) != ostiary.Unauthenticated {
			t.Errorf("%s: %v", client, err)
		}
	}
	for _, flags := range []byte{0, userPresent, userVerified} {
		v := aVote()
		s := assert(t, v, key, "")
		s.Authenticator[32] = flags
		sum := sha256.Sum256(s.Client)
		s.Signature = signs(t, key, append(s.Authenticator[:len(s.Authenticator):len(s.Authenticator)], sum[:]...))
		if VerifyVote(s) == nil {
			t.Errorf("flags %x: nobody was verified", flags)
		}
	}
}

func FuzzParseVote(f *testing.F) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	text, err := MarshalVote(assert(f, aVote(), ed, ""))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(text)
	f.Add(fmt.Sprintf(`{"statement":%q}`, "ostiary vote v1\n"))
	f.Fuzz(func(t *testing.T, text string) {
		s, err := ParseVote(text)
		if err != nil {
			return
		}
		if again, err := MarshalVote(s); err != nil || again != text {
			t.Errorf("%q is written %q, %v", text, again, err)
		}
		VerifyVote(s) // does not panic
	})
}
