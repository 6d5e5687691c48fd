package daemon

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/control"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/keyring"
	"github.com/ostiary/ostiary/internal/mandate"
	"github.com/ostiary/ostiary/internal/rotation"
	"github.com/ostiary/ostiary/internal/store"
	"github.com/ostiary/ostiary/verify"
)

// The names of the first keys in the ring. Requests to tool servers are signed
// with Ed25519, which signs in half the time of P-256, and every call is
// signed. What the authority's are called is its own.
const (
	requestKey  = "requests"
	mandateKey  = "mandate"
	snapshotKey = "snapshots"
	storageKey  = "data-keys"
	logKeys     = "log" // names no key: each log has one, see keys.logSigners
)

// How long keys are published before they sign, and believed after.
const (
	// keyLead is twice what a gateway acts on without having asked its store.
	keyLead = 2 * lease
	// keyWindow is longer than any certificate or token lives.
	keyWindow = time.Hour
	// rootWindow is as long as an agent may sleep and come back by itself.
	rootWindow = identity.DefaultGrace
	// signingLead is a working day for people to put the key into tool servers.
	signingLead = 24 * time.Hour
	// storageWindow is how long a backup opens at least.
	storageWindow = 30 * 24 * time.Hour
	// wrapSettles is how long after its last use an old storage key is kept
	// in any case: another gateway may be about to store what it wrapped.
	wrapSettles = time.Minute
	// rewrapEvery is how soon data keys are wrapped anew once they are due.
	rewrapEvery = time.Second
)

// keys are the deployment's keys as this process uses them: which ones, from
// the schedule and the clock; with what, from the ring.
type keys struct {
	ring  *keyring.Ring
	book  *rotation.Book
	clock func() time.Time

	held     sync.Map // name to crypto.Signer or keyring.AEAD: read once from the ring
	mandates atomic.Pointer[mandate.Signer]
	rewrap   atomic.Pointer[rewrapped]
}

func (d *Daemon) openSchedule(ctx context.Context) error {
	k := &keys{ring: d.ring, clock: d.clock}
	release, err := oneAtATime(d.cfg.keysDir())
	if err != nil {
		return err
	}
	defer release()
	authority := sync.OnceValues(func() ([]rotation.Key, error) {
		return identity.FirstKeys(d.cfg.TrustDomain, d.cfg.identityDir(), d.ring, d.clock())
	})
	k.book, err = rotation.Open(ctx, rotation.Options{
		Keeper: d.store, Rules: d.rules(authority), Clock: d.clock,
		Record: func(ctx context.Context, e rotation.Event) error {
			return control.RecordKeys(d.journal.deployment, d.authority.Self().Agent, d.clock)(ctx, e)
		},
	})
	d.keys = k
	return err
}

