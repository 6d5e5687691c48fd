package provenance

import (
	"hash/maphash"
	"strings"
	"unicode"
	"unicode/utf8"
)

// seed keys the hashes of this process, so that nobody outside can make two
// words that count as one. Nothing is stored under a hash.
var seed = maphash.MakeSeed()

// hash names a word or a mark; 64 bits with a secret seed do not collide by
// chance or by choice.
type hash uint64

func hashOf(kind byte, s string) hash {
	var h maphash.Hash
	h.SetSeed(seed)
	h.WriteByte(kind)
	h.WriteString(s)
	return hash(h.Sum64())
}

// word is one run of letters and digits in folded text; a number is one word
// in its canonical form.
type word struct {
	hash       hash
	start, end uint32 // in the folded text
	inner      bool   // part of a mark: an address, a link, a date
	digits     bool   // holds a digit
	dated      bool   // part of a date or a time
}

// The kinds of marks.
const (
	markWord    byte = 'w' // not a mark: the kind of a word's hash
	markEmail   byte = 'e'
	markLink    byte = 'u'
	markHost    byte = 'h'
	markCompact byte = 'c' // an account, a phone, a card: letters and digits however they are grouped
	markDate    byte = 'd'
	markTime    byte = 't'
)

// mark is a value of a known kind inside text, in its normal form.
type mark struct {
	hash        hash
	kind        byte
	first, last uint32 // words it covers, inclusive
	start, end  uint32 // in the folded text
}

// scan is a text taken apart.
type scan struct {
	text  string // folded
	words []word
	marks []mark
}

// scanText takes a text apart. It reuses s.
func (s *scan) read(text string) {
	s.text, s.words, s.marks = fold(text), s.words[:0], s.marks[:0]
	s.split()
	s.addresses()
	s.links()
	s.dates()
	s.compacts()
}

// sole returns the address, link or account that is all the text says.
func (s *scan) sole() (form hash, kind byte, ok bool) {
	for i := range s.marks {
		if m := &s.marks[i]; m.first == 0 && int(m.last) == len(s.words)-1 && (m.kind == markEmail || m.kind == markLink || m.kind == markCompact) {
			return m.hash, m.kind, true
		}
	}
	return 0, 0, false
}

func isWordByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

// split finds the words.
func (s *scan) split() {
	t := s.text
	for i := 0; i < len(t); {
		c := t[i]
		switch {
		case isDigit(c):
			i = s.number(i)
		case isWordByte(c):
			i = s.run(i, i)
		case c >= utf8.RuneSelf:
			r, n := utf8.DecodeRuneInString(t[i:])
			if unicode.IsLetter(r) || unicode.IsDigit(r) || unicode.IsMark(r) {
				i = s.run(i, i)
			} else {
				i += n
			}
		default:
			i++
		}
	}
}

// run takes letters and digits from i on as the rest of a word that began at
// start.
func (s *scan) run(start, i int) int {
	t := s.text
	digits := false
	for i < len(t) {
		if c := t[i]; isWordByte(c) {
			digits = digits || isDigit(c)
			i++
			continue
		} else if c < utf8.RuneSelf {
			break
		}
		r, n := utf8.DecodeRuneInString(t[i:])
		if !unicode.IsLetter(r) && !unicode.IsDigit(r) && !unicode.IsMark(r) {
			break
		}
		i += n
	}
	if w := t[start:i]; digits && len(w) == 5 && w[2] == 't' && isDigit(w[0]) && isDigit(w[1]) && isDigit(w[3]) && isDigit(w[4]) { // 15T10, inside a timestamp
		s.add(start, start+2, w[:2], true)
		s.add(start+3, i, w[3:], true)
		return i
	}
	s.add(start, i, t[start:i], digits)
	return i
}

func (s *scan) add(start, end int, form string, digits bool) {
	s.words = append(s.words, word{hash: hashOf(markWord, form), start: uint32(start), end: uint32(end), digits: digits})
}

