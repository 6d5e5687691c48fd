package approval

import (
	"context"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/ostiary/ostiary"
)

// Choice is what a person wants to say about a hold.
type Choice struct {
	Consent bool
	Reason  string // of a refusal the agent is told it; at most MaxReason bytes
	Edits   []Edit // of a consent: to this narrower action instead
}

// Preview is a hold as a choice would make it, with what policy says to that.
type Preview struct {
	Hold     *Hold // with the narrowed action and its own question
	Decision ostiary.Decision
}

// Preview shows a narrowing before anybody votes for it: the new bytes,
// validated and decided like any call. The error says why it cannot be.
// Nothing is changed.
func (a *Approvals) Preview(ctx context.Context, id ostiary.HoldID, edits []Edit) (Preview, error) {
	h, err := a.get(ctx, id)
	if err != nil {
		return Preview{}, err
	}
	if err := a.undecided(h); err != nil {
		return Preview{}, err
	}
	if len(edits) > 0 {
		if err := narrow(h, edits); err != nil {
			return Preview{}, err
		}
	}
	d, err := a.judged(ctx, h)
	return Preview{h, d}, err
}

// Ask prepares a person's vote: the one whose statement they sign, and the hold
// as they consent to it, narrowed if they chose so. It changes nothing, and
// refuses whoever may not vote, with the reason.
func (a *Approvals) Ask(ctx context.Context, id ostiary.HoldID, person ostiary.PrincipalID, c Choice) (ostiary.Vote, *Hold, error) {
	h, err := a.get(ctx, id)
	if err != nil {
		return ostiary.Vote{}, nil, err
	}
	if err := a.choose(h, &c); err != nil {
		return ostiary.Vote{}, nil, err
	}
	if _, err := a.voter(ctx, h, person, c.Consent); err != nil {
		return ostiary.Vote{}, nil, err
	}
	if c.Consent {
		if _, err := a.judged(ctx, h); err != nil {
			return ostiary.Vote{}, nil, err
		}
	}
	v := ostiary.Vote{Hold: h.ID, Question: h.Question.Digest(), Consent: c.Consent, Approver: person, Cast: a.o.Clock().UTC().Truncate(time.Second), Expires: h.Expires}
	if c.Reason != "" {
		v.Reason = ostiary.DigestOf([]byte(c.Reason))
	}
	return v, h, nil
}

// Cast counts a signed vote. The first refusal ends the hold; enough consent
// grants it, and whoever runs calls carries it out. Of two votes of one human
// the second is refused. The vote is in the log before it counts.
func (a *Approvals) Cast(ctx context.Context, b Ballot) (*Hold, error) {
	if err := a.o.Verify(&b.Vote); err != nil {
		return nil, ostiary.Errorf(ostiary.Unauthenticated, "vote_signature", "the vote's signature does not verify").Because(err)
	}
	b.Vote.Expires = b.Vote.Expires.UTC()
	recorded := false
	return a.change(ctx, b.Vote.Hold, func(h *Hold) error {
		c := Choice{Consent: b.Vote.Consent, Reason: b.Reason, Edits: b.Edits}
		if err := a.choose(h, &c); err != nil {
			return err
		}
		if err := a.fits(h, &b, c); err != nil {
			return err
		}
		p, err := a.voter(ctx, h, b.Vote.Approver, c.Consent)
		if err != nil {
			return err
		}
		if !holdsKey(p, b.Vote.Key) {
			return errVote("vote_key", "the key that signed is not one of yours")
		}
		if c.Consent {
			if _, err := a.judged(ctx, h); err != nil {
				return err
			}
		}
		b.Reason, b.Humans = c.Reason, a.humans(p)
		if !recorded {
			if err := a.o.Record(ctx, Event{What: "vote", Hold: h.ID, Agent: h.Question.Agent, Person: p.Person, Vote: &b.Vote, Detail: said(h, &b)}); err != nil {
				return err
			}
			recorded = true
		}
		return a.count(ctx, h, b)
	})
}

// choose checks a choice and makes the hold what it consents to.
func (a *Approvals) choose(h *Hold, c *Choice) error {
	if err := a.undecided(h); err != nil {
		return err
	}
	c.Reason = strings.TrimSpace(c.Reason)
	switch {
	case len(c.Reason) > MaxReason || !utf8.ValidString(c.Reason) || strings.ContainsRune(c.Reason, 0):
		return ostiary.Errorf(ostiary.Malformed, "reason", "a reason is a text of at most %d bytes", MaxReason).At("reason")
	case !c.Consent && c.Reason == "":
		return ostiary.Errorf(ostiary.Malformed, "reason", "say why; the agent is told it, and it stays in the log").At("reason")
	case !c.Consent && len(c.Edits) > 0:
		return ostiary.Errorf(ostiary.Malformed, "narrowing", "a refusal narrows nothing").At("edits")
	case len(c.Edits) > 0:
		return narrow(h, c.Edits)
	}
	return nil
}

