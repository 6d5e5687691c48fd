package control

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/policy"
	"github.com/ostiary/ostiary/internal/provenance"
)

// Publication is what became of an attempt to publish the policy folder.
type Publication struct {
	Number   uint64 // of the active snapshot afterwards
	Changed  bool   // a new snapshot was signed
	Problems []policy.Problem
}

// Publish compiles the policy folder against the accepted definitions and, if
// anything changed, signs it as the next snapshot, stores it, records it and
// makes it the active one. An invalid folder changes nothing: the last good
// snapshot stays, and the problems say where and what.
func (c *Control) Publish(ctx context.Context) (Publication, error) {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	src, err := policy.ReadDir(c.o.PolicyDir)
	if errors.Is(err, fs.ErrNotExist) && c.neverHadPolicies() {
		// A gateway may start before anybody wrote a policy, so that there is
		// something to ask which tools there are. It permits nothing.
		c.o.Logger.Warn("there is no policy folder, so everything is denied; write one with \"ostiary policy init\"", "folder", c.o.PolicyDir)
		src, err = policy.Source{}, nil
	}
	if err != nil {
		return c.standing(), err
	}
	p, err := c.publish(ctx, src)
	for n := 0; n < maxRaces && ostiary.KindOf(err) == ostiary.Conflict; n++ { // another process published meanwhile
		p, err = c.publish(ctx, src)
	}
	return p, err
}

// maxRaces is how often a publication lost to another process is tried again:
// people publish, so losing twice in a row is rare already.
const maxRaces = 5

// Follow makes the newest stored snapshot the active one, if another process
// stored one that is newer.
func (c *Control) Follow(ctx context.Context) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	_, err := c.follow(ctx)
	return err
}

// follow returns the number of the newest stored snapshot, which is active
// then.
func (c *Control) follow(ctx context.Context) (uint64, error) {
	number, signed, err := c.o.Snapshots.NewestSnapshot(ctx)
	if err != nil {
		return 0, ostiary.Errorf(ostiary.Unavailable, "snapshots", "snapshots cannot be read").Because(err)
	}
	if active := c.o.Engine.Active(); number == 0 || active != nil && number <= active.Number() {
		return number, nil
	}
	if c.over(signed) { // its key's window passed while nobody was here: what is published next has a higher number
		return number, nil
	}
	return number, c.activate(number, signed)
}

// over reports whether a snapshot is signed by a key that was good in its time
// and signs no more. One by a key that was revoked is like one by a stranger's.
func (c *Control) over(signed []byte) bool {
	keys := c.o.Signing()
	if _, err := openSigned(signed, keys.Believed); err == nil {
		return false
	}
	_, err := openSigned(signed, keys.Over)
	return err == nil
}

// signedBy reports whether the newest stored snapshot is signed by a key.
func (c *Control) signedBy(ctx context.Context, number uint64, key crypto.PublicKey) (bool, error) {
	signed, err := c.o.Snapshots.Snapshot(ctx, number)
	if err != nil {
		return false, err
	}
	_, err = policy.Open(signed, key)
	return err == nil, nil
}

// Resign signs the active snapshot again, as the next one, if the key that
// signs has changed since: what the policy folder says meanwhile is for
// whoever loads it. Every process of a store may try; one succeeds.
func (c *Control) Resign(ctx context.Context) error {
	c.publishing.Lock()
	defer c.publishing.Unlock()
	err := c.resign(ctx)
	for n := 0; n < maxRaces && ostiary.KindOf(err) == ostiary.Conflict; n++ {
		err = c.resign(ctx)
	}
	return err
}

func (c *Control) resign(ctx context.Context) error {
	number, err := c.follow(ctx)
	active := c.o.Engine.Active()
	if err != nil || active == nil {
		return err
	}
	signer := c.o.Signing().Signs
	if current, err := c.signedBy(ctx, number, signer.Public()); current || err != nil {
		return err
	}
	return c.issue(ctx, number+1, active.Set(), signer)
}

// openSigned opens a snapshot that one of the keys signed.
func openSigned(signed []byte, keys []crypto.PublicKey) (*policy.Snapshot, error) {
	err := error(ostiary.Errorf(ostiary.Corrupt, "snapshot_signature", "the policy snapshot is not signed with this deployment's key"))
	for _, k := range keys {
		var s *policy.Snapshot
		if s, err = policy.Open(signed, k); err == nil {
			return s, nil
		}
	}
	return nil, err
}

// neverHadPolicies tells a folder that does not exist yet from one that is gone.
func (c *Control) neverHadPolicies() bool {
	s := c.o.Engine.Active()
	return s == nil || len(s.Set().Files()) == 0
}

func (c *Control) standing() Publication {
	if s := c.o.Engine.Active(); s != nil {
		return Publication{Number: s.Number()}
	}
	return Publication{}
}

// LabelsProblem reads a file of labels and reports whether it is good.
func LabelsProblem(text string) (policy.Problem, bool) {
	_, err := provenance.ParseLabels([]byte(text))
	if err == nil {
		return policy.Problem{}, true
	}
	return policy.Problem{File: provenance.LabelsFile, Line: 1, Severity: policy.Error, Code: "labels", Message: ostiary.AsError(err).Detail}, false
}

