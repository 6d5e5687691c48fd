package demo

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ostiary/ostiary/proof"
)

// scene is one step of the story. play prints what was tried and what came of
// it, and returns an error if that is not what was to be shown.
type scene struct {
	title string
	play  func(s *Story, ctx context.Context, a *agent, p *printer) error
}

func scenes() []scene {
	return []scene{
		{"An allowed call", (*Story).allowed},
		{"A small payment", (*Story).smallPayment},
		{"A payment refused because of its amount", (*Story).largePayment},
		{"A tool that changed after it was pinned", (*Story).changedTool},
		{"A call with the same key twice", (*Story).duplicateKey},
		{"A call that goes around the gate", (*Story).around},
		{"A sub-agent, and what its parent lacks", (*Story).subAgent},
		{"The log, and one changed byte", (*Story).tampered},
	}
}

func (s *Story) allowed(ctx context.Context, a *agent, p *printer) error {
	name := tool(Bank, "get_balance")
	p.say("tried", `%s {"account":"household"}`, name)
	since := time.Now()
	res, err := a.call(ctx, name, map[string]any{"account": "household"})
	if err != nil {
		return err
	}
	p.say("happened", "%s: %s", fate(res), res.Text)
	if res.Refused {
		return errors.New("the call was refused")
	}
	e, err := s.find(ctx, name, since, "intent")
	if err != nil {
		return err
	}
	p.permitted(e)
	return nil
}

func (s *Story) smallPayment(ctx context.Context, a *agent, p *printer) error {
	before, err := s.events()
	if err != nil {
		return err
	}
	name := tool(Bank, "send_payment")
	p.say("tried", "%s, 45.00 EUR from household to landlord", name)
	since := time.Now()
	res, err := a.call(ctx, name, Payment{From: "household", To: "landlord", Amount: 4500, Currency: "EUR", Note: "keys"}.arguments())
	if err != nil {
		return err
	}
	p.say("happened", "%s: %s", fate(res), res.Text)
	if res.Refused {
		return errors.New("the payment was refused")
	}
	e, err := s.find(ctx, name, since, "intent")
	if err != nil {
		return err
	}
	p.permitted(e)

	after, err := s.events()
	if err != nil {
		return err
	}
	if made := Payments(after)[len(Payments(before)):]; len(made) != 1 || made[0].Amount != 4500 {
		return fmt.Errorf("the tool made %d payments instead of one", len(made))
	}
	for _, ev := range after[len(before):] {
		if ev.Payment != nil && ev.Entry != e.Ref {
			return fmt.Errorf("the tool was told entry %q, the log says %s", ev.Entry, e.Ref)
		}
	}
	p.say("the tool", "made one payment, under entry %s: the gateway's signed request names it", e.Ref)
	return nil
}

// arguments is the payment as a call's arguments.
func (p Payment) arguments() map[string]any {
	return map[string]any{"from": p.From, "to": p.To, "amount": p.Amount, "currency": p.Currency, "note": p.Note}
}

func (s *Story) largePayment(ctx context.Context, a *agent, p *printer) error {
	before, err := s.events()
	if err != nil {
		return err
	}
	name, note := tool(Bank, "send_payment"), "deposit-for-the-flat"
	p.say("tried", "%s, 2,500.00 EUR from household to landlord", name)
	res, err := a.call(ctx, name, Payment{From: "household", To: "landlord", Amount: 250_000, Currency: "EUR", Note: note}.arguments())
	if err != nil {
		return err
	}
	if err := p.refused(ctx, s, res); err != nil {
		return err
	}
	switch {
	case !strings.Contains(strings.Join(res.Reasons, " "), "pay-over-limit"):
		return fmt.Errorf("it was refused for another reason: %s", res.Text)
	case len(res.Remedies) != 1 || res.Remedies[0] != "approval:finance":
		return fmt.Errorf("it was refused with remedies %q", res.Remedies)
	}
	return s.untouched(p, before, note)
}

// untouched checks that nothing with the marker reached a tool, and that no
// money moved since before.
func (s *Story) untouched(p *printer, before []Event, marker string) error {
	after, err := s.events()
	if err != nil {
		return err
	}
	if n := Arrived(after, marker); n != 0 {
		return fmt.Errorf("the call reached a tool %d times", n)
	}
	if n := len(Payments(after)) - len(Payments(before)); n != 0 {
		return fmt.Errorf("%d payments were made", n)
	}
	p.say("the tool", "received 0 bytes of it")
	return nil
}