// rules says for each line of keys how it is rotated. What asks other parts of
// the gateway is only called once they are open.
func (d *Daemon) rules(authority func() ([]rotation.Key, error)) map[rotation.Purpose]rotation.Rule {
	first := func(p rotation.Purpose) func() (rotation.Key, error) {
		return func() (rotation.Key, error) {
			all, err := authority()
			if err != nil {
				return rotation.Key{}, err
			}
			return all[slices.IndexFunc(all, func(k rotation.Key) bool { return k.Purpose == p })], nil
		}
	}
	svids := func() (time.Duration, string) {
		life := d.authority.Lives().SVID
		return life, fmt.Sprintf("agents renew their certificates, and learn of new roots, within %s", life)
	}
	r := map[rotation.Purpose]rotation.Rule{
		rotation.Root: {Signs: "the intermediate's certificates", Lead: keyLead, Window: rootWindow, Shortest: svids, First: first(rotation.Root),
			Make: func(name string, draft *rotation.Schedule, at time.Time) (rotation.Key, error) {
				return identity.MakeRoot(d.cfg.TrustDomain, d.ring, name, draft, at)
			}},
		rotation.Intermediate: {Signs: "certificates of agents and of the gateway", Lead: keyLead, Window: keyWindow, Shortest: svids, First: first(rotation.Intermediate),
			Make: func(name string, draft *rotation.Schedule, at time.Time) (rotation.Key, error) {
				return identity.MakeIntermediate(d.cfg.TrustDomain, d.ring, name, draft, at)
			}},
		rotation.Token: {Signs: "access tokens", Lead: keyLead, Window: keyWindow, First: first(rotation.Token),
			Shortest: func() (time.Duration, string) {
				life := d.authority.Lives().Token
				return life, fmt.Sprintf("tokens live %s", life)
			},
			Make: func(name string, _ *rotation.Schedule, _ time.Time) (rotation.Key, error) {
				return identity.MakeToken(d.ring, name)
			}},
		rotation.Mandate:    {Signs: "mandates", Lead: keyLead, Window: keyWindow, Shortest: d.lastMandate, Make: d.makeSigner(ecdsaKey)},
		rotation.Signing:    {Signs: "requests to tool servers", Lead: signingLead, Window: keyWindow, Make: d.makeSigner(ed25519Key)},
		rotation.Snapshot:   {Signs: "policy snapshots", Lead: keyLead, Window: keyWindow, Make: d.makeSigner(ecdsaKey)},
		rotation.Checkpoint: {Signs: "checkpoints of the logs", Lead: keyLead, Window: keyWindow, Make: d.makeLogKeys},
		rotation.Storage:    {Signs: "nothing: it wraps the keys of payloads", Lead: keyLead, Window: storageWindow, Make: d.makeStorageKey},
	}
	for p, name := range map[rotation.Purpose]string{rotation.Mandate: mandateKey, rotation.Signing: requestKey, rotation.Snapshot: snapshotKey, rotation.Checkpoint: logKeys, rotation.Storage: storageKey} {
		rule := r[p]
		rule.First = func() (rotation.Key, error) {
			k, err := rule.Make(name, nil, time.Time{})
			k.Name = name
			return k, err
		}
		r[p] = rule
	}
	return r
}

func ecdsaKey(ring *keyring.Ring, name string) (crypto.Signer, string, error) {
	k, err := ring.ECDSA(name)
	return k, "ECDSA P-256", err
}

func ed25519Key(ring *keyring.Ring, name string) (crypto.Signer, string, error) {
	k, err := ring.Ed25519(name)
	return k, "Ed25519", err
}

type making = func(name string, draft *rotation.Schedule, at time.Time) (rotation.Key, error)

func (d *Daemon) makeSigner(kind func(*keyring.Ring, string) (crypto.Signer, string, error)) making {
	return func(name string, _ *rotation.Schedule, _ time.Time) (rotation.Key, error) {
		key, algorithm, err := kind(d.ring, name)
		if err != nil {
			return rotation.Key{}, err
		}
		der, err := x509.MarshalPKIXPublicKey(key.Public())
		return rotation.Key{ID: verify.KeyID(key.Public()), Algorithm: algorithm, Public: der}, err
	}
}

// makeLogKeys makes the keys of this process's logs. Other processes make
// theirs when they hear of it: no two share a log.
func (d *Daemon) makeLogKeys(name string, _ *rotation.Schedule, _ time.Time) (rotation.Key, error) {
	n := generation(name, logKeys)
	for _, base := range d.cfg.logKeyNames() {
		if _, err := d.ring.Ed25519(rotation.Name(base, n)); err != nil {
			return rotation.Key{}, err
		}
	}
	return rotation.Key{ID: fmt.Sprintf("checkpoint-%d", n), Algorithm: "Ed25519"}, nil
}

func (d *Daemon) makeStorageKey(name string, _ *rotation.Schedule, _ time.Time) (rotation.Key, error) {
	_, err := d.ring.AEAD(name)
	return rotation.Key{ID: fmt.Sprintf("storage-%d", generation(name, storageKey)), Algorithm: "AES-256-GCM"}, err
}

