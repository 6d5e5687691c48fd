package control

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// UndoRequest asks to take back what a call did.
type UndoRequest struct {
	Entry  string `json:"entry"` // of the call
	Reason string `json:"reason"`
	Plan   bool   `json:"plan"` // only say what would be done
}

// Undone is what was done to take a call back, or would be.
type Undone struct {
	Entry     string `json:"entry"`            // of the call that is taken back
	Action    string `json:"action"`           // that takes it back
	Arguments string `json:"arguments"`        // of that
	By        string `json:"by,omitempty"`     // the entry of the call that took it back; none of a plan
	State     string `json:"state"`            // "planned", "done", "held", "failed": the tool said that it did not work
	Hold      string `json:"hold,omitempty"`   // what waits for people
	Result    string `json:"result,omitempty"` // what the tool said
}

// undoTimeout bounds how long a call may take that takes another one back,
// while an operator waits.
const undoTimeout = 2 * time.Minute

// undoKind is the kind of record that keeps one call from being taken back twice.
const undoKind = "undo"

// postUndo takes back what a call did: the call that policy's undo.yaml names
// goes through the gate like any other, as the agent that made the first one,
// under the mandate it was made under, inside its story. It is done once.
func (c *Control) postUndo(ctx context.Context, in UndoRequest) (any, error) {
	u, err := c.planUndo(ctx, in.Entry)
	if err != nil || in.Plan {
		return u.out, err
	}
	if strings.TrimSpace(in.Reason) == "" {
		return nil, ostiary.Errorf(ostiary.Malformed, "reason", "say why; it stays in the log").At("reason")
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoTimeout) // who asked may leave; what is begun ends
	defer cancel()
	claim, err := c.claimUndo(ctx, &u, in.Reason)
	if err != nil {
		return nil, err
	}
	return c.runUndo(ctx, &u, claim, in.Reason)
}

// undo is one call to be taken back.
type undo struct {
	intent ostiary.EntryID
	call   gate.Call
	out    Undone
}

// planUndo finds out what takes a call back, and with what.
func (c *Control) planUndo(ctx context.Context, entry string) (u undo, err error) {
	ref, err := ostiary.ParseEntryRef(entry)
	if err != nil {
		return u, ostiary.Errorf(ostiary.Malformed, "entry", "%v", err).At("entry")
	}
	first, err := firstOf(ctx, c.o.Log, ref)
	if err != nil {
		return u, err
	}
	e := &first.Entry
	if e.Kind != ostiary.KindIntent {
		return u, ostiary.Errorf(ostiary.Conflict, "undo_nothing", "nothing left the gateway under %s, so there is nothing to take back", first.Ref).At("entry")
	}
	how, ok := c.o.Engine.Undo(e.Action)
	if !ok {
		return u, ostiary.Errorf(ostiary.NotFound, "irreversible", "%s cannot be taken back: undo.yaml of the policy folder names nothing that does", e.Action).At("entry")
	}
	result, err := c.outcomeOf(ctx, e, &how)
	if err != nil {
		return u, err
	}
	if !first.Opened {
		return u, ostiary.Errorf(ostiary.Conflict, "undo_source", "the arguments of %s cannot be opened any more", first.Ref).At("entry")
	}
	given, err := parsed(e.Payload.Arguments)
	if err != nil {
		return u, err
	}
	text, err := how.Compose(given, result)
	if err != nil {
		return u, err
	}
	arguments, err := parsed(text)
	if err != nil {
		return u, err
	}
	r, _, err := gate.Recall(e)
	if err != nil {
		return u, err
	}
	u.intent = e.ID
	u.call = gate.Call{
		Credentials: ostiary.Credentials{Held: &r.Subject, Remote: "undo"}, Parent: e.ID, Asked: "{}", Protocol: "undo",
		Action: ostiary.Action{Name: how.Action, Method: "tools/call", Server: how.Server, Tool: how.Tool, Arguments: arguments},
	}
	u.out = Undone{Entry: first.Ref.String(), Action: how.Action, Arguments: string(text), State: "planned"}
	return u, nil
}

