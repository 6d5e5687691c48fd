package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/catalog"
	"github.com/ostiary/ostiary/internal/identity"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/provenance"
)

// SQL is control state in a database.
type SQL struct {
	*engine
	now     func() time.Time // for what is only shown, never for a guard
	release func() error     // closes what is behind the engine, the lock last
}

var _ Store = (*SQL)(nil)

// none is the value of a write that has none.
type none = struct{}

// Close waits for the write under way, refuses those that wait, and closes
// the database. Closing again does nothing.
func (s *SQL) Close() error { return s.engine.close(s.release) }

func (s *SQL) CreateJoinToken(ctx context.Context, t identity.JoinToken) error {
	if err := checkText("join token", string(t.Agent), string(t.Principal), t.Owner, t.Zone, list(t.Roles)); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		n, err := x.exec(`INSERT INTO join_token (hash, agent, principal, owner, zone, roles, created, expires, author, terms)
			VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (hash) DO NOTHING`,
			t.Hash.String(), string(t.Agent), string(t.Principal), t.Owner, t.Zone, list(sorted(t.Roles)), stamp(t.Created), stamp(t.Expires), string(t.By), string(t.Terms))
		if err != nil {
			return none{}, err
		}
		if n == 0 {
			return none{}, errTaken("join token")
		}
		_, err = x.change("join_token", t.Hash.String(), map[string]any{"agent": t.Agent, "principal": t.Principal, "expires": t.Expires})
		return none{}, err
	})
	return err
}

func (s *SQL) RedeemJoinToken(ctx context.Context, hash ostiary.Digest, at time.Time, make func(identity.JoinToken) (identity.AgentRecord, identity.MandateRecord, error)) (identity.AgentRecord, error) {
	return write(ctx, s.engine, func(x *txn) (identity.AgentRecord, error) {
		t, err := spend(x, hash, at)
		if err != nil {
			return identity.AgentRecord{}, err
		}
		a, m, err := make(t)
		if err != nil {
			return a, err
		}
		if a, m, err = granted(t, a, m); err != nil {
			return a, err
		}
		return a, enrol(x, a, m)
	})
}

// spend takes the token; only one transaction can.
func spend(x *txn, hash ostiary.Digest, at time.Time) (t identity.JoinToken, err error) {
	n, err := x.exec("UPDATE join_token SET redeemed = ? WHERE hash = ? AND redeemed IS NULL AND expires > ?", stamp(at), hash.String(), stamp(at))
	if err != nil {
		return t, err
	}
	var redeemed sql.NullInt64
	var created, expires int64
	var roles, terms string
	found, err := x.get("SELECT agent, principal, owner, zone, roles, created, expires, redeemed, author, terms FROM join_token WHERE hash = ?", []any{hash.String()},
		[]any{&t.Agent, &t.Principal, &t.Owner, &t.Zone, &roles, &created, &expires, &redeemed, &t.By, &terms})
	switch {
	case err != nil:
		return t, err
	case !found:
		return t, errTokenUnknown()
	case n == 0 && redeemed.Valid:
		return t, errTokenUsed()
	case n == 0:
		return t, errTokenExpired()
	}
	t.Hash, t.Created, t.Expires = hash, instant(created), instant(expires)
	if terms != "" {
		t.Terms = []byte(terms)
	}
	t.Roles, err = unlist(roles)
	return t, err
}

// enrol writes the agent and its mandate. An agent that was disabled stays
// disabled: enrolling again does not lift that.
func enrol(x *txn, a identity.AgentRecord, m identity.MandateRecord) error {
	_, err := x.exec(`INSERT INTO agent (id, principal, owner, zone, roles, mandate, enrolled, method, disabled)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT (id) DO UPDATE SET principal = excluded.principal, owner = excluded.owner,
		zone = excluded.zone, roles = excluded.roles, mandate = excluded.mandate, enrolled = excluded.enrolled, method = excluded.method`,
		string(a.ID), string(a.Principal), a.Owner, a.Zone, list(a.Roles), string(a.Mandate), stamp(a.Enrolled), a.Method)
	if err != nil {
		return err
	}
	if err := addMandate(x, m); err != nil {
		return err
	}
	_, err = x.change("agent", string(a.ID), map[string]any{"mandate": a.Mandate, "principal": a.Principal, "zone": a.Zone, "roles": a.Roles})
	return err
}

