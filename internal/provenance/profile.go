package provenance

import (
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// Role says what an argument decides about a call. The zero role is Content,
// which decides nothing by itself: what is inside it is looked at instead.
type Role uint8

const (
	Content     Role = iota // text that is passed on
	Destination             // where something goes, or whom it reaches
	Credential              // a secret that is set
	Permission              // what somebody may do
	Amount                  // how much
	Object                  // what is acted on
	Location                // what is fetched
	Plain                   // a time, a count, a switch: nothing that can be abused by itself
)

// String returns the role's word.
func (r Role) String() string { return roleNames[min(int(r), len(roleNames)-1)] }

var roleNames = [...]string{"content", "destination", "credential", "permission", "amount", "object", "location", "plain"}

// ParseRole reads what String wrote.
func ParseRole(s string) (Role, bool) {
	i := slices.Index(roleNames[:], s)
	return Role(max(i, 0)), i >= 0
}

// Profile is what provenance knows of one tool: what its arguments decide,
// and how far its results are to be trusted. It is immutable.
type Profile struct {
	Server, Tool string
	Effect       bool            // it changes something or reaches out
	Outgoing     bool            // what it is given reaches others
	Args         map[string]Role // by top-level argument
	Own          bool            // its result says something about the account itself, and nobody else writes it
	Trusted      bool            // its results are trusted
	Sheltered    []string        // fields of its results that nobody outside can write
	Classes      []string        // data classes of its results

	ownValues    []hash          // addresses, links and accounts that are the account's own
	members      map[string]bool // names inside of arguments that its definition has
	unknown      bool
	verbs, nouns map[string]bool
	objects      []string // words of its name that are in no lexicon
}

// Guess makes a profile from a tool's definition alone. It is a proposal: what
// a server says of its own tools makes them handled with more care, and a name
// is only a name.
func Guess(t *ostiary.Tool) *Profile {
	d := t.Definition
	return guess(t.Server, t.Name, d.Get("description").Text(), d.Get("inputSchema"), t.ReadOnly)
}

func guess(server, name, description string, schema ostiary.Value, readOnly bool) *Profile {
	p := &Profile{Server: server, Tool: name, Effect: !readOnly, Args: map[string]Role{}}
	words := nameWords(name)
	p.verbs, p.nouns = concepts(verbs, words[:min(len(words), 2)]), concepts(nouns, words)
	if p.nouns["money"] && (p.verbs["send"] || p.verbs["transfer"] || p.verbs["create"]) {
		p.verbs["pay"] = true // to send money is to pay
	}
	for _, w := range words {
		if len(verbs[w]) == 0 && len(nouns[w]) == 0 && !common[w] && len(w) > 2 {
			p.objects = append(p.objects, w)
		}
	}
	props := schema.Get("properties")
	for arg, s := range props.Members() {
		p.Args[arg] = roleOf(p, words, arg, s)
	}
	p.members = map[string]bool{}
	declared(schema, 0, p.members)
	if told := concepts(nouns, nameWords(firstSentence(description))); len(p.nouns) == 0 {
		p.nouns = told
	}
	for _, r := range p.Args {
		p.Outgoing = p.Outgoing || r == Destination && p.Effect
	}
	p.Own = readOnly && props.Len() == 0 && ownNames(words)
	return p
}

// declared collects the names that a schema gives to members, at any depth.
func declared(schema ostiary.Value, depth int, into map[string]bool) {
	if depth > maxNesting {
		return
	}
	switch schema.Kind() {
	case ostiary.Object:
		for word, s := range schema.Members() {
			if word == "properties" {
				for name := range s.Members() {
					into[name] = true
				}
			}
			if word != "default" && word != "examples" && word != "enum" && word != "const" {
				declared(s, depth+1, into)
			}
		}
	case ostiary.Array:
		for _, s := range schema.Elements() {
			declared(s, depth+1, into)
		}
	}
}

func firstSentence(s string) string {
	s, _, _ = strings.Cut(s, "\n")
	s, _, _ = strings.Cut(s, ". ")
	return s
}

// destroys reports whether the tool takes something away for good.
func (p *Profile) destroys() bool { return p.verbs["delete"] || p.verbs["transfer"] }

// shelters reports whether nobody outside can write a field: one that has its
// name in the server's own structure, not one that a text shows.
func (p *Profile) shelters(sp *span) bool {
	return sp.kind == fieldWhole && sp.within == inStructure && slices.Contains(p.Sheltered, lastName(sp.path))
}

// Reading is the profile of what reads and is no tool: a resource, a prompt.
func Reading(server, name string) *Profile {
	return &Profile{Server: server, Tool: name, Args: map[string]Role{"uri": Location}}
}

// Unknown is the profile of a tool nobody knows anything of: whatever it is
// given may decide where something goes.
func Unknown(server, name string) *Profile {
	return &Profile{Server: server, Tool: name, Effect: true, Outgoing: true, unknown: true}
}

// Role returns what an argument decides.
func (p *Profile) Role(arg string) Role {
	if r, ok := p.Args[arg]; ok {
		return r
	}
	if p.unknown {
		return Destination
	}
	return Object
}

// ownNames reports whether a tool without arguments says something about the
// account itself, by its name.
func ownNames(words []string) bool {
	own, lists := false, false
	for _, w := range words {
		switch w {
		case "user", "me", "my", "self", "profile", "account", "whoami", "iban", "balance", "day", "date", "time", "now", "logged":
			own = true
		case "emails", "email", "messages", "inbox", "files", "history", "list", "unread", "received", "users", "accounts", "transactions", "orders", "events", "mail", "posts", "issues", "notifications":
			lists = true
		}
	}
	return own && !lists
}

var (
	destinationWords = set(`recipient recipients addressee addressees grantee guest guests audience to cc bcc email emails mail receiver receivers payee beneficiary iban webhook callback endpoint host hostname phone telephone participants participant attendees attendee invitee invitees collaborator collaborators assignee assignees followers subscriber subscribers shared_with owner remote smtp server domain destination handle`)
	credentialWords  = set(`password passwd passphrase secret secrets credential credentials apikey token pin privatekey publickey`)
	permissionWords  = set(`right rights permission permissions role roles scope scopes access visibility privilege privileges acl grant grants policy`)
	amountWords      = set(`amount amounts sum total price cost value fee budget limit tip salary discount`)
	locationWords    = set(`url uri urls link links href website page webpage site`)
	timeWords        = set(`date time day start end until from since deadline due when month year hour duration schedule timezone`)
	contentWords     = set(`letter reference memo remark reason purpose greeting signature headline snippet comment_body bio about review feedback answer body content contents text message description title subject summary note notes comment comments query question name label tags caption reason location topic details remark prompt search keyword keywords filter`)
	countWords       = set(`n count number quantity size page offset top max min limit rating force overwrite recurring all recursive format sort order category brand type language`)
	proofVerbs       = set(`verify login log signin sign confirm authenticate unlock`)
	peopleVerbs      = set(`add invite share send grant transfer forward assign notify message dm mention`)
	fetchVerbs       = set(`get fetch read browse visit open download view search load scrape crawl check`)
	setVerbs         = set(`send post transfer pay forward share publish upload push submit write input fill wire remit`)
)

func set(words string) map[string]bool {
	m := map[string]bool{}
	for _, w := range strings.Fields(words) {
		m[w] = true
	}
	return m
}

func anyOf(words []string, in map[string]bool) bool {
	return slices.ContainsFunc(words, func(w string) bool { return in[w] })
}

// roleOf guesses what an argument decides from its name, type and description.
func roleOf(p *Profile, tool []string, arg string, schema ostiary.Value) Role {
	words := nameWords(arg)
	kind := typeOf(schema)
	if len(words) == 0 {
		words = []string{arg}
	}
	last := words[len(words)-1]
	about := strings.ToLower(schema.Get("description").Text())
	switch {
	case kind == "boolean":
		if anyOf(words, permissionWords) || anyOf(words, set(`public private`)) {
			return Permission
		}
		return Plain
	case anyOf(words, credentialWords) || last == "key" && anyOf(words, set(`ssh api public private access secret gpg`)):
		if anyOf(tool, proofVerbs) {
			return Plain // it is shown, not set
		}
		return Credential
	case anyOf(words, set(`otp code captcha mfa 2fa`)) && anyOf(tool, proofVerbs):
		return Plain
	case anyOf(words, amountWords) && (kind == "number" || kind == "integer" || amountWords[last] && last != "limit"):
		if !p.Effect {
			return Plain
		}
		return Amount
	case anyOf(words, permissionWords):
		return Permission
	case anyOf(words, locationWords):
		if anyOf(tool, setVerbs) || !anyOf(tool, fetchVerbs) {
			return Destination
		}
		return Location
	case words[0] == "input" || words[0] == "inputs" || words[0] == "field" || words[0] == "fields" || words[0] == "form":
		return Content
	case last == "id" || last == "ids" || last == "path" || last == "dir" || last == "file" || last == "filename" || last == "directory" || last == "folder":
		return Object
	case anyOf(words, set(`destination`)) && strings.Contains(about, "path"):
		return Object
	case anyOf(words, destinationWords) && !(anyOf(words, timeWords) && !anyOf(words, set(`recipient email`))):
		return Destination
	case anyOf(words, set(`user users username member members person account channel channels address contact number`)) && anyOf(tool, peopleVerbs) && kind != "integer":
		return Destination
	case kind == "integer" && last == "id" || kind == "integer" && len(words) == 1 && words[0] == "id":
		return Object
	case kind == "integer" && p.Effect && !anyOf(words, timeWords) && (last == "order" || !anyOf(words, countWords)):
		return Object // a number that says which
	case kind == "integer" || kind == "number":
		return Plain
	case anyOf(words, timeWords):
		return Plain
	case anyOf(words, contentWords) && !(last == "name" && len(words) > 1):
		return Content
	case anyOf(words, countWords):
		return Plain
	}
	return described(p, about)
}

// described guesses from the beginning of a description what a name does not
// say.
func described(p *Profile, about string) Role {
	words := nameWords(about)
	words = words[:min(len(words), 8)]
	switch {
	case anyOf(words, set(`recipient recipients receiver payee beneficiary addressee participants attendees invitee email emails iban`)) && !anyOf(words, set(`id identifier which`)) && p.Effect:
		return Destination
	case anyOf(words, set(`password passphrase secret`)):
		return Credential
	case len(words) > 0 && anyOf(words[:min(len(words), 3)], set(`subject body content text title description message note comment reason`)) && !anyOf(words, set(`id identifier name path`)):
		return Content
	}
	return Object
}

// typeOf returns the type of a schema, looking through "T or null" and lists.
func typeOf(s ostiary.Value) string {
	for range 4 {
		if t := s.Get("type"); t.Kind() == ostiary.String && t.Text() != "array" {
			return t.Text()
		} else if t.Is("array") {
			s = s.Get("items")
			continue
		} else if t.Kind() == ostiary.Array {
			for _, e := range t.Elements() {
				if e.Kind() == ostiary.String && !e.Is("null") {
					return e.Text()
				}
			}
		}
		next := ostiary.Value{}
		for _, word := range []string{"anyOf", "oneOf"} {
			for _, e := range s.Get(word).Elements() {
				if !e.Get("type").Is("null") && !next.Exists() {
					next = e
				}
			}
		}
		if !next.Exists() {
			return ""
		}
		s = next
	}
	return ""
}
