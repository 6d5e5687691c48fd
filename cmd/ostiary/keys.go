package main

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/ostiary/ostiary/internal/control"
)

type keysCmd struct {
	Public keysPublicCmd `cmd:"" default:"withargs" help:"Print the public keys that tool servers and auditors need; also without a word."`
	List   keysListCmd   `cmd:"" help:"List every key: which signs, which follows, which is still believed."`
	Rotate keysRotateCmd `cmd:"" help:"Make new keys. Each is published before it signs, and the one before it is believed until its window ends."`
	Revoke keysRevokeCmd `cmd:"" help:"Refuse a key from now on, because somebody else may have it; the next one signs at once."`
}

type keysPublicCmd struct{}

func (keysPublicCmd) Run(e *env) error {
	var s control.Status
	if err := e.ask(http.MethodGet, "/v1/status", nil, nil, &s); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(s.Keys)
	}
	for _, k := range s.Keys {
		state := ""
		if k.State != "" && k.State != "current" {
			state = ", " + k.State
		}
		fmt.Fprintf(e.stdout, "%s, id %s%s\n%s\n", k.Use, k.ID, state, strings.TrimSpace(k.Key))
	}
	return nil
}

type keysListCmd struct{}

func (keysListCmd) Run(e *env) error {
	var all []control.KeyState
	if err := e.ask(http.MethodGet, "/v1/keys", nil, nil, &all); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(all)
	}
	return e.keys(all)
}

func (e *env) keys(all []control.KeyState) error {
	var rows [][]string
	for _, k := range all {
		rows = append(rows, []string{k.Key, k.State, when(k.Created), when(k.Signs), when(k.Ends), k.Algorithm, k.ID, k.For})
	}
	if err := e.table([]string{"KEY", "STATE", "CREATED", "SIGNS FROM", "REFUSED FROM", "ALGORITHM", "ID", "SIGNS"}, rows); err != nil {
		return err
	}
	for _, k := range all {
		if k.Progress != "" {
			fmt.Fprintf(e.stdout, "%s: %s\n", k.Key, show(k.Progress))
		}
	}
	return nil
}

type keysRotateCmd struct {
	Purpose []string `arg:"" placeholder:"KEY" enum:"root,intermediate,token,mandate,checkpoint,storage,signing,snapshot,all" help:"Which: root, intermediate, token, mandate, checkpoint (of the logs), storage (that wraps the keys of payloads), signing (of requests to tool servers), snapshot (of policy), or all."`
	Window  string   `placeholder:"TIME" help:"How long the key before it is believed once the new one signs; else 1h, of the root 72h, of storage 720h, and never so short that something issued in good faith is refused."`
	Lead    string   `placeholder:"TIME" help:"How long the new key is published before it signs; else 10s, of signing 24h, so that tool servers can learn it."`
	Now     bool     `help:"The new key signs at once: the same as --lead 0s."`
	Force   bool     `help:"Take a window that refuses what was issued in good faith."`
}

func (c *keysRotateCmd) Run(e *env) error {
	in := control.RotateRequest{Purposes: c.Purpose, Window: c.Window, Lead: c.Lead, Force: c.Force}
	if c.Now {
		in.Lead = "0s"
	}
	var made []control.KeyState
	if err := e.ask(http.MethodPost, "/v1/keys/rotate", nil, in, &made); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(made)
	}
	for _, k := range made {
		if k.State == "current" {
			fmt.Fprintf(e.stdout, "%s signs now\n", k.Key)
		} else {
			fmt.Fprintf(e.stdout, "%s is published, and signs from %s\n", k.Key, when(k.Signs))
		}
		if k.Purpose == "signing" {
			fmt.Fprintln(e.stderr, "Tool servers that verify must know it by then; it is among: ostiary keys")
		}
	}
	return nil
}

type keysRevokeCmd struct {
	Key    string `arg:"" help:"Which, as in ostiary keys list: for example token-2."`
	Reason string `required:"" placeholder:"TEXT" help:"Why; it stays in the log."`
}

func (c *keysRevokeCmd) Run(e *env) error {
	var out control.RevokedKey
	if err := e.ask(http.MethodPost, "/v1/keys/revoke", nil, control.RevokeKeyRequest{Key: c.Key, Reason: c.Reason}, &out); err != nil {
		return err
	}
	if e.cli.JSON {
		return e.printJSON(out)
	}
	fmt.Fprintf(e.stdout, "%s is refused; %s signs\n", out.Revoked.Key, out.Successor.Key)
	if out.Revoked.Purpose == "storage" {
		fmt.Fprintln(e.stderr, "Whoever has it and a copy of the control state opens the payloads wrapped under it; the copies of backups included.")
	}
	return nil
}
