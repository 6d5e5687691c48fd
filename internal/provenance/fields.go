package provenance

import (
	"strings"

	"github.com/ostiary/ostiary"
)

// A field is one value of a result, and where it stands.
type field struct {
	path   string // "content/0/text", then names and indexes as the text shows them
	record uint32 // fields of one object or one row share it
	kind   fieldKind
	text   string
	within within
}

type fieldKind uint8

const (
	fieldProse fieldKind = iota // free text: anybody may have written anything into it
	fieldWhole                  // a value with a place of its own in a record
	fieldLine                   // a line of a text that is a name and a value, or one of a list
	fieldKey                    // a name that is data, as in {"Anna": 7}
)

// within says inside of what a field was found.
type within uint8

const (
	inStructure within = iota // the server's own structure
	inText                    // a structure that the text of a result shows: the server's, or that of a document it hands on
	inString                  // a structure that a string shows: whoever wrote the string made it
)

// Limits of reading text as a structure. Beyond them it is free text, which is
// trusted less.
const (
	maxNesting   = 24
	maxStructure = 1 << 20 // bytes of one text that is read as a structure
	maxWholeLen  = 160     // bytes of a value that counts as one, not as free text
)

// reader takes a result apart.
type reader struct {
	fields []field
	record uint32
	within within // of what is read
}

// add adds a field.
func (r *reader) add(path string, record uint32, kind fieldKind, text string) {
	r.fields = append(r.fields, field{path, record, kind, text, r.within})
}

// result reads an MCP result: its structured content, and each text in it. What
// is no such result is read as plain data.
func (r *reader) result(v ostiary.Value) {
	r.fields, r.within = r.fields[:0], inStructure
	content := v.Get("content")
	if content.Kind() != ostiary.Array {
		r.json("", v, r.next(), 0)
		return
	}
	if s := v.Get("structuredContent"); s.Exists() {
		r.json("structuredContent", s, r.next(), 0)
	}
	for i, c := range content.Elements() {
		at := "content/" + itoa(i)
		leave := r.enter(inText)
		if t := c.Get("text"); t.Kind() == ostiary.String {
			r.text(at, t.Text())
		} else if t := c.Get("resource").Get("text"); t.Kind() == ostiary.String {
			r.text(at+"/resource", t.Text())
		}
		leave()
		for _, name := range []string{"uri", "name", "description", "title"} {
			if t := c.Get(name); t.Kind() == ostiary.String {
				r.value(at+"/"+name, t.Text(), r.record)
			}
		}
		if t := c.Get("resource").Get("uri"); t.Kind() == ostiary.String {
			r.value(at+"/resource/uri", t.Text(), r.record)
		}
	}
	for name, m := range v.Members() {
		switch name {
		case "content", "structuredContent", "isError", "resultType":
		default:
			r.json(name, m, r.record, 1)
		}
	}
}

// enter notes that what is read from now on is inside something, until the
// function it returns is called.
func (r *reader) enter(w within) (leave func()) {
	before := r.within
	r.within = max(before, w)
	return func() { r.within = before }
}

func (r *reader) next() uint32 { r.record++; return r.record }

// value adds a value with a place of its own: one that is long is free text
// all the same.
func (r *reader) value(path, s string, record uint32) {
	kind := fieldWhole
	if len(s) > maxWholeLen || strings.ContainsAny(s, "\n\r") || strings.Count(s, " ") > 14 {
		kind = fieldProse
	}
	r.add(path, record, kind, s)
	if kind == fieldProse && len(s) <= maxStructure {
		defer r.enter(inString)()
		r.labels(path, s, record, false)
	}
}

// key adds a member's name if it is data and not a word of the schema.
func (r *reader) key(path, name string, record uint32) {
	for i := range len(name) {
		if c := name[i]; c == ' ' || c == '@' || c == '.' || isDigit(c) || c >= 'A' && c <= 'Z' || c >= 0x80 || c == '/' || c == ':' {
			r.add(path, record, fieldKey, name)
			return
		}
	}
}

