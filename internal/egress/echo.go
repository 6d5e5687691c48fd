package egress

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

const (
	// minSecret is the length from which a credential is looked for in
	// replies. Shorter ones are words that appear by chance, and no secrets.
	minSecret = 8
	// maxLayers is how many layers of escapes are taken off a reply in search
	// of a credential: a tool's text is often JSON inside JSON, or holds a URL.
	maxLayers = 3
)

// echoes finds a server's credentials in what it says back: as they are, in
// hexadecimal digits, in base64 of either alphabet wherever it begins, and
// each of these behind escapes of JSON and of URLs. A server that wants to
// tell what it was given can always spell it in a way nobody looks for.
type echoes []ostiary.Secret

// echoesOf returns the spellings of credentials. Words that are too short to
// be one are left out.
func echoesOf(credentials ...string) (e echoes) {
	var all [][]byte
	for _, c := range credentials {
		if len(c) < minSecret {
			continue
		}
		digits := hex.EncodeToString([]byte(c))
		all = append(all, []byte(c), []byte(digits), []byte(strings.ToUpper(digits)))
		for shift := range 3 {
			bits := 8 * (shift + len(c))
			for _, alphabet := range []*base64.Encoding{base64.RawStdEncoding, base64.RawURLEncoding} {
				text := alphabet.AppendEncode(nil, append(make([]byte, shift), c...))
				all = append(all, text[(8*shift+5)/6:bits/6]) // what its neighbours have no part in
			}
		}
	}
	slices.SortFunc(all, bytes.Compare)
	for _, form := range slices.CompactFunc(all, bytes.Equal) {
		e = append(e, ostiary.NewSecret(form))
	}
	return e
}

// credentialsIn are the words of a header's value that nobody may repeat: the
// value, what stands behind its scheme, and what that hides if it is Basic.
func credentialsIn(value string) []string {
	all := []string{value}
	scheme, rest, ok := strings.Cut(value, " ")
	if !ok {
		return all
	}
	all = append(all, strings.TrimSpace(rest))
	if strings.EqualFold(scheme, "Basic") {
		if pair, err := base64.StdEncoding.DecodeString(strings.TrimSpace(rest)); err == nil {
			_, password, _ := strings.Cut(string(pair), ":")
			all = append(all, string(pair), password)
		}
	}
	return all
}

// in reports whether b repeats a credential.
func (e echoes) in(b []byte) bool {
	if len(e) == 0 {
		return false
	}
	for layer := 0; ; layer++ {
		for _, form := range e {
			if bytes.Contains(b, form.Reveal()) {
				return true
			}
		}
		next, changed := unescaped(b)
		if !changed || layer == maxLayers {
			return false
		}
		b = next
	}
}

// unescaped takes one layer of escapes off: those of JSON strings, and the
// percent signs of URLs. What is no escape stays as it is.
func unescaped(b []byte) (out []byte, changed bool) {
	at := bytes.IndexAny(b, `\%`)
	if at < 0 {
		return b, false
	}
	out = append(make([]byte, 0, len(b)), b[:at]...)
	for rest := b[at:]; len(rest) > 0; {
		n := 1
		switch c := rest[0]; {
		case c == '%' && len(rest) > 2:
			if v, err := strconv.ParseUint(string(rest[1:3]), 16, 8); err == nil {
				out, n = append(out, byte(v)), 3
			}
		case c == '\\' && len(rest) > 5 && rest[1] == 'u':
			if v, err := strconv.ParseUint(string(rest[2:6]), 16, 32); err == nil {
				out, n = utf8.AppendRune(out, rune(v)), 6
			}
		case c == '\\' && len(rest) > 1 && strings.IndexByte(`"\/`, rest[1]) >= 0:
			out, n = append(out, rest[1]), 2
		}
		if n == 1 {
			out = append(out, rest[0])
		} else {
			changed = true
		}
		rest = rest[n:]
	}
	return out, changed
}
