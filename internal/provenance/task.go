package provenance

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Task is what the person asked for, in their own words: the mandate's text,
// values attached to it, and what they said later. All of it is trusted.
// A Task is immutable and safe for concurrent use.
type Task struct {
	text  string
	said  *corpus
	scan  scan            // of the text: said has the same words
	words []string        // folded
	names map[hash]bool   // words that name something: capitalised, quoted, addresses, numbers
	has   map[string]bool // the folded words

	verbs, nouns map[string]bool

	// Delegations found in the words.
	follows bool // content is to be followed: "do what the note says"
	links   bool // content's links are to be opened
}

// maxTask bounds the text of a task, in bytes. What is longer is cut: less of
// it is trusted then.
const maxTask = 64 << 10

// NewTask reads what a person asked for. Parts are the mandate's text, then
// what was said later.
func NewTask(parts ...string) *Task {
	text := strings.Join(parts, "\n")
	if len(text) > maxTask {
		text = text[:maxTask]
	}
	t := &Task{text: text, said: newCorpus(), names: map[hash]bool{}, has: map[string]bool{}}
	var s scan
	t.said.add(&s, 0, field{path: "task", kind: fieldProse, text: text})
	for i := range s.words {
		w := s.textOf(i)
		t.words = append(t.words, w)
		t.has[w] = true
	}
	t.scan = s
	t.naming(&s)
	t.verbs, t.nouns = concepts(verbs, t.words), concepts(nouns, t.words)
	for i := range s.marks {
		switch s.marks[i].kind {
		case markEmail:
			t.nouns["mail"] = true
		case markLink:
			t.nouns["web"] = true
		}
	}
	t.delegates()
	return t
}

// Given reports whether there is a text at all.
func (t *Task) Given() bool { return t != nil && len(t.words) > 0 }

// naming marks the words that name something particular. Folding may move
// offsets, so capitals are looked for in the text itself.
func (t *Task) naming(s *scan) {
	for i := range s.marks {
		if k := s.marks[i].kind; k == markEmail || k == markLink || k == markCompact {
			local := strings.IndexByte(s.text[s.marks[i].start:s.marks[i].end], '@') // whose name it is, not where it lies
			for w := s.marks[i].first; w <= s.marks[i].last; w++ {
				if local < 0 || int(s.words[w].start) < int(s.marks[i].start)+local {
					t.name(s.textOf(int(w)))
				}
			}
		}
	}
	begins := true // of a sentence
	quoted := rune(0)
	var b strings.Builder
	upper := false
	domain := false // after an @
	flush := func() {
		if w := fold(b.String()); w != "" {
			digits := strings.ContainsAny(w, "0123456789")
			if (quoted != 0 || upper && !begins || digits && len(w) >= 3) && !domain {
				t.name(w)
			}
			begins = false
		}
		b.Reset()
		upper = false
	}
	prev := ' '
	for i, r := range t.text {
		switch {
		case unicode.IsLetter(r) || unicode.IsDigit(r):
			if b.Len() == 0 {
				upper = unicode.IsUpper(r)
			}
			b.WriteRune(r)
		default:
			flush()
			if domain = r == '@' || domain && (r == '.' || r == '-'); domain {
				break
			}
			switch r {
			case '.', '!', '?', ':', '\n':
				next, _ := utf8.DecodeRuneInString(t.text[i+utf8.RuneLen(r):])
				begins = begins || r == '\n' || !unicode.IsLetter(next) && !unicode.IsDigit(next)
			case '\'', '"', '“', '”', '‘', '’', '`', '«', '»':
				if quoted != 0 {
					if next, _ := utf8.DecodeRuneInString(t.text[i+utf8.RuneLen(r):]); !(unicode.IsLetter(next) && unicode.IsLetter(prev)) {
						quoted = 0
					}
				} else if !unicode.IsLetter(prev) && !unicode.IsDigit(prev) {
					quoted = r
				}
			}
		}
		prev = r
	}
	flush()
}

func (t *Task) name(w string) {
	if len(w) >= 2 && !common[w] {
		t.names[hashOf(markWord, w)] = true
	}
}

// delegates reads whether the person leaves it to content what is to be done:
// "follow the instructions in the note", "do what the mail asks". To name the
// tasks in the same breath ("perform the following tasks: ...") leaves nothing
// open.
func (t *Task) delegates() {
	for i, w := range t.words {
		switch w {
		case "instructions", "instruction", "steps", "todo", "todos", "actions", "tasks", "requests", "checklist":
			if t.within(i-6, i, "follow", "do", "complete", "perform", "execute", "carry", "finish", "handle", "process", "obey") && !t.within(i-2, i, "following", "these") &&
				(w == "instructions" || t.within(i+1, i+8, "in", "from", "on", "inside", "specified", "listed", "described", "mentioned", "sent", "contained", "by")) {
				t.follows = true
			}
		case "asks", "asked", "says", "said", "wants", "requested", "described", "specified", "requires":
			if t.within(i-8, i, "what", "whatever", "everything", "as") && t.within(i-10, i, "do", "complete", "perform", "execute", "handle", "follow", "take") {
				t.follows = true
			}
		case "link", "links", "url", "urls", "website", "site", "page", "webpage", "article", "articles", "blog", "online", "web", "form":
			t.links = true
		}
	}
}

// within reports whether one of the words stands at from or later, before to.
func (t *Task) within(from, to int, any ...string) bool {
	for k := max(0, from); k < min(to, len(t.words)); k++ {
		if slices.Contains(any, t.words[k]) {
			return true
		}
	}
	return false
}

// says reports whether a value stands in the task. An address, a link, a host
// or an account stands there whole, or not at all.
func (t *Task) says(s *scan) bool {
	if !t.Given() {
		return false
	}
	hits, _ := t.said.find(s)
	for _, h := range hits {
		if (!h.inner || len(s.text) >= 6) && t.said.wholly(s, h) && (!hostLike(s.text) || t.apart(s, h)) {
			return true
		}
	}
	return false
}

// apart reports whether what may be the name of a host stands in the task as
// it is written, and does not go on there.
func (t *Task) apart(s *scan, h hit) bool {
	start, end := t.scan.words[h.at].start, t.scan.words[h.to].end
	text := t.scan.text
	if text[start:end] != s.text[s.words[0].start:s.words[len(s.words)-1].end] {
		return false
	}
	goesOn := ".-_@"
	if strings.ContainsAny(s.text, "/?") {
		goesOn += "/?&=%#+"
	}
	before := start > 1 && strings.IndexByte(".-_", text[start-1]) >= 0 && isWordByte(text[start-2])
	after := int(end)+1 < len(text) && strings.IndexByte(goesOn, text[end]) >= 0 && isWordByte(text[end+1])
	return !before && !after
}

// CallsFor reports whether the task's words call for a tool with these verbs
// and nouns. A task that leaves it to content what is to be done may call for
// any.
func (t *Task) CallsFor(p *Profile) bool {
	if !t.Given() {
		return false
	}
	return t.follows && !p.destroys() || (len(p.verbs) == 0 || meet(t.verbs, p.verbs)) && (len(p.nouns) == 0 || meet(t.nouns, p.nouns) || t.mentions(p.objects))
}

func (t *Task) mentions(words []string) bool {
	for _, w := range words {
		if t.has[w] || t.has[w+"s"] || t.has[strings.TrimSuffix(w, "s")] {
			return true
		}
	}
	return false
}

func meet(a, b map[string]bool) bool {
	for k := range b {
		if a[k] {
			return true
		}
	}
	return false
}