func (s *SQL) Agents(ctx context.Context) ([]identity.AgentRecord, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (a identity.AgentRecord, err error) {
		var roles string
		var enrolled int64
		if err = r.Scan(&a.ID, &a.Principal, &a.Owner, &a.Zone, &roles, &a.Mandate, &enrolled, &a.Method, &a.Disabled); err != nil {
			return a, err
		}
		a.Enrolled = instant(enrolled)
		a.Roles, err = unlist(roles)
		return a, err
	}, "SELECT id, principal, owner, zone, roles, mandate, enrolled, method, disabled FROM agent ORDER BY id")
}

func (s *SQL) Revoke(ctx context.Context, r identity.Revocation) (uint64, error) {
	if err := checkText("revocation", string(r.Kind), r.Subject, string(r.Mandate), r.Reason); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		var epoch int64
		if _, err := x.get("UPDATE head SET epoch = epoch + 1 WHERE id = 1 RETURNING epoch", nil, []any{&epoch}); err != nil {
			return 0, err
		}
		_, err := x.exec("INSERT INTO revocation (epoch, kind, subject, mandate, revoked, reason) VALUES (?, ?, ?, ?, ?, ?)", epoch, string(r.Kind), r.Subject, string(r.Mandate), stamp(r.At), r.Reason)
		if err != nil {
			return 0, err
		}
		r.Epoch = uint64(epoch)
		_, err = x.change("revocation", r.Subject, revocationBody(&r))
		return r.Epoch, err
	})
}

func revocationBody(r *identity.Revocation) any {
	return map[string]any{"epoch": r.Epoch, "kind": r.Kind, "mandate": r.Mandate, "at": r.At, "reason": r.Reason}
}

// Revocations reads the epoch with them, in one read: ended mandates raise it
// too, and have no row here.
func (s *SQL) Revocations(ctx context.Context, after uint64) (epoch uint64, next []identity.Revocation, err error) {
	_, err = rows(ctx, s.engine, func(r *sql.Rows) (none, error) {
		var v identity.Revocation
		var n, at sql.NullInt64
		var kind, subject, mandate, reason sql.NullString
		if err := r.Scan(&epoch, &n, &kind, &subject, &mandate, &at, &reason); err != nil {
			return none{}, err
		}
		if n.Valid {
			v = identity.Revocation{Epoch: uint64(n.Int64), Kind: identity.RevocationKind(kind.String), Subject: subject.String, Mandate: ostiary.MandateID(mandate.String), At: instant(at.Int64), Reason: reason.String}
			next = append(next, v)
		}
		return none{}, nil
	}, `SELECT h.epoch, r.epoch, r.kind, r.subject, r.mandate, r.revoked, r.reason FROM head h LEFT JOIN revocation r ON r.epoch > ? WHERE h.id = 1 ORDER BY r.epoch LIMIT ?`,
		int64(after), identity.RevocationsRead)
	return epoch, next, err
}

func (s *SQL) Pins(ctx context.Context) ([]catalog.PinRecord, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (p catalog.PinRecord, err error) {
		var pin string
		var accepted int64
		if err = r.Scan(&p.Server, &p.Kind, &p.Name, &pin, &p.Definition, &accepted, &p.By); err != nil {
			return p, err
		}
		p.Accepted = instant(accepted)
		if p.Pin, err = ostiary.ParseDigest(pin); err != nil {
			err = ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored pin cannot be read").Because(err)
		}
		return p, err
	}, "SELECT server, kind, name, pin, definition, accepted, author FROM pin ORDER BY server, kind, name")
}

func (s *SQL) SavePins(ctx context.Context, records []catalog.PinRecord) error {
	if len(records) == 0 {
		return nil
	}
	if err := checkPins(records); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		for _, p := range records {
			_, err := x.exec(`INSERT INTO pin (server, kind, name, pin, definition, accepted, author) VALUES (?, ?, ?, ?, ?, ?, ?)
				ON CONFLICT (server, kind, name) DO UPDATE SET pin = excluded.pin, definition = excluded.definition,
				accepted = excluded.accepted, author = excluded.author`,
				p.Server, p.Kind, p.Name, p.Pin.String(), p.Definition, stamp(p.Accepted), p.By)
			if err != nil {
				return none{}, err
			}
		}
		_, err := x.change("pins", records[0].Server, pinsBody(records))
		return none{}, err
	})
	return err
}