// number takes a number as one word: 1,100.00 is 1100. What only begins like
// one, as 3gs or 10.0.0.1, is split like any text.
func (s *scan) number(i int) int {
	t := s.text
	end := i
	for end < len(t) && isDigit(t[end]) {
		end++
	}
	whole := end
	for groups := whole - i; groups <= 3 && end+4 <= len(t) && t[end] == ',' && allDigits(t[end+1:end+4]) && (end+4 == len(t) || !isWordByte(t[end+4])); {
		end += 4
	}
	intEnd := end
	if end+1 < len(t) && t[end] == '.' && isDigit(t[end+1]) {
		f := end + 1
		for f < len(t) && isDigit(t[f]) {
			f++
		}
		if f == len(t) || !isWordByte(t[f]) && !(t[f] == '.' && f+1 < len(t) && isDigit(t[f+1])) {
			end = f
		}
	}
	if end < len(t) && (isWordByte(t[end]) || t[end] >= utf8.RuneSelf) || end == whole {
		return s.run(i, i) // a plain integer is a word like any other
	}
	s.add(i, end, canonical(t[i:intEnd], t[intEnd:end]), true)
	return end
}

func allDigits(s string) bool {
	for i := range len(s) {
		if !isDigit(s[i]) {
			return false
		}
	}
	return s != ""
}

// canonical writes a number without grouping and without zeros that say
// nothing: frac begins with a point or is empty.
func canonical(whole, frac string) string {
	if strings.Contains(whole, ",") {
		whole = strings.ReplaceAll(whole, ",", "")
	}
	frac = strings.TrimRight(frac, "0")
	if frac == "." {
		frac = ""
	}
	return whole + frac
}

// cover makes a mark of what lies between two offsets.
func (s *scan) cover(kind byte, form string, start, end int) {
	first := s.at(start)
	last := first
	for last < len(s.words) && int(s.words[last].start) < end {
		s.words[last].inner = true
		s.words[last].dated = s.words[last].dated || kind == markDate || kind == markTime
		last++
	}
	if last == first {
		return
	}
	s.marks = append(s.marks, mark{hashOf(kind, form), kind, uint32(first), uint32(last - 1), uint32(start), uint32(end)})
}

// at returns the first word that ends after an offset.
func (s *scan) at(off int) int {
	lo, hi := 0, len(s.words)
	for lo < hi {
		if m := (lo + hi) / 2; int(s.words[m].end) > off {
			hi = m
		} else {
			lo = m + 1
		}
	}
	return lo
}

func isLocal(c byte) bool {
	return isWordByte(c) || c == '.' || c == '_' || c == '%' || c == '+' || c == '-' || c >= utf8.RuneSelf
}
func isHost(c byte) bool { return isWordByte(c) || c == '.' || c == '-' || c >= utf8.RuneSelf }

// addresses finds e-mail addresses. A display name around one is no part of it.
func (s *scan) addresses() {
	t := s.text
	for from := 0; ; {
		p := strings.IndexByte(t[from:], '@')
		if p < 0 {
			return
		}
		p += from
		a, b := p, p+1
		for a > from && isLocal(t[a-1]) {
			a--
		}
		for b < len(t) && isHost(t[b]) {
			b++
		}
		from = b
		for b > p && (t[b-1] == '.' || t[b-1] == '-') {
			b--
		}
		for a < p && (t[a] == '.' || t[a] == '-') {
			a++
		}
		if a == p || !strings.Contains(t[p+1:max(b, p+1)], ".") {
			continue
		}
		s.cover(markEmail, t[a:b], a, b)
		s.cover(markHost, t[p+1:b], p+1, b)
	}
}

