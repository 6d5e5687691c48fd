package control

import (
	"context"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/ledger"
)

// The part of the API that asks what happened.

func (c *Control) getLog(r *http.Request) (any, error) { return c.Find(r.Context(), r.URL.Query()) }

// Find answers GET /v1/log.
func (c *Control) Find(ctx context.Context, q url.Values) (Listing, error) {
	log, err := c.which(q)
	if err != nil {
		return Listing{}, err
	}
	details := q.Get("details") == "true"
	q.Del("details")
	shadow, err := takeShadow(q)
	if err != nil {
		return Listing{}, err
	}
	f, err := filterOf(q)
	if err != nil {
		return Listing{}, err
	}
	if shadow {
		return c.shadowLog(ctx, log, f, details)
	}
	rows, indexed, size, err := settled(ctx, log, f)
	if err != nil {
		return Listing{}, err
	}
	out := Listing{Entries: []Entry{}, Indexed: indexed, Size: size}
	for i := range rows {
		x := entryOf(rows[i].Origin, rows[i].Ref, &rows[i].Entry)
		if details {
			e, err := log.Entry(ctx, rows[i].Ref)
			if err != nil {
				return Listing{}, err
			}
			x = x.withPayload(&e.Entry.Payload, e.Opened)
		}
		out.Entries = append(out.Entries, x)
	}
	return out, nil
}

const (
	// indexPatience is how long a listing waits for the index to reach what
	// was in the log when it was asked for: who looks at what just happened
	// should see it. An index that is further behind answers as it is.
	indexPatience = 500 * time.Millisecond
	indexPoll     = 20 * time.Millisecond
)

// settled asks the index once it knows what the log holds now.
func settled(ctx context.Context, log Log, f ledger.Filter) (rows []ledger.Row, indexed, size uint64, err error) {
	late := time.NewTimer(indexPatience)
	defer late.Stop()
	tick := time.NewTicker(indexPoll)
	defer tick.Stop()
	for first := uint64(0); ; {
		rows, indexed, size, err = log.Query(ctx, f)
		if first == 0 {
			first = size
		}
		if err != nil || indexed >= first {
			return rows, indexed, size, err
		}
		select {
		case <-ctx.Done():
			return rows, indexed, size, ctx.Err()
		case <-late.C:
			return rows, indexed, size, nil
		case <-tick.C:
		}
	}
}

// which returns the log that a query names with "log", and takes the word out.
func (c *Control) which(q url.Values) (Log, error) {
	defer q.Del("log")
	switch name := q.Get("log"); name {
	case "", "gateway":
		return c.o.Log, nil
	case "deployment":
		return c.o.Changelog, nil
	default:
		return nil, ostiary.Errorf(ostiary.NotFound, "unknown_log", "there is no log %q; write gateway or deployment", name).At("log")
	}
}

// filterOf reads the query of GET /v1/log. Unknown words are refused, since a
// filter that is ignored shows too much.
func filterOf(q url.Values) (f ledger.Filter, err error) {
	bad := func(field, why string) error { return ostiary.Errorf(ostiary.Malformed, "filter", "%s", why).At(field) }
	for key, vs := range q {
		if len(vs) != 1 {
			return f, bad(key, "give each filter once")
		}
		v := vs[0]
		switch key {
		case "agent":
			f.Agent = v
		case "principal":
			f.Principal = v
		case "session":
			f.Session = v
		case "action":
			f.Action = v
		case "server":
			f.Server = v
		case "code":
			f.Code = v
		case "except":
			f.Except = v
		case "latest":
			f.Latest = v == "true"
		case "newest":
			f.Newest = v == "true"
		case "limit":
			if f.Limit, err = strconv.Atoi(v); err != nil || f.Limit < 1 || f.Limit > 10000 {
				return f, bad(key, "write a number from 1 to 10000")
			}
		case "since", "until":
			t, err := time.Parse(time.RFC3339Nano, v)
			if err != nil {
				return f, bad(key, "write a time like 2026-11-20T10:00:00Z")
			}
			if key == "since" {
				f.Since = t
			} else {
				f.Until = t
			}
		case "decision":
			if v != "permit" && v != "deny" {
				return f, bad(key, "write permit or deny")
			}
			permit := v == "permit"
			f.Permit = &permit
		case "disposition":
			i := slices.IndexFunc(dispositions, func(d ostiary.Disposition) bool { return d.String() == v })
			if i < 0 {
				return f, bad(key, "write refused, held, delivered, withheld, failed or unknown")
			}
			f.Disposition = &dispositions[i]
		case "kind":
			for k := ostiary.KindIntent; k <= ostiary.KindErasure; k++ {
				if slices.Contains(strings.Split(v, ","), k.String()) {
					f.Kinds = append(f.Kinds, k)
				}
			}
			if len(f.Kinds) == 0 {
				return f, bad(key, "write entry kinds like intent,outcome")
			}
		default:
			return f, bad(key, "there is no such filter")
		}
	}
	if f.Disposition != nil {
		f.Kinds = []ostiary.EntryKind{ostiary.KindOutcome} // no other has one
	}
	if !f.Since.IsZero() && !f.Until.IsZero() && !f.Since.Before(f.Until) {
		return f, bad("until", "it is not after since")
	}
	return f, nil
}

var dispositions = []ostiary.Disposition{ostiary.Refused, ostiary.Held, ostiary.Delivered, ostiary.Withheld, ostiary.Failed, ostiary.Unknown}

func (c *Control) getStory(r *http.Request) (any, error) { return c.Story(r.Context(), r.URL.Query()) }

// Story answers GET /v1/log/entry: one action whole. Asked for an Outcome, it
// starts from the Intent that the Outcome answers.
func (c *Control) Story(ctx context.Context, q url.Values) (Story, error) {
	log, first, err := c.first(ctx, q)
	if err != nil {
		return Story{}, err
	}
	return story(ctx, log, first)
}

// first returns the entry that a query names, with its log: of an Outcome the
// Intent that it answers.
func (c *Control) first(ctx context.Context, q url.Values) (Log, LogEntry, error) {
	log, err := c.which(q)
	if err != nil {
		return nil, LogEntry{}, err
	}
	ref, err := ostiary.ParseEntryRef(q.Get("entry"))
	if err != nil {
		return nil, LogEntry{}, ostiary.Errorf(ostiary.Malformed, "entry", "%v", err).At("entry")
	}
	e, err := firstOf(ctx, log, ref)
	return log, e, err
}

func story(ctx context.Context, log Log, first LogEntry) (Story, error) {
	s := Story{Entries: []Entry{entryOf(first.Origin, first.Ref, &first.Entry).withPayload(&first.Entry.Payload, first.Opened)}}
	rows, _, _, err := log.Query(ctx, ledger.Filter{Answers: first.Entry.ID, Limit: 1000})
	if err != nil {
		return Story{}, err
	}
	for _, row := range rows {
		if row.Ref == first.Ref {
			continue
		}
		e, err := log.Entry(ctx, row.Ref)
		if err != nil {
			return Story{}, err
		}
		s.Entries = append(s.Entries, entryOf(e.Origin, e.Ref, &e.Entry).withPayload(&e.Entry.Payload, e.Opened))
	}
	p, err := log.Prove(ctx, first.Ref)
	if err != nil {
		return Story{}, err
	}
	s.Proof = string(p)
	return s, nil
}
