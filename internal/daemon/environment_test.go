package daemon

import (
	"slices"
	"testing"
)

func TestS06Weakened(t *testing.T) {
	for settings, bad := range map[string][]string{
		"":                                nil,
		"gctrace=1,http2debug=2":          nil,
		"tls10server=0":                   nil,
		"rsa1024min=1,urlstrictcolons=1":  nil,
		"tls10server=1":                   {"tls10server=1"},
		"gctrace=1,tlsrsakex=1,tls3des=1": {"tls3des=1", "tlsrsakex=1"},
		"rsa1024min=0":                    {"rsa1024min=0"},
		"httplaxcontentlength=1#5":        {"httplaxcontentlength=1#5"},
		"urlmaxqueryparams=0":             {"urlmaxqueryparams=0"},
		"tlsunsafeekm":                    {"tlsunsafeekm"},
		"x509negativeserial=1,x509negativeserial=0": {"x509negativeserial=1"},
	} {
		if got := weakened(settings); !slices.Equal(got, bad) {
			t.Errorf("%q: %q", settings, got)
		}
	}
}

func TestS06Environment(t *testing.T) {
	t.Setenv("GODEBUG", "tlssha1=1")
	if err := CheckEnvironment(); err == nil {
		t.Error("started with tlssha1=1")
	}
	t.Setenv("GODEBUG", "")
	if err := CheckEnvironment(); err != nil {
		t.Error(err)
	}
}