// links finds URLs, with or without a scheme, in a form without scheme,
// default port, fragment and last slash.
func (s *scan) links() {
	t := s.text
	for from := 0; from < len(t); {
		p, skip := nextLink(t, from)
		if p < 0 {
			return
		}
		end := p + skip
		for end < len(t) && !strings.ContainsRune(" \t\r\n<>\"'`)]}|\\", rune(t[end])) {
			end++
		}
		for end > p && strings.IndexByte(".,;:!?*_", t[end-1]) >= 0 {
			end--
		}
		from = max(end, p+skip)
		form := normalLink(t[p:max(end, p)])
		if form == "" {
			continue
		}
		s.cover(markLink, form, p, end)
		host, _, _ := strings.Cut(form, "/")
		host, _, _ = strings.Cut(host, "?")
		if i := strings.Index(t[p:end], host); i >= 0 {
			s.cover(markHost, host, p+i, p+i+len(host))
		}
	}
}

// nextLink finds where the next link begins, and how much of it is surely of
// it.
func nextLink(t string, from int) (at, sure int) {
	at = -1
	if i := strings.Index(t[from:], "://"); i >= 0 {
		p := from + i
		a := p
		for a > from && (t[a-1] >= 'a' && t[a-1] <= 'z') {
			a--
		}
		at, sure = a, p+3-a
	}
	for f := from; ; {
		i := strings.Index(t[f:], "www.")
		if i < 0 || at >= 0 && f+i >= at {
			return at, sure
		}
		if p := f + i; p == 0 || !isWordByte(t[p-1]) && t[p-1] != '.' && t[p-1] != '@' && t[p-1] != '/' {
			return p, 4
		}
		f += i + 4
	}
}

func normalLink(u string) string {
	port := ""
	if i := strings.Index(u, "://"); i >= 0 {
		switch u[:i] {
		case "http":
			port = ":80"
		case "https":
			port = ":443"
		}
		u = u[i+3:]
	}
	if i := strings.IndexByte(u, '#'); i >= 0 {
		u = u[:i]
	}
	host, rest := u, ""
	if i := strings.IndexAny(u, "/?"); i >= 0 {
		host, rest = u[:i], u[i:]
	}
	if port != "" {
		host = strings.TrimSuffix(host, port)
	}
	if i := strings.LastIndexByte(host, '@'); i >= 0 {
		host = host[i+1:]
	}
	return strings.TrimSuffix(strings.TrimSuffix(host, ".")+rest, "/")
}

var months = func() map[hash]int {
	m := map[hash]int{}
	for i, name := range strings.Fields("january february march april may june july august september october november december") {
		m[hashOf(markWord, name)] = i + 1
		m[hashOf(markWord, name[:3])] = i + 1
	}
	m[hashOf(markWord, "sept")] = 9
	return m
}()

// dates finds calendar dates and times of day.
func (s *scan) dates() {
	for i := 0; i < len(s.words); i++ {
		if n := s.date(i); n > 0 {
			i += n - 1
			continue
		}
		s.timeOfDay(i)
	}
}

func (s *scan) textOf(i int) string { return s.text[s.words[i].start:s.words[i].end] }

// between returns what separates two words.
func (s *scan) between(i int) string {
	if i+1 >= len(s.words) {
		return "\n"
	}
	return s.text[s.words[i].end:s.words[i+1].start]
}

// date recognises a date that begins at word i and returns how many words it
// has.
func (s *scan) date(i int) int {
	w := s.textOf(i)
	if !s.words[i].digits {
		if mo := months[s.words[i].hash]; mo > 0 && i+1 < len(s.words) {
			return s.named(i, i, i+1, mo)
		}
		return 0
	}
	if i+1 < len(s.words) {
		if mo := months[s.words[i+1].hash]; mo > 0 && day(w) > 0 && strings.TrimSpace(s.between(i)) == "" {
			return s.named(i, i+1, i, mo)
		}
	}
	if i+2 >= len(s.words) {
		return 0
	}
	sep := s.between(i)
	if (sep != "-" && sep != "/" && sep != ".") || s.between(i+1) != sep {
		return 0
	}
	a, b, c := small(w), small(s.textOf(i+1)), small(s.textOf(i+2))
	switch {
	case len(w) == 4 && b >= 1 && b <= 12 && c >= 1 && c <= 31:
		s.day(i, i+2, a, b, c)
	case len(s.textOf(i+2)) == 4 && a >= 1 && b >= 1 && a <= 31 && b <= 31 && (a <= 12 || b <= 12):
		if b <= 12 {
			s.day(i, i+2, c, b, a)
		}
		if a <= 12 {
			s.day(i, i+2, c, a, b)
		}
	default:
		return 0
	}
	return 3
}