// generation is the number that rotation.Name put in front of a name.
func generation(name, base string) (n int) {
	if _, err := fmt.Sscanf(strings.TrimSuffix(name, "-"+base), "g%d", &n); err != nil {
		return 1
	}
	return n
}

// lastMandate is how long a mandate that is in force now may be in use, and so
// the key it is signed with believed.
func (d *Daemon) lastMandate() (time.Duration, string) {
	end, n := d.authority.LastMandate()
	if n == 0 {
		return 0, ""
	}
	life := end.Sub(d.clock()).Truncate(time.Minute) + time.Minute
	return life, fmt.Sprintf("%d mandates signed with it are in force, the last until %s", n, end.UTC().Format(time.RFC3339))
}

// current returns the key that signs for a purpose now, from memory once it
// was used. One that is missing is not made anew.
func (k *keys) current(p rotation.Purpose) (crypto.Signer, string, error) {
	key := k.book.Schedule().Current(p, k.clock())
	signer, err := k.signer(key)
	return signer, key.ID, err
}

func (k *keys) signer(key rotation.Key) (crypto.Signer, error) {
	if s, ok := k.held.Load(key.Name); ok {
		return s.(crypto.Signer), nil
	}
	if !k.ring.Has(key.Name) {
		return nil, missing(key.Name)
	}
	kind := ecdsaKey
	if key.Purpose == rotation.Signing {
		kind = ed25519Key
	}
	s, _, err := kind(k.ring, key.Name)
	if err != nil {
		return nil, err
	}
	if verify.KeyID(s.Public()) != key.ID {
		return nil, ostiary.Errorf(ostiary.Corrupt, "key_other", "the key %s in this process's folder of keys is another one than the schedule names", key.Name)
	}
	k.held.Store(key.Name, s)
	return s, nil
}

func missing(name string) error {
	return ostiary.Errorf(ostiary.NotFound, "key_missing", "the key %s is not in this process's folder of keys: gateways that share a store share their keys", name)
}

// signing is which key signs requests now; see egress.Options. It was read
// when the schedule was.
func (k *keys) signing() (crypto.Signer, string) {
	s, id, err := k.current(rotation.Signing)
	if err != nil {
		return broken{err}, "none"
	}
	return s, id
}

// broken is a key that is not there: it signs nothing.
type broken struct{ err error }

func (broken) Public() crypto.PublicKey                                          { return nil }
func (b broken) Sign(_ io.Reader, _ []byte, _ crypto.SignerOpts) ([]byte, error) { return nil, b.err }

// snapshots is which keys snapshots have now; see control.Options.
func (k *keys) snapshots() control.SnapshotKeys {
	var out control.SnapshotKeys
	s, now := k.book.Schedule(), k.clock()
	signer, _, err := k.current(rotation.Snapshot)
	if err != nil {
		signer = broken{err}
	}
	out.Signs = signer
	for _, key := range s.Keys(rotation.Snapshot) {
		pub, err := x509.ParsePKIXPublicKey(key.Public)
		switch {
		case err != nil:
		case s.State(key, now) != rotation.Refused:
			out.Believed = append(out.Believed, pub)
		case key.Revoked == "":
			out.Over = append(out.Over, pub)
		}
	}
	return out
}

// IssueUnder implements identity.Mandates.
func (k *keys) IssueUnder(m ostiary.Mandate, parent ostiary.Digest) (string, error) {
	return k.mandates.Load().IssueUnder(m, parent)
}

// Verify implements identity.Mandates. It asks the schedule too: the keys that
// were put in place may be those of the one before.
func (k *keys) Verify(jws string) (ostiary.Mandate, ostiary.Digest, error) {
	s := k.book.Schedule()
	if !slices.ContainsFunc(s.Keys(rotation.Mandate), func(key rotation.Key) bool {
		return mandate.SignedBy(jws, key.ID) && !s.Refuses(rotation.Mandate, key.ID, k.clock())
	}) {
		return ostiary.Mandate{}, ostiary.Digest{}, ostiary.Errorf(ostiary.Corrupt, "mandate", "the mandate does not verify").Because(errors.New("its key is not known, or refused by now"))
	}
	return k.mandates.Load().Verify(jws)
}

