package ostiary

import "slices"

// A scope limits a token beside its mandate. There are two kinds of words,
// made from what an operator configured and nothing else: [ScopeConnect] lets
// a client connect and ask what there is, and [ScopeOf] a server lets it call
// that server. A token without scopes is limited by its mandate alone.
const ScopeConnect = "mcp"

// ScopeOf returns the scope of everything a server offers.
func ScopeOf(server string) string { return "server:" + server }

// NoServer stands in a mandate for a server that no gateway has: whoever may
// reach that alone may connect, and call nothing.
const NoServer = "(none)"

// ScopesFor returns all scopes that an action on a server needs, "" for the
// gateway itself.
func ScopesFor(server string) []string {
	if server == "" {
		return []string{ScopeConnect}
	}
	return []string{ScopeConnect, ScopeOf(server)}
}

// InsufficientScope is the code of the refusal of [Subject.CheckScope], in the
// words of RFC 6750.
const InsufficientScope = "insufficient_scope"

// ScopeFact begins the remedies of such a refusal, before a scope.
const ScopeFact = "scope:"

// CheckScope refuses an action on a server that the subject's token is not
// for. The remedies are every scope a token needs that can do this and all it
// could before, so that asking once is enough.
func (s *Subject) CheckScope(server string) error {
	if len(s.Scopes) == 0 {
		return nil
	}
	need, missing := slices.Clone(s.Scopes), false
	for _, scope := range ScopesFor(server) {
		if !slices.Contains(need, scope) {
			need, missing = append(need, scope), true
		}
	}
	if !missing {
		return nil
	}
	e := Errorf(Denied, InsufficientScope, "the token does not cover this server; ask for one with the scopes named")
	for _, scope := range need {
		e.Remedies = append(e.Remedies, Remedy{Fact: ScopeFact + scope})
	}
	return e
}
