package console

import (
	"fmt"
	"html/template"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/ostiary/ostiary/internal/catalog"
)

const (
	// shortText is what a sentence of ours holds of somebody else's words.
	shortText = 80
	// foldedText is what a page shows of them before a reader unfolds it.
	foldedText = 400
)

// Foreign is text that an agent, a client, a server or a provider wrote. It
// reaches a page through its methods alone, which show what a reader could not
// see: invisible characters, those that turn text around, tags, and letters
// that look like other letters, each as its code point. Printed by accident it
// is escaped and marked all the same.
type Foreign struct{ s string }

// NewForeign marks a text as somebody else's.
func NewForeign(s string) Foreign { return Foreign{s} }

// Empty reports whether there is nothing to show.
func (f Foreign) Empty() bool { return f.s == "" }

// String is the text for what is no markup: titles, and accidents.
func (f Foreign) String() string {
	text, n := f.s, utf8.RuneCountInString(f.s)
	if n > shortText {
		text = cut(text, shortText)
	}
	var b strings.Builder
	f.each(text, false, func(plain string) { b.WriteString(plain) }, func(mark string) { b.WriteString("<" + mark + ">") })
	if n > shortText {
		fmt.Fprintf(&b, "… (%d characters)", n)
	}
	return b.String()
}

// Short is the text inside a sentence of ours: cut, with its length said.
func (f Foreign) Short() template.HTML {
	n := utf8.RuneCountInString(f.s)
	if n <= shortText {
		return f.html(f.s, "span", false)
	}
	return f.html(cut(f.s, shortText), "span", false) + template.HTML(fmt.Sprintf(`<span class="more">… (%d characters)</span>`, n))
}

// Block is the whole text, in its own lines, folded if it is long.
func (f Foreign) Block() template.HTML {
	n := utf8.RuneCountInString(f.s)
	if n <= foldedText {
		return f.html(f.s, "div", true)
	}
	return template.HTML(fmt.Sprintf(`<details class="fold"><summary>%s<span class="more">… show all %d characters</span>%s</summary>%s</details>`,
		f.html(cut(f.s, shortText), "span", false), n, f.hiding(), f.html(f.s, "div", true)))
}

// hiding says how many characters of a folded text a reader could not see, or
// would take for others: nobody should have to unfold it to be warned.
func (f Foreign) hiding() template.HTML {
	n := 0
	f.each(f.s, true, func(string) {}, func(string) { n++ })
	if n == 0 {
		return ""
	}
	return template.HTML(fmt.Sprintf(` <span class="cp">%d hidden or disguised</span>`, n))
}

// Line is one line of a longer text, whole: of a file or a difference. The
// place it stands in shows whose words it is.
func (f Foreign) Line() template.HTML {
	var b strings.Builder
	f.each(f.s, false, func(plain string) { b.WriteString(template.HTMLEscapeString(plain)) },
		func(mark string) {
			if mark == "U+0009" {
				b.WriteString("\t")
				return
			}
			fmt.Fprintf(&b, `<span class="cp">%s</span>`, mark)
		})
	return template.HTML(b.String())
}

// shown prints words of ours, or of an operator, in which words of others may
// be quoted: in our type, and with what a reader could not see as code points.
func shown(s string) template.HTML {
	var b strings.Builder
	NewForeign(s).each(s, true, func(plain string) { b.WriteString(template.HTMLEscapeString(plain)) },
		func(mark string) { fmt.Fprintf(&b, `<span class="cp">%s</span>`, mark) })
	return template.HTML(b.String())
}

// html is the one printer.
func (f Foreign) html(s, element string, lines bool) template.HTML {
	var b strings.Builder
	fmt.Fprintf(&b, `<%s class="foreign" dir="ltr">`, element)
	f.each(s, lines, func(plain string) { b.WriteString(template.HTMLEscapeString(plain)) },
		func(mark string) { fmt.Fprintf(&b, `<span class="cp">%s</span>`, mark) })
	fmt.Fprintf(&b, `</%s>`, element)
	return template.HTML(b.String())
}

// each splits a text into what can be shown as it is and what is shown as a
// code point. A letter that only looks like one of its neighbours is shown
// with its code point behind it.
func (f Foreign) each(s string, lines bool, plain, mark func(string)) {
	for len(s) > 0 {
		word := s
		if i := strings.IndexFunc(s, unicode.IsSpace); i > 0 {
			word = s[:i]
		} else if i == 0 {
			_, n := utf8.DecodeRuneInString(s)
			word = s[:n]
		}
		s = s[len(word):]
		disguised := disguise(word)
		for i := 0; i < len(word); {
			r, n := utf8.DecodeRuneInString(word[i:])
			_, like := catalog.LooksLike(r)
			switch {
			case r == utf8.RuneError && n == 1:
				mark(fmt.Sprintf("0x%02X", word[i]))
			case lines && r == '\n':
				plain("\n")
			case catalog.Hidden(r) || unicode.IsSpace(r) && r != ' ':
				mark(fmt.Sprintf("U+%04X", r))
			case disguised && like && r >= utf8.RuneSelf:
				plain(word[i : i+n])
				mark(fmt.Sprintf("U+%04X", r))
			default:
				plain(word[i : i+n])
			}
			i += n
		}
	}
}

// disguise reports whether a word can be taken for another one in ASCII: it
// mixes ASCII letters with letters that look like some, or is made of nothing
// but such letters. A word in its own script has others among them.
func disguise(word string) bool {
	like, ascii, own := 0, 0, 0
	for _, r := range word {
		_, l := catalog.LooksLike(r)
		switch {
		case r < utf8.RuneSelf:
			if unicode.IsLetter(r) {
				ascii++
			}
		case l:
			like++
		case unicode.IsLetter(r):
			own++
		}
	}
	return like > 0 && (ascii > 0 || own == 0)
}

// cut returns the first n characters.
func cut(s string, n int) string {
	for i := range s {
		if n == 0 {
			return s[:i]
		}
		n--
	}
	return s
}