// prepare reads what signs now and next, so that no request finds a key
// missing, and puts the mandates' keys in place.
func (k *keys) prepare(trustDomain string) error {
	s, now := k.book.Schedule(), k.clock()
	for _, p := range []rotation.Purpose{rotation.Mandate, rotation.Signing, rotation.Snapshot} {
		for _, key := range s.Believed(p, now) {
			if state := s.State(key, now); state == rotation.Current || state == rotation.Next {
				if _, err := k.signer(key); err != nil {
					return err
				}
			}
		}
	}
	var others []*ecdsa.PublicKey
	for _, key := range s.Believed(rotation.Mandate, now) {
		pub, err := x509.ParsePKIXPublicKey(key.Public)
		if err != nil {
			return err
		}
		ec, ok := pub.(*ecdsa.PublicKey)
		if !ok {
			return ostiary.Errorf(ostiary.Corrupt, "key_schedule", "the mandate key %s is no ECDSA key", key.ID)
		}
		others = append(others, ec)
	}
	key, _, err := k.current(rotation.Mandate)
	if err != nil {
		return err
	}
	signer, err := mandate.New(trustDomain, key.(*ecdsa.PrivateKey), others...)
	if err != nil {
		return err
	}
	k.mandates.Store(signer)
	return nil
}

// logSigners returns the key a log of that base name goes on with, and those
// that earlier ones were begun with.
func (k *keys) logSigners(base string) (now crypto.Signer, older []crypto.Signer, err error) {
	s := k.book.Schedule()
	current := s.Current(rotation.Checkpoint, k.clock()).Generation
	if current == 0 {
		return nil, nil, ostiary.Errorf(ostiary.Corrupt, "key_schedule", "no key for logs is in force")
	}
	for n := range current + 4 { // some may be made and not sign yet
		name := rotation.Name(base, n+1)
		if n+1 != current && !k.ring.Has(name) {
			continue
		}
		key, err := k.ring.Ed25519(name)
		if err != nil {
			return nil, nil, err
		}
		if n+1 == current {
			now = key
		} else {
			older = append(older, key)
		}
	}
	return now, older, nil
}

// Seal and Open implement ledger.AEAD: the current storage key wraps, and any
// that was not destroyed yet unwraps.
func (k *keys) Seal(plain, ad []byte) ([]byte, error) {
	a, err := k.wrap(k.book.Schedule().Current(rotation.Storage, k.clock()).Name)
	if err != nil {
		return nil, err
	}
	return a.Seal(plain, ad)
}

func (k *keys) Open(sealed, ad []byte) ([]byte, error) {
	err := error(ostiary.Errorf(ostiary.Corrupt, "sealed", "no storage key opens the value"))
	for _, key := range slices.Backward(k.book.Schedule().Keys(rotation.Storage)) {
		a, werr := k.wrap(key.Name)
		if ostiary.KindOf(werr) == ostiary.NotFound && werr != nil {
			continue // destroyed
		}
		if werr != nil {
			return nil, werr
		}
		var plain []byte
		if plain, err = a.Open(sealed, ad); err == nil {
			return plain, nil
		}
	}
	return nil, err
}

func (k *keys) wrap(name string) (keyring.AEAD, error) {
	if a, ok := k.held.Load(name); ok {
		return a.(keyring.AEAD), nil
	}
	if !k.ring.Has(name) {
		return nil, missing(name)
	}
	a, err := k.ring.AEAD(name)
	if err == nil {
		k.held.Store(name, a)
	}
	return a, err
}

// turn puts in force here what the schedule says now. It is called when the
// schedule changed, when a moment it names has come, and again after an error.
// What is believed less is so also where what signs could not be read.
func (d *Daemon) turn(ctx context.Context) error {
	prepared := d.keys.prepare(d.cfg.TrustDomain)
	if prepared != nil {
		prepared = fmt.Errorf("keys: %w", prepared)
	}
	if err := errors.Join(prepared, d.authority.Refresh(ctx)); err != nil {
		return err
	}
	return errors.Join(d.control.Resign(ctx), d.journal.turn(ctx, d.keys))
}

