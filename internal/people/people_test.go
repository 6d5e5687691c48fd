package people_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/people"
	"github.com/ostiary/ostiary/internal/people/peopletest"
	"github.com/ostiary/ostiary/internal/record"
	"github.com/ostiary/ostiary/internal/store"
)

const origin = "http://localhost:8090"

// house is a People with everything around it.
type house struct {
	*people.People
	records *peopletest.Records
	now     atomic.Int64 // seconds since start

	mu     sync.Mutex
	events []people.Event
	refuse error // of Record
	ended  []ostiary.PrincipalID
}

func newHouse(t *testing.T, more ...func(*people.Options)) *house {
	t.Helper()
	h := &house{records: &peopletest.Records{Keeper: store.NewMemory()}}
	o := people.Options{
		Records: h.records, Seal: peopletest.Seal{}, Origin: origin, Name: "test", Clock: h.clock,
		Record: func(_ context.Context, e people.Event) error {
			h.mu.Lock()
			defer h.mu.Unlock()
			if h.refuse == nil {
				h.events = append(h.events, e)
			}
			return h.refuse
		},
		EndGiven: func(_ context.Context, who ostiary.PrincipalID, _ string) error {
			h.ended = append(h.ended, who)
			return nil
		},
	}
	for _, f := range more {
		f(&o)
	}
	var err error
	if h.People, err = people.New(o); err != nil {
		t.Fatal(err)
	}
	return h
}

var start = time.Date(2026, 11, 20, 9, 0, 0, 0, time.UTC)

func (h *house) clock() time.Time     { return start.Add(time.Duration(h.now.Load()) * time.Second) }
func (h *house) pass(d time.Duration) { h.now.Add(int64(d / time.Second)) }
func (h *house) said() (words []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, e := range h.events {
		words = append(words, e.What)
	}
	return words
}

// invite returns an invitation's secret.
func (h *house) invite(t *testing.T, name string, roles ...people.Role) string {
	t.Helper()
	s, _, err := h.Invite(t.Context(), name, roles, 0, "root")
	if err != nil {
		t.Fatal(err)
	}
	return string(s.Reveal())
}

// enrol takes an invitation with a fresh authenticator.
func (h *house) enrol(t *testing.T, secret, name string) (*peopletest.Authenticator, string) {
	t.Helper()
	a := peopletest.NewAuthenticator(origin)
	options, err := h.AskEnrol(t.Context(), secret, "visit", name, "")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Create(options)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := h.Enrol(t.Context(), secret, "visit", answer)
	if err != nil {
		t.Fatalf("%v: %v", err, errors.Unwrap(err))
	}
	return a, string(token.Reveal())
}

// signIn signs in with an authenticator.
func (h *house) signIn(t *testing.T, a *peopletest.Authenticator) (string, error) {
	t.Helper()
	options, err := h.AskSignIn(t.Context(), "visit")
	if err != nil {
		t.Fatal(err)
	}
	answer, err := a.Get(options)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := h.SignIn(t.Context(), "visit", answer)
	return string(token.Reveal()), err
}