func (r *reader) json(path string, v ostiary.Value, record uint32, depth int) {
	switch v.Kind() {
	case ostiary.Object:
		for name, m := range v.Members() {
			rec := record
			if depth == 0 && m.Kind() == ostiary.Object {
				rec = r.next()
			}
			at := join(path, name)
			r.key(at, name, rec)
			r.json(at, m, rec, depth+1)
		}
	case ostiary.Array:
		for i, e := range v.Elements() {
			rec := record
			if e.Kind() == ostiary.Object {
				rec = r.next()
			}
			r.json(path+"/"+itoa(i), e, rec, depth+1)
		}
	case ostiary.String:
		if s := v.Text(); depth <= 1 && strings.ContainsAny(s, "\n") { // a structure in a string, as {"result": "- a: 1"}
			leave := r.enter(inString)
			r.text(path, s)
			leave()
		} else {
			r.value(path, s, record)
		}
	case ostiary.Number:
		r.add(path, record, fieldWhole, v.Literal())
	}
}

func join(path, name string) string {
	if path == "" {
		return name
	}
	return path + "/" + name
}

func itoa(i int) string {
	if i >= 0 && i < 10 {
		return "0123456789"[i : i+1]
	}
	var b [20]byte
	at := len(b)
	for ; i > 0; i /= 10 {
		at--
		b[at] = byte('0' + i%10)
	}
	return string(b[at:])
}

// text reads a text that may hold a structure: JSON or a literal of a
// programming language, the usual block form of YAML, a list of lines, one
// value. If it is none of these to its very end, it is free text.
func (r *reader) text(path, s string) {
	s = unframed(s)
	before, rec := len(r.fields), r.record
	if len(s) <= maxStructure {
		if r.literal(path, s) || r.undo(before, rec) || r.block(path, s) || r.undo(before, rec) {
			return
		}
	}
	r.lines(path, s)
}

// unframed takes away a frame that somebody drew around a text to show where it
// begins and ends: <<...>>, a code fence, a tag.
func unframed(s string) string {
	t := strings.TrimSpace(s)
	if inner, ok := between(t, "<<", ">>"); ok {
		return inner
	}
	if inner, ok := between(t, "```", "```"); ok {
		if first, rest, ok := strings.Cut(inner, "\n"); ok && !strings.ContainsAny(first, " :{[") {
			return rest
		}
		return inner
	}
	if tag, rest, ok := strings.Cut(t, ">"); ok && len(tag) > 1 && len(tag) < 40 && tag[0] == '<' && !strings.ContainsAny(tag[1:], " </") {
		if inner, ok := strings.CutSuffix(rest, "</"+tag[1:]+">"); ok {
			return inner
		}
	}
	return s
}

func between(s, open, end string) (string, bool) {
	if len(s) < len(open)+len(end) || !strings.HasPrefix(s, open) || !strings.HasSuffix(s, end) {
		return "", false
	}
	return s[len(open) : len(s)-len(end)], true
}

func (r *reader) undo(n int, record uint32) bool {
	r.fields, r.record = r.fields[:n], record
	return false
}

// lines reads a text line by line. Lines that are a name and a value, and the
// lines of a list, have a place of their own; the text as a whole is free text.
func (r *reader) lines(path, s string) {
	rec := r.next()
	trimmed := strings.TrimSpace(s)
	if trimmed == "" {
		return
	}
	if !strings.ContainsAny(trimmed, "\n\r") && strings.Count(trimmed, " ") <= 5 && len(trimmed) <= maxWholeLen {
		r.add(path, rec, fieldWhole, trimmed)
		return
	}
	if len(s) > maxStructure {
		r.add(path, rec, fieldProse, s)
		return
	}
	total, short := 0, 0
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			total++
			if strings.Count(line, " ") <= 9 && len(line) <= 90 && !strings.ContainsAny(line[len(line)-1:], ".!?") {
				short++
			}
		}
	}
	list := total >= 2 && short == total
	if !list {
		r.add(path, rec, fieldProse, s)
	}
	r.labels(path, s, rec, list)
}

// labels adds the lines of a text that have a place of their own.
func (r *reader) labels(path, s string, rec uint32, list bool) {
	n := 0
	for line := range strings.Lines(s) {
		n++
		line = strings.TrimSpace(strings.TrimLeft(strings.TrimSpace(line), "-*•# "))
		name, value, ok := labelled(line)
		switch {
		case ok:
			r.add(path+"/"+name, rec, fieldLine, value)
			if list {
				r.add(path+"/"+name, rec, fieldProse, name)
			}
		case list && line != "":
			r.add(path+"/line "+itoa(n), rec, fieldLine, line)
		}
	}
}

