package verify

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/subtle"
	"math/big"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/dunglas/httpsfv"
)

const (
	// tag marks our profile among other signatures on a request.
	tag = "ostiary"
	// maxField bounds each header that is parsed before anything is known
	// about its sender. Ours have about 300 bytes.
	maxField = 4 << 10
	// minNonce and maxNonce bound a nonce: long enough not to repeat, short
	// enough to remember many.
	minNonce, maxNonce = 16, 128
)

// signature is a parsed signature with our tag. Nothing of it is proven yet.
type signature struct {
	covered []string // component names in the order signed
	params  string   // @signature-params as its signer wrote it
	value   []byte
	keyID   string
	alg     string
	nonce   string
	created int64
	expires int64
}

// parse finds the one signature with our tag and checks all that can be
// checked without the body.
func (v *Verifier) parse(r *http.Request) (*signature, *Error) {
	inputs, err := dictionary(r.Header, "Signature-Input")
	if err != nil {
		return nil, err
	}
	var label string
	for _, name := range inputs.Names() {
		if member, _ := inputs.Get(name); tagOf(member) == tag {
			if label != "" {
				return nil, refuse("Signature-Input", "there is more than one signature with the tag %q", tag)
			}
			label = name
		}
	}
	if label == "" {
		return nil, refuse("Signature-Input", "there is no signature with the tag %q: this server takes calls through its gateway only", tag)
	}
	member, _ := inputs.Get(label)
	list := member.(httpsfv.InnerList) // tagOf found it to be one
	s := &signature{}
	if err := s.components(list, r.Header); err != nil {
		return nil, err
	}
	if err := s.parameters(list.Params); err != nil {
		return nil, err
	}
	key, ok := v.keys[s.keyID]
	if !ok {
		return nil, refuse("keyid", "the key is not one of the configured ones")
	}
	if s.alg != algorithm(key) {
		return nil, refuse("alg", "it is not the algorithm of the key")
	}
	text, marshalErr := httpsfv.Marshal(httpsfv.List{list})
	if marshalErr != nil {
		return nil, refuse("Signature-Input", "it cannot be written again")
	}
	s.params = text
	signatures, err := dictionary(r.Header, "Signature")
	if err != nil {
		return nil, err
	}
	item, _ := signatures.Get(label)
	if it, ok := item.(httpsfv.Item); ok && len(it.Params.Names()) == 0 {
		s.value, _ = it.Value.([]byte)
	}
	if len(s.value) == 0 {
		return nil, refuse("Signature", "there is no signature under the same label as in Signature-Input")
	}
	return s, v.fresh(s)
}

// dictionary parses a header as an RFC 8941 dictionary. A name that appears
// twice in it would silently win over the first, so that is refused.
func dictionary(h http.Header, name string) (*httpsfv.Dictionary, *Error) {
	lines := h.Values(name)
	size := 0
	for _, l := range lines {
		size += len(l)
	}
	switch {
	case len(lines) == 0:
		return nil, refuse(name, "it is missing: this server takes calls through its gateway only")
	case len(lines) > 1:
		return nil, refuse(name, "it appears %d times", len(lines))
	case size > maxField:
		return nil, refuse(name, "it is longer than %d bytes", maxField)
	}
	d, err := httpsfv.UnmarshalDictionary(lines)
	if err != nil {
		return nil, refuse(name, "it is not a structured field dictionary")
	}
	// The text of a dictionary without repeated members is as long as what
	// is made of it again, give or take optional white space.
	if again, err := httpsfv.Marshal(d); err != nil || squeeze(again) != squeeze(lines[0]) {
		return nil, refuse(name, "it repeats a member or is not in its plain form")
	}
	return d, nil
}

func squeeze(s string) string { return strings.NewReplacer(" ", "", "\t", "").Replace(s) }

func tagOf(m httpsfv.Member) string {
	list, ok := m.(httpsfv.InnerList)
	if !ok {
		return ""
	}
	t, _ := list.Params.Get("tag")
	s, _ := t.(string)
	return s
}

// components demands exactly the profile's components, each once and without
// parameters, in any order.
func (s *signature) components(list httpsfv.InnerList, h http.Header) *Error {
	need := []string{"@method", "@target-uri", "content-digest", "content-type", "ostiary-entry"}
	for _, name := range []string{"authorization", "mcp-session-id"} {
		if len(h.Values(name)) > 0 {
			need = append(need, name)
		}
	}
	for _, it := range list.Items {
		name, ok := it.Value.(string)
		if !ok || len(it.Params.Names()) > 0 || !slices.Contains(need, name) || slices.Contains(s.covered, name) {
			return refuse("Signature-Input", "it covers a component that is not in the profile, or twice")
		}
		s.covered = append(s.covered, name)
	}
	for _, name := range need {
		if !slices.Contains(s.covered, name) {
			return refuse(name, "the signature does not cover it")
		}
	}
	return nil
}