func (s *SQL) DropPin(ctx context.Context, server, kind, name string) error {
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		n, err := x.exec("DELETE FROM pin WHERE server = ? AND kind = ? AND name = ?", server, kind, name)
		if err != nil {
			return none{}, err
		}
		if n == 0 {
			return none{}, errNone("pin")
		}
		_, err = x.change("pin_drop", server, map[string]string{"kind": kind, "name": name})
		return none{}, err
	})
	return err
}

func (s *SQL) SaveSnapshot(ctx context.Context, number uint64, signed []byte) error {
	if err := checkSize("snapshot", signed, maxSigned); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		var newest int64
		if _, err := x.get("SELECT COALESCE(MAX(number), 0) FROM snapshot", nil, []any{&newest}); err != nil {
			return none{}, err
		}
		if number != uint64(newest)+1 {
			return none{}, errSnapshot(uint64(newest))
		}
		n, err := x.exec("INSERT INTO snapshot (number, signed) VALUES (?, ?) ON CONFLICT (number) DO NOTHING", int64(number), signed)
		if err != nil {
			return none{}, err
		}
		if n == 0 { // another process was faster
			return none{}, errSnapshot(number)
		}
		_, err = x.change("snapshot", "", map[string]uint64{"number": number})
		return none{}, err
	})
	return err
}

func (s *SQL) NewestSnapshot(ctx context.Context) (number uint64, signed []byte, err error) {
	_, err = s.row(ctx, "SELECT number, signed FROM snapshot ORDER BY number DESC LIMIT 1", nil, []any{&number, &signed})
	return number, signed, err
}

func (s *SQL) Snapshot(ctx context.Context, number uint64) (signed []byte, err error) {
	found, err := s.row(ctx, "SELECT signed FROM snapshot WHERE number = ?", []any{int64(number)}, []any{&signed})
	if err == nil && !found {
		err = errNone("snapshot")
	}
	return signed, err
}

func (s *SQL) OpenSession(ctx context.Context, fresh provenance.SessionRecord) (provenance.SessionRecord, error) {
	if err := checkSession(fresh); err != nil {
		return provenance.SessionRecord{}, err
	}
	return write(ctx, s.engine, func(x *txn) (provenance.SessionRecord, error) {
		n, err := x.exec("INSERT INTO agent_session (id, agent, principal, mandate, root, started) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
			string(fresh.ID), string(fresh.Agent), string(fresh.Principal), string(fresh.Mandate), string(fresh.Root), stamp(fresh.Started))
		if err != nil {
			return fresh, err
		}
		for _, source := range sorted(fresh.Taint) {
			if n == 0 {
				break
			}
			if _, err := x.exec("INSERT INTO taint (session_id, source) VALUES (?, ?)", string(fresh.ID), source); err != nil {
				return fresh, err
			}
		}
		r, err := sessionOf(x, fresh)
		if err != nil || n == 0 {
			return r, err
		}
		_, err = x.change("session", string(r.ID), map[string]any{"agent": r.Agent, "principal": r.Principal, "mandate": r.Mandate})
		return r, err
	})
}

// sessionOf reads the session of an agent, principal and mandate.
func sessionOf(x *txn, of provenance.SessionRecord) (r provenance.SessionRecord, err error) {
	var started int64
	found, err := x.get("SELECT id, agent, principal, mandate, root, started FROM agent_session WHERE agent = ? AND principal = ? AND mandate = ?",
		[]any{string(of.Agent), string(of.Principal), string(of.Mandate)}, []any{&r.ID, &r.Agent, &r.Principal, &r.Mandate, &r.Root, &started})
	if err != nil {
		return r, err
	}
	if !found {
		return r, errTaken("session")
	}
	r.Started = instant(started)
	rs, err := x.e.conn.QueryContext(x.ctx, x.e.dialect.bind(taintOfKin), string(r.ID))
	if err != nil {
		return r, err
	}
	defer rs.Close()
	for rs.Next() {
		var source string
		if err := rs.Scan(&source); err != nil {
			return r, err
		}
		r.Taint = append(r.Taint, source)
	}
	return r, rs.Err()
}

