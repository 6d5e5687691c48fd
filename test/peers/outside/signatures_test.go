package outside

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mark3labs/mcp-go/server"
	"github.com/remitly-oss/httpsig-go"
	"github.com/yaronf/httpsign"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/egress"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/gate/gatetest"
	"github.com/ostiary/ostiary/internal/strictjson"
	"github.com/ostiary/ostiary/verify"
)

const (
	label = "ostiary" // of our signature, and its tag
	route = "/a%2Fb/mcp"
)

// components is our profile. The last two are covered when they are there: the
// first requests of a conversation have no session yet.
var components = []string{"@method", "@target-uri", "content-digest", "content-type", "ostiary-entry", "authorization", "mcp-session-id"}

func componentsOf(r *http.Request) []string {
	return slices.DeleteFunc(slices.Clone(components), func(c string) bool {
		return (c == "authorization" || c == "mcp-session-id") && r.Header.Get(c) == ""
	})
}

func newKeys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	ec, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]crypto.Signer{"ecdsa-p256-sha256": ec, "ed25519": ed}
}

// received is a request as a server got it.
type received struct {
	request *http.Request
	body    []byte
	after   time.Time // a moment before it was signed
}

// fresh returns a copy to alter and to hand to a library, which may alter it
// too.
func (r received) fresh() received {
	r.request = r.request.Clone(context.Background())
	r.body = slices.Clone(r.body)
	return r
}

