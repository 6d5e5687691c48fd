package daemon

import (
	"os"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// weakening are the settings of the Go runtime that bring back a weakness in
// TLS or in parsing, each with the one value that does not; "" if every value
// but the built-in one is weaker. The names are the toolchain's.
var weakening = map[string]string{
	"tls10server": "0", "tls3des": "0", "tlsrsakex": "0", "tlssha1": "0", "tlsunsafeekm": "0", "tlsmaxrsasize": "",
	"x509negativeserial": "0", "rsa1024min": "1",
	"httplaxcontentlength": "0", "httpmuxgo121": "0", "httpcookiemaxnum": "",
	"urlstrictcolons": "1", "urlmaxqueryparams": "",
	"zipinsecurepath": "0", "tarinsecurepath": "0",
}

// CheckEnvironment refuses an environment, or a build, in which GODEBUG
// weakens TLS or parsing. Everything that is decided here stands on them.
func CheckEnvironment() error {
	for where, settings := range map[string]string{"the environment": os.Getenv("GODEBUG"), "this build": builtWith("DefaultGODEBUG")} {
		if bad := weakened(settings); len(bad) > 0 {
			return ostiary.Errorf(ostiary.Malformed, "godebug", "GODEBUG in %s weakens TLS or parsing: %s; take it out", where, strings.Join(bad, ", ")).At("GODEBUG")
		}
	}
	return nil
}

// weakened returns the settings in a GODEBUG text that weaken anything.
func weakened(settings string) (bad []string) {
	for part := range strings.SplitSeq(settings, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		value, _, _ = strings.Cut(value, "#") // what follows samples it, and is no value
		if safe, known := weakening[key]; known && (safe == "" || value != safe) {
			bad = append(bad, part)
		}
	}
	slices.Sort(bad)
	return bad
}

func builtWith(key string) string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return ""
	}
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// effective are the settings from outside that change how the runtime parses
// or whom it trusts, for the log.
func effective() (all []any) {
	for _, name := range []string{"GODEBUG", "SSL_CERT_FILE", "SSL_CERT_DIR"} {
		if v := os.Getenv(name); v != "" {
			all = append(all, name, v)
		}
	}
	return all
}