// parameters demands exactly the profile's parameters.
func (s *signature) parameters(p *httpsfv.Params) *Error {
	text := map[string]*string{"keyid": &s.keyID, "alg": &s.alg, "nonce": &s.nonce, "tag": new(string)}
	number := map[string]*int64{"created": &s.created, "expires": &s.expires}
	names := p.Names()
	for _, name := range names {
		value, _ := p.Get(name)
		switch x := value.(type) {
		case string:
			if to := text[name]; to != nil {
				*to = x
				continue
			}
		case int64:
			if to := number[name]; to != nil {
				*to = x
				continue
			}
		}
		return refuse("Signature-Input", "parameter %q is not in the profile or has the wrong type", name)
	}
	if len(names) != len(text)+len(number) {
		return refuse("Signature-Input", "it must have created, expires, nonce, keyid, alg and tag")
	}
	if len(s.nonce) < minNonce || len(s.nonce) > maxNonce {
		return refuse("nonce", "it must have %d to %d characters", minNonce, maxNonce)
	}
	return nil
}

// fresh checks the window.
func (v *Verifier) fresh(s *signature) *Error {
	now, skew := v.clock().Unix(), int64(v.skew/time.Second)
	switch {
	case s.created <= 0 || s.expires <= s.created || s.expires-s.created > int64(v.life/time.Second):
		return refuse("expires", "the signature's window is empty or longer than %v", v.life)
	case s.created > now+skew:
		return refuse("created", "the signature is from the future")
	case s.expires+skew <= now:
		return refuse("expires", "the signature has expired")
	case s.created < v.started:
		return refuse("created", "the signature is older than this verifier, which cannot know whether it was used before")
	}
	return nil
}

// check proves the signature over the body and uses up its nonce.
func (v *Verifier) check(r *http.Request, s *signature, body []byte) (Cleared, *Error) {
	if err := digestMatches(r.Header, body); err != nil {
		return Cleared{}, err
	}
	base, err := v.base(r, s)
	if err != nil {
		return Cleared{}, err
	}
	if !valid(v.keys[s.keyID], []byte(base), s.value) {
		return Cleared{}, refuse("Signature", "the signature is wrong")
	}
	// Only now is the nonce the signer's; anybody else's would fill the memory.
	if err := v.seen.use(s.keyID, s.nonce, s.expires+int64(v.skew/time.Second), v.clock().Unix()); err != nil {
		return Cleared{}, err
	}
	return Cleared{Entry: r.Header.Get("Ostiary-Entry"), KeyID: s.keyID, Created: time.Unix(s.created, 0), Expires: time.Unix(s.expires, 0)}, nil
}

// base is the signature base of RFC 9421, section 2.5. A header that appears
// more than once has no single value to act on, and is refused.
func (v *Verifier) base(r *http.Request, s *signature) (string, *Error) {
	var b strings.Builder
	for _, name := range s.covered {
		b.WriteString(`"` + name + `": `)
		switch name {
		case "@method":
			b.WriteString(r.Method)
		case "@target-uri":
			b.WriteString(v.targetURI(r))
		default:
			values := r.Header.Values(name)
			if len(values) != 1 {
				return "", refuse(name, "it must appear exactly once")
			}
			b.WriteString(strings.TrimSpace(values[0]))
		}
		b.WriteByte('\n')
	}
	b.WriteString(`"@signature-params": ` + s.params)
	return b.String(), nil
}

// valid checks a raw signature: r and s of 32 bytes each for ECDSA, not the
// ASN.1 that Go's own functions use.
func valid(key crypto.PublicKey, base, sig []byte) bool {
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		if len(sig) != 64 {
			return false
		}
		sum := sha256.Sum256(base)
		return ecdsa.Verify(k, sum[:], new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:]))
	case ed25519.PublicKey:
		return ed25519.Verify(k, base, sig)
	}
	return false
}

// digestMatches demands a SHA-256 digest of the received bytes, and that
// every other digest matches too. Weak or unknown algorithms are refused, not
// skipped: a digest nobody checks proves nothing.
func digestMatches(h http.Header, body []byte) *Error {
	d, err := dictionary(h, "Content-Digest")
	if err != nil {
		return err
	}
	strong := false
	for _, alg := range d.Names() {
		var want []byte
		switch alg {
		case "sha-256":
			sum := sha256.Sum256(body)
			want, strong = sum[:], true
		case "sha-512":
			sum := sha512.Sum512(body)
			want = sum[:]
		default:
			return refuse("Content-Digest", "the algorithm %q is not accepted", alg)
		}
		member, _ := d.Get(alg)
		item, ok := member.(httpsfv.Item)
		got, isBytes := item.Value.([]byte)
		if !ok || !isBytes || len(item.Params.Names()) > 0 || subtle.ConstantTimeCompare(got, want) != 1 {
			return refuse("Content-Digest", "it is not the digest of the body")
		}
	}
	if !strong {
		return refuse("Content-Digest", "it has no sha-256 digest")
	}
	return nil
}
