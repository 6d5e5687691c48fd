package people_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/people/peopletest"
	"github.com/ostiary/ostiary/internal/record"
)

// TestManyPersons: a provider's persons come by themselves. However many did,
// an operator can be revoked and a gateway can start.
func TestManyPersons(t *testing.T) {
	h := newHouse(t)
	h.enrol(t, h.invite(t, "dana", people.Operator), "")
	_, token := h.enrol(t, h.invite(t, "kim", people.Operator), "")
	for i := range 1100 {
		r := record.Record{Kind: "person", ID: fmt.Sprintf("oidc-%019d", i)}
		r.Data, _ = peopletest.Seal{}.Seal([]byte(`{"handle":"aGFuZGxl","roles":[],"created":"2026-11-20T09:00:00Z","by":"idp","round":0}`), []byte(r.Kind+"/"+r.ID))
		if _, err := h.records.CreateRecord(t.Context(), r, start); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := h.Revoke(t.Context(), "kim", "left", "root"); err != nil {
		t.Errorf("an operator cannot be revoked: %v", err)
	}
	_, err := h.Session(t.Context(), token)
	kind(t, err, ostiary.Unauthenticated, "the session of a revoked operator")
	if has, err := h.HasOperator(t.Context()); err != nil || !has {
		t.Errorf("whether there is an operator: %v, %v", has, err)
	}
	if secret, _, err := h.InviteFirst(t.Context()); err != nil || !secret.IsZero() {
		t.Errorf("a start: %v", err)
	}
	_, err = h.Revoke(t.Context(), "dana", "left", "root")
	kind(t, err, ostiary.Conflict, "the last operator")
}

// TestWithdrawn: a link that went to the wrong address can be taken back
// before somebody opens it, by the name it is for.
func TestWithdrawn(t *testing.T) {
	h := newHouse(t)
	h.enrol(t, h.invite(t, "dana", people.Operator), "")
	secret := h.invite(t, "kim", people.Operator)
	other := h.invite(t, "lee")
	asked, err := h.AskEnrol(t.Context(), secret, "visit", "", "")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := peopletest.NewAuthenticator(origin).Create(asked)
	if err != nil {
		t.Fatal(err)
	}
	p, err := h.Revoke(t.Context(), "kim", "sent to somebody else", "dana")
	if err != nil || p.Name != "kim" || p.Revoked.IsZero() {
		t.Fatalf("an invitation cannot be taken back: %+v, %v", p, err)
	}
	_, _, err = h.Enrol(t.Context(), secret, "visit", answer)
	kind(t, err, ostiary.NotFound, "an invitation that was taken back, under way")
	_, err = h.AskEnrol(t.Context(), secret, "visit", "", "")
	kind(t, err, ostiary.NotFound, "an invitation that was taken back")
	if said := h.said(); said[len(said)-1] != "revoke_person" {
		t.Errorf("the log says %v", said)
	}
	if _, err := h.Invited(t.Context(), other); err != nil {
		t.Errorf("somebody else's invitation: %v", err)
	}
	_, err = h.Revoke(t.Context(), "kim", "again", "dana")
	kind(t, err, ostiary.NotFound, "nobody is left of this name")

	// A person's open links go with the person.
	_, _, err = h.Invite(t.Context(), "dana", nil, time.Hour, "root")
	if err != nil {
		t.Fatal(err)
	}
	h.enrol(t, h.invite(t, "max", people.Operator), "")
	if _, err := h.Revoke(t.Context(), "dana", "left", "max"); err != nil {
		t.Fatal(err)
	}
	list, err := h.Invitations(t.Context())
	if err != nil || len(list) != 1 || list[0].Name != "lee" {
		t.Errorf("invitations that are left: %+v, %v", list, err)
	}
}

// TestWithdrawnUnrecorded: what cannot be written down does not happen.
func TestWithdrawnUnrecorded(t *testing.T) {
	h := newHouse(t)
	h.enrol(t, h.invite(t, "dana", people.Operator), "")
	secret := h.invite(t, "kim")
	h.refuse = ostiary.Errorf(ostiary.Unavailable, "not_recorded", "the log is full")
	if _, err := h.Revoke(t.Context(), "kim", "r", "dana"); err == nil {
		t.Error("it was taken back unrecorded")
	}
	h.refuse = nil
	if _, err := h.Invited(t.Context(), secret); err != nil {
		t.Errorf("it does not work any more: %v", err)
	}
}

// TestOldInvitation: a link for a new person opens no account that somebody
// else made since under the same name, with whatever roles that has.
func TestOldInvitation(t *testing.T) {
	h := newHouse(t)
	old := h.invite(t, "kim")
	asked, err := h.AskEnrol(t.Context(), old, "visit", "", "")
	if err != nil {
		t.Fatal(err)
	}
	h.enrol(t, h.invite(t, "kim", people.Operator), "")
	_, err = h.AskEnrol(t.Context(), old, "visit", "", "")
	kind(t, err, ostiary.Conflict, "asking to enrol as somebody who exists")
	answer, err := peopletest.NewAuthenticator(origin).Create(asked)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = h.Enrol(t.Context(), old, "visit", answer)
	kind(t, err, ostiary.Conflict, "enrolling as somebody who exists")
	if p, err := h.Person(t.Context(), "kim"); err != nil || len(p.Passkey) != 1 {
		t.Errorf("kim has %d keys, %v", len(p.Passkey), err)
	}
}