// Keys implements [control.Process].
func (d *Daemon) Keys(context.Context) ([]control.KeyState, error) {
	var out []control.KeyState
	s := d.keys.book.Schedule()
	for _, p := range rotation.Purposes() {
		for _, k := range s.Keys(p) {
			out = append(out, d.keyState(s, k))
		}
	}
	return out, nil
}

func (d *Daemon) keyState(s *rotation.Schedule, k rotation.Key) control.KeyState {
	out := control.KeyState{
		Purpose: string(k.Purpose), Key: k.String(), ID: k.ID, Algorithm: k.Algorithm, State: s.State(k, d.clock()).String(), Created: k.Created, Ends: k.Ends,
		Revoked: k.Revoked, For: d.keys.book.Rule(k.Purpose).Signs,
	}
	if k.Generation > 1 {
		out.Signs = k.Signs
	}
	if len(k.Certificates) > 0 {
		if c, err := x509.ParseCertificate(k.Certificates[0]); err == nil {
			out.Expires = c.NotAfter
		}
	}
	if r := d.keys.rewrap.Load(); k.Purpose == rotation.Storage && r != nil && r.to == k.ID {
		out.Progress = r.String()
	}
	return out
}

// RotateKeys implements [control.Process].
func (d *Daemon) RotateKeys(ctx context.Context, in control.RotateRequest) ([]control.KeyState, error) {
	r, err := in.Rotation()
	if err != nil {
		return nil, err
	}
	made, err := d.keys.book.Rotate(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := d.turn(ctx); err != nil {
		return nil, err
	}
	var out []control.KeyState
	s := d.keys.book.Schedule()
	for _, k := range made {
		d.log.Info("a key was made", "purpose", string(k.Purpose), "key", k.String(), "id", k.ID, "signs", k.Signs)
		out = append(out, d.keyState(s, k))
	}
	return out, nil
}

// RevokeKey implements [control.Process].
func (d *Daemon) RevokeKey(ctx context.Context, in control.RevokeKeyRequest) (control.RevokedKey, error) {
	gone, next, err := d.keys.book.Revoke(ctx, in.Key, in.Reason)
	if err != nil {
		return control.RevokedKey{}, err
	}
	d.log.Warn("a key was revoked", "purpose", string(gone.Purpose), "key", gone.String(), "id", gone.ID, "successor", next.String())
	if err := d.turn(ctx); err != nil {
		return control.RevokedKey{}, err
	}
	s := d.keys.book.Schedule()
	return control.RevokedKey{Revoked: d.keyState(s, gone), Successor: d.keyState(s, next)}, nil
}

// publicKeys lists what tool servers and auditors need.
func (d *Daemon) publicKeys() []control.Key {
	var out []control.Key
	s, now := d.keys.book.Schedule(), d.clock()
	for _, x := range []struct {
		use     string
		purpose rotation.Purpose
	}{{"requests to tool servers", rotation.Signing}, {"policy snapshots", rotation.Snapshot}, {"mandates", rotation.Mandate}} {
		for _, k := range s.Believed(x.purpose, now) {
			text := string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: k.Public}))
			out = append(out, control.Key{Use: x.use, ID: k.ID, Key: text, State: s.State(k, now).String()})
		}
	}
	return append(out, d.journal.keys()...)
}

// rewrapped is how far wrapping data keys anew has come.
type rewrapped struct {
	to         string // the key they are wrapped under now
	done, lost int
	clean      bool // all of them are
}

func (r *rewrapped) String() string {
	switch {
	case r.lost > 0:
		return fmt.Sprintf("%d data keys open under no key there is; %d are wrapped anew", r.lost, r.done)
	case r.clean:
		return fmt.Sprintf("all %d data keys are wrapped under it", r.done)
	}
	return fmt.Sprintf("%d data keys are wrapped under it, more to come", r.done)
}