func kind(t *testing.T, err error, want ostiary.Kind, what string) {
	t.Helper()
	if err == nil || ostiary.KindOf(err) != want {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func TestFirstOperator(t *testing.T) {
	h := newHouse(t)
	secret, in, err := h.InviteFirst(t.Context())
	if err != nil || secret.IsZero() || !in.First || in.Expires.Sub(h.clock()) != people.FirstLife {
		t.Fatalf("%+v, %v", in, err)
	}
	again, _, err := h.InviteFirst(t.Context())
	if err != nil || again.IsZero() {
		t.Fatal("a second start prints no link", err)
	}
	_, err = h.Invited(t.Context(), string(secret.Reveal()))
	kind(t, err, ostiary.NotFound, "the link of an earlier start")

	a, token := h.enrol(t, string(again.Reveal()), "dana")
	s, err := h.Session(t.Context(), token)
	if err != nil || s.Person.ID != "person:dana" || !s.Person.Has(people.Operator) || len(s.Person.Roles) != 1 {
		t.Fatalf("%+v, %v", s, err)
	}
	key, err := x509.ParsePKIXPublicKey(s.Person.Passkey[0].Key)
	if pub, ok := key.(*ecdsa.PublicKey); err != nil || !ok || !pub.Equal(&a.Key.PublicKey) {
		t.Error("the key is not kept as the authenticator's SPKI")
	}
	if none, _, err := h.InviteFirst(t.Context()); err != nil || !none.IsZero() {
		t.Error("there is an operator, and a link", err)
	}
	if got := h.said(); !slices.Equal(got, []string{"invite_person", "invite_person", "enrol_person", "sign_in"}) {
		t.Errorf("recorded %v", got)
	}
	if text := h.records.Seen(); strings.Contains(text, token) || strings.Contains(text, string(again.Reveal())) {
		t.Error("a token or a secret is stored")
	}
}

// TestO08OneInvitation: O08, one use, whoever comes: 1,000 browsers with answers
// of their own at once.
func TestO08OneInvitation(t *testing.T) {
	h := newHouse(t)
	secret, _, err := h.InviteFirst(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	link := string(secret.Reveal())
	const n = 1000
	answers := make([][]byte, n)
	for i := range answers {
		options, err := h.AskEnrol(t.Context(), link, "visit", "dana", "")
		if err != nil {
			t.Fatal(err)
		}
		if answers[i], err = peopletest.NewAuthenticator(origin).Create(options); err != nil {
			t.Fatal(err)
		}
	}
	var all sync.WaitGroup
	var won, lost atomic.Int64
	begin := make(chan struct{})
	for _, answer := range answers {
		all.Go(func() {
			<-begin
			switch _, _, err := h.Enrol(t.Context(), link, "visit", answer); {
			case err == nil:
				won.Add(1)
			case ostiary.KindOf(err) == ostiary.NotFound:
				lost.Add(1)
			default:
				t.Error(err)
			}
		})
	}
	close(begin)
	all.Wait()
	if won.Load() != 1 || lost.Load() != n-1 {
		t.Errorf("%d won, %d lost", won.Load(), lost.Load())
	}
	if list, err := h.List(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("%d persons, %v", len(list), err)
	}
	for _, s := range []string{" " + link, link + " ", strings.ToLower(link), link[:len(link)-1], ""} {
		_, err := h.AskEnrol(t.Context(), s, "visit", "eve", "")
		kind(t, err, ostiary.NotFound, "a link with spaces or in another case")
	}
}

func TestInvitation(t *testing.T) {
	h := newHouse(t)
	secret := h.invite(t, "lee", people.Approver, people.Auditor)
	in, err := h.Invited(t.Context(), secret)
	if err != nil || in.Name != "lee" || in.By != "root" || in.Known {
		t.Fatalf("%+v, %v", in, err)
	}
	h.pass(people.InviteLife)
	_, err = h.AskEnrol(t.Context(), secret, "visit", "", "")
	kind(t, err, ostiary.NotFound, "an invitation that expired")
	if list, err := h.Invitations(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("listed: %v, %v", list, err)
	}

	a, _ := h.enrol(t, h.invite(t, "lee", people.Approver), "somebody-else")
	if _, err := h.Person(t.Context(), "lee"); err != nil {
		t.Error("the invitation's name was not taken:", err)
	}
	_, _, err = h.Invite(t.Context(), "lee", []people.Role{people.Operator}, 0, "root")
	kind(t, err, ostiary.Conflict, "roles by an invitation for somebody who is known")
	_, token := h.enrol(t, h.invite(t, "lee"), "")
	s, err := h.Session(t.Context(), token)
	if err != nil || len(s.Person.Passkey) != 2 || !s.Person.Has(people.Approver) {
		t.Errorf("a second passkey: %+v, %v", s, err)
	}
	if _, err := h.signIn(t, a); err != nil {
		t.Error("the first passkey:", err)
	}
	for _, name := range []string{"", "Lee", "lee ", "-lee", "lee.", "l\u0435e", strings.Repeat("a", 65), "oidc-0123"} {
		_, _, err := h.Invite(t.Context(), name, nil, 0, "root")
		kind(t, err, ostiary.Malformed, "the name "+name)
	}
	_, _, err = h.Invite(t.Context(), "kim", nil, people.MaxInviteLife+1, "root")
	kind(t, err, ostiary.Malformed, "a long life")
}

// TestPasskeyLies: what an authenticator or a browser can say that is not so.
func TestPasskeyLies(t *testing.T) {
	h := newHouse(t)
	a, _ := h.enrol(t, h.invite(t, "dana", people.Operator), "")
	good := *a
	for _, tc := range []struct {
		name string
		lie  func(*peopletest.Authenticator)
		want ostiary.Kind
	}{
		{"another origin", func(a *peopletest.Authenticator) { a.Origin = "http://localhost:8091" }, ostiary.Unauthenticated},
		{"https for http", func(a *peopletest.Authenticator) { a.Origin = "https://localhost:8090" }, ostiary.Unauthenticated},
		{"another site's key", func(a *peopletest.Authenticator) { a.RPID = "evil.example" }, ostiary.Unauthenticated},
		{"nobody was verified", func(a *peopletest.Authenticator) { a.Unverified = true }, ostiary.Unauthenticated},
		{"an answer to another question", func(a *peopletest.Authenticator) { a.Type = "webauthn.create" }, ostiary.Unauthenticated},
		{"another key", func(a *peopletest.Authenticator) { a.Key = peopletest.NewAuthenticator(origin).Key }, ostiary.Unauthenticated},
		{"another person's handle", func(a *peopletest.Authenticator) { a.Handle = []byte("0123456789abcdef") }, ostiary.Unauthenticated},
		{"nobody's passkey", func(a *peopletest.Authenticator) { a.ID = []byte("0123456789abcdef") }, ostiary.Unauthenticated},
		{"two types", func(a *peopletest.Authenticator) { a.Extra = `,"type":"webauthn.get"` }, ostiary.Malformed},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lying := good
			lying.Counter = 1000
			tc.lie(&lying)
			_, err := h.signIn(t, &lying)
			kind(t, err, tc.want, "signed in")
		})
	}
	good.Counter = 5
	if _, err := h.signIn(t, &good); err != nil {
		t.Fatal(err, errors.Unwrap(err))
	}
	good.Counter = 3
	_, err := h.signIn(t, &good)
	kind(t, err, ostiary.Unauthenticated, "a counter that fell")

	t.Run("a challenge works once, in its browser, for its use, in time", func(t *testing.T) {
		good.Counter = 10
		options, err := h.AskSignIn(t.Context(), "visit")
		if err != nil {
			t.Fatal(err)
		}
		answer, _ := good.Get(options)
		_, _, err = h.SignIn(t.Context(), "another", answer)
		kind(t, err, ostiary.Unauthenticated, "another browser")
		_, _, err = h.SignIn(t.Context(), "visit", answer)
		kind(t, err, ostiary.Unauthenticated, "a challenge that was used up")

		options, _ = h.AskSignIn(t.Context(), "visit")
		answer, _ = good.Get(options)
		h.pass(people.CeremonyLife)
		_, _, err = h.SignIn(t.Context(), "visit", answer)
		kind(t, err, ostiary.Unauthenticated, "a challenge that expired")

		secret := h.invite(t, "eve")
		options, _ = h.AskEnrol(t.Context(), secret, "visit", "", "")
		answer, _ = peopletest.NewAuthenticator(origin).Create(options)
		other := h.invite(t, "mallory", people.Operator)
		_, _, err = h.Enrol(t.Context(), other, "visit", answer)
		kind(t, err, ostiary.Unauthenticated, "another invitation's answer")
	})

	t.Run("one answer, many senders", func(t *testing.T) {
		good.Counter = 100
		options, _ := h.AskSignIn(t.Context(), "visit")
		answer, _ := good.Get(options)
		var won atomic.Int64
		var all sync.WaitGroup
		for range 1000 {
			all.Go(func() {
				if _, _, err := h.SignIn(t.Context(), "visit", answer); err == nil {
					won.Add(1)
				}
			})
		}
		all.Wait()
		if won.Load() != 1 {
			t.Errorf("%d signed in", won.Load())
		}
	})
}

func TestSession(t *testing.T) {
	h := newHouse(t)
	a, token := h.enrol(t, h.invite(t, "dana", people.Operator), "")
	h.enrol(t, h.invite(t, "kim", people.Operator), "")
	ended := func(what string) {
		t.Helper()
		_, err := h.Session(t.Context(), token)
		kind(t, err, ostiary.Unauthenticated, what)
		if token, err = h.signIn(t, a); err != nil {
			t.Fatal(err)
		}
	}
	h.pass(people.SessionIdle - time.Second)
	if _, err := h.Session(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	h.pass(people.SessionIdle - time.Second)
	if _, err := h.Session(t.Context(), token); err != nil {
		t.Fatal("using it did not keep it:", err)
	}
	h.pass(people.SessionIdle)
	ended("idle")
	for range 4 * people.SessionLife / people.SessionIdle {
		h.pass(people.SessionIdle / 2)
		h.Session(t.Context(), token)
	}
	ended("longer than any session")
	if _, err := h.SetRoles(t.Context(), "dana", []people.Role{people.Auditor}, "kim"); err != nil {
		t.Fatal(err)
	}
	ended("other roles")
	if err := h.SignOut(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	ended("signed out")
	if err := h.SignOut(t.Context(), "nonsense"); err != nil {
		t.Error(err)
	}
	if _, err := h.Revoke(t.Context(), "dana", "left", "kim"); err != nil {
		t.Fatal(err)
	}
	_, err := h.Session(t.Context(), token)
	kind(t, err, ostiary.Unauthenticated, "a revoked person's session")
	_, err = h.signIn(t, a)
	kind(t, err, ostiary.Unauthenticated, "a revoked person's passkey")
	if !slices.Equal(h.ended, []ostiary.PrincipalID{"person:dana"}) {
		t.Errorf("mandates ended of %v", h.ended)
	}
	_, _, err = h.Invite(t.Context(), "dana", nil, 0, "kim")
	kind(t, err, ostiary.Denied, "an invitation for a revoked person")
	for _, token := range []string{"", "' OR '1'='1", strings.Repeat("a", 1<<20), "\x00"} {
		_, err := h.Session(t.Context(), token)
		kind(t, err, ostiary.Unauthenticated, "E14: a token that is none")
	}
}

// TestO11LastOperator: O11.
func TestO11LastOperator(t *testing.T) {
	h := newHouse(t)
	h.enrol(t, h.invite(t, "dana", people.Operator), "")
	_, err := h.SetRoles(t.Context(), "dana", nil, "dana")
	kind(t, err, ostiary.Conflict, "the last operator's role")
	_, err = h.Revoke(t.Context(), "dana", "x", "dana")
	kind(t, err, ostiary.Conflict, "the last operator")
	h.enrol(t, h.invite(t, "kim", people.Operator), "")
	var left atomic.Int64
	var all sync.WaitGroup
	for _, name := range []string{"dana", "kim"} {
		all.Go(func() {
			if _, err := h.Revoke(t.Context(), name, "x", "the other"); err == nil {
				left.Add(1)
			}
		})
	}
	all.Wait()
	if left.Load() != 1 {
		t.Errorf("%d of two operators were revoked by each other", left.Load())
	}
	_, err = h.Revoke(t.Context(), "nobody", "x", "root")
	kind(t, err, ostiary.NotFound, "nobody")

	// Through two gateways on one store, whoever comes first.
	for round := range 50 {
		h := newHouse(t)
		other := newHouse(t, func(o *people.Options) { o.Records = h.records })
		h.enrol(t, h.invite(t, "dana", people.Operator), "")
		h.enrol(t, h.invite(t, "kim", people.Operator), "")
		h.enrol(t, h.invite(t, "lee"), "")
		var all sync.WaitGroup
		all.Go(func() { _, _ = h.Revoke(t.Context(), "kim", "x", "dana") })
		all.Go(func() { _, _ = other.SetRoles(t.Context(), "dana", nil, "kim") })
		all.Go(func() {
			if _, err := other.Revoke(t.Context(), "lee", "x", "kim"); err != nil {
				t.Errorf("who is no operator waits for nobody: %v", err)
			}
		})
		all.Wait()
		if has, err := h.HasOperator(t.Context()); err != nil || !has {
			t.Fatalf("round %d: no operator is left (%v)", round, err)
		}
	}
	// Who died in the middle of it holds it up for a while, and not for good.
	h = newHouse(t)
	for _, name := range []string{"dana", "kim", "lee"} {
		h.enrol(t, h.invite(t, name, people.Operator), "")
	}
	if _, err := h.records.CreateRecord(t.Context(), record.Record{Kind: "person_removing", ID: "operator", Data: []byte("lee"), Expires: h.clock().Add(2 * time.Minute)}, h.clock()); err != nil {
		t.Fatal(err)
	}
	_, err = h.Revoke(t.Context(), "dana", "x", "kim")
	kind(t, err, ostiary.Conflict, "while it may happen yet")
	h.now.Add(121)
	if _, err = h.Revoke(t.Context(), "dana", "x", "kim"); err != nil {
		t.Error(err)
	}
	_, err = h.Revoke(t.Context(), "kim", "", "root")
	kind(t, err, ostiary.Malformed, "without a reason")
}

// TestNotRecorded: what cannot be written down does not happen.
func TestNotRecorded(t *testing.T) {
	h := newHouse(t)
	a, token := h.enrol(t, h.invite(t, "dana", people.Operator), "")
	h.enrol(t, h.invite(t, "kim", people.Operator), "")
	secret := h.invite(t, "lee")
	options, _ := h.AskEnrol(t.Context(), secret, "visit", "", "")
	answer, _ := peopletest.NewAuthenticator(origin).Create(options)
	h.refuse = ostiary.Errorf(ostiary.Unavailable, "log", "full")

	_, _, err := h.Invite(t.Context(), "eve", nil, 0, "root")
	kind(t, err, ostiary.Unavailable, "invited")
	_, _, err = h.Enrol(t.Context(), secret, "visit", answer)
	kind(t, err, ostiary.Unavailable, "enrolled")
	_, err = h.SetRoles(t.Context(), "dana", []people.Role{people.Auditor}, "root")
	kind(t, err, ostiary.Unavailable, "roles changed")
	_, err = h.Revoke(t.Context(), "dana", "x", "root")
	kind(t, err, ostiary.Unavailable, "revoked")
	_, err = h.signIn(t, a)
	kind(t, err, ostiary.Unavailable, "signed in")
	if s, err := h.Session(t.Context(), token); err != nil || !s.Person.Has(people.Operator) {
		t.Errorf("something changed: %+v, %v", s, err)
	}
	if list, _ := h.List(t.Context()); len(list) != 2 {
		t.Errorf("%d persons", len(list))
	}
}

// TestFaults: at every write of an enrolment, it did not happen, and it
// happened but was reported failed. Nobody comes in by a failure, and the
// invitation never works twice.
func TestFaults(t *testing.T) {
	for _, after := range []bool{false, true} {
		for n := range 8 {
			h := newHouse(t)
			secret := h.invite(t, "dana", people.Operator)
			options, err := h.AskEnrol(t.Context(), secret, "visit", "", "")
			if err != nil {
				t.Fatal(err)
			}
			answer, _ := peopletest.NewAuthenticator(origin).Create(options)
			at, failed := 0, false
			h.records.Fail = func(op, kind string, a bool) error {
				if a != after {
					return nil
				}
				at++
				if at-1 == n {
					failed = true
					return ostiary.Errorf(ostiary.Unavailable, "disk", "%s %s", op, kind)
				}
				return nil
			}
			token, _, err := h.Enrol(t.Context(), secret, "visit", answer)
			h.records.Fail = nil
			if !failed {
				if err != nil {
					t.Errorf("without a fault: %v", err)
				}
				continue
			}
			if err == nil || !token.IsZero() {
				t.Errorf("write %d, after=%v: a token in spite of a fault", n, after)
			}
			retried := n == 0 && !after // the challenge was not used up: nothing happened at all
			if _, _, err := h.Enrol(t.Context(), secret, "visit", answer); (err == nil) != retried {
				t.Errorf("write %d, after=%v: the same answer again: %v", n, after, err)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	for _, o := range []string{"", "localhost:8090", "http://console.example", "https://console.example/", "https://console.example/x", "http://127.0.0.1:8090", "https://u@console.example", "https://192.0.2.1"} {
		if _, err := people.New(people.Options{Origin: o, Name: "x"}); err == nil {
			t.Errorf("%q was taken", o)
		}
	}
	for _, o := range []string{"http://localhost:8090", "https://console.example", "https://console.example:8443"} {
		if _, err := people.New(people.Options{Origin: o, Name: "x"}); err != nil {
			t.Errorf("%q: %v", o, err)
		}
	}
}

// newAnswer is an honest answer to a registration, for fuzzing.
func newAnswer() []byte {
	b, err := peopletest.NewAuthenticator(origin).Create([]byte(`{"challenge":"YWJjZGVmZ2hpamtsbW5vcA","user":{"id":"YWJj"}}`))
	if err != nil {
		panic(err)
	}
	return b
}
