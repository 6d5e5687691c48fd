// Package browser drives a headless Chromium for tests: one tab with a
// platform authenticator in software, that notes everything a page should not
// do (run a foreign script, break its own policy, throw, open a dialog) and
// takes pictures of pages in the sizes and colours they are looked at.
//
// The browser is the one that is installed. Without one a test is skipped,
// unless OSTIARY_PEERS=required says that it must run.
package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/audits"
	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/page"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/cdproto/webauthn"
	"github.com/chromedp/chromedp"
)

// patience bounds everything a browser is waited for, on a busy machine.
const patience = 90 * time.Second

// Tab is one tab of a browser of its own.
type Tab struct {
	t   *testing.T
	ctx context.Context

	mu    sync.Mutex // guards wrong
	wrong []string
}

// installed finds the browser.
func installed() string {
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			return p
		}
	}
	return ""
}

// Open starts a browser with an empty profile. It ends with the test, which
// fails if a page did anything it should not.
func Open(t *testing.T) *Tab {
	t.Helper()
	path := installed()
	if path == "" {
		if os.Getenv("OSTIARY_PEERS") == "required" {
			t.Fatal("no Chromium is installed, and this test must run: install Debian's package chromium")
		}
		t.Skip("no Chromium is installed")
	}
	options := []chromedp.ExecAllocatorOption{chromedp.ExecPath(path), chromedp.UserDataDir(t.TempDir()), chromedp.Flag("disable-dev-shm-usage", true), chromedp.DisableGPU, chromedp.Headless}
	if os.Geteuid() == 0 {
		options = append(options, chromedp.NoSandbox) // its sandbox needs another user than root
	}
	life, end := chromedp.NewContext(context.Background(), chromedp.WithAllocatorOptions(options...))
	tab := &Tab{t: t, ctx: life}
	t.Cleanup(func() {
		stop, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		done := make(chan struct{})
		go func() { defer close(done); _ = chromedp.Cancel(life); end() }()
		select {
		case <-done:
		case <-stop.Done():
			t.Error("the browser does not end")
		}
		tab.mu.Lock()
		defer tab.mu.Unlock()
		for _, w := range tab.wrong {
			t.Errorf("the browser says: %s", w)
		}
	})
	// The first call starts the browser and may have no time-out of its own.
	if err := chromedp.Do(life); err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(life, tab.notice); err != nil {
		t.Fatal(err)
	}
	tab.must(func(ctx context.Context) error {
		for _, enable := range []cdp.Command[cdp.Empty, cdp.Empty]{log.Enable, audits.Enable, runtime.Enable} {
			if _, err := chromedp.Call(ctx, enable, cdp.Empty{}); err != nil {
				return err
			}
		}
		if _, err := chromedp.Call(ctx, webauthn.Enable, webauthn.EnableParams{}); err != nil {
			return err
		}
		_, err := chromedp.Call(ctx, webauthn.AddVirtualAuthenticator, webauthn.AddVirtualAuthenticatorParams{Options: &webauthn.VirtualAuthenticatorOptions{
			Protocol: webauthn.AuthenticatorProtocolCtap2, Transport: webauthn.AuthenticatorTransportInternal,
			HasResidentKey: true, HasUserVerification: true, IsUserVerified: true, AutomaticPresenceSimulation: true,
		}})
		return err
	})
	return tab
}

// notice keeps what a page should not do. It may not block.
func (b *Tab) notice(ev any) {
	said := ""
	switch e := ev.(type) {
	case *log.EventEntryAdded:
		if e.Entry.Level == "error" && e.Entry.Source != "network" { // an answer of 401 is no fault of a page
			said = e.Entry.Text
		}
	case *runtime.EventExceptionThrown:
		said = "thrown: " + e.ExceptionDetails.Text
		if x := e.ExceptionDetails.Exception; x != nil {
			said += " " + x.Description
		}
	case *page.EventJavascriptDialogOpening:
		said = "a dialog: " + e.Message
	case *audits.EventIssueAdded:
		if d := e.Issue.Details; d != nil && d.ContentSecurityPolicyIssueDetails != nil {
			said = "against the page's policy: " + d.ContentSecurityPolicyIssueDetails.ViolatedDirective + " " + d.ContentSecurityPolicyIssueDetails.BlockedURL
		}
	}
	if said != "" {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.wrong = append(b.wrong, said)
	}
}

