package ostiary

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"
)

// HoldID names a held action: one whose denial somebody's consent would
// change. It is random, lower-case, and no secret: knowing it opens nothing.
type HoldID string

// NeedKind is what kind of thing a remedy asks of people. The zero kind is
// none, and nobody can supply it.
type NeedKind uint8

const (
	NoNeed        NeedKind = iota
	NeedApproval           // consent of persons of a group, none of whom asked
	NeedStepUp             // the person on whose authority the agent acts proves again that they are there
	NeedStatement          // that person says why
)

// String returns the word of k, the zero kind's for one that has none.
func (k NeedKind) String() string {
	if int(k) >= len(needNames) {
		return needNames[0]
	}
	return needNames[k]
}

var needNames = [...]string{"none", "approval", "acr", "justification"}

// MaxQuorum is how many persons a remedy may ask for.
const MaxQuorum = 9

// Need is a remedy's fact taken apart: who must do what for it to hold.
type Need struct {
	Fact   string // as policy tests it
	Kind   NeedKind
	Group  string // of an approval
	People int    // of an approval: how many different persons; otherwise 1
	Level  string // of a step-up: "mfa", "phr"
}

// ParseNeed reads a remedy's fact:
//
//	approval:finance     consent of one person of the group finance
//	approval:finance:2   consent of two different persons of it, at most 9
//	acr:mfa, acr:phr     the agent's principal confirms with a passkey
//	justification        the agent's principal says why
//
// Malformed for every other: it names a fact that no person can make true.
func ParseNeed(fact string) (Need, error) {
	n := Need{Fact: fact, People: 1}
	kind, rest, more := strings.Cut(fact, ":")
	switch kind {
	case "approval":
		group, count, counted := strings.Cut(rest, ":")
		if counted {
			i, err := strconv.Atoi(count)
			if err != nil || i < 2 || i > MaxQuorum || len(count) != 1 {
				return Need{}, badNeed(fact)
			}
			n.People = i
		}
		if !more || !IsGroup(group) {
			return Need{}, badNeed(fact)
		}
		n.Kind, n.Group = NeedApproval, group
	case "acr":
		if rest != "mfa" && rest != "phr" {
			return Need{}, badNeed(fact)
		}
		n.Kind, n.Level = NeedStepUp, rest
	case "justification":
		if more {
			return Need{}, badNeed(fact)
		}
		n.Kind = NeedStatement
	default:
		return Need{}, badNeed(fact)
	}
	return n, nil
}

func badNeed(fact string) error {
	return Errorf(Malformed, "remedy", "%q is no fact that people can supply: write approval:GROUP, approval:GROUP:2, acr:mfa, acr:phr or justification", fact)
}

// IsGroup reports whether s can be the name of a group of approvers.
func IsGroup(s string) bool {
	if s == "" || len(s) > 64 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '_' || c == '-') {
			return false
		}
	}
	return true
}

// Question is what people are asked to consent to, as far as their votes bind
// it: whatever is different in any field is another question, and no vote for
// the one counts for the other.
type Question struct {
	Hold      HoldID
	Salt      [32]byte // random, so that the digest says nothing of the arguments to whoever guesses them
	Action    Digest   // Action.Digest of the bytes that will be executed
	Asked     Digest   // Action.Digest of what the agent asked; the same unless people narrowed it
	Agent     AgentID
	Principal PrincipalID
	Mandate   MandateID
	Session   SessionID
	Policy    Digest // of the policy set that denied
	Expires   time.Time
}

// Digest is what a vote is over: every field, each length-prefixed.
func (q *Question) Digest() Digest {
	b := appendSized(nil, "ostiary/question/v1")
	b = appendSized(b, string(q.Hold))
	b = appendSized(b, q.Salt[:])
	b = appendSized(b, q.Action[:])
	b = appendSized(b, q.Asked[:])
	for _, s := range [...]string{string(q.Agent), string(q.Principal), string(q.Mandate), string(q.Session)} {
		b = appendSized(b, s)
	}
	b = appendSized(b, q.Policy[:])
	b = appendSized(b, binary.BigEndian.AppendUint64(nil, uint64(q.Expires.UnixMicro())))
	return DigestOf(b)
}