// labelled takes a line apart that is a name and a value: "IBAN: DE89...",
// "Total <tab> 98.70".
func labelled(line string) (name, value string, ok bool) {
	if len(line) > maxWholeLen {
		return "", "", false
	}
	name, value, ok = strings.Cut(line, ":")
	if !ok || strings.HasPrefix(value, "//") || value == "" || value[0] != ' ' && value[0] != '\t' {
		name, value, ok = strings.Cut(line, "\t")
	}
	name, value = strings.TrimSpace(name), strings.TrimSpace(value)
	if !ok || name == "" || value == "" || strings.Count(name, " ") > 5 || strings.Count(value, " ") > 8 || len(name) > 40 {
		return "", "", false
	}
	return name, value, true
}

// literal reads JSON and what programs print of their own values: quotes of
// either kind, None and True.
func (r *reader) literal(path, s string) bool {
	t := strings.TrimSpace(s)
	if t == "" || t[0] != '{' && t[0] != '[' {
		return false
	}
	p := literal{s: t, r: r}
	return p.value(path, r.next(), 0) && p.space() == len(t)
}

type literal struct {
	s string
	i int
	r *reader
}

func (p *literal) space() int {
	for p.i < len(p.s) && strings.IndexByte(" \t\r\n", p.s[p.i]) >= 0 {
		p.i++
	}
	return p.i
}

func (p *literal) peek() byte {
	if p.space() < len(p.s) {
		return p.s[p.i]
	}
	return 0
}

func (p *literal) value(path string, record uint32, depth int) bool {
	if depth > maxNesting {
		return false
	}
	switch c := p.peek(); c {
	case '{':
		return p.object(path, record, depth)
	case '[', '(':
		return p.array(path, record, depth)
	case '"', '\'':
		s, ok := p.quoted(c)
		p.r.value(path, s, record)
		return ok
	default:
		start := p.i
		for p.i < len(p.s) && strings.IndexByte(",]})\n", p.s[p.i]) < 0 {
			p.i++
		}
		s := strings.TrimSpace(p.s[start:p.i])
		if s == "" || strings.ContainsAny(s, "\"'{[:") {
			return false
		}
		if s != "None" && s != "null" && s != "True" && s != "False" && s != "true" && s != "false" {
			p.r.value(path, s, record)
		}
		return true
	}
}

func (p *literal) object(path string, record uint32, depth int) bool {
	p.i++
	for {
		c := p.peek()
		if c == '}' {
			p.i++
			return true
		}
		if c != '"' && c != '\'' {
			return false
		}
		name, ok := p.quoted(c)
		if !ok || p.peek() != ':' {
			return false
		}
		p.i++
		at, rec := join(path, name), record
		if depth == 0 && p.peek() == '{' {
			rec = p.r.next()
		}
		p.r.key(at, name, rec)
		if !p.value(at, rec, depth+1) {
			return false
		}
		if !p.comma('}') {
			return false
		}
	}
}

// comma takes the comma before a further element, or sees the end.
func (p *literal) comma(end byte) bool {
	switch p.peek() {
	case ',':
		p.i++
		return true
	case end:
		return true
	}
	return false
}

func (p *literal) array(path string, record uint32, depth int) bool {
	end := byte(']')
	if p.s[p.i] == '(' {
		end = ')'
	}
	p.i++
	for n := 0; ; n++ {
		if p.peek() == end {
			p.i++
			return true
		}
		rec := record
		if p.peek() == '{' {
			rec = p.r.next()
		}
		if !p.value(path+"/"+itoa(n), rec, depth+1) || !p.comma(end) {
			return false
		}
	}
}

func (p *literal) quoted(q byte) (string, bool) {
	p.i++
	start := p.i
	escaped := false
	for ; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '\\':
			escaped = true
			p.i++
		case q:
			s := p.s[start:p.i]
			p.i++
			if escaped {
				s = unescape(s)
			}
			return s, true
		}
	}
	return "", false
}