func parsed(b []byte) (ostiary.Value, error) {
	d, err := strictjson.Parse(b, strictjson.Request)
	if err != nil {
		return ostiary.Value{}, ostiary.Errorf(ostiary.Conflict, "undo_source", "what was kept of the call cannot be read").Because(err)
	}
	return d.Root(), nil
}

// outcomeOf returns the kept result of a call that was delivered. Of any other
// nobody knows what there is to take back.
func (c *Control) outcomeOf(ctx context.Context, intent *ostiary.Entry, how *policy.Undo) (result ostiary.Value, err error) {
	rows, _, _, err := settled(ctx, c.o.Log, ledger.Filter{Answers: intent.ID, Limit: 100})
	if err != nil {
		return result, err
	}
	delivered := false
	for _, row := range rows {
		if row.Entry.Answers != intent.ID {
			continue
		}
		switch row.Entry.Kind {
		case ostiary.KindOutcome:
			if row.Entry.Disposition != ostiary.Delivered {
				return result, ostiary.Errorf(ostiary.Conflict, "undo_nothing", "the call ended %s, so there is nothing that is known to take back; ask the tool's server what it did", row.Entry.Disposition).At("entry")
			}
			delivered = true
		case ostiary.KindResult:
			kept, err := c.o.Log.Entry(ctx, row.Ref)
			if err != nil {
				return result, err
			}
			if kept.Opened {
				if result, err = parsed(kept.Entry.Payload.Arguments); err != nil {
					return result, err
				}
			}
		}
	}
	if !delivered {
		return result, ostiary.Errorf(ostiary.Conflict, "undo_running", "the call has not ended").At("entry")
	}
	if how.Keeps() && !result.Exists() {
		return result, ostiary.Errorf(ostiary.Conflict, "undo_source", "the result of the call was not kept: it was made before undo.yaml named it, or is longer than a megabyte").At("entry")
	}
	return result, nil
}

// undoClaim is the data of the record that keeps a call from being taken back
// twice. It never goes away: what is done stays done.
type undoClaim struct {
	State string         `json:"state"`          // see below
	Hold  ostiary.HoldID `json:"hold,omitempty"` // of "held"
	By    string         `json:"by"`             // who asked
}

// The states of a claim. One that is running belongs to whoever made it; if
// that process died nobody knows how far it came, and it stays so.
const (
	undoRunning = "running"
	undoHeld    = "held"    // people decide; only what they refused or let pass may be tried again
	undoNothing = "nothing" // certainly nothing left the gateway: it may be tried again
	undoEnded   = "ended"   // it was sent, whatever came of it
)

// claimUndo makes sure that a call is taken back once, and records who wants
// it. Of any number of callers on any number of gateways one gets the claim:
// it is made, or taken over at the revision at which it was seen to be free.
func (c *Control) claimUndo(ctx context.Context, u *undo, reason string) (record.Record, error) {
	now := c.o.Clock()
	data, _ := json.Marshal(undoClaim{State: undoRunning, By: operator(ctx)}) // strings always encode
	claim, err := c.o.Records.Record(ctx, undoKind, u.intent.String(), now)
	switch {
	case ostiary.KindOf(err) == ostiary.NotFound:
		claim = record.Record{Kind: undoKind, ID: u.intent.String(), Data: data}
		claim.Revision, err = c.o.Records.CreateRecord(ctx, claim, now)
	case err == nil:
		if err = c.freeUndo(ctx, u, claim.Data); err == nil {
			claim.Data = data
			claim.Revision, err = c.o.Records.ReplaceRecord(ctx, claim)
		}
	}
	if e := ostiary.AsError(err); err != nil && e.Kind == ostiary.Conflict && e.Code != "undone" {
		return claim, ostiary.Errorf(ostiary.Conflict, "undone", "%s is being taken back by somebody else", u.out.Entry).At("entry")
	}
	if err != nil {
		return claim, err
	}
	detail := detailJSON(map[string]string{"text": "take back " + u.out.Entry + " with " + u.out.Action + ": " + reason, "entry": u.out.Entry, "reason": reason, "by": operator(ctx)})
	if _, err := c.change(ctx, "undo", "ok", detail); err != nil {
		return claim, errors.Join(err, c.endUndo(ctx, claim, undoClaim{State: undoNothing}))
	}
	return claim, nil
}

