package mcpwire

import (
	"encoding/base64"
	"strings"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// The form in which a value travels that a header cannot carry as it is. It
// is case-sensitive.
const (
	sentinel    = "=?base64?"
	sentinelEnd = "?="
)

// EncodeHeader returns s as the value of a mirrored header: as it is if it is
// printable ASCII without space at its ends and cannot be taken for the
// encoded form, else encoded.
func EncodeHeader(s string) string {
	if plainHeader(s) && !looksEncoded(s) {
		return s
	}
	return sentinel + base64.StdEncoding.EncodeToString([]byte(s)) + sentinelEnd
}

// DecodeHeader returns the value that a mirrored header carries. It refuses,
// as Malformed with the code "header", what is not printable ASCII, and an
// encoded form that is spelt differently, is not padded base64 of the standard
// alphabet, has stray bits in its last digit, or does not hold UTF-8: one
// value has one plain and one encoded spelling. What has the form's beginning
// without its end is plain, as the specification has it.
func DecodeHeader(s string) (string, error) {
	if !plainHeader(s) {
		return "", ostiary.Errorf(ostiary.Malformed, "header", "the value is not printable ASCII: encode it as %s…%s", sentinel, sentinelEnd)
	}
	if !looksEncoded(s) || !strings.HasSuffix(s, sentinelEnd) {
		return s, nil
	}
	inner, ok := strings.CutPrefix(s, sentinel)
	if ok {
		inner, ok = strings.CutSuffix(inner, sentinelEnd)
	}
	if !ok {
		return "", ostiary.Errorf(ostiary.Malformed, "header", "the encoded form is %s…%s, exactly", sentinel, sentinelEnd)
	}
	b, err := base64.StdEncoding.Strict().DecodeString(inner)
	if err != nil {
		return "", ostiary.Errorf(ostiary.Malformed, "header", "the encoded value is not canonical base64").Because(err)
	}
	if !utf8.Valid(b) {
		return "", ostiary.Errorf(ostiary.Malformed, "header", "the encoded value is not UTF-8")
	}
	return string(b), nil
}

// plainHeader reports whether a header can carry s as it is.
func plainHeader(s string) bool {
	for i := range len(s) {
		if s[i] < 0x20 || s[i] > 0x7E {
			return false
		}
	}
	return s == "" || s[0] != ' ' && s[len(s)-1] != ' '
}

// looksEncoded is wider than the form itself: another reader may be less
// exact about case or about the end, so we leave neither plain.
func looksEncoded(s string) bool {
	return len(s) >= len(sentinel) && strings.EqualFold(s[:len(sentinel)], sentinel)
}

// IsToken reports whether s can stand in a header's name: a token of RFC 9110,
// section 5.6.2.
func IsToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