// undecided refuses a vote on what has been decided, or was not in time.
func (a *Approvals) undecided(h *Hold) error {
	switch now := a.o.Clock(); {
	case h.Overdue(now):
		return ostiary.Errorf(ostiary.Conflict, "hold_expired", "nobody decided this in time, so it was refused").At("hold")
	case h.State != ostiary.HoldPending:
		return ostiary.Errorf(ostiary.Conflict, "hold_decided", "this was decided already: %s", h.State).At("hold")
	}
	return nil
}

// narrow puts a narrower action in the place of the hold's. Votes for the one
// before do not count for it: the question is another one.
func narrow(h *Hold, edits []Edit) error {
	next, err := Narrow(&h.Call.Action, edits)
	if err != nil {
		return err
	}
	if h.Original == nil {
		h.Original = h.Call.Action.Arguments.Bytes()
	}
	h.Call.Action = next
	h.Question.Action = next.Digest()
	return nil
}

// judged asks policy, as it is now, about the hold as it stands: it must still
// be one that these people's consent would change, under the same policies.
func (a *Approvals) judged(ctx context.Context, h *Hold) (ostiary.Decision, error) {
	r, d, err := a.o.Judge(ctx, &h.Call)
	switch {
	case err != nil:
		return ostiary.Decision{}, err
	case r == nil || d == nil:
		return ostiary.Decision{}, ostiary.Errorf(ostiary.Unavailable, "no_decision", "policy gives no answer now")
	case r.Action.Digest() != h.Question.Action:
		return *d, ostiary.Errorf(ostiary.Denied, "approval_bytes", "what would be executed is not what was held")
	case d.Policy != h.Question.Policy:
		return *d, ostiary.Errorf(ostiary.Conflict, "approval_policy", "the policies have changed since; the agent must ask again")
	case !d.Permit && !d.Requestable():
		e := ostiary.Errorf(ostiary.Denied, d.Code, "policy does not permit it, whoever consents")
		e.Reasons = d.Reasons
		return *d, e
	}
	facts := h.Facts()
	for _, x := range d.Remedies {
		if !slices.Contains(facts, x.Fact) {
			return *d, ostiary.Errorf(ostiary.Denied, "approval_facts", "policy asks for %s too now; the agent must ask again", x.Fact)
		}
	}
	return *d, nil
}

// voter returns a person who may vote on a hold now. Whoever consented may
// still refuse, until it is granted.
func (a *Approvals) voter(ctx context.Context, h *Hold, person ostiary.PrincipalID, consent bool) (*Approver, error) {
	p, err := a.o.People.Approver(ctx, person)
	if ostiary.KindOf(err) == ostiary.NotFound || err == nil && p.Person != person {
		return nil, errVote("approver_unknown", "there is no such person")
	}
	if err != nil {
		return nil, err
	}
	if _, err := a.roles(ctx, h, &p, a.o.Clock()); err != nil {
		return nil, err
	}
	who := a.humans(&p)
	for i := range h.Votes {
		if consent && overlap(h.Votes[i].Humans, who) && h.Votes[i].Vote.Question == h.Question.Digest() {
			return nil, ostiary.Errorf(ostiary.Conflict, "voted", "you voted on this already, perhaps with another account")
		}
	}
	if consent && len(h.Votes) >= MaxVotes {
		return nil, ostiary.Errorf(ostiary.Exhausted, "votes", "%d votes were cast on this already", MaxVotes)
	}
	return &p, nil
}

// fits reports whether a vote is on this question, with these words, now.
func (a *Approvals) fits(h *Hold, b *Ballot, c Choice) error {
	v := &b.Vote
	reason := ostiary.Digest{}
	if c.Reason != "" {
		reason = ostiary.DigestOf([]byte(c.Reason))
	}
	age := a.o.Clock().Sub(v.Cast)
	switch {
	case v.Question != h.Question.Digest() || v.Hold != h.ID || !v.Expires.Equal(h.Expires):
		return ostiary.Errorf(ostiary.Conflict, "vote_question", "the vote is on something else than what is held now; look at it again")
	case v.Reason != reason:
		return ostiary.Errorf(ostiary.Conflict, "vote_question", "the vote was signed for other words").At("reason")
	case age > VoteLife || age < -VoteLife:
		return ostiary.Errorf(ostiary.Conflict, "vote_stale", "the vote was begun more than %v ago; look again", VoteLife)
	}
	return nil
}

