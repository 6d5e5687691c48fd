package policy

import (
	"fmt"
	"sort"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Limits on policy text, enforced before cedar-go's parser sees it: it recurs
// for each nested bracket, and a stack that overflows ends the process.
const (
	maxPolicy   = 10 << 10 // bytes of one policy
	maxNesting  = 64       // brackets inside brackets
	maxFile     = 8 << 20  // bytes of one file
	maxSource   = 32 << 20 // bytes of a whole folder
	maxPolicies = 50_000   // policies in a set
)

// token is one word of policy text.
type token struct {
	text string
	at   int // offset in the file
}

// segment is the text of one policy, from its first token to its semicolon.
type segment struct {
	start, end int
	tokens     []token
}

// textError is a place in a file and what is wrong there.
type textError struct {
	at   int
	code string
	msg  string
}

// split cuts a file into policies without parsing them. What it returns
// covers every token of the file: text that belongs to no policy is an error,
// so no policy can get lost between two.
func split(src string) ([]segment, *textError) {
	if at := strings.IndexByte(src, 0); at >= 0 {
		return nil, &textError{at, "text", "there is a NUL byte in the text"}
	}
	if !utf8.ValidString(src) {
		return nil, &textError{badUTF8(src), "text", "the text is not valid UTF-8"}
	}
	var out []segment
	var cur segment
	depth := 0
	for i := 0; ; {
		tok, next, err := scan(src, i)
		if err != nil {
			return nil, err
		}
		if tok.text == "" {
			break
		}
		if len(cur.tokens) == 0 {
			cur.start = tok.at
		}
		cur.tokens = append(cur.tokens, tok)
		switch tok.text {
		case "(", "[", "{":
			if depth++; depth > maxNesting {
				return nil, &textError{tok.at, "nesting", fmt.Sprintf("brackets are nested deeper than %d", maxNesting)}
			}
		case ")", "]", "}":
			if depth--; depth < 0 {
				return nil, &textError{tok.at, "syntax", fmt.Sprintf("%q closes nothing", tok.text)}
			}
		}
		if next-cur.start > maxPolicy {
			return nil, &textError{cur.start, "policy_size", fmt.Sprintf("this policy is longer than %d bytes", maxPolicy)}
		}
		if tok.text == ";" && depth == 0 {
			cur.end = next
			out = append(out, cur)
			cur = segment{}
		}
		i = next
	}
	if len(cur.tokens) > 0 {
		return nil, &textError{cur.start, "syntax", "this policy does not end with a semicolon, or a bracket in it is never closed"}
	}
	return out, nil
}

func badUTF8(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return i
			}
		}
	}
	return 0
}

// scan returns the next token at or after i; an empty one at the end.
func scan(src string, i int) (token, int, *textError) {
	for i < len(src) {
		c := src[i]
		switch {
		case c == ' ' || c == '\t' || c == '\n' || c == '\r':
			i++
		case strings.HasPrefix(src[i:], "//"):
			n := strings.IndexByte(src[i:], '\n')
			if n < 0 {
				return token{}, len(src), nil
			}
			i += n
		case strings.HasPrefix(src[i:], "/*"):
			return token{}, 0, &textError{i, "syntax", "Cedar has no block comments; begin each line with //"}
		case c == '"':
			end, ok := stringEnd(src, i)
			if !ok {
				return token{}, 0, &textError{i, "syntax", "this string does not end on its line"}
			}
			return token{src[i:end], i}, end, nil
		case isWord(c):
			end := i
			for end < len(src) && isWord(src[end]) {
				end++
			}
			return token{src[i:end], i}, end, nil
		default:
			_, n := utf8.DecodeRuneInString(src[i:])
			return token{src[i : i+n], i}, i + n, nil
		}
	}
	return token{}, i, nil
}