// send lets a gate clear a call and egress forward it, and returns all that
// reached the server.
func send(t *testing.T, key crypto.Signer, keyID string) []received {
	t.Helper()
	var mu sync.Mutex
	var all []received
	after := time.Now()
	tools := calculator(server.WithStreamableHTTPProtocolVersions(legacy), server.WithStateful(true)) // older revisions have sessions
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		mu.Lock()
		all = append(all, received{r, body, after}.fresh())
		mu.Unlock()
		r.Body = io.NopCloser(bytes.NewReader(body))
		tools.ServeHTTP(w, r)
	}))
	defer srv.Close()
	credential := filepath.Join(t.TempDir(), "bearer")
	if err := os.WriteFile(credential, []byte("not-a-secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	e, err := egress.New(egress.Options{
		Servers: []egress.Server{{Name: "calc", URL: srv.URL + route, AllowPrivate: []string{"127.0.0.1"}, BearerFile: credential}},
		Signer:  key, KeyID: keyID,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	d, err := strictjson.Parse([]byte(`{"a":1,"b":2}`), strictjson.Request)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := e.Forward(t.Context(), gatetest.Clear(gate.Call{Action: ostiary.Action{
		Name: "calc___add", Method: "tools/call", Server: "calc", Tool: "add", Arguments: d.Root(),
	}}))
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	f, err := stream.Next(t.Context())
	if err != nil || f.Kind != gate.FrameResult || !strings.Contains(string(f.Body.Bytes()), "the sum is 3") {
		t.Fatalf("the call came to %v %s %v", f.Kind, f.Body.Bytes(), err)
	}
	mu.Lock()
	defer mu.Unlock()
	return all
}

// judges verify a request of our profile, each by itself: ours and theirs.
func judges(key crypto.PublicKey) map[string]func(received) error {
	id := verify.KeyID(key)
	return map[string]func(received) error{
		"verify": func(r received) error {
			// A verifier of its own for each request: it would refuse the second as a replay.
			v, err := verify.New(verify.Options{Keys: map[string]crypto.PublicKey{id: key}, Clock: func() time.Time { return r.after }})
			if err != nil {
				return err
			}
			_, err = v.Verify(r.request, r.body)
			return err
		},
		"httpsign": func(r received) error {
			config := httpsign.NewVerifyConfig().SetKeyID(id).SetAllowedTags([]string{label}).SetNotOlderThan(time.Minute)
			fields := httpsign.Headers(componentsOf(r.request)...)
			var v *httpsign.Verifier
			var err error
			switch k := key.(type) {
			case ed25519.PublicKey:
				v, err = httpsign.NewEd25519Verifier(k, config, fields)
			case *ecdsa.PublicKey:
				v, err = httpsign.NewP256Verifier(*k, config, fields)
			}
			if err != nil {
				return err
			}
			if err := httpsign.VerifyRequest(label, *v, r.request); err != nil {
				return err
			}
			body := io.NopCloser(bytes.NewReader(r.body))
			return httpsign.ValidateContentDigestHeader(r.request.Header.Values("Content-Digest"), &body, []string{httpsign.DigestSha256})
		},
		"httpsig-go": func(r received) error {
			r.request.Body = io.NopCloser(bytes.NewReader(r.body))
			fullPath(r.request)
			_, err := httpsig.Verify(r.request, keyring{id: httpsig.KeySpec{KeyID: id, PubKey: key, Algo: algorithm(key)}}, httpsig.VerifyProfile{
				SignatureLabel: label, RequiredFields: httpsig.Fields(componentsOf(r.request)...),
				RequiredMetadata:  []httpsig.Metadata{httpsig.MetaCreated, httpsig.MetaExpires, httpsig.MetaNonce, httpsig.MetaKeyID, httpsig.MetaTag},
				AllowedAlgorithms: []httpsig.Algorithm{algorithm(key)},
			})
			return err
		},
	}
}

// fullPath works around httpsig-go 1.2.0, whose @target-uri has no path
// unless its raw form is set. RFC 9421, section 2.2.2, has the whole target.
// (It also loses the question mark of a query; our targets have none.)
func fullPath(r *http.Request) { r.URL.RawPath = r.URL.EscapedPath() }

func algorithm(key crypto.PublicKey) httpsig.Algorithm {
	if _, ok := key.(ed25519.PublicKey); ok {
		return httpsig.Algo_ED25519
	}
	return httpsig.Algo_ECDSA_P256_SHA256
}

// keyring is the keys httpsig-go may use, by id.
type keyring map[string]httpsig.KeySpec

func (k keyring) FetchByKeyID(_ context.Context, _ http.Header, id string) (httpsig.KeySpecer, error) {
	spec, ok := k[id]
	if !ok {
		return nil, errors.New("unknown key")
	}
	return spec, nil
}

func (keyring) Fetch(context.Context, http.Header, httpsig.MetadataProvider) (httpsig.KeySpecer, error) {
	return nil, errors.New("no key is named")
}

// alterations are what somebody on the way could do. Everybody must see each.
var alterations = map[string]func(*received){
	"method": func(r *received) { r.request.Method = "PUT" },
	"path": func(r *received) {
		r.request.RequestURI = "/other"
		r.request.URL.Path, r.request.URL.RawPath = "/other", ""
	},
	"path decoded": func(r *received) {
		r.request.RequestURI = "/a/b/mcp"
		r.request.URL.Path, r.request.URL.RawPath = "/a/b/mcp", ""
	},
	"query":                func(r *received) { r.request.RequestURI += "?a=b"; r.request.URL.RawQuery = "a=b" },
	"host":                 func(r *received) { r.request.Host = "tools.test" },
	"body":                 func(r *received) { r.body[0] ^= 1 },
	"no body":              func(r *received) { r.body = nil },
	"body and digest":      func(r *received) { r.body = nil; r.request.Header.Set("Content-Digest", digest(nil)) },
	"no digest":            func(r *received) { r.request.Header.Del("Content-Digest") },
	"content type":         func(r *received) { r.request.Header.Set("Content-Type", "text/plain") },
	"entry":                func(r *received) { r.request.Header.Set("Ostiary-Entry", "2026-11/8") },
	"a second entry":       func(r *received) { r.request.Header.Add("Ostiary-Entry", "2026-11/8") },
	"credential":           func(r *received) { r.request.Header.Set("Authorization", "Bearer other") },
	"no credential":        func(r *received) { r.request.Header.Del("Authorization") },
	"session":              func(r *received) { r.request.Header.Set("Mcp-Session-Id", "another") },
	"no session":           func(r *received) { r.request.Header.Del("Mcp-Session-Id") },
	"a component less":     replace("Signature-Input", ` "content-type"`, ``),
	"components in turn":   replace("Signature-Input", `"@method" "@target-uri"`, `"@target-uri" "@method"`),
	"created":              replace("Signature-Input", `created=1`, `created=2`),
	"expires":              replace("Signature-Input", `expires=1`, `expires=2`),
	"nonce":                replace("Signature-Input", `nonce="`, `nonce="x`),
	"key id":               replace("Signature-Input", `keyid="`, `keyid="x`),
	"tag":                  replace("Signature-Input", `tag="ostiary"`, `tag="other"`),
	"no signature":         func(r *received) { r.request.Header.Del("Signature") },
	"no input":             func(r *received) { r.request.Header.Del("Signature-Input") },
	"signature":            flipSignature,
	"another's signature":  replace("Signature", `=:`, `=:AAAA`),
	"signature's own name": replace("Signature", `ostiary=`, `sig1=`),
}

func replace(header, from, to string) func(*received) {
	return func(r *received) {
		r.request.Header.Set(header, strings.Replace(r.request.Header.Get(header), from, to, 1))
	}
}

func flipSignature(r *received) {
	b := []byte(r.request.Header.Get("Signature"))
	if i := len(b) / 2; b[i] == 'A' {
		b[i] = 'B'
	} else {
		b[i] = 'A'
	}
	r.request.Header.Set("Signature", string(b))
}

func digest(body []byte) string {
	b := io.NopCloser(bytes.NewReader(body))
	d, err := httpsign.GenerateContentDigestHeader(&b, []string{httpsign.DigestSha256})
	if err != nil {
		panic(err)
	}
	return d
}

// TestTheyVerifyOurs: what the gate cleared and egress sent is a signed
// request by other implementations, and what was done to it on the way is
// seen by them as by us.
func TestTheyVerifyOurs(t *testing.T) {
	for alg, key := range newKeys(t) {
		t.Run(alg, func(t *testing.T) {
			all := send(t, key, verify.KeyID(key.Public()))
			if n := len(all); n < 2 || all[0].request.Header.Get("Mcp-Session-Id") != "" || all[n-1].request.Header.Get("Mcp-Session-Id") == "" {
				t.Fatalf("%d requests arrived, want the handshake and a call in a session", n)
			}
			for name, judge := range judges(key.Public()) {
				t.Run(name, func(t *testing.T) {
					for _, r := range all {
						if err := judge(r.fresh()); err != nil {
							t.Errorf("refused %s: %v", r.body, err)
						}
					}
					for what, alter := range alterations {
						r := all[len(all)-1].fresh()
						alter(&r)
						if err := judge(r); err == nil {
							t.Errorf("accepted with another %s", what)
						}
					}
				})
			}
		})
	}
}

// signers sign a request with the given components in our profile.
func signers(key crypto.Signer) map[string]func(r *http.Request, body []byte, covered []string) error {
	id := verify.KeyID(key.Public())
	return map[string]func(*http.Request, []byte, []string) error{
		"httpsign": func(r *http.Request, body []byte, covered []string) error {
			r.Header.Set("Content-Digest", digest(body))
			config := httpsign.NewSignConfig().SetKeyID(id).SetTag(label).SetNonce(rand.Text()).SetExpires(time.Now().Unix() + 30)
			var s *httpsign.Signer
			var err error
			switch k := key.(type) {
			case ed25519.PrivateKey:
				s, err = httpsign.NewEd25519Signer(k, config, httpsign.Headers(covered...))
			case *ecdsa.PrivateKey:
				s, err = httpsign.NewP256Signer(*k, config, httpsign.Headers(covered...))
			}
			if err != nil {
				return err
			}
			input, signature, err := httpsign.SignRequest(label, *s, r)
			r.Header.Set("Signature-Input", input)
			r.Header.Set("Signature", signature)
			return err
		},
		"httpsig-go": func(r *http.Request, body []byte, covered []string) error {
			r.Header.Set("Content-Digest", digest(body))
			fullPath(r)
			return httpsig.Sign(r, httpsig.SigningProfile{
				Algorithm: algorithm(key.Public()), Label: label, ExpiresDuration: 30 * time.Second, Fields: httpsig.Fields(covered...),
				Metadata: []httpsig.Metadata{httpsig.MetaCreated, httpsig.MetaExpires, httpsig.MetaNonce, httpsig.MetaKeyID, httpsig.MetaAlgorithm, httpsig.MetaTag},
			}, httpsig.SigningKey{Key: key, MetaKeyID: id, MetaTag: label})
		},
	}
}

// TestWeVerifyTheirs: a request they sign in our profile passes the
// middleware over a real connection; one that lacks a component does not.
func TestWeVerifyTheirs(t *testing.T) {
	body := []byte(`{"jsonrpc":"2.0","id":1,"method":"tools/list"}`)
	for alg, key := range newKeys(t) {
		v, err := verify.New(verify.Options{Keys: map[string]crypto.PublicKey{verify.KeyID(key.Public()): key.Public()}})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(v.Middleware(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if got, err := io.ReadAll(r.Body); err != nil || !bytes.Equal(got, body) || verify.Entry(r.Context()) != "2026-11/7" {
				t.Errorf("the handler reads %q of entry %q, %v", got, verify.Entry(r.Context()), err)
			}
		})))
		defer srv.Close()
		for name, sign := range signers(key) {
			t.Run(alg+" "+name, func(t *testing.T) {
				status := func(covered []string, sent []byte) int {
					r, err := http.NewRequest("POST", srv.URL+route, bytes.NewReader(sent))
					if err != nil {
						t.Fatal(err)
					}
					for h, value := range map[string]string{"Content-Type": "application/json", "Ostiary-Entry": "2026-11/7", "Authorization": "Bearer not-a-secret", "Mcp-Session-Id": "s1"} {
						r.Header.Set(h, value)
					}
					if err := sign(r, body, covered); err != nil {
						t.Fatal(err)
					}
					resp, err := srv.Client().Do(r)
					if err != nil {
						t.Fatal(err)
					}
					resp.Body.Close()
					return resp.StatusCode
				}
				if got := status(components, body); got != http.StatusOK {
					t.Errorf("refused with %d", got)
				}
				for i, c := range components {
					if got := status(slices.Delete(slices.Clone(components), i, i+1), body); got != http.StatusUnauthorized {
						t.Errorf("without %s: %d", c, got)
					}
				}
				// Their digest is of the body they signed, not of the one that is sent.
				if got := status(components, bytes.ToUpper(body)); got == http.StatusOK {
					t.Errorf("another body: %d", got)
				}
			})
		}
	}
}