// count adds a vote and says what it comes to.
func (a *Approvals) count(ctx context.Context, h *Hold, b Ballot) error {
	now := a.o.Clock().UTC()
	h.Votes = append(h.Votes, b)
	if !b.Vote.Consent {
		h.State = ostiary.HoldRefused
		h.Ended = Ending{At: now, By: b.Vote.Approver, Why: b.Reason, Code: "refused_by_person"}
		return nil
	}
	enough, err := a.quorum(ctx, h, now)
	if err == nil && enough {
		h.State = ostiary.HoldGranted
	}
	return err
}

// said is a vote in words, for the log.
func said(h *Hold, b *Ballot) string {
	s := "consents to "
	if !b.Vote.Consent {
		s = "refuses "
	}
	s += h.Call.Action.Name
	if len(b.Edits) > 0 {
		s += ", narrowed"
	}
	if b.Reason != "" {
		s += ": " + b.Reason
	}
	return s
}

// Satisfied returns the facts that people's consent to exactly this request
// makes hold: the same bytes, tool and pin, agent, principal, mandate and
// session, by people who could still vote now. It is an error for every other
// request, and for a consent that was used.
func (a *Approvals) Satisfied(ctx context.Context, id ostiary.HoldID, r *ostiary.Request) ([]string, error) {
	h, err := a.get(ctx, id)
	if err != nil {
		return nil, err
	}
	now := a.o.Clock()
	if err := a.redeemable(h, now); err != nil {
		return nil, err
	}
	if !h.about(r) {
		return nil, ostiary.Errorf(ostiary.Denied, "approval_bytes", "this is not what people consented to")
	}
	enough, err := a.quorum(ctx, h, now)
	switch {
	case err != nil:
		return nil, err
	case !enough:
		return nil, ostiary.Errorf(ostiary.Denied, "approval_withdrawn", "somebody who consented could not any more, so it takes another vote")
	}
	return h.Facts(), nil
}

// about reports whether a request is the one that people consented to.
func (h *Hold) about(r *ostiary.Request) bool {
	q := h.Question
	q.Action, q.Agent, q.Principal, q.Mandate, q.Session = r.Action.Digest(), r.Subject.Agent, r.Subject.Principal, r.Subject.Mandate, r.Context.Session.ID
	return q.Digest() == h.Question.Digest()
}

func (a *Approvals) redeemable(h *Hold, now time.Time) error {
	switch {
	case h.State == ostiary.HoldSpent || h.State == ostiary.HoldDone || h.State == ostiary.HoldUnknown:
		return ostiary.Errorf(ostiary.Conflict, "approval_spent", "this consent was used already")
	case h.State != ostiary.HoldGranted:
		return ostiary.Errorf(ostiary.Denied, "approval_state", "people have not consented to this: it is %s", h.State)
	case !h.Expires.After(now):
		return ostiary.Errorf(ostiary.Denied, "approval_expired", "the consent has expired")
	case h.Gateway != a.o.Gateway || h.Epoch != a.o.Epoch:
		return ostiary.Errorf(ostiary.Denied, "approval_state", "it was held by another gateway, or before this one was restored from a backup")
	}
	return nil
}

// Spend uses a consent up, for the Intent of this id and no other: of any
// number of callers on any number of processes exactly one succeeds, the
// others get a Conflict. It returns when that is durable. The decision must be
// a permit under the policies that people knew, of exactly the bytes they
// consented to.
func (a *Approvals) Spend(ctx context.Context, id ostiary.HoldID, intent ostiary.EntryID, r *ostiary.Request, d *ostiary.Decision) error {
	_, err := a.change(ctx, id, func(h *Hold) error {
		if err := a.redeemable(h, a.o.Clock()); err != nil {
			return err
		}
		switch {
		case !h.about(r):
			return ostiary.Errorf(ostiary.Denied, "approval_bytes", "this is not what people consented to")
		case !d.Permit || d.Policy != h.Question.Policy:
			return ostiary.Errorf(ostiary.Denied, "approval_policy", "the policies have changed since; the agent must ask again")
		case intent.IsZero():
			return ostiary.Errorf(ostiary.Internal, "approval_intent", "internal error")
		}
		h.State, h.Intent = ostiary.HoldSpent, intent
		return nil
	})
	return err
}
