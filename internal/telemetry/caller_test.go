package telemetry

import (
	"strings"
	"testing"
)

func TestCaller(t *testing.T) {
	const good = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	for name, tc := range map[string]struct {
		text string
		ok   bool
	}{
		"as it should be": {good, true},
		"not sampled":     {good[:53] + "00", true},
		"other flags":     {good[:53] + "fe", true},
		"nothing":         {"", false},
		"other version":   {"01" + good[2:], false},
		"more behind it":  {good + "-x", false},
		"upper case":      {strings.ToUpper(good), false},
		"upper flags":     {good[:53] + "0A", false},
		"no trace":        {"00-" + strings.Repeat("0", 32) + good[35:], false},
		"no span":         {good[:36] + strings.Repeat("0", 16) + good[52:], false},
		"no hex":          {"00-" + strings.Repeat("g", 32) + good[35:], false},
		"other parting":   {strings.ReplaceAll(good, "-", "_"), false},
	} {
		t.Run(name, func(t *testing.T) {
			sc, ok := caller(tc.text)
			if ok != tc.ok || ok && (!sc.IsValid() || !sc.IsRemote()) {
				t.Errorf("%q: %v %v", tc.text, sc, ok)
			}
		})
	}
}

func FuzzCaller(f *testing.F) {
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
	f.Add("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0g")
	f.Fuzz(func(t *testing.T, s string) {
		sc, ok := caller(s)
		if !ok {
			return
		}
		if len(s) != 55 || !sc.IsValid() || s != "00-"+sc.TraceID().String()+"-"+sc.SpanID().String()+s[52:] {
			t.Errorf("%q was read as %v", s, sc)
		}
	})
}
