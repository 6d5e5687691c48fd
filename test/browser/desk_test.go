package browser_test

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ostiary/ostiary/test/browser"
)

// demo is the running demo, as the README starts it.
type demo struct {
	t    *testing.T
	url  string // of the console
	link string // of its first operator
	dir  string
	out  *bytes.Buffer
}

// startDemo runs the demo until the test ends.
func startDemo(t *testing.T) *demo {
	t.Helper()
	d := &demo{t: t, dir: filepath.Join(t.TempDir(), "demo"), out: &bytes.Buffer{}}
	cmd := exec.Command(program, "demo", "--keep", d.dir)
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = cmd.Stdout
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the demo ended: %v", err)
		}
	})
	lines := bufio.NewScanner(stdout)
	late := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer late.Stop()
	for lines.Scan() {
		d.out.WriteString(lines.Text() + "\n")
		if m := regexp.MustCompile(`(http://localhost:\d+)/join#\S+`).FindStringSubmatch(lines.Text()); m != nil {
			d.link, d.url = m[0], m[1]
		}
		if strings.HasSuffix(lines.Text(), " tools list") {
			go func() {
				for lines.Scan() { // nobody may be held up by what nobody reads
				}
			}()
			return d
		}
	}
	t.Fatalf("the demo invites nobody:\n%s", d.out)
	return nil
}

// ostiary runs a command against the demo's gateway.
func (d *demo) ostiary(args ...string) string {
	d.t.Helper()
	out, err := exec.Command(program, append([]string{"-c", filepath.Join(d.dir, "ostiary.yaml")}, args...)...).CombinedOutput()
	if err != nil {
		d.t.Fatalf("ostiary %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// open signs a person in with a link.
func (d *demo) open(link, name string) *browser.Tab {
	d.t.Helper()
	tab := browser.Open(d.t)
	tab.Go(link)
	tab.Until("!document.getElementById('passkey').hidden")
	if name != "" {
		tab.Type("#name", name)
	}
	tab.Click("#go")
	tab.At("/now")
	return tab
}

// TestDesk: what a new user sees after the README's first command: every page
// with live data, in every size and colour.
func TestDesk(t *testing.T) {
	d := startDemo(t)
	tab := d.open(d.link, "dana")
	tab.See("Latest actions")
	tab.See("assistant")
	tab.Until("document.querySelector('[data-live=live]')")
	tab.Until("document.querySelector('.news .button')")
	before := tab.Value("document.querySelectorAll('#rows tbody tr').length + document.querySelector('#rows time').dateTime")
	tab.Shots("now")
	if after := tab.Value("document.querySelectorAll('#rows tbody tr').length + document.querySelector('#rows time').dateTime"); after != before {
		t.Error("the rows moved under whoever reads")
	}
	tab.Click(".news .button")
	tab.Until("document.querySelector('#rows time').dateTime !== " + "'" + strings.TrimLeft(before, "0123456789") + "'")

	tab.Go(d.url + "/log")
	tab.See("send_payment")
	tab.Shots("log")
	tab.Go(d.url + "/log?became=refused&action=send_payment")
	tab.See("refused")
	tab.Shots("log-refused")
	tab.Click("table a")
	tab.See("What, exactly")
	tab.Click(`a[href*="verify=now"]`)
	tab.See("It is in the log")
	tab.Shots("story-refused")
	tab.Go(d.url + "/log?became=delivered&action=get_balance")
	tab.Click("table a")
	tab.See("the answer reached the agent")
	tab.Shots("story-delivered")
	tab.Go(d.url + "/log?log=changes")
	tab.See("accepted")
	tab.Shots("changes")
	tab.Click("table a")
	tab.See("Proof")
	tab.Shots("change")
	tab.Go(d.url + "/log?agent=nobody-of-this-name")
	tab.See("Nothing in the log matches")
	tab.Shots("log-nothing")

	tab.Go(d.url + "/agents")
	tab.See("assistant")
	tab.Shots("agents")
	tab.Click("table a")
	tab.See("What it may do")
	tab.Shots("agent")
	tab.Value("document.getElementById('level').value = 'restricted'")
	tab.Type("#reason", "it wants to pay strangers")
	tab.Click("form.stack button")
	tab.See("and is restricted")
	tab.Shots("agent-restricted")
	if said := d.ostiary("contain", "list"); !strings.Contains(said, "restricted") || !strings.Contains(said, "person:dana") {
		t.Errorf("the gateway knows of no containment by dana:\n%s", said)
	}
	if err := os.WriteFile(filepath.Join(d.dir, "change-read_message"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	d.ostiary("tools", "read", "inbox")
	tab.Go(d.url + "/now")
	tab.See("changed since it was accepted")
	tab.Shots("now-attend")
	tab.Go(d.url + "/tools")
	tab.See("waits to be looked at")
	tab.Shots("tools")
	tab.Click("table a")
	tab.See("otherwise than it was accepted")
	tab.Shots("tool-changed")
	tab.Click("form.stack input[name=force]")
	tab.Click("form.stack button")
	tab.See("as it was accepted")
	policies, err := os.OpenFile(filepath.Join(d.dir, "policy", "payments.cedar"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	policies.WriteString("\n@id(\"no-travel\")\n@reason(\"The travel account is not for agents.\")\nforbid (principal, action == Ostiary::Action::\"bank___send_payment\", resource)\nwhen { context.input.from == \"travel\" };\n")
	policies.Close()
	tab.Go(d.url + "/policy")
	tab.See("What publishing would change")
	tab.Shots("policy")
	tab.Click("form.stack button")
	tab.See("The folder says the same")
	tab.Go(d.url + "/budgets")
	tab.See("Budgets")
	tab.Shots("budgets-demo")
	tab.Go(d.url + "/mandates")
	tab.Shots("mandates-dana")
	tab.Go(d.url + "/people")
	tab.Shots("people-demo")
}
