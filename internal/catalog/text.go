package catalog

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
	"golang.org/x/text/unicode/norm"
)

// hidden reports whether a character shows nothing, moves others about, or
// has no agreed look: controls, format characters (zero width, bidirectional,
// tags), variation selectors, fillers, private use, line separators.
func hidden(r rune) bool {
	return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Co, unicode.Cs, unicode.Zl, unicode.Zp,
		unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point, unicode.Noncharacter_Code_Point) ||
		r == '\u2800' // the blank Braille pattern is a symbol by category
}

// Show returns s with every character that a reader could not see written as
// its code point, <U+200B>, and bytes that are not UTF-8 as <0xFF>. A text
// that spells such a mark itself is marked too, so what Show writes is
// unambiguous. It is the one printer for text that servers wrote.
func Show(s string) string {
	clean := true
	for i, r := range s {
		if r >= utf8.RuneSelf && (hidden(r) || r == utf8.RuneError) || r < ' ' || r == 0x7f || r == '<' && marks(s[i:]) {
			clean = false
			break
		}
	}
	if clean {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			fmt.Fprintf(&b, "<0x%02X>", s[i])
		case hidden(r), r == '<' && marks(s[i:]):
			fmt.Fprintf(&b, "<U+%04X>", r)
		default:
			b.WriteString(s[i : i+n])
		}
		i += n
	}
	return b.String()
}

// marks reports whether s begins like one of Show's own marks.
func marks(s string) bool { return strings.HasPrefix(s, "<U+") || strings.HasPrefix(s, "<0x") }

// clip shows at most maxShown characters of s.
func clip(s string) string {
	n := 0
	for i := range s {
		if n == maxShown {
			return Show(s[:i]) + "…"
		}
		n++
	}
	return Show(s)
}

// checkName checks the name a definition goes by.
func checkName(kind string, def ostiary.Value) []problem {
	m := nameMember(kind)
	v := def.Get(m)
	if v.Kind() != ostiary.String {
		return []problem{{hard: true, at: "/" + m, text: "is missing or not a string"}}
	}
	limit := maxName
	if kind == KindResource || kind == KindTemplate {
		limit = maxURI
	}
	if bad := badName(v.Text(), limit); bad != "" {
		return []problem{{hard: true, name: true, at: "/" + m, text: bad}}
	}
	return nil
}

// badName says what is wrong with a name, "" if nothing. Names are what
// people and models tell things apart by, so they must look like what they
// are.
func badName(s string, limit int) string {
	if s == "" {
		return "is empty"
	}
	if utf8.RuneCountInString(s) > limit {
		return fmt.Sprintf("is longer than %d characters", limit)
	}
	first, _ := utf8.DecodeRuneInString(s)
	last, _ := utf8.DecodeLastRuneInString(s)
	if first == ' ' || last == ' ' {
		return "begins or ends with a space"
	}
	if unicode.IsMark(first) {
		return "begins with a combining mark"
	}
	var latin, lookalike bool
	for _, r := range s {
		if hidden(r) || !unicode.IsPrint(r) {
			return fmt.Sprintf("holds the invisible character <U+%04X>", r)
		}
		latin = latin || unicode.Is(unicode.Latin, r)
		lookalike = lookalike || unicode.In(r, unicode.Cyrillic, unicode.Greek, unicode.Armenian, unicode.Cherokee)
	}
	if latin && lookalike {
		return "mixes Latin letters with letters of another script that look like them"
	}
	if !norm.NFKC.IsNormalString(s) {
		return fmt.Sprintf("is written with compatibility characters; plainly it would be %q", clip(norm.NFKC.String(s)))
	}
	return ""
}

// skeleton maps a name to what it looks like: two names with one skeleton can
// be taken for each other. See UTS 39, section 4; the table holds the letters
// that names of tools are made of.
func skeleton(s string) string {
	var b strings.Builder
	for _, r := range norm.NFKC.String(s) {
		if hidden(r) {
			continue
		}
		if l, ok := lookalikes[r]; ok {
			r = l
		}
		b.WriteRune(r)
	}
	return strings.ReplaceAll(b.String(), "rn", "m")
}

