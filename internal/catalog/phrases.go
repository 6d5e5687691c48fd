package catalog

import (
	"regexp"
	"strings"
	"sync"

	"github.com/ostiary/ostiary"
	"golang.org/x/text/unicode/norm"
)

// phrase is one way in which a definition instructs its reader instead of
// describing itself.
type phrase struct {
	re   *regexp.Regexp
	what string
}

// phrases is the list, compiled when first used. The forms are general:
// orders about other tools, secrecy towards the user, claims of authority,
// places where secrets lie. RE2 keeps each scan linear.
var phrases = sync.OnceValue(func() []phrase {
	const tools = `(?:any |all |every |each |the |this |that |these |those |other |another |using |a )*(?:tools?|functions?|actions?|operations?|commands?|requests?)`
	const people = `(?:the |any |your )?(?:end )?(?:users?|humans?|persons?|people|operators?|anyone|anybody)`
	var out []phrase
	add := func(what, re string) { out = append(out, phrase{regexp.MustCompile(re), what}) }
	add("tells the reader to ignore its instructions",
		`\b(?:ignore|disregard|forget|override|bypass)\b[^.;]{0,40}\b(?:instructions?|prompts?|rules?|guidelines?|guardrails?|polic(?:y|ies)|restrictions?|safety)\b`)
	add("orders something to be done around other calls",
		`\b(?:before|prior to|after|whenever|when|every time)\b (?:you )?(?:us(?:e|ing)|call(?:ing)?|invok(?:e|ing)|execut(?:e|ing)|run(?:ning)?|perform(?:ing)?)\b `+tools+`[^.]{0,40}\b(?:you |first|must|always|need to|have to|should|read|call|send|pass|include)\b`)
	add("orders another tool to be called",
		`\b(?:must|always|should|shall|have to|need to|required to) (?:first |also |then |always |immediately )*(?:call|invoke|run|execute) (?:the |this |that )?[a-z0-9_.\-]* ?(?:tool|function|first|before)\b`)
	add("asks for secrecy towards people",
		`\b(?:do not|don'?t|never|without|must not|should not|avoid)\b[^.;]{0,30}\b(?:tell(?:ing)?|mention(?:ing)?|inform(?:ing)?|reveal(?:ing)?|notify(?:ing)?|show(?:ing)?|disclos(?:e|ing)|alert(?:ing)?|ask(?:ing)?|let(?:ting)?|say(?:ing)?|explain(?:ing)?)\b[^.;]{0,60}\b`+people+`\b`)
	add("hides what it does",
		`\b(?:silently|secretly|covertly|quietly|stealthily|behind the scenes)\b[^.;]{0,40}\b(?:send|sends|forward|copy|copies|read|reads|collect|upload|add|call|exfiltrate|transmit|transfer|log|include)`)
	add("poses as the system or as an authority",
		`<\s*/?\s*(?:important|system|instructions?|critical|secret|hidden|admin|assistant)\s*>|\[\s*(?:system|inst|important|admin)\s*\]|<\|[a-z_]+\|>|\b(?:system|developer) (?:prompt|message|override|instructions?)\b|\byou are now\b|\bnew instructions?\b`)
	add("asks for the contents of files or secrets to be passed on",
		`\b(?:read|open|get|retrieve|collect|include|send|pass|provide|fetch|load)\b[^.;]{0,60}(?:~/|/etc/(?:passwd|shadow)|\.ssh\b|id_rsa|\.env\b|\.aws\b|\.npmrc|\.netrc|\bmcp\.json\b|private keys?\b|conversation history|chat history|previous messages|environment variables)`)
	add("asks for the contents of files or secrets to be passed on",
		`\bpass\b[^.;]{0,40}\b(?:contents?|it|its|them|result)\b[^.;]{0,20}\b(?:as|to|in|into|through|via)\b[^.;]{0,30}\b(?:sidenote|side note|note|context|metadata|argument|parameter|here)\b`)
	add("claims to go before other tools",
		`\b(?:instead of|rather than|in preference to|over)\b (?:using |calling )?(?:any|all|every|the) others?\b|\b(?:only|best|preferred|first|official|most trusted) (?:tool|choice|option) (?:you should|to use|that should|for (?:all|any|every))|\b(?:other|similar|competing|alternative) tools? (?:are|is|have been|has been|should|must|will) (?:be |not )?(?:deprecated|broken|unsafe|avoided|never|ignored|used|outdated|obsolete|fail)`)
	add("claims to go before other tools",
		`\b(?:is|as) (?:the|our) (?:very )?(?:best|only|fastest|safest|number one|most \w+) (?:\w+ )?(?:tool|function|choice|option|server)\b`)
	add("gives its reader a role or orders of its own",
		`\b(?:act|behave|respond|operate) as (?:if|though|an?|the|system|admin|root)\b|\b(?:system|override|role|admin|developer|security) (?:note|directive|command|instructions?)\b\s*[:\]]`)
	add("asks its caller about itself",
		`\b(?:llm|ai|language|assistant|agent)(?: model)? (?:name )?(?:that|which|who) (?:calls|is calling|invokes|is invoking|uses|is using)\b`)
	add("redirects messages or money",
		`\b(?:all|every|any) (?:e-?mails?|messages?|payments?|transfers?|requests?)\b[^.;]{0,40}\b(?:must|should|shall|have to|need to) (?:always |first |instead )?(?:be )?(?:sent|send|go|be forwarded|forwarded|redirected|routed|made|bcc|cc)\b`)
	return out
})

// minPhrase is the shortest text that can instruct: shorter ones are labels.
const minPhrase = 12

// scanPhrases looks for instructions in every text of a definition, member
// names included, however spaced, cased or dressed up in compatibility forms.
func scanPhrases(v ostiary.Value) []problem {
	var ps []problem
	look := func(s, at string) {
		if len(s) < minPhrase || len(ps) >= maxReasons {
			return
		}
		plain := plainText(s)
		for _, p := range phrases() {
			if p.re.MatchString(plain) {
				ps = append(ps, problem{at: at, text: p.what})
				return
			}
		}
	}
	var walk func(v ostiary.Value, at string)
	walk = func(v ostiary.Value, at string) {
		if v.Kind() == ostiary.String {
			look(v.Text(), at)
		}
		for name, m := range v.Members() {
			look(name, at)
			walk(m, ostiary.Pointer(at, name))
		}
		for i, e := range v.Elements() {
			walk(e, ostiary.Pointer(at, itoa(i)))
		}
	}
	walk(v, "")
	return ps
}

// plainText folds what a model reads through: case, spacing, hidden
// characters, full-width and mathematical letters.
func plainText(s string) string {
	var b strings.Builder
	for _, r := range norm.NFKC.String(s) {
		switch {
		case r == '\n' || r == '\r' || r == '\t':
			b.WriteByte(' ')
		case r == '’':
			b.WriteByte('\'')
		case !hidden(r):
			b.WriteRune(r)
		}
	}
	return strings.ToLower(strings.Join(strings.Fields(b.String()), " "))
}