// freeUndo says why an earlier attempt stands in the way, nil if it does not.
func (c *Control) freeUndo(ctx context.Context, u *undo, data []byte) error {
	var was undoClaim
	if err := json.Unmarshal(data, &was); err != nil {
		return ostiary.Errorf(ostiary.Corrupt, "undo_claim", "what is kept of an earlier attempt to take back %s cannot be read", u.out.Entry).Because(err)
	}
	switch was.State {
	case undoNothing:
		return nil
	case undoHeld:
		if c.o.Approvals == nil {
			break
		}
		h, err := c.o.Approvals.One(ctx, was.Hold)
		if err == nil && (h.State == ostiary.HoldRefused || h.State == ostiary.HoldExpired) {
			return nil
		}
		return ostiary.Errorf(ostiary.Conflict, "undone", "%s asked to take %s back, which people decide, or decided: see ostiary approvals %s", was.By, u.out.Entry, was.Hold).At("entry")
	case undoRunning:
		return ostiary.Errorf(ostiary.Conflict, "undone", "%s began to take %s back, and it has not ended; if the gateway stopped meanwhile, ask the tool's server what happened", was.By, u.out.Entry).At("entry")
	}
	return ostiary.Errorf(ostiary.Conflict, "undone", "%s took %s back, or what was sent for it may have arrived: see ostiary log show %s", was.By, u.out.Entry, u.out.Entry).At("entry")
}

// endUndo writes down how an attempt ended. If that fails the claim stays as it
// was, and stands in the way of another attempt.
func (c *Control) endUndo(ctx context.Context, claim record.Record, as undoClaim) error {
	as.By = operator(ctx)
	claim.Data, _ = json.Marshal(as)
	_, err := c.o.Records.ReplaceRecord(ctx, claim)
	return err
}

// runUndo makes the call. What certainly did not happen may be tried again.
func (c *Control) runUndo(ctx context.Context, u *undo, claim record.Record, reason string) (any, error) {
	settled, disposition, err := c.o.Gate.Settle(ctx, u.call)
	e := ostiary.AsError(err)
	switch {
	case err == nil:
		u.out.By, u.out.Result, u.out.State = settled.Intent.Ref.String(), string(settled.Frame.Body.Bytes()), "done"
		if settled.Frame.Kind == gate.FrameError || string(settled.Frame.Body.Get("isError").Bytes()) == "true" {
			u.out.State = "failed"
		}
		return u.out, c.endUndo(ctx, claim, undoClaim{State: undoEnded})
	case e.Code == "held":
		u.out.State, u.out.Hold, u.out.By = "held", e.Field, e.Entry.String()
		if err := c.endUndo(ctx, claim, undoClaim{State: undoHeld, Hold: ostiary.HoldID(e.Field)}); err != nil {
			return nil, err
		}
		detail := detailJSON(map[string]string{"text": "taking back " + u.out.Entry + " waits for people, as " + e.Field, "entry": u.out.Entry, "hold": e.Field, "reason": reason, "by": operator(ctx)})
		_, err := c.change(ctx, "undo", "held", detail)
		return u.out, err
	case disposition == ostiary.Failed, disposition == ostiary.Refused && e.Kind != ostiary.Internal:
		return nil, errors.Join(err, c.endUndo(ctx, claim, undoClaim{State: undoNothing}))
	}
	return nil, errors.Join(err, c.endUndo(ctx, claim, undoClaim{State: undoEnded}))
}