func (c *Control) publish(ctx context.Context, src policy.Source) (Publication, error) {
	// In this order: what another process stores after the number was read
	// makes saving fail, so that no snapshot misses what it accepted.
	number, err := c.follow(ctx)
	if err != nil {
		return c.standing(), err
	}
	if err := c.o.Book.Load(ctx); err != nil {
		return c.standing(), err
	}
	p := c.standing()
	set, problems := policy.Compile(src, c.o.Book.Tools())
	if p.Problems = problems; set == nil {
		return p, ostiary.Errorf(ostiary.Malformed, "policy", "the policy folder does not compile; the last good snapshot stays active")
	}
	if problem, ok := LabelsProblem(set.Text(provenance.LabelsFile)); !ok {
		p.Problems = append(p.Problems, problem)
		return p, ostiary.Errorf(ostiary.Malformed, "policy", "%s in the policy folder does not say what it should; the last good snapshot stays active", provenance.LabelsFile)
	}
	signer := c.o.Signing().Signs
	if active := c.o.Engine.Active(); active != nil && active.Digest() == set.Digest() {
		if current, err := c.signedBy(ctx, number, signer.Public()); current || err != nil {
			return p, err
		}
	}
	if err := c.issue(ctx, number+1, set, signer); err != nil {
		return p, err
	}
	p.Number, p.Changed = number+1, true
	return p, nil
}

// issue signs a snapshot, records it, stores it and makes it the active one.
func (c *Control) issue(ctx context.Context, number uint64, set *policy.Set, signer crypto.Signer) error {
	signed, err := policy.Sign(number, set, c.o.Clock(), signer)
	if err != nil {
		return err
	}
	snapshot, err := policy.Open(signed, signer.Public())
	if err != nil {
		return err
	}
	// Recorded before it is stored: a stored one is active after a restart.
	detail := detailJSON(map[string]string{"text": fmt.Sprintf("snapshot %d published", number), "digest": set.Digest().String(), "by": operator(ctx)})
	if _, err := c.change(ctx, "publish_snapshot", "ok", detail); err != nil {
		return err
	}
	if err := c.o.Snapshots.SaveSnapshot(ctx, number, signed); err != nil {
		return err
	}
	if err := c.o.Engine.Activate(snapshot); err != nil {
		return err
	}
	c.o.Logger.Info("policy published", "snapshot", number, "digest", set.Digest().Short())
	return nil
}

// Restore makes the newest stored snapshot the active one. It returns false
// if there is none.
func (c *Control) Restore(ctx context.Context) (bool, error) {
	number, signed, err := c.o.Snapshots.NewestSnapshot(ctx)
	if err != nil || number == 0 {
		return false, err
	}
	if c.over(signed) {
		c.o.Logger.Warn("the last snapshot is signed by a key whose window has passed; the policy folder is published anew", "snapshot", number)
		return false, nil
	}
	if err := c.activate(number, signed); err != nil {
		return false, err
	}
	return true, nil
}

func (c *Control) activate(number uint64, signed []byte) error {
	s, err := openSigned(signed, c.o.Signing().Believed)
	if err != nil {
		return err
	}
	if s.Number() != number {
		return ostiary.Errorf(ostiary.Corrupt, "snapshot_number", "snapshot %d says it is %d", number, s.Number())
	}
	return c.o.Engine.Activate(s)
}

// Accept accepts definitions as the server showed them last, and publishes a
// snapshot that knows them. An empty name accepts all of the server's that
// are not quarantined.
func (c *Control) Accept(ctx context.Context, server, name, by string) ([]ostiary.Tool, Publication, error) {
	return c.accept(ctx, server, name, by, nil)
}

// accept is Accept of exactly these offers, nil for what is offered.
func (c *Control) accept(ctx context.Context, server, name, by string, offers map[catalog.Named]ostiary.Digest) ([]ostiary.Tool, Publication, error) {
	tools, err := c.o.Book.AcceptOffers(ctx, server, name, by, offers)
	if err != nil {
		return nil, c.standing(), err
	}
	p, err := c.Publish(ctx)
	return tools, p, err
}

// AcceptOne accepts one definition, exactly the one a person looked at if the
// pin is given, and publishes a snapshot that knows it.
func (c *Control) AcceptOne(ctx context.Context, a catalog.Acceptance) ([]ostiary.Tool, Publication, error) {
	t, err := c.o.Book.AcceptOne(ctx, a)
	if err != nil {
		return nil, c.standing(), err
	}
	p, err := c.Publish(ctx)
	return []ostiary.Tool{t}, p, err
}

// RecordPins returns the same pins, of which each acceptance, and each
// withdrawal, is in the deployment's log before it is stored. It is what the Book stands on.
func RecordPins(p catalog.Pins, changes Changes, self ostiary.AgentID, clock func() time.Time) catalog.Pins {
	return recordedPins{p, changes, self, clock}
}

type recordedPins struct {
	stored  catalog.Pins
	changes Changes
	self    ostiary.AgentID
	clock   func() time.Time
}

func (p recordedPins) Pins(ctx context.Context) ([]catalog.PinRecord, error) {
	return p.stored.Pins(ctx)
}

func (p recordedPins) SavePins(ctx context.Context, records []catalog.PinRecord) error {
	for _, r := range records {
		detail := map[string]string{"text": fmt.Sprintf("accepted %s %s of %s", r.Kind, r.Name, r.Server), "pin": r.Pin.String(), "by": r.By}
		if err := p.record(ctx, "accept_definition", detail); err != nil {
			return err
		}
	}
	return p.stored.SavePins(ctx, records)
}

func (p recordedPins) DropPin(ctx context.Context, server, kind, name string) error {
	detail := map[string]string{"text": fmt.Sprintf("withdrew %s %s of %s", kind, name, server), "by": operator(ctx)}
	if err := p.record(ctx, "withdraw_definition", detail); err != nil {
		return err
	}
	return p.stored.DropPin(ctx, server, kind, name)
}

func (p recordedPins) record(ctx context.Context, action string, detail map[string]string) error {
	_, err := recordChange(ctx, p.changes, p.self, p.clock(), action, "ok", detailJSON(detail))
	return err
}
