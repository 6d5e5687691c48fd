package mcp

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"sync"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/gate"
)

const (
	// stateLife is how long a client may take to gather what a server
	// asked for: a person may be reading it.
	stateLife = 10 * time.Minute
	// maxState bounds a server's own state inside ours, and so what every
	// retry carries.
	maxState = 64 << 10
	// maxSpent bounds the memory of used states: some 100 bytes each for
	// stateLife. When it is full nothing more is honoured.
	maxSpent = 100000
)

// inputRequired passes on a result that asks the client for input, once each
// request in it went through the gate. The server's state travels sealed in
// ours.
func (x *visit) inputRequired(ctx context.Context, reply *gate.Reply, body ostiary.Value) ([]byte, error) {
	if x.legacy() {
		return nil, ostiary.Errorf(ostiary.Upstream, "cross_era", "the server needs input that a client of this revision cannot be asked for inside a call; revision 2026-07-28 can")
	}
	if !x.door.methods[x.msg.Method].inputs {
		return nil, ostiary.Errorf(ostiary.Upstream, "input_misplaced", "the server asked for input where it may not")
	}
	inputs, state := body.Get("inputRequests"), body.Get("requestState")
	if k := inputs.Kind(); k != ostiary.Object && k != ostiary.Absent || inputs.Len() > maxInputs || !inputs.Exists() && !state.Exists() {
		return nil, ostiary.Errorf(ostiary.Upstream, "input_requests", "the server asked for input in a form this gateway does not pass on")
	}
	if k := state.Kind(); k != ostiary.String && k != ostiary.Absent || len(state.Bytes()) > maxState {
		return nil, ostiary.Errorf(ostiary.Upstream, "request_state", "the server's state is no string, or too long")
	}
	for _, q := range inputs.Members() {
		_, err := x.ask(ctx, reply, q.Get("method").Text(), q.Get("params"), func(context.Context) (gate.Stream, error) {
			return ourResult([]byte(`{}`)) // it goes out with this result; the answer comes with the retry
		})
		if e := ostiary.AsError(err); e != nil && e.Code == "capability" {
			lacking := *e // the protocol has a word of its own for this
			lacking.Kind, lacking.Code = ostiary.Malformed, "missing_capability"
			return nil, &lacking
		}
		if err != nil {
			return nil, err
		}
	}
	sealed, err := x.door.seal(&reply.Request.Subject, &x.action, state)
	if err != nil {
		return nil, err
	}
	return rewrite(body, func(name string) bool { return name == "requestState" }, `"requestState":"`+sealed+`"`), nil
}

// A sealed state is, in this order: a random name of 16 bytes, the expiry in
// seconds of 8, the digest of the action it continues of 32, of its owner of
// 32, one byte that says whether the server sent a state, and that state.
const stateHead = 16 + 8 + 32 + 32 + 1

// seal makes the state a client carries. It is worth something only to its
// owner, for the same action, until it expires, once.
func (d *Door) seal(s *ostiary.Subject, a *ostiary.Action, state ostiary.Value) (string, error) {
	plain := make([]byte, 24, stateHead+len(state.Bytes()))
	rand.Read(plain[:16])
	binary.BigEndian.PutUint64(plain[16:], uint64(d.clock().Add(stateLife).Unix()))
	plain = append(plain, originalDigest(a)...)
	plain = append(plain, ownerDigest(s)...)
	if state.Exists() {
		plain = append(append(plain, 1), state.Text()...)
	} else {
		plain = append(plain, 0)
	}
	sealed, err := d.sealer.Seal(plain, d.stateContext())
	if err != nil {
		return "", ostiary.Errorf(ostiary.Internal, "seal", "internal error").Because(err)
	}
	return base64.RawURLEncoding.EncodeToString(sealed), nil
}

// unseal turns a retry's state back into the server's own and adds it to the
// action with the client's answers.
func (d *Door) unseal(x *visit, m method, a *ostiary.Action) *ostiary.Error {
	responses, state := x.params().Get("inputResponses"), x.params().Get("requestState")
	if x.legacy() || !m.inputs || !responses.Exists() && !state.Exists() {
		return nil
	}
	if k := responses.Kind(); k != ostiary.Object && k != ostiary.Absent {
		return malformed("params", "/params/inputResponses", "inputResponses must be an object")
	}
	no := func(why string) *ostiary.Error { return malformed("request_state", "/params/requestState", why) }
	if state.Kind() != ostiary.String {
		return no("a retry carries the requestState it was given")
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(state.Text())
	if err != nil {
		return no("this is no requestState of this gateway")
	}
	plain, err := d.sealer.Open(sealed, d.stateContext())
	if err != nil || len(plain) < stateHead {
		return no("this is no requestState of this gateway")
	}
	subject, err := d.identity.Authenticate(x.r.Context(), x.creds)
	if err != nil {
		return ostiary.AsError(err)
	}
	expires := time.Unix(int64(binary.BigEndian.Uint64(plain[16:24])), 0)
	switch {
	case string(plain[56:88]) != string(ownerDigest(&subject)):
		return no("this is no requestState of this gateway")
	case string(plain[24:56]) != string(originalDigest(a)):
		return no("this requestState belongs to another request")
	case !d.clock().Before(expires):
		return no("this requestState has expired; send the request again without it")
	}
	if err := d.spent.spend([16]byte(plain[:16]), expires); err != nil {
		return err.At("/params/requestState")
	}
	a.Responses = responses
	if plain[88] == 1 {
		a.State = append([]byte{}, plain[stateHead:]...)
	}
	return nil
}

func (d *Door) stateContext() []byte { return append([]byte("ostiary/requestState/v1\x00"), d.boot...) }

// originalDigest covers the request a state continues: a retry's answers and
// state are left out, and the pin, which the gate fills in later.
func originalDigest(a *ostiary.Action) []byte {
	b := *a
	b.Responses, b.State, b.Pin = ostiary.Value{}, nil, ostiary.Digest{}
	if b.Method != "tools/call" && b.Method != "prompts/get" {
		b.Arguments = ostiary.Value{} // the whole params, in which the retry's own members stand; URI says what is read
	}
	h := b.Digest()
	return h[:]
}

func ownerDigest(s *ostiary.Subject) []byte {
	h := sha256.New()
	for _, part := range []string{string(s.Agent), string(s.Principal), string(s.Mandate), string(s.Key[:])} {
		binary.Write(h, binary.BigEndian, uint64(len(part)))
		h.Write([]byte(part))
	}
	return h.Sum(nil)
}

// spent is the door's own memory of used states, for one process.
type spent struct {
	clock func() time.Time

	mu    sync.Mutex             // guards until and swept
	until map[[16]byte]time.Time // by a state's random name
	swept time.Time
}

func newSpent(clock func() time.Time) *spent {
	return &spent{clock: clock, until: map[[16]byte]time.Time{}}
}

// spend uses a state: nil the first time, a conflict every later time until
// the given moment, when the state itself has expired.
func (s *spent) spend(name [16]byte, until time.Time) *ostiary.Error {
	now := s.clock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if now.Sub(s.swept) > time.Minute || len(s.until) >= maxSpent {
		for k, t := range s.until {
			if !now.Before(t) {
				delete(s.until, k)
			}
		}
		s.swept = now
	}
	if _, used := s.until[name]; used {
		return ostiary.Errorf(ostiary.Conflict, "state_spent", "this requestState was already used")
	}
	if len(s.until) >= maxSpent {
		return ostiary.Errorf(ostiary.Exhausted, "states", "too many retries are remembered; try again later")
	}
	s.until[name] = until
	return nil
}