// Wrong returns what was noticed so far, and forgets it.
func (b *Tab) Wrong() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := b.wrong
	b.wrong = nil
	return out
}

// must does something within patience.
func (b *Tab) must(do func(context.Context) error) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	if err := do(ctx); err != nil {
		where, _ := chromedp.Run(b.ctx, chromedp.Location())
		text, _ := chromedp.Run(b.ctx, chromedp.Evaluate[string]("document.body ? document.body.innerText : ''"))
		b.t.Fatalf("%v\nat %s:\n%s\n%v", err, where, text, b.Wrong())
	}
}

// Go opens an address.
func (b *Tab) Go(url string) {
	b.t.Helper()
	b.must(func(ctx context.Context) error { return chromedp.Do(ctx, chromedp.Navigate(url)) })
}

// Click clicks the first element that a CSS selector finds, once it can be
// seen.
func (b *Tab) Click(css string) {
	b.t.Helper()
	b.must(func(ctx context.Context) error {
		return chromedp.Do(ctx, chromedp.Click(chromedp.CSS(css), chromedp.NodeVisible))
	})
}

// Type writes into a field.
func (b *Tab) Type(css, text string) {
	b.t.Helper()
	b.must(func(ctx context.Context) error {
		return chromedp.Do(ctx, chromedp.SendKeys(chromedp.CSS(css), text, chromedp.NodeVisible))
	})
}

// Keys presses keys, wherever the focus is.
func (b *Tab) Keys(keys string) {
	b.t.Helper()
	b.must(func(ctx context.Context) error { return chromedp.Do(ctx, chromedp.KeyEvent(keys)) })
}

// Until waits until an expression is true.
func (b *Tab) Until(js string) {
	b.t.Helper()
	b.must(func(ctx context.Context) error {
		for {
			ok, err := chromedp.Run(ctx, chromedp.Evaluate[bool]("Boolean("+js+")"))
			if ok && err == nil {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("never: %s (%w)", js, err)
			case <-time.After(20 * time.Millisecond): // a page goes on by itself
			}
		}
	})
}

// At waits until the address has this path.
func (b *Tab) At(path string) {
	b.t.Helper()
	b.Until("location.pathname === " + quote(path) + " && document.readyState === 'complete'")
}

// See waits until the page shows a text.
func (b *Tab) See(text string) {
	b.t.Helper()
	b.Until("document.body && document.body.innerText.includes(" + quote(text) + ")")
}

// Value returns what an expression is, as text.
func (b *Tab) Value(js string) string {
	b.t.Helper()
	var out string
	b.must(func(ctx context.Context) (err error) {
		out, err = chromedp.Run(ctx, chromedp.Evaluate[string]("String("+js+")"))
		return err
	})
	return out
}

func quote(s string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`).Replace(s) + `"`
}

// Scripts turns JavaScript off or on for what is opened from then on.
func (b *Tab) Scripts(on bool) {
	b.t.Helper()
	b.must(func(ctx context.Context) error {
		_, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: !on})
		return err
	})
}

// Shots takes pictures of the page as it is into the folder that OSTIARY_SHOTS
// names, if it does: in three widths, dark and light. Whatever the folder, it
// fails if the page is wider than its window.
func (b *Tab) Shots(name string) {
	b.t.Helper()
	dir := os.Getenv("OSTIARY_SHOTS")
	for _, width := range []int64{390, 1024, 1440} {
		for _, colours := range []string{"light", "dark"} {
			b.must(func(ctx context.Context) error {
				if err := chromedp.Do(ctx, chromedp.EmulateViewport(width, 900)); err != nil {
					return err
				}
				_, err := chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: colours}, {Name: "prefers-reduced-motion", Value: "reduce"}}})
				return err
			})
			if wide := b.Value("document.documentElement.scrollWidth > document.documentElement.clientWidth"); wide != "false" {
				b.t.Errorf("%s is wider than %d pixels", name, width)
			}
			if dir == "" {
				continue
			}
			b.must(func(ctx context.Context) error {
				picture, err := chromedp.Run(ctx, chromedp.FullScreenshot(100))
				if err != nil {
					return err
				}
				return os.WriteFile(filepath.Join(dir, fmt.Sprintf("%s-%d-%s.png", name, width, colours)), picture, 0o644)
			})
		}
	}
	b.must(func(ctx context.Context) error { return chromedp.Do(ctx, chromedp.ResetViewport()) })
}