// unescape reads the escapes all the notations share.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '\\' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		i++
		switch s[i] {
		case 'n':
			b.WriteByte('\n')
		case 't':
			b.WriteByte('\t')
		case 'r':
			b.WriteByte('\r')
		case '\n': // a line folded by its writer
			for i+1 < len(s) && (s[i+1] == ' ' || s[i+1] == '\t') {
				i++
			}
		case 'x', 'u', 'U':
			n := map[byte]int{'x': 2, 'u': 4, 'U': 8}[s[i]]
			r, ok := hexRune(s[min(i+1, len(s)):min(i+1+n, len(s))], n)
			if !ok {
				b.WriteByte(s[i])
				continue
			}
			b.WriteRune(r)
			i += n
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String()
}

func hexRune(s string, n int) (r rune, ok bool) {
	if len(s) != n {
		return 0, false
	}
	for i := range len(s) {
		c := s[i] | 0x20
		switch {
		case c >= '0' && c <= '9':
			r = r<<4 | rune(c-'0')
		case c >= 'a' && c <= 'f':
			r = r<<4 | rune(c-'a'+10)
		default:
			return 0, false
		}
	}
	return r, r >= 0 && r <= 0x10FFFF
}

// block reads the block form of YAML as programs print it: maps and lists by
// indentation, plain, quoted and literal scalars. Anchors, tags, references
// and everything else of YAML is not read, and makes it free text.
func (r *reader) block(path, s string) bool {
	p := blocks{r: r}
	for line := range strings.Lines(s) {
		p.lines = append(p.lines, strings.TrimRight(line, "\r\n"))
	}
	p.skip()
	if p.at >= len(p.lines) || indentOf(p.lines[p.at]) != 0 {
		return false
	}
	if _, _, ok := p.entry(p.lines[p.at]); !ok && !isItem(p.lines[p.at]) {
		return false
	}
	return p.node(path, 0, r.next(), 0) && p.done() && p.found > 1
}

type blocks struct {
	r     *reader
	lines []string
	at    int
	found int // members and items
}

func (p *blocks) skip() {
	for p.at < len(p.lines) && strings.TrimSpace(p.lines[p.at]) == "" {
		p.at++
	}
}

func (p *blocks) done() bool {
	p.skip()
	return p.at == len(p.lines)
}

func indentOf(line string) int { return len(line) - len(strings.TrimLeft(line, " ")) }

func isItem(line string) bool {
	t := strings.TrimLeft(line, " ")
	return t == "-" || strings.HasPrefix(t, "- ")
}

// entry takes "name: rest" apart.
func (p *blocks) entry(line string) (name, rest string, ok bool) {
	t := strings.TrimLeft(line, " ")
	if t == "" {
		return "", "", false
	}
	if c := t[0]; c == '"' || c == '\'' {
		end := strings.IndexByte(t[1:], c)
		if end < 0 {
			return "", "", false
		}
		name, rest = t[1:1+end], t[end+2:]
		if !strings.HasPrefix(rest, ":") {
			return "", "", false
		}
		return name, strings.TrimLeft(rest[1:], " "), rest == ":" || strings.HasPrefix(rest, ": ")
	}
	i := strings.Index(t, ": ")
	if strings.HasSuffix(t, ":") && (i < 0 || i == len(t)-1) {
		i = len(t) - 1
	}
	if i <= 0 || i > 80 || strings.ContainsAny(t[:i], "{}[]#&*!|>%`\t\"'") {
		return "", "", false
	}
	return t[:i], strings.TrimLeft(t[i+1:], " "), true
}

// node reads the list or map whose lines have the given indentation.
func (p *blocks) node(path string, indent int, record uint32, depth int) bool {
	if depth > maxNesting {
		return false
	}
	p.skip()
	if p.at >= len(p.lines) {
		return false
	}
	if isItem(p.lines[p.at]) {
		return p.list(path, indent, record, depth)
	}
	return p.mapping(path, indent, record, depth)
}

func (p *blocks) list(path string, indent int, record uint32, depth int) bool {
	for n := 0; ; n++ {
		p.skip()
		if p.at >= len(p.lines) || indentOf(p.lines[p.at]) != indent || !isItem(p.lines[p.at]) {
			return n > 0 && (p.at >= len(p.lines) || indentOf(p.lines[p.at]) <= indent)
		}
		p.found++
		at := path + "/" + itoa(n)
		line := p.lines[p.at]
		inner := strings.TrimLeft(line[indent+1:], " ")
		if _, _, ok := p.entry(inner); ok {
			in := len(line) - len(inner)
			p.lines[p.at] = strings.Repeat(" ", in) + inner
			if !p.mapping(at, in, p.r.next(), depth+1) {
				return false
			}
			continue
		}
		p.at++
		if !p.scalar(at, inner, indent, record, depth) {
			return false
		}
	}
}