// named is a date with the month's name at word m and the day at word d.
func (s *scan) named(first, m, d, month int) int {
	n := day(s.textOf(d))
	if n == 0 || m+1 == d && len(s.between(m)) > 2 {
		return 0
	}
	last, year := max(m, d), 0
	if last+1 < len(s.words) && len(s.between(last)) <= 2 {
		if y := small(s.textOf(last + 1)); len(s.textOf(last+1)) == 4 && y >= 1900 && y < 2200 {
			last, year = last+1, y
		}
	}
	s.day(first, last, year, month, n)
	return last - first + 1
}

func (s *scan) day(first, last, year, month, day int) {
	a, b := int(s.words[first].start), int(s.words[last].end)
	if year > 0 {
		s.cover(markDate, dateForm(year, month, day), a, b)
	}
	s.cover(markDate, dateForm(0, month, day), a, b)
}

func dateForm(y, m, d int) string {
	return string([]byte{byte(y >> 8), byte(y), byte(m), byte(d)})
}

// day reads 15, 15th.
func day(s string) int {
	for _, suffix := range []string{"st", "nd", "rd", "th"} {
		s = strings.TrimSuffix(s, suffix)
	}
	if n := small(s); n >= 1 && n <= 31 {
		return n
	}
	return 0
}

// small reads up to four digits, -1 for anything else.
func small(s string) int {
	if len(s) == 0 || len(s) > 4 || !allDigits(s) {
		return -1
	}
	n := 0
	for i := range len(s) {
		n = n*10 + int(s[i]-'0')
	}
	return n
}

func (s *scan) timeOfDay(i int) {
	if i+1 >= len(s.words) || s.between(i) != ":" {
		return
	}
	h, m := small(s.textOf(i)), small(s.textOf(i+1))
	if h < 0 || h > 23 || m < 0 || m > 59 || len(s.textOf(i+1)) != 2 {
		return
	}
	last := i + 1
	if i+2 < len(s.words) && s.between(i+1) == ":" && len(s.textOf(i+2)) >= 2 && isDigit(s.textOf(i + 2)[0]) {
		last = i + 2
	}
	s.cover(markTime, string([]byte{byte(h), byte(m)}), int(s.words[i].start), int(s.words[last].end))
}

const (
	minCompact  = 8  // letters and digits of an account, a phone, a card
	minNumeric  = 6  // digits among them
	maxGrouping = 10 // groups they may be written in
)

// compacts finds accounts, phones and cards: letters and digits, most of them
// digits, in one piece or in groups.
func (s *scan) compacts() {
	for i := 0; i < len(s.words); i++ {
		if !s.words[i].digits && !(i+1 < len(s.words) && s.words[i+1].digits && len(s.textOf(i)) <= 4) || s.words[i].inner {
			continue
		}
		var form [40]byte
		n, digits := 0, 0
		for j := i; j < len(s.words) && j < i+maxGrouping; j++ {
			w := s.textOf(j)
			if s.words[j].dated || j > i && !s.words[j].digits && (j != i+1 || len(w) != 4) || n+len(w) > len(form) {
				break
			}
			for k := range len(w) {
				if c := w[k]; isWordByte(c) {
					form[n] = c
					n++
					if isDigit(c) {
						digits++
					}
				}
			}
			if n >= minCompact && digits >= minNumeric {
				s.marks = append(s.marks, mark{hashOf(markCompact, string(form[:n])), markCompact, uint32(i), uint32(j), s.words[i].start, s.words[j].end})
				if j == i {
					s.words[i].inner = false
				}
			}
			if sep := s.between(j); len(sep) > 2 || strings.Trim(sep, " -./()+") != "" {
				break
			}
		}
	}
}