func (s *Story) changedTool(ctx context.Context, a *agent, p *printer) (err error) {
	name := tool(Inbox, "read_message")
	p.say("before", "the inbox server rewrites the description of read_message and asks for one more argument")
	if err := os.WriteFile(s.Trigger, nil, 0o600); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.changeBack(ctx)) }()
	state, err := s.toolState(ctx, Inbox, "read_message")
	if err != nil {
		return err
	}
	if state != "changed" {
		return fmt.Errorf("the gateway says read_message is %s", state)
	}
	p.say("tried", `%s {"id":"m1"}`, name)
	res, err := a.call(ctx, name, map[string]any{"id": "m1"})
	if err != nil {
		return err
	}
	if err := p.refused(ctx, s, res); err != nil {
		return err
	}
	var diff map[string]string
	if err := s.Ask(ctx, http.MethodGet, "/v1/tools/diff", url.Values{"server": {Inbox}, "name": {"read_message"}}, nil, &diff); err != nil {
		return err
	}
	p.diff(diff["diff"])
	return nil
}

// toolState makes the gateway read a server's definitions now and returns
// what it thinks of one tool.
func (s *Story) toolState(ctx context.Context, server, name string) (string, error) {
	var tools []definition
	if err := s.Ask(ctx, http.MethodPost, "/v1/tools/read", nil, map[string]string{"server": server}, &tools); err != nil {
		return "", err
	}
	for _, t := range tools {
		if t.Kind == "tool" && t.Name == name {
			return t.State, nil
		}
	}
	return "", fmt.Errorf("the gateway knows no %s of %s", name, server)
}

func (s *Story) changeBack(ctx context.Context) error {
	if err := os.Remove(s.Trigger); err != nil {
		return err
	}
	state, err := s.toolState(ctx, Inbox, "read_message")
	if err == nil && state != "pinned" {
		err = fmt.Errorf("read_message was changed back, and the gateway says it is %s", state)
	}
	return err
}

func (s *Story) duplicateKey(ctx context.Context, a *agent, p *printer) error {
	before, err := s.events()
	if err != nil {
		return err
	}
	const marker = "twice-told"
	name := tool(Bank, "send_payment")
	p.say("tried", `%s {…,"amount":4500,…,"amount":450000}`, name)
	p.say("", "one reader takes the first amount, another the last: which one was checked?")
	res, err := post(ctx, s.Agent, s.Endpoint, name,
		rawCall(name, `{"from":"household","to":"landlord","amount":4500,"currency":"EUR","note":"`+marker+`","amount":450000}`))
	if err != nil {
		return err
	}
	if err := p.refused(ctx, s, res); err != nil {
		return err
	}
	if res.Code != "duplicate_key" {
		return fmt.Errorf("it was refused as %q", res.Code)
	}
	return s.untouched(p, before, marker)
}

func (s *Story) around(ctx context.Context, _ *agent, p *printer) error {
	before, err := s.events()
	if err != nil {
		return err
	}
	p.say("tried", "send_payment at %s, the tool's own address, without the gateway", s.Tools)
	res, err := post(ctx, s.Plain, s.Tools+"/"+Bank, "send_payment",
		rawCall("send_payment", `{"from":"household","to":"landlord","amount":4500,"currency":"EUR"}`))
	if err != nil {
		return err
	}
	p.say("happened", "refused by the tool itself: HTTP status %d", res.Status)
	if res.Status != http.StatusUnauthorized {
		return fmt.Errorf("the tool answered with status %d", res.Status)
	}
	p.say("reason", "the tool accepts only requests the gateway signed for an entry of its log")
	p.say("entry", "none: the gateway never saw it")
	after, err := s.events()
	if err != nil {
		return err
	}
	if n := len(Payments(after)) - len(Payments(before)); n != 0 {
		return fmt.Errorf("%d payments were made", n)
	}
	return nil
}