func (s *SQL) Session(ctx context.Context, id ostiary.SessionID) (r provenance.SessionRecord, err error) {
	var started int64
	found, err := s.row(ctx, "SELECT id, agent, principal, mandate, root, started FROM agent_session WHERE id = ?", []any{string(id)},
		[]any{&r.ID, &r.Agent, &r.Principal, &r.Mandate, &r.Root, &started})
	if err == nil && !found {
		err = errNone("session")
	}
	if err != nil {
		return r, err
	}
	r.Started = instant(started)
	r.Taint, err = s.SessionTaint(ctx, id)
	return r, err
}

func (s *SQL) SessionTaint(ctx context.Context, id ostiary.SessionID) ([]string, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (source string, err error) {
		err = r.Scan(&source)
		return source, err
	}, taintOfKin, string(id))
}

// taintOfKin lists what a session and its kin have read.
const taintOfKin = `SELECT DISTINCT t.source FROM agent_session one JOIN agent_session kin ON kin.root = one.root
	JOIN taint t ON t.session_id = kin.id WHERE one.id = ? ORDER BY t.source`

func (s *SQL) TaintSession(ctx context.Context, id ostiary.SessionID, source string) error {
	if err := checkText("source", string(id), source); err != nil {
		return err
	}
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		var one int64
		found, err := x.get("SELECT 1 FROM agent_session WHERE id = ?", []any{string(id)}, []any{&one})
		if err != nil {
			return none{}, err
		}
		if !found {
			return none{}, errNone("session")
		}
		n, err := x.exec("INSERT INTO taint (session_id, source) VALUES (?, ?) ON CONFLICT DO NOTHING", string(id), source)
		if err != nil || n == 0 {
			return none{}, err
		}
		_, err = x.change("taint", string(id), map[string]string{"source": source})
		return none{}, err
	})
	return err
}

func (s *SQL) OpenLog(ctx context.Context, origin, key string) (uint64, error) {
	if err := checkText("log", origin, key); err != nil {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		var place int64
		if _, err := x.get("SELECT COALESCE(MAX(place), 0) + 1 FROM ledger_log", nil, []any{&place}); err != nil {
			return 0, err
		}
		n, err := x.exec(`INSERT INTO ledger_log (origin, verifier, opened, place, writer_epoch, size, root)
			VALUES (?, ?, ?, ?, 0, 0, '') ON CONFLICT (origin) DO NOTHING`, origin, key, stamp(s.now()), place)
		if err != nil {
			return 0, err
		}
		var known string
		var epoch int64
		if _, err := x.get("SELECT verifier, writer_epoch FROM ledger_log WHERE origin = ?", []any{origin}, []any{&known, &epoch}); err != nil {
			return 0, err
		}
		if known != key {
			return 0, errKey()
		}
		if n == 1 {
			_, err = x.change("log", origin, map[string]string{"key": key})
		}
		return uint64(epoch), err
	})
}

func (s *SQL) Fence(ctx context.Context, origin string, from uint64) (uint64, error) {
	return write(ctx, s.engine, func(x *txn) (uint64, error) {
		n, err := x.exec("UPDATE ledger_log SET writer_epoch = writer_epoch + 1 WHERE origin = ? AND writer_epoch = ?", origin, int64(from))
		if err != nil {
			return 0, err
		}
		if n == 0 {
			return 0, whichLog(x, origin, errFence())
		}
		_, err = x.change("fence", origin, map[string]uint64{"epoch": from + 1})
		return from + 1, err
	})
}

// whichLog tells an unknown log from a guard that failed.
func whichLog(x *txn, origin string, guard error) error {
	var one int64
	found, err := x.get("SELECT 1 FROM ledger_log WHERE origin = ?", []any{origin}, []any{&one})
	if err != nil {
		return err
	}
	if !found {
		return errNone("log")
	}
	return guard
}

// Anchor has no revision: anchors follow the logs, and a log of changes that
// recorded them would never come to rest. Repeating one is harmless.
func (s *SQL) Anchor(ctx context.Context, origin string, size uint64, root ostiary.Digest) error {
	_, err := write(ctx, s.engine, func(x *txn) (none, error) {
		n, err := x.exec("UPDATE ledger_log SET size = ?, root = ? WHERE origin = ? AND (size < ? OR size = ? AND root = ?)",
			int64(size), root.String(), origin, int64(size), int64(size), root.String())
		if err == nil && n == 0 {
			err = whichLog(x, origin, errShrinks())
		}
		return none{}, err
	})
	return err
}

