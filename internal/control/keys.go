package control

import (
	"context"
	"net/http"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/rotation"
)

// KeyState is one of the deployment's keys. None of it is secret.
type KeyState struct {
	Purpose   string    `json:"purpose"` // "root", "intermediate", "token", "mandate", "checkpoint", "storage", "signing", "snapshot"
	Key       string    `json:"key"`     // its name among people: "token-2"
	ID        string    `json:"id"`      // what stands in what it signs, where something does
	Algorithm string    `json:"algorithm"`
	State     string    `json:"state"` // "next", "current", "retiring", "refused"
	Created   time.Time `json:"created,omitzero"`
	Signs     time.Time `json:"signs,omitzero"`    // from when on it signs
	Ends      time.Time `json:"ends,omitzero"`     // from when on it is refused; absent while nothing follows it
	Expires   time.Time `json:"expires,omitzero"`  // of its certificate, if it has one
	Revoked   string    `json:"revoked,omitempty"` // why it was refused before its time
	For       string    `json:"for"`               // what it signs
	Progress  string    `json:"progress,omitempty"`
}

// RotateRequest asks for new keys.
type RotateRequest struct {
	Purposes []string `json:"purposes"`         // or "all" alone
	Window   string   `json:"window,omitempty"` // how long the old key is believed once the new one signs; "": each key's own
	Lead     string   `json:"lead,omitempty"`   // how long the new key is published before it signs; "": each key's own
	Force    bool     `json:"force,omitempty"`  // also with a window that refuses what was issued in good faith
}

// RevokeKeyRequest refuses one key at once.
type RevokeKeyRequest struct {
	Key    string `json:"key"` // its name, or its id
	Reason string `json:"reason"`
}

// RevokedKey is a key that was refused, and the one that signs instead.
type RevokedKey struct {
	Revoked   KeyState `json:"revoked"`
	Successor KeyState `json:"successor"`
}

func (c *Control) getKeys(r *http.Request) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.Keys(r.Context())
}

func (c *Control) postKeyRotation(ctx context.Context, in RotateRequest) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.RotateKeys(ctx, in)
}

func (c *Control) postKeyRevocation(ctx context.Context, in RevokeKeyRequest) (any, error) {
	p, err := c.process()
	if err != nil {
		return nil, err
	}
	return p.RevokeKey(ctx, in)
}

// Rotation turns the request into the engine's words.
func (r *RotateRequest) Rotation() (out rotation.Request, err error) {
	out.Force = r.Force
	for _, p := range r.Purposes {
		out.Purposes = append(out.Purposes, rotation.Purpose(p))
	}
	if len(r.Purposes) == 1 && r.Purposes[0] == "all" {
		out.Purposes = rotation.Purposes()
	}
	if out.Window, err = period(r.Window); err != nil {
		return out, ostiary.Errorf(ostiary.Malformed, "rotation_window", "%q is no time, as 1h or 90m", r.Window).At("window")
	}
	if out.Lead, err = period(r.Lead); err != nil {
		return out, ostiary.Errorf(ostiary.Malformed, "rotation_lead", "%q is no time, as 1h or 90m", r.Lead).At("lead")
	}
	return out, nil
}

func period(text string) (*time.Duration, error) {
	if text == "" {
		return nil, nil
	}
	d, err := time.ParseDuration(text)
	return &d, err
}

// RecordKeys puts a change of keys into the deployment's log: it is the
// schedule's Record.
func RecordKeys(changes Changes, self ostiary.AgentID, clock func() time.Time) func(context.Context, rotation.Event) error {
	return func(ctx context.Context, e rotation.Event) error {
		detail := detailJSON(map[string]string{"text": e.Detail, "purpose": string(e.Purpose), "key": e.Key, "by": operator(ctx)})
		_, err := recordChange(ctx, changes, self, clock(), e.What, "ok", detail)
		return err
	}
}