func (s *Story) subAgent(ctx context.Context, _ *agent, p *printer) error {
	before, err := s.events()
	if err != nil {
		return err
	}
	lacks, has, wants := tool(Documents, "read_document"), tool(Bank, "get_balance"), tool(Bank, "send_payment")
	p.say("before", "the agent acts under a mandate of person:dana, for the bank and the inbox")
	p.say("tried", "it hands %s, which it does not have, to %s", lacks, HelperName)
	if _, err = s.Derive(ctx, `{"agent":"`+HelperName+`","actions":["`+lacks+`"],"for":"5m"}`); err == nil {
		return errors.New("the gateway gave what the agent does not have")
	}
	p.say("happened", "refused: %v", err)
	p.say("then", "it hands on %s alone", has)
	mandate, err := s.Derive(ctx, `{"agent":"`+HelperName+`","task":"look at the balance","actions":["`+has+`"],"for":"5m"}`)
	if err != nil {
		return err
	}
	helper, err := s.enter(ctx, s.Helper(mandate))
	if err != nil {
		return fmt.Errorf("the helper could not connect: %w", err)
	}
	defer helper.session.Close()
	res, err := helper.call(ctx, has, map[string]any{"account": "household"})
	if err != nil {
		return err
	}
	if res.Refused {
		return errors.New("the helper may not do what it was given: " + res.Text)
	}
	const marker = "helping-myself"
	p.say("tried", "%s looks at the balance, and then pays 45.00 EUR", HelperName)
	if res, err = helper.call(ctx, wants, Payment{From: "household", To: "landlord", Amount: 4500, Currency: "EUR", Note: marker}.arguments()); err != nil {
		return err
	}
	if err := p.refused(ctx, s, res); err != nil {
		return err
	}
	if res.Code != "mandate" {
		return fmt.Errorf("it was refused as %q", res.Code)
	}
	return s.untouched(p, before, marker)
}

func (s *Story) tampered(ctx context.Context, _ *agent, p *printer) error {
	name := tool(Bank, "send_payment")
	e, err := s.find(ctx, name, time.Time{}.Add(1), "intent")
	if err != nil {
		return err
	}
	folder, err := os.MkdirTemp("", "ostiary-log-copy-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(folder)
	copied := filepath.Join(folder, "log")
	if err := os.CopyFS(copied, os.DirFS(s.Log)); err != nil {
		return fmt.Errorf("copying the log: %w", err)
	}
	p.say("tried", "the log copied to another folder and verified offline, as an auditor would")
	v, err := s.Verify(ctx, copied)
	if err != nil {
		return fmt.Errorf("the untouched copy does not verify: %w", err)
	}
	p.say("happened", "verified: %d entries of %s, none missing or changed", v.Entries, v.Log)

	file, from, to, err := tamper(copied, e.ID, name)
	if err != nil {
		return err
	}
	p.say("then", "one byte of the copy changed: %q became %q in %s", from, to, file)
	_, err = s.Verify(ctx, copied)
	if err == nil {
		return errors.New("the changed copy still verifies")
	}
	p.say("happened", "refused: %v", err)
	p.say("entry", "%s, the payment of step 2", e.Ref)
	var fault *proof.Fault
	if !errors.As(err, &fault) || fault.Ref.String() != e.Ref {
		return fmt.Errorf("the verifier does not name entry %s", e.Ref)
	}
	return nil
}

// tamper changes one byte of an entry in a copied log: the first letter of
// its action's last word. It returns the file, and the text before and after.
func tamper(folder, id, action string) (file, from, to string, err error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) == 0 {
		return "", "", "", fmt.Errorf("%q is no entry's name", id)
	}
	found := errors.New("found")
	err = filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		at := bytes.Index(b, raw)
		if at < 0 {
			return nil
		}
		word := bytes.Index(b[at:min(len(b), at+proof.MaxEntry)], []byte(action))
		if word < 0 {
			return nil
		}
		at += word + strings.LastIndex(action, "_") + 1
		b[at] ^= 1
		file, err = filepath.Rel(folder, path)
		if err == nil {
			err = os.WriteFile(path, b, 0o600)
		}
		if err != nil {
			return err
		}
		end := at - strings.LastIndex(action, "_") - 1
		from, to = action, string(b[end:end+len(action)])
		return found
	})
	if err == nil {
		err = fmt.Errorf("no file of the copy holds entry %s", id)
	}
	if errors.Is(err, found) {
		err = nil
	}
	return file, from, to, err
}