func (s *SQL) Head(ctx context.Context, origin string) (size uint64, root ostiary.Digest, err error) {
	var text string
	if _, err = s.row(ctx, "SELECT size, root FROM ledger_log WHERE origin = ?", []any{origin}, []any{&size, &text}); err != nil {
		return 0, root, err
	}
	if root, err = ostiary.ParseDigest(text); err != nil {
		return 0, root, ostiary.Errorf(ostiary.Corrupt, "stored_row", "a stored root cannot be read").Because(err)
	}
	return size, root, nil
}

func (s *SQL) Logs(ctx context.Context) ([]ledger.LogRecord, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (l ledger.LogRecord, err error) {
		var opened int64
		err = r.Scan(&l.Origin, &l.Key, &opened)
		l.Opened = instant(opened)
		return l, err
	}, "SELECT origin, verifier, opened FROM ledger_log ORDER BY place, origin")
}

func (s *SQL) PutDataKey(ctx context.Context, name string, wrapped []byte) ([]byte, error) {
	if err := checkKey(name, wrapped); err != nil {
		return nil, err
	}
	return write(ctx, s.engine, func(x *txn) ([]byte, error) {
		n, err := x.exec("INSERT INTO data_key (name, wrapped) VALUES (?, ?) ON CONFLICT (name) DO NOTHING", name, wrapped)
		if err != nil {
			return nil, err
		}
		if n == 1 {
			_, err = x.change("data_key", name, none{})
			return append([]byte(nil), wrapped...), err
		}
		var there []byte
		_, err = x.get("SELECT wrapped FROM data_key WHERE name = ?", []any{name}, []any{&there})
		return there, err
	})
}

func (s *SQL) DataKey(ctx context.Context, name string) (wrapped []byte, err error) {
	found, err := s.row(ctx, "SELECT wrapped FROM data_key WHERE name = ?", []any{name}, []any{&wrapped})
	if err == nil && !found {
		err = errNone("data key")
	}
	return wrapped, err
}

func (s *SQL) DataKeys(ctx context.Context, after string, limit int) ([]DataKey, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (k DataKey, err error) {
		err = r.Scan(&k.Name, &k.Wrapped)
		return k, err
	}, "SELECT name, wrapped FROM data_key WHERE name > ? ORDER BY name LIMIT ?", after, int64(wraps(limit)))
}

func (s *SQL) RewrapDataKeys(ctx context.Context, all []Rewrap) (int, error) {
	if err := checkRewraps(all); err != nil || len(all) == 0 {
		return 0, err
	}
	return write(ctx, s.engine, func(x *txn) (int, error) {
		done := 0
		for _, r := range all {
			n, err := x.exec("UPDATE data_key SET wrapped = ? WHERE name = ? AND wrapped = ?", r.New, r.Name, r.Old)
			if err != nil {
				return 0, err
			}
			done += int(n)
		}
		if done == 0 {
			return 0, nil
		}
		_, err := x.change("data_key", "", map[string]int{"wrapped_anew": done})
		return done, err
	})
}

func (s *SQL) SetContainment(ctx context.Context, request string, c Containment) (uint64, error) {
	if err := checkContainment(request, c); err != nil {
		return 0, err
	}
	if request == "" {
		request = NewRequest()
	}
	if c.At.IsZero() {
		c.At = s.now()
	}
	return writeAs(ctx, s.engine, request, func(x *txn) (uint64, error) {
		var rev int64
		found, err := x.get("SELECT rev FROM change WHERE request_id = ?", []any{request}, []any{&rev})
		if err != nil || found {
			return uint64(rev), err
		}
		n, err := x.change("containment", c.Scope+" "+c.Name, map[string]any{"scope": c.Scope, "name": c.Name, "level": c.Level.String(), "reason": c.Reason, "by": c.By})
		if err != nil {
			return 0, err
		}
		_, err = x.exec(`INSERT INTO containment (scope, name, level, reason, author, decided, rev) VALUES (?, ?, ?, ?, ?, ?, ?)
			ON CONFLICT (scope, name) DO UPDATE SET level = excluded.level, reason = excluded.reason, author = excluded.author,
			decided = excluded.decided, rev = excluded.rev`,
			c.Scope, c.Name, int64(c.Level), c.Reason, c.By, stamp(c.At), int64(n))
		return n, err
	})
}

