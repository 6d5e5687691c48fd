package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"net/url"
	"os"
	"strings"
	"testing"
)

func TestEchoes(t *testing.T) {
	const secret = "c4n4ry/+key=90b2e?>"
	each := func(format string) (out string) {
		for i := range len(secret) {
			out += fmt.Sprintf(format, secret[i])
		}
		return out
	}
	e := echoesOf(secret)
	for name, text := range map[string]string{
		"Q01 as it is":              "x" + secret + "x",
		"Q01 escaped in JSON":       each(`\u%04x`),
		"Q01 escaped here or there": strings.ReplaceAll(secret, "/", `\/`),
		"Q01 JSON in JSON":          each(`\\u%04X`),
		"Q01 URL":                   url.QueryEscape(secret),
		"Q01 every byte for a URL":  each("%%%02X"),
		"Q01 URL in a URL":          url.QueryEscape(url.QueryEscape(secret)),
		"Q01 URL in JSON":           each(`\u0025%02x`),
		"Q01 hexadecimal":           "0x" + hex.EncodeToString([]byte(secret)),
		"Q01 hexadecimal, capitals": strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"Q01 base64":                base64.StdEncoding.EncodeToString([]byte(secret)),
		"Q01 base64 behind one":     base64.StdEncoding.EncodeToString([]byte("u" + secret + "tail")),
		"Q01 base64 behind two":     base64.StdEncoding.EncodeToString([]byte("u:" + secret + "t")),
		"Q01 base64 behind many":    base64.StdEncoding.EncodeToString([]byte("Authorization: Bearer " + secret + "\r\n")),
		"Q01 base64 of URLs":        base64.RawURLEncoding.EncodeToString([]byte("u" + secret)),
		"Q01 base64 in a URL":       url.QueryEscape(base64.StdEncoding.EncodeToString([]byte(secret))),
	} {
		t.Run(name, func(t *testing.T) {
			if !e.in([]byte(`{"jsonrpc":"2.0","id":1,"result":{"text":"` + text + `"}}`)) {
				t.Errorf("not found in %s", text)
			}
		})
	}
	for name, text := range map[string]string{
		"something else": `{"text":"c4n4ry\n\u0041%41%zz\u12\\"}`, "all but its end": secret[:len(secret)-1], "nothing": "", "a lone backslash": `\`, "a lone percent": "%",
		"Q06 backwards":              "?>e2b09=yek+/yr4n4c",
		"Q06 in two pieces":          secret[:9] + " and " + secret[9:],
		"Q06 more layers than these": each(`\\\\\\\\u%04X`),
	} {
		t.Run(name, func(t *testing.T) {
			if e.in([]byte(text)) {
				t.Errorf("found in %s", text)
			}
		})
	}
	if echoesOf("", "short").in([]byte("short")) || echoes(nil).in([]byte("x")) {
		t.Error("a word that is no secret is found")
	}
	if text := fmt.Sprintf("%v %+v %#v %s", e, e, e, e); strings.Contains(text, secret) {
		t.Error("its spellings print")
	}
}

func TestCredentialsInHeaders(t *testing.T) {
	for name, c := range map[string]struct{ header, told string }{
		"Q01 the whole value":       {"k3y-canary", "k3y-canary"},
		"Q01 behind its scheme":     {"Token k3y-canary", "k3y-canary"},
		"Q01 a password of Basic":   {"Basic " + base64.StdEncoding.EncodeToString([]byte("dana:p4ssw0rd")), "p4ssw0rd"},
		"Q01 a pair of Basic":       {"basic " + base64.StdEncoding.EncodeToString([]byte("dana:p4ss")), "dana:p4ss"},
		"Q01 Basic that is no pair": {"Basic k3y-canary!", "k3y-canary!"},
	} {
		t.Run(name, func(t *testing.T) {
			if !echoesOf(credentialsIn(c.header)...).in([]byte("<" + c.told + ">")) {
				t.Errorf("%s is not looked for", c.told)
			}
		})
	}
}

// TestEchoOfAReplacedToken: a call that left with the old token is answered
// after another read the new one.
func TestEchoOfAReplacedToken(t *testing.T) {
	path := t.TempDir() + "/token"
	write := func(s string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("the-first-one")
	c, err := newCredential(path)
	if err != nil {
		t.Fatal(err)
	}
	write("the-second")
	if _, err := c.header(); err != nil {
		t.Fatal(err)
	}
	if !c.echoed([]byte("<the-second>")) || !c.echoed([]byte("<the-first-one>")) || c.echoed([]byte("<the-third>")) {
		t.Error("a token is not looked for")
	}
	if (*credential)(nil).echoed([]byte("x")) {
		t.Error("no token is found")
	}
}

func FuzzUnescaped(f *testing.F) {
	for _, s := range []string{``, `\`, `%`, `%4`, `%41`, `\u0041`, `\u004`, `\\u0041`, `\"\/\\`, `\ud800`, `%25%34%31`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		out, changed := unescaped(b)
		if !bytes.Equal(b, before) {
			t.Fatal("its input changed")
		}
		if len(out) > len(b) || changed == bytes.Equal(out, b) {
			t.Fatalf("%q becomes %q, changed %v", b, out, changed)
		}
	})
}
