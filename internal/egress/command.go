package egress

import (
	"crypto/sha256"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// CheckCommand refuses a server's command line that does not say what will
// run: a shell with a script in its arguments, and a package runner whose
// package is not pinned to one exact version. It is a check of
// configuration; nothing is started.
func CheckCommand(argv []string) error {
	refuse := func(code, format string, args ...any) error {
		return ostiary.Errorf(ostiary.Malformed, code, format, args...).At("command")
	}
	if len(argv) == 0 || argv[0] == "" {
		return refuse("command", "the command is empty")
	}
	for _, a := range argv {
		if strings.ContainsRune(a, 0) {
			return refuse("command", "the command holds a NUL")
		}
	}
	name, args := unwrapEnv(argv)
	switch {
	case name == "":
		return refuse("command", "%q changes what runs; set the environment and the command here instead", argv[0])
	case slices.Contains(shells(), name) && hasShellScript(name, args):
		return refuse("shell", "%q runs a script from its arguments; give the program and its arguments instead", name)
	}
	pkg, runner := packageOf(name, args)
	if runner && !exactVersion(pkg) {
		if pkg == "" {
			pkg = "its package"
		}
		return refuse("unpinned", "%s would run whatever version of %s is newest; pin it to an exact version, for example @1.2.3", name, pkg)
	}
	return nil
}

func shells() []string {
	return []string{"sh", "bash", "dash", "zsh", "ksh", "mksh", "fish", "busybox", "ash", "csh", "tcsh", "pwsh", "powershell", "cmd", "cmd.exe"}
}

// unwrapEnv looks through "env NAME=value program …". Options of env change
// what runs in more ways than can be followed, so they are refused by an empty
// name.
func unwrapEnv(argv []string) (string, []string) {
	name, args := filepath.Base(argv[0]), argv[1:]
	for name == "env" {
		for len(args) > 0 && !strings.HasPrefix(args[0], "-") && strings.Contains(args[0], "=") {
			args = args[1:]
		}
		if len(args) == 0 || strings.HasPrefix(args[0], "-") {
			return "", nil
		}
		name, args = filepath.Base(args[0]), args[1:]
	}
	return name, args
}

// hasShellScript finds -c, alone or in a cluster as in -lc, and the other
// shells' spellings of it.
func hasShellScript(name string, args []string) bool {
	letters := "c"
	if strings.HasPrefix(name, "p") { // PowerShell: -Command, -EncodedCommand and every abbreviation
		letters = "ce"
	}
	for _, a := range args {
		low := strings.ToLower(a)
		switch {
		case low == "/c", low == "/k", strings.HasPrefix(low, "--command"), strings.HasPrefix(low, "--init-command"), low == "--rcfile", low == "--init-file":
			return true
		case len(low) > 1 && low[0] == '-' && low[1] != '-' && strings.ContainsAny(low[1:], letters):
			return true
		}
	}
	return false
}

// packageOf finds the package that a package runner would fetch.
func packageOf(name string, args []string) (pkg string, runner bool) {
	next := func(skip ...string) string {
		for i := 0; i < len(args); i++ {
			a := args[i]
			if v, ok := strings.CutPrefix(a, "--package="); ok {
				return v
			}
			if v, ok := strings.CutPrefix(a, "--from="); ok {
				return v
			}
			if v, ok := strings.CutPrefix(a, "--spec="); ok {
				return v
			}
			if slices.Contains([]string{"-p", "--package", "--from", "--spec"}, a) && i+1 < len(args) {
				return args[i+1]
			}
			if !strings.HasPrefix(a, "-") && !slices.Contains(skip, a) {
				return a
			}
		}
		return ""
	}
	switch name {
	case "npx", "uvx", "bunx", "pnpx":
		return next(), true
	case "npm", "pnpm", "yarn", "bun", "pipx", "uv", "deno":
		for _, word := range []string{"exec", "x", "dlx", "run", "tool"} {
			if slices.Contains(args, word) && !(name != "pipx" && name != "deno" && word == "run") {
				return next("exec", "x", "dlx", "run", "tool"), true
			}
		}
	case "go":
		if slices.Contains(args, "run") {
			p := next("run")
			return p, strings.Contains(p, "@")
		}
	}
	return "", false
}

// exactVersion reports whether a package argument names one version: all
// digits where a version stands, no tag, no range.
func exactVersion(pkg string) bool {
	for _, sep := range []string{"==", "@"} {
		if i := strings.LastIndex(pkg, sep); i > 0 {
			return versionPattern().MatchString(pkg[i+len(sep):])
		}
	}
	return false
}

func versionPattern() *regexp.Regexp {
	return regexp.MustCompile(`^v?[0-9]+(\.[0-9]+)+([-+.][0-9A-Za-z][0-9A-Za-z.+-]*)?$`)
}

// resolveCommand finds the executable once, at configuration time, so that a
// later change of PATH changes nothing.
func resolveCommand(argv []string) ([]string, error) {
	if err := CheckCommand(argv); err != nil {
		return nil, err
	}
	path, err := exec.LookPath(argv[0])
	if err == nil {
		path, err = filepath.Abs(path)
	}
	if err != nil {
		return nil, ostiary.Errorf(ostiary.NotFound, "command", "there is no executable %q", argv[0]).At("command").Because(err)
	}
	return append([]string{path}, argv[1:]...), nil
}

// checkDigest compares an executable with its pin, just before it starts.
// Whoever can replace the file between the look and the start can also
// replace this program; file permissions must prevent both.
func checkDigest(path string, pin ostiary.Digest) error {
	if pin.IsZero() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return ostiary.Errorf(ostiary.Upstream, "executable", "the server's executable cannot be read").Because(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return ostiary.Errorf(ostiary.Upstream, "executable", "the server's executable cannot be read").Because(err)
	}
	if got := ostiary.Digest(h.Sum(nil)); got != pin {
		return ostiary.Errorf(ostiary.Corrupt, "executable_changed", "the server's executable is not the pinned one (%s, pinned %s)", got.Short(), pin.Short())
	}
	return nil
}