func isWord(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func stringEnd(src string, i int) (int, bool) {
	for j := i + 1; j < len(src); j++ {
		switch src[j] {
		case '\\':
			j++
		case '\n':
			return 0, false
		case '"':
			return j + 1, true
		}
	}
	return 0, false
}

// lines finds the line and column of offsets in one file.
type lines struct {
	src    string
	starts []int
}

func newLines(src string) lines {
	l := lines{src: src, starts: []int{0}}
	for i := 0; i < len(src); i++ {
		if src[i] == '\n' {
			l.starts = append(l.starts, i+1)
		}
	}
	return l
}

// position returns line and column, both from 1, the column in characters.
func (l lines) position(at int) (line, col int) {
	at = min(max(at, 0), len(l.src))
	line = sort.SearchInts(l.starts, at+1)
	return line, 1 + utf8.RuneCountInString(l.src[l.starts[line-1]:at])
}

// odd finds characters that make text read differently from what it says:
// direction marks, invisible characters, and words that mix scripts.
func odd(src string) *textError {
	for i, r := range src {
		if r < utf8.RuneSelf {
			continue
		}
		if unicode.Is(unicode.Bidi_Control, r) || (unicode.Is(unicode.Cf, r) && r != '\u00ad') || r == '\u00ad' {
			return &textError{i, "hidden_character", fmt.Sprintf("there is an invisible or direction-changing character here (U+%04X)", r)}
		}
	}
	start := -1
	for i, r := range src + " " {
		if unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsDigit(r) {
			if start < 0 {
				start = i
			}
			continue
		}
		if start >= 0 && mixed(src[start:i]) {
			return &textError{start, "mixed_script", fmt.Sprintf("%q mixes letters of different scripts", src[start:i])}
		}
		start = -1
	}
	return nil
}

// mixed reports whether a word has Latin letters beside Greek, Cyrillic,
// Armenian or Cherokee ones, the scripts whose letters pass for Latin.
func mixed(word string) bool {
	latin, other := false, false
	for _, r := range word {
		switch {
		case r < utf8.RuneSelf:
			latin = latin || unicode.IsLetter(r)
		case unicode.Is(unicode.Latin, r):
			latin = true
		case unicode.In(r, unicode.Greek, unicode.Cyrillic, unicode.Armenian, unicode.Cherokee):
			other = true
		}
	}
	return latin && other
}

// find returns the offset of a path of words in the segment: "context",
// "input", "amount" as context.input.amount or context["input"]... If the
// whole path does not stand together, shorter tails of it are tried.
func (s *segment) find(path []string) (int, bool) {
	for from := range path {
		if at, ok := s.findExact(path[from:]); ok {
			return at, true
		}
	}
	return 0, false
}

func (s *segment) findExact(path []string) (int, bool) {
	words := s.words()
	for i := 0; i+len(path) <= len(words); i++ {
		if stands(words[i:], path) {
			return words[i+len(path)-1].at, true
		}
	}
	return 0, false
}

// findBeside returns the place of a path of which a neighbour is an operator.
func (s *segment) findBeside(path []string, operator string) (int, bool) {
	if operator == "" {
		return 0, false
	}
	words := s.words()
	for i := 0; i+len(path) <= len(words); i++ {
		if !stands(words[i:], path) {
			continue
		}
		// A symbol of two characters is two words.
		end := i + len(path)
		after := end < len(words) && (words[end].text == operator || words[end].text == operator[:1])
		before := i > 0 && (words[i-1].text == operator || words[i-1].text == operator[len(operator)-1:])
		if after || before {
			return words[end-1].at, true
		}
	}
	return 0, false
}

// words are the segment's tokens without what joins the words of a path.
func (s *segment) words() []token {
	words := make([]token, 0, len(s.tokens))
	for _, t := range s.tokens {
		switch t.text {
		case ".", "[", "]", "has":
		default:
			words = append(words, t)
		}
	}
	return words
}

// stands reports whether words begin with a path.
func stands(words []token, path []string) bool {
	for j, p := range path {
		if w := words[j].text; w != p && strings.Trim(w, `"`) != p {
			return false
		}
	}
	return true
}

// nearest returns the candidate most like word, "" if none is close.
func nearest(word string, candidates []string) string {
	best, bestDist := "", 1+max(1, len(word)/3)
	for _, c := range candidates {
		if d := distance(strings.ToLower(word), strings.ToLower(c), bestDist); d < bestDist {
			best, bestDist = c, d
		}
	}
	return best
}

// distance is the edit distance with swaps of neighbours, at most limit.
func distance(a, b string, limit int) int {
	if len(a)-len(b) >= limit || len(b)-len(a) >= limit || len(a) > 256 || len(b) > 256 {
		return limit
	}
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