// Vote is one person's word on one question. The zero Vote refuses, and is
// nobody's.
type Vote struct {
	Hold     HoldID
	Question Digest // see Question.Digest
	Consent  bool   // false is a refusal, which ends the hold
	Approver PrincipalID
	Reason   Digest    // of the words that came with it; zero if there were none
	Cast     time.Time // when it was begun, by the gateway's clock, to the second
	Expires  time.Time // of the hold, to the microsecond
}

// Statement is the one text that is signed for a vote: a WebAuthn assertion
// has its SHA-256 digest as the challenge, a key of the command line signs the
// text itself. No field can hold a line break: those of people are digests or
// names that were checked.
func (v *Vote) Statement() []byte {
	word := "refuse"
	if v.Consent {
		word = "consent"
	}
	reason := "-"
	if !v.Reason.IsZero() {
		reason = v.Reason.String()
	}
	return []byte("ostiary vote v1\nhold " + string(v.Hold) + "\nquestion " + v.Question.String() + "\nvote " + word + "\napprover " + string(v.Approver) +
		"\nreason " + reason + "\ncast " + v.Cast.UTC().Format(time.RFC3339) + "\nexpires " + v.Expires.UTC().Format(voteTime) + "\n")
}

// ParseVote reads a statement, and nothing that is written otherwise.
func ParseVote(statement string) (Vote, error) {
	lines := strings.Split(statement, "\n")
	bad := Errorf(Malformed, "vote", "this is no statement of a vote")
	if len(lines) != 9 || lines[0] != "ostiary vote v1" || len(statement) > 1024 {
		return Vote{}, bad
	}
	word := map[string]string{}
	for _, l := range lines[1:8] {
		name, value, _ := strings.Cut(l, " ")
		word[name] = value
	}
	v := Vote{Hold: HoldID(word["hold"]), Consent: word["vote"] == "consent", Approver: PrincipalID(word["approver"])}
	var errs [4]error
	v.Question, errs[0] = ParseDigest(word["question"])
	if r := word["reason"]; r != "-" {
		v.Reason, errs[1] = ParseDigest(r)
	}
	v.Cast, errs[2] = time.Parse(time.RFC3339, word["cast"])
	v.Expires, errs[3] = time.Parse(voteTime, word["expires"])
	if errs != [4]error{} || string(v.Statement()) != statement {
		return Vote{}, bad
	}
	v.Cast, v.Expires = v.Cast.UTC(), v.Expires.UTC()
	return v, nil
}

const voteTime = "2006-01-02T15:04:05.000000Z07:00"

// Signed is a vote with what proves it. Exactly one kind of proof is there: an
// assertion, or a plain signature.
type Signed struct {
	Vote
	Key           []byte // SubjectPublicKeyInfo (DER) of the approver's key
	Credential    []byte // id of the passkey, nil for a key of the command line
	Authenticator []byte // WebAuthn authenticator data, nil for a plain signature
	Client        []byte // WebAuthn client data, nil for a plain signature
	Signature     []byte
}

// ByPasskey reports whether the vote was signed by a passkey.
func (s *Signed) ByPasskey() bool { return len(s.Authenticator) > 0 }

// HoldState is what became of a held action. The zero state is none: as good
// as refused.
type HoldState uint8

const (
	NoHold      HoldState = iota
	HoldPending           // waits for people
	HoldGranted           // enough people consented; not begun yet
	HoldSpent             // its one use is taken: it is about to be sent, or was
	HoldDone              // carried out: its disposition says how that ended
	HoldRefused           // somebody refused it
	HoldExpired           // nobody decided in time, which refuses
	HoldVoid              // people consented, and it was refused when it was decided again
	HoldUnknown           // spent, and nobody can say what happened
)

// String returns the state's word, the zero state's for one that has none.
func (s HoldState) String() string {
	if int(s) >= len(holdStates) {
		return holdStates[0]
	}
	return holdStates[s]
}

var holdStates = [...]string{"none", "pending", "granted", "spent", "done", "refused", "expired", "void", "unknown"}

// ParseHoldState reads what String wrote, except none.
func ParseHoldState(s string) (HoldState, error) {
	for i, w := range holdStates[1:] {
		if w == s {
			return HoldState(i + 1), nil
		}
	}
	return NoHold, Errorf(Malformed, "state", "%q is no state of a held action: %s", s, strings.Join(holdStates[1:], ", ")).At("state")
}

// Ended reports whether nothing more will become of it.
func (s HoldState) Ended() bool { return s == NoHold || s > HoldSpent }
