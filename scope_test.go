package ostiary

import (
	"slices"
	"testing"
)

func TestCheckScope(t *testing.T) {
	for _, c := range []struct {
		scopes []string
		server string
		need   []string // nil: allowed
	}{
		{nil, "bank", nil},
		{nil, "", nil},
		{[]string{"mcp"}, "", nil},
		{[]string{"mcp", "server:bank"}, "bank", nil},
		{[]string{"mcp"}, "bank", []string{"mcp", "server:bank"}},
		{[]string{"server:bank"}, "bank", []string{"server:bank", "mcp"}},
		{[]string{"mcp", "server:bank"}, "inbox", []string{"mcp", "server:bank", "server:inbox"}},
		{[]string{"mcp", "server:bank"}, "ban", []string{"mcp", "server:bank", "server:ban"}},
		{[]string{"mcp", "server:*"}, "bank", []string{"mcp", "server:*", "server:bank"}},
		{[]string{"server:"}, "", []string{"server:", "mcp"}},
	} {
		s := Subject{Scopes: c.scopes}
		err := s.CheckScope(c.server)
		var need []string
		if err != nil {
			e := AsError(err)
			if e.Kind != Denied || e.Code != InsufficientScope {
				t.Error(err)
			}
			for _, r := range e.Remedies {
				need = append(need, r.Fact[len(ScopeFact):])
			}
		}
		if !slices.Equal(need, c.need) {
			t.Errorf("%q on %q: needs %q, want %q", c.scopes, c.server, need, c.need)
		}
	}
}
