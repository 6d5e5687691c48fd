package control

import (
	"cmp"
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
	"github.com/ostiary/ostiary/internal/ledger"
	"github.com/ostiary/ostiary/internal/policy"
)

// The part of the API that asks why policy answered as it did, and how it
// would answer with the candidates in shadow/. Conditions of policies are in
// these answers: they are for operators.

func (c *Control) getExplanation(r *http.Request) (any, error) {
	return c.Explain(r.Context(), r.URL.Query().Get("entry"))
}

// Explain explains a decision by the very policies that made it.
func (c *Control) Explain(ctx context.Context, entry string) (Explanation, error) {
	_, e, err := c.first(ctx, url.Values{"entry": {entry}})
	if err != nil {
		return Explanation{}, err
	}
	req, d, err := gate.Recall(&e.Entry)
	if err != nil {
		return Explanation{}, err
	}
	if d.Snapshot == 0 {
		return Explanation{}, ostiary.Errorf(ostiary.NotFound, "not_asked", "the call was refused before policy was asked: %s", d.Code).At("entry")
	}
	s, err := c.snapshot(ctx, d.Snapshot)
	if err != nil {
		return Explanation{}, err
	}
	x := entryOf(e.Origin, e.Ref, &e.Entry)
	return Explanation{
		Entry: x.Ref, Decision: x.Decision, Code: x.Code, Snapshot: d.Snapshot, Policies: x.Policies,
		Near: nearOf(d.Near), Shadow: shadowOf(d.Shadow), Text: s.Explain(&req, d),
	}, nil
}

// snapshot returns the active snapshot or an earlier one, compiled again.
func (c *Control) snapshot(ctx context.Context, number uint64) (*policy.Snapshot, error) {
	if s := c.o.Engine.Active(); s != nil && s.Number() == number {
		return s, nil
	}
	signed, err := c.o.Snapshots.Snapshot(ctx, number)
	if err != nil {
		return nil, err
	}
	keys := c.o.Signing()
	return openSigned(signed, append(slices.Clone(keys.Believed), keys.Over...))
}

func nearOf(list []ostiary.NearMiss) (out []NearMiss) {
	for _, n := range list {
		out = append(out, NearMiss(n))
	}
	return out
}

func shadowOf(s *ostiary.Shadow) *Shadow {
	if s == nil {
		return nil
	}
	return &Shadow{Outcome: s.Outcome, Policies: s.Policies}
}

// maxLooked is how many entries one question about shadows opens at most: each
// is decrypted, since what candidates would have done is part of the payload.
const maxLooked = 10_000

// differing goes through the newest entries that a filter selects, newest
// first, and calls take for each whose decision the candidates would have
// changed, until take returns false. It returns how many entries it opened
// and the time of the oldest.
func differing(ctx context.Context, log Log, f ledger.Filter, take func(e LogEntry, d ostiary.Decision) bool) (looked int, oldest time.Time, err error) {
	f.Kinds, f.Latest, f.Newest, f.Limit = []ostiary.EntryKind{ostiary.KindIntent, ostiary.KindOutcome}, false, true, maxLooked
	rows, _, _, err := settled(ctx, log, f)
	if err != nil {
		return 0, oldest, err
	}
	for _, row := range rows {
		if !row.Entry.Answers.IsZero() {
			continue // its Intent holds the decision
		}
		e, err := log.Entry(ctx, row.Ref)
		if err != nil {
			return looked, oldest, err
		}
		looked++
		oldest = e.Entry.Time
		_, d, err := gate.Recall(&e.Entry)
		if err != nil || d.Shadow == nil {
			continue
		}
		if !take(e, d) {
			break
		}
	}
	return looked, oldest, nil
}