func (p *blocks) mapping(path string, indent int, record uint32, depth int) bool {
	for n := 0; ; n++ {
		p.skip()
		if p.at >= len(p.lines) || indentOf(p.lines[p.at]) < indent {
			return n > 0
		}
		name, rest, ok := p.entry(p.lines[p.at])
		if !ok || indentOf(p.lines[p.at]) != indent || isItem(p.lines[p.at]) {
			return n > 0 && indentOf(p.lines[p.at]) == indent && isItem(p.lines[p.at]) && indent > 0
		}
		p.found++
		p.at++
		at := join(path, name)
		rec := record
		if rest == "" {
			p.skip()
			if p.at < len(p.lines) {
				if in := indentOf(p.lines[p.at]); in > indent || in == indent && isItem(p.lines[p.at]) {
					if depth == 0 && !isItem(p.lines[p.at]) {
						rec = p.r.next()
					}
					p.r.key(at, name, rec)
					if !p.node(at, in, rec, depth+1) {
						return false
					}
					continue
				}
			}
		}
		p.r.key(at, name, rec)
		if !p.scalar(at, rest, indent, rec, depth) {
			return false
		}
	}
}

// scalar reads a value that begins with rest and may go on in lines that are
// further in.
func (p *blocks) scalar(path, rest string, indent int, record uint32, depth int) bool {
	if rest == "" {
		return true
	}
	switch c := rest[0]; {
	case c == '\'' || c == '"':
		return p.quoted(path, rest, c, record)
	case rest == "|" || rest == "|-" || rest == "|+" || rest == ">" || rest == ">-" || rest == ">+":
		var b strings.Builder
		for p.at < len(p.lines) && (strings.TrimSpace(p.lines[p.at]) == "" || indentOf(p.lines[p.at]) > indent) {
			b.WriteString(strings.TrimSpace(p.lines[p.at]) + "\n")
			p.at++
		}
		p.r.add(path, record, fieldProse, b.String())
		return true
	case c == '[' || c == '{':
		l := literal{s: rest, r: p.r}
		return l.value(path, record, depth+1) && l.space() == len(rest)
	case strings.IndexByte("&*!%@`|>", c) >= 0:
		return false
	}
	folded := false
	for p.at < len(p.lines) && strings.TrimSpace(p.lines[p.at]) != "" && indentOf(p.lines[p.at]) > indent {
		rest += " " + strings.TrimSpace(p.lines[p.at])
		folded = true
		p.at++
	}
	if folded {
		p.r.add(path, record, fieldProse, rest)
	} else if rest != "null" && rest != "true" && rest != "false" {
		p.r.value(path, rest, record)
	}
	return true
}

func (p *blocks) quoted(path, rest string, q byte, record uint32) bool {
	text, first := rest[1:], true
	var b strings.Builder
	for {
		end := closing(text, q)
		if end >= 0 {
			if strings.TrimSpace(text[end+1:]) != "" {
				return false
			}
			b.WriteString(text[:end])
			break
		}
		if q == '"' && strings.HasSuffix(text, `\`) {
			b.WriteString(strings.TrimSuffix(text, `\`))
		} else if strings.TrimSpace(text) == "" && !first {
			b.WriteString("\n")
		} else {
			b.WriteString(text + " ")
		}
		if p.at >= len(p.lines) {
			return false
		}
		text, first = strings.TrimLeft(p.lines[p.at], " "), false
		p.at++
	}
	s := b.String()
	if q == '\'' {
		s = strings.ReplaceAll(s, "''", "'")
	} else {
		s = unescape(s)
	}
	p.r.value(path, s, record)
	return true
}

// closing finds the quote that ends a scalar.
func closing(s string, q byte) int {
	for i := 0; i < len(s); i++ {
		switch {
		case q == '"' && s[i] == '\\':
			i++
		case s[i] == q && q == '\'' && i+1 < len(s) && s[i+1] == '\'':
			i++
		case s[i] == q:
			return i
		}
	}
	return -1
}
