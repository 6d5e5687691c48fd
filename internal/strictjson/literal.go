package strictjson

import (
	"encoding/binary"
	"strconv"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// text scans the string that starts here, at most limit bytes between its
// quotes, and returns its node.
func (s *scanner) text(limit int, nul bool) (int, *ostiary.Error) {
	i, err := s.open(ostiary.String)
	if err != nil {
		return 0, err
	}
	s.at++
	start := s.at
	for {
		s.at = plain(s.b, s.at)
		if s.at-start > limit {
			return 0, s.refuse("literal", "a string is longer than %d bytes", limit)
		}
		if s.at == len(s.b) {
			return 0, s.unexpected("the end of a string")
		}
		switch c := s.b[s.at]; {
		case c == '"':
			s.at++
			s.close(i)
			return i, nil
		case c == '\\':
			s.nodes[i].Escaped = true
			if err := s.escape(nul); err != nil {
				return 0, err
			}
		case c < 0x20:
			return 0, s.refuse("syntax", "a control character stands bare in a string at byte %d", s.at)
		default:
			r, n := utf8.DecodeRune(s.b[s.at:])
			if r == utf8.RuneError && n == 1 {
				return 0, s.refuse("utf8", "invalid UTF-8 at byte %d", s.at)
			}
			s.at += n
		}
	}
}

// plain returns the index of the first byte from i on that needs a look: a
// quote, a backslash, a control character or the start of a longer rune.
func plain(b []byte, i int) int {
	const ones, tops = 0x0101010101010101, 0x8080808080808080
	for len(b)-i >= 8 {
		w := binary.LittleEndian.Uint64(b[i:])
		quote, slash := w^ones*'"', w^ones*'\\'
		// The top bit of a byte of (x-ones)&^x is set if that byte of x is
		// zero, of w-0x20… if it is below a space. A borrow can only set
		// bits above the first true one, where the loop below decides.
		if ((w-ones*0x20)|(quote-ones)&^quote|(slash-ones)&^slash|w)&tops != 0 {
			break
		}
		i += 8
	}
	for i < len(b) && b[i] >= 0x20 && b[i] < utf8.RuneSelf && b[i] != '"' && b[i] != '\\' {
		i++
	}
	return i
}

// escape scans the backslash that stands here and what belongs to it.
func (s *scanner) escape(nul bool) *ostiary.Error {
	if s.at+1 >= len(s.b) {
		s.at++
		return s.unexpected("an escape")
	}
	switch s.b[s.at+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.at += 2
		return nil
	case 'u':
	default:
		return s.refuse("syntax", "byte %d starts an unknown escape", s.at)
	}
	r, ok := s.hex4(s.at + 2)
	if !ok {
		return s.refuse("syntax", "the escape at byte %d does not have four hex digits", s.at)
	}
	switch {
	case r == 0 && !nul:
		return s.refuse("nul", "U+0000 at byte %d", s.at)
	case r >= 0xDC00 && r < 0xE000:
		return s.refuse("surrogate", "a low surrogate stands alone at byte %d", s.at)
	case r >= 0xD800 && r < 0xDC00:
		low, ok := s.hex4(s.at + 8)
		if !ok || s.b[s.at+6] != '\\' || s.b[s.at+7] != 'u' || low < 0xDC00 || low >= 0xE000 {
			return s.refuse("surrogate", "a high surrogate stands alone at byte %d", s.at)
		}
		s.at += 6
	}
	s.at += 6
	return nil
}

func (s *scanner) hex4(i int) (rune, bool) {
	if i+4 > len(s.b) {
		return 0, false
	}
	var r rune
	for _, c := range s.b[i : i+4] {
		switch {
		case c >= '0' && c <= '9':
			c -= '0'
		case c >= 'a' && c <= 'f':
			c -= 'a' - 10
		case c >= 'A' && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, false
		}
		r = r<<4 | rune(c)
	}
	return r, true
}

// number scans the number that starts here: RFC 8259, section 6.
func (s *scanner) number() *ostiary.Error {
	i, err := s.open(ostiary.Number)
	if err != nil {
		return err
	}
	start := s.at
	if s.b[s.at] == '-' {
		s.at++
	}
	whole := s.at
	if s.digits() == 0 {
		return s.unexpected("a digit")
	}
	if s.b[whole] == '0' && s.at-whole > 1 {
		return s.refuse("syntax", "the number at byte %d has a leading zero", start)
	}
	if s.at < len(s.b) && s.b[s.at] == '.' {
		s.at++
		if s.digits() == 0 {
			return s.unexpected("a digit")
		}
	}
	mantissa := s.b[whole:s.at]
	if s.at < len(s.b) && (s.b[s.at] == 'e' || s.b[s.at] == 'E') {
		s.at++
		if s.at < len(s.b) && (s.b[s.at] == '+' || s.b[s.at] == '-') {
			s.at++
		}
		if s.digits() == 0 {
			return s.unexpected("a digit")
		}
	}
	if s.at-start > s.limits.Literal {
		return s.refuse("literal", "the number at byte %d is longer than %d bytes", start, s.limits.Literal)
	}
	s.close(i)
	return s.magnitude(start, mantissa)
}

func (s *scanner) digits() int {
	start := s.at
	for s.at < len(s.b) && s.b[s.at] >= '0' && s.b[s.at] <= '9' {
		s.at++
	}
	return s.at - start
}

// magnitude refuses a number that one reader takes for infinity or zero and
// another for what it says. Without an exponent, fewer than 300 digits are in
// range.
func (s *scanner) magnitude(start int, mantissa []byte) *ostiary.Error {
	text := s.b[start:s.at]
	if s.at-start < 300 && len(text)-len(mantissa) <= 1 {
		return nil
	}
	f, err := strconv.ParseFloat(string(text), 64)
	if err != nil {
		return s.refuse("number", "the number at byte %d is too large for other readers", start)
	}
	if f == 0 {
		for _, c := range mantissa {
			if c >= '1' && c <= '9' {
				return s.refuse("number", "the number at byte %d is too small for other readers", start)
			}
		}
	}
	return nil
}