func (s *SQL) Containments(ctx context.Context) ([]Containment, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (c Containment, err error) {
		var at int64
		err = r.Scan(&c.Scope, &c.Name, &c.Level, &c.Reason, &c.By, &at, &c.Rev)
		c.At = instant(at)
		return c, err
	}, "SELECT scope, name, level, reason, author, decided, rev FROM containment ORDER BY scope, name")
}

func (s *SQL) Revision(ctx context.Context) (rev uint64, err error) {
	found, err := s.row(ctx, "SELECT rev FROM head WHERE id = 1", nil, []any{&rev})
	if err == nil && !found {
		err = ostiary.Errorf(ostiary.Corrupt, "stored_row", "the store has no head")
	}
	return rev, err
}

func (s *SQL) Changes(ctx context.Context, after uint64) ([]Change, error) {
	return rows(ctx, s.engine, func(r *sql.Rows) (c Change, err error) {
		err = r.Scan(&c.Rev, &c.Epoch, &c.Request, &c.Kind, &c.Key, &c.Body)
		return c, err
	}, "SELECT rev, epoch, request_id, kind, item, body FROM change WHERE rev > ? ORDER BY rev LIMIT ?", int64(min(after, 1<<62)), maxChanges)
}

func (s *SQL) Applied(ctx context.Context, request string) (rev uint64, err error) {
	_, err = s.row(ctx, "SELECT rev FROM change WHERE request_id = ?", []any{request}, []any{&rev})
	return rev, err
}

func checkPins(records []catalog.PinRecord) error {
	if len(records) > maxPins {
		return ostiary.Errorf(ostiary.Malformed, "too_large", "more than %d definitions at once", maxPins)
	}
	for _, p := range records {
		if err := checkText("pin", p.Server, p.Kind, p.Name, p.By); err != nil {
			return err
		}
		if err := checkSize("definition", p.Definition, maxSigned); err != nil {
			return err
		}
	}
	return nil
}

func pinsBody(records []catalog.PinRecord) any {
	type row struct{ Server, Kind, Name, Pin, By string }
	out := make([]row, len(records))
	for i, p := range records {
		out[i] = row{p.Server, p.Kind, p.Name, p.Pin.String(), p.By}
	}
	return out
}

func checkSession(r provenance.SessionRecord) error {
	if r.ID == "" || r.Agent == "" || r.Root == "" {
		return ostiary.Errorf(ostiary.Malformed, "session", "a session needs an id, an agent and the first mandate of its chain")
	}
	return checkText("session", append(append([]string{}, r.Taint...), string(r.ID), string(r.Agent), string(r.Principal), string(r.Mandate), string(r.Root))...)
}

func checkKey(name string, wrapped []byte) error {
	if name == "" {
		return ostiary.Errorf(ostiary.Malformed, "data_key", "a data key needs a name")
	}
	if err := checkText("name", name); err != nil {
		return err
	}
	return checkSize("data key", wrapped, maxWrapped)
}

func checkRewraps(all []Rewrap) error {
	if len(all) > MaxWraps {
		return ostiary.Errorf(ostiary.Malformed, "data_key", "at most %d wraps are replaced at once", MaxWraps)
	}
	for _, r := range all {
		if err := errors.Join(checkKey(r.Name, r.New), checkSize("old wrap", r.Old, maxWrapped)); err != nil {
			return ostiary.Errorf(ostiary.Malformed, "data_key", "a wrap to replace has a name, the old wrap and the new one").Because(err)
		}
	}
	return nil
}

// wraps is how many are listed if so many are asked for.
func wraps(limit int) int {
	if limit <= 0 || limit > MaxWraps {
		return MaxWraps
	}
	return limit
}

func checkSize(what string, b []byte, limit int) error {
	if len(b) == 0 || len(b) > limit {
		return ostiary.Errorf(ostiary.Malformed, "too_large", "the %s is empty or longer than %d bytes", what, limit)
	}
	return nil
}