var lookalikes = map[rune]rune{
	// Latin and digits among themselves.
	'1': 'l', 'I': 'l', '|': 'l', '0': 'O', 'ı': 'i', 'ɑ': 'a', 'ɡ': 'g', 'ſ': 'f', 'ƅ': 'b', 'ƨ': 's', 'ʋ': 'v', 'ᴏ': 'o', 'ᴠ': 'v', 'ᴡ': 'w', 'ᴢ': 'z', 'ꜱ': 's', 'ʏ': 'y', 'ᴜ': 'u',
	// Cyrillic.
	'а': 'a', 'с': 'c', 'ԁ': 'd', 'е': 'e', 'ҽ': 'e', 'һ': 'h', 'і': 'i', 'ј': 'j', 'ӏ': 'l', 'Ӏ': 'l', 'о': 'o', 'р': 'p', 'ԛ': 'q', 'г': 'r', 'ѕ': 's', 'т': 't', 'ѵ': 'v', 'ԝ': 'w', 'х': 'x', 'у': 'y', 'ү': 'y', 'к': 'k', 'п': 'n', 'ո': 'n', 'м': 'M', 'н': 'H',
	'А': 'A', 'В': 'B', 'С': 'C', 'Е': 'E', 'Н': 'H', 'І': 'l', 'Ј': 'J', 'К': 'K', 'М': 'M', 'О': 'O', 'Р': 'P', 'Ѕ': 'S', 'Т': 'T', 'Х': 'X', 'У': 'Y', 'Ү': 'Y', 'Ԍ': 'G', 'Ԛ': 'Q', 'Ԝ': 'W', 'ь': 'b', 'З': '3', 'з': '3',
	// Greek.
	'α': 'a', 'ι': 'i', 'ο': 'o', 'ρ': 'p', 'ν': 'v', 'υ': 'u', 'κ': 'k', 'γ': 'y', 'σ': 'o', 'τ': 't', 'χ': 'x', 'ω': 'w', 'η': 'n', 'ϲ': 'c', 'ϳ': 'j', 'ε': 'e',
	'Α': 'A', 'Β': 'B', 'Ε': 'E', 'Ζ': 'Z', 'Η': 'H', 'Ι': 'l', 'Κ': 'K', 'Μ': 'M', 'Ν': 'N', 'Ο': 'O', 'Ρ': 'P', 'Τ': 'T', 'Υ': 'Y', 'Χ': 'X',
	// Armenian and Cherokee.
	'ա': 'w', 'օ': 'o', 'ս': 'u', 'հ': 'h', 'ց': 'g', 'յ': 'j', 'զ': 'q', 'Ꭺ': 'A', 'Ᏼ': 'B', 'Ꮯ': 'C', 'Ꭼ': 'E', 'Ꮋ': 'H', 'Ꭻ': 'J', 'Ꮶ': 'K', 'Ꮮ': 'L', 'Ꮇ': 'M', 'Ꮲ': 'P', 'Ꮪ': 'S', 'Ꭲ': 'T', 'Ꮩ': 'V', 'Ꮃ': 'W', 'Ꮓ': 'Z',
	// Marks between words.
	'‐': '-', '‑': '-', '‒': '-', '–': '-', '—': '-', '−': '-', '﹘': '-', 'ー': '-', '⁄': '/', '∕': '/', '․': '.', '٠': '.', '‗': '_', 'ˍ': '_', '∶': ':', '׃': ':',
}

// checkText looks through every string of a definition for characters that a
// reader cannot see, and for sentences that instruct a model.
func checkText(def ostiary.Value) []problem {
	return append(scanHidden(def, "", nil), scanPhrases(def)...)
}

// scanHidden finds hidden characters: in a member's name they cannot be
// accepted, in a text they can once somebody has read it with them shown.
// Line ends and tabs are how texts are laid out.
func scanHidden(v ostiary.Value, at string, ps []problem) []problem {
	look := func(s, at, what string, hard bool) {
		for _, r := range s {
			if hidden(r) && (hard || r != '\n' && r != '\r' && r != '\t') {
				ps = append(ps, problem{hard: hard, at: at, text: fmt.Sprintf("%s the invisible character <U+%04X>", what, r)})
				return
			}
		}
	}
	if len(ps) >= maxReasons {
		return ps
	}
	if v.Kind() == ostiary.String {
		look(v.Text(), at, "holds", false)
	}
	for name, m := range v.Members() {
		look(name, at, "has a member whose name holds", true)
		ps = scanHidden(m, ostiary.Pointer(at, name), ps)
	}
	for i, e := range v.Elements() {
		ps = scanHidden(e, ostiary.Pointer(at, itoa(i)), ps)
	}
	return ps
}

// Hidden reports whether a character shows nothing, moves others about, or has
// no agreed look; see [Show].
func Hidden(r rune) bool { return hidden(r) }

// LooksLike returns the letter or mark that a character can be taken for.
func LooksLike(r rune) (rune, bool) {
	l, ok := lookalikes[r]
	return l, ok
}