// rewraps wraps data keys anew under the storage key that follows, and
// destroys the one before when its window has ended and nothing needs it any
// more. It keeps no notes: whatever ended it, the next pass sees what is left.
func (d *Daemon) rewraps(ctx context.Context) {
	tick := time.NewTicker(rewrapEvery)
	defer tick.Stop()
	for said := false; ; {
		err := d.rewrapOnce(ctx)
		if err != nil && ctx.Err() == nil && !said {
			d.log.Error("data keys could not be wrapped anew; it is tried again", "error", err)
		}
		said = err != nil
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (d *Daemon) rewrapOnce(ctx context.Context) error {
	k, now := d.keys, d.clock()
	s := k.book.Schedule()
	current := s.Current(rotation.Storage, now)
	var old []rotation.Key
	due := true // the old ones may be destroyed once nothing needs them
	for _, x := range s.Keys(rotation.Storage) {
		if x.Generation < current.Generation && k.ring.Has(x.Name) {
			old = append(old, x)
			due = due && s.State(x, now) == rotation.Refused
		}
	}
	due = due && now.Sub(current.Signs) > wrapSettles
	was := k.rewrap.Load()
	if len(old) == 0 || !due && was != nil && was.clean && was.to == current.ID {
		return nil
	}
	done, err := d.rewrapAll(ctx, current)
	if err != nil {
		return err
	}
	if done.lost > 0 && (was == nil || was.lost != done.lost) {
		d.log.Error("data keys open under no storage key there is; the old storage keys are kept", "keys", done.lost)
	}
	if !done.clean || !due {
		return nil
	}
	for _, x := range old {
		err := control.RecordKeys(d.journal.deployment, d.authority.Self().Agent, d.clock)(ctx, rotation.Event{
			What: "destroy_key", Purpose: x.Purpose, Key: x.String(), Detail: fmt.Sprintf("the key %s is destroyed: %s", x, done)})
		if err == nil {
			err = k.ring.Destroy(x.Name)
		}
		if err != nil {
			return err
		}
		k.held.Delete(x.Name)
	}
	return nil
}

// rewrapAll goes through all data keys once.
func (d *Daemon) rewrapAll(ctx context.Context, to rotation.Key) (*rewrapped, error) {
	k := d.keys
	under, err := k.wrap(to.Name)
	if err != nil {
		return nil, err
	}
	out := rewrapped{to: to.ID}
	missed := 0 // changed by somebody else meanwhile: looked at in the next pass
	for after := ""; ; {
		page, err := d.store.DataKeys(ctx, after, 0)
		if err != nil {
			return nil, err
		}
		if len(page) == 0 {
			break
		}
		after = page[len(page)-1].Name
		var change []store.Rewrap
		for _, x := range page {
			if _, err := under.Open(x.Wrapped, []byte(x.Name)); err == nil {
				out.done++
				continue
			}
			secret, err := k.Open(x.Wrapped, []byte(x.Name))
			if ostiary.KindOf(err) == ostiary.Corrupt && err != nil {
				out.lost++
				continue
			}
			if err != nil {
				return nil, err
			}
			anew, err := under.Seal(secret, []byte(x.Name))
			clear(secret)
			if err != nil {
				return nil, err
			}
			change = append(change, store.Rewrap{Name: x.Name, Old: x.Wrapped, New: anew})
		}
		n, err := d.store.RewrapDataKeys(ctx, change)
		if err != nil {
			return nil, err
		}
		out.done, missed = out.done+n, missed+len(change)-n
		step := out
		k.rewrap.Store(&step)
	}
	out.clean = out.lost == 0 && missed == 0
	k.rewrap.Store(&out)
	return &out, nil
}

// logKeyNames are the first names of the keys of this process's logs.
func (c *Config) logKeyNames() []string {
	_, changes := c.changeLog()
	return []string{changes, "log-" + c.Gateway}
}