// shadowLog is Find for the filter shadow=differs: each such action once,
// its outcome if it has one.
func (c *Control) shadowLog(ctx context.Context, log Log, f ledger.Filter, details bool) (Listing, error) {
	limit, newest := cmp.Or(f.Limit, 100), f.Newest
	out := Listing{Entries: []Entry{}}
	var found error
	_, _, err := differing(ctx, log, f, func(e LogEntry, _ ostiary.Decision) bool {
		x := entryOf(e.Origin, e.Ref, &e.Entry)
		if details {
			x = x.withPayload(&e.Entry.Payload, e.Opened)
		}
		var rows []ledger.Row
		if rows, _, _, found = log.Query(ctx, ledger.Filter{Answers: e.Entry.ID, Kinds: []ostiary.EntryKind{ostiary.KindOutcome}, Limit: 10}); found != nil {
			return false
		}
		for _, row := range rows {
			if row.Entry.Answers == e.Entry.ID {
				x.Disposition, x.Kind = row.Entry.Disposition.String(), row.Entry.Kind.String()
			}
		}
		out.Entries = append(out.Entries, x)
		return len(out.Entries) < limit
	})
	if err == nil {
		err = found
	}
	if err != nil {
		return Listing{}, err
	}
	if !newest {
		slices.Reverse(out.Entries)
	}
	_, out.Indexed, out.Size, err = log.Query(ctx, ledger.Filter{Limit: 1})
	return out, err
}

func (c *Control) getShadow(r *http.Request) (any, error) {
	return c.Shadow(r.Context(), r.URL.Query())
}

// Shadow sums up what the candidates would have changed, by policy.
func (c *Control) Shadow(ctx context.Context, q url.Values) (ShadowSummary, error) {
	f, err := filterOf(q)
	if err != nil {
		return ShadowSummary{}, err
	}
	if f.Limit != 0 || f.Latest || f.Newest || f.Kinds != nil {
		return ShadowSummary{}, ostiary.Errorf(ostiary.Malformed, "filter", "give agent, principal, session, action, server, code, except, decision, since or until")
	}
	out := ShadowSummary{Differences: []ShadowDifference{}}
	if s := c.o.Engine.Active(); s != nil {
		out.Candidates = s.Set().Candidates()
	}
	sums := map[string]*ShadowDifference{}
	out.Looked, out.Oldest, err = differing(ctx, c.o.Log, f, func(e LogEntry, d ostiary.Decision) bool {
		live := "deny"
		if d.Permit {
			live = "permit"
		} else if d.Requestable() {
			live = "requestable"
		}
		for _, id := range d.Shadow.Policies {
			key := strconv.Quote(id) + live + d.Shadow.Outcome
			s := sums[key]
			if s == nil {
				s = &ShadowDifference{Policy: id, Enforced: live, Outcome: d.Shadow.Outcome, Newest: e.Ref.String()}
				sums[key] = s
			}
			s.Count++
			if a := string(e.Entry.Agent); !slices.Contains(s.Agents, a) && len(s.Agents) < maxNamed {
				s.Agents = append(s.Agents, a)
			}
		}
		return true
	})
	for _, s := range sums {
		slices.Sort(s.Agents)
		out.Differences = append(out.Differences, *s)
	}
	slices.SortFunc(out.Differences, func(a, b ShadowDifference) int {
		return cmp.Or(cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Enforced+a.Outcome, b.Enforced+b.Outcome))
	})
	return out, err
}

// maxNamed is how many agents a summary names for one policy.
const maxNamed = 10

// firstOf returns the entry an action's story begins with: of an Outcome the
// Intent that it answers.
func firstOf(ctx context.Context, log Log, ref ostiary.EntryRef) (LogEntry, error) {
	first, err := log.Entry(ctx, ref)
	if err != nil {
		return first, err
	}
	id := first.Entry.Answers
	if id.IsZero() {
		return first, nil
	}
	rows, _, _, err := log.Query(ctx, ledger.Filter{ID: id, Limit: 1})
	if err != nil || len(rows) != 1 {
		return first, err
	}
	return log.Entry(ctx, rows[0].Ref)
}

// takeShadow takes the filter shadow=differs out of a query.
func takeShadow(q url.Values) (bool, error) {
	defer q.Del("shadow")
	switch v := q["shadow"]; {
	case len(v) == 0:
		return false, nil
	case len(v) == 1 && v[0] == "differs":
		return true, nil
	}
	return false, ostiary.Errorf(ostiary.Malformed, "filter", "write differs").At("shadow")
}
