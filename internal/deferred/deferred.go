// Package deferred is the stored form of a call that is made later: who asked
// for it, and exactly which bytes.
//
// It guarantees that what is read back is what was written: the argument bytes
// byte for byte, read by the same strict scanner as when they arrived, and
// every field of the subject. A subject that is read back proves nothing by
// itself: it goes into Credentials.Held, and the authority says whether it
// still stands. It seals nothing: whoever keeps the form seals it, because
// arguments are personal.
package deferred

import (
	"encoding/json"
	"time"

	"github.com/ostiary/ostiary"
	"github.com/ostiary/ostiary/internal/strictjson"
)

// Call is who asked, and for what.
type Call struct {
	Subject ostiary.Subject
	Action  ostiary.Action
}

// Marshal returns the stored form.
func Marshal(c *Call) ([]byte, error) {
	return json.Marshal(stored{subjectOf(&c.Subject), actionOf(&c.Action)})
}

// Unmarshal reads what Marshal wrote: Corrupt if it cannot be.
func Unmarshal(b []byte) (Call, error) {
	var s stored
	if err := json.Unmarshal(b, &s); err != nil { // our own words, sealed by us
		return Call{}, corrupt(err)
	}
	a, err := s.Action.open()
	if err != nil {
		return Call{}, err
	}
	return Call{s.Subject.open(), a}, nil
}

// Arguments reads the bytes of arguments as if they had arrived in a request.
// Absent for none.
func Arguments(b []byte) (ostiary.Value, error) {
	if len(b) == 0 {
		return ostiary.Value{}, nil
	}
	doc, err := strictjson.Parse(b, strictjson.Request)
	if err != nil {
		return ostiary.Value{}, err
	}
	return doc.Root(), nil
}

// Reply reads the bytes of a stored reply. Absent for none.
func Reply(b []byte) (ostiary.Value, error) {
	if len(b) == 0 {
		return ostiary.Value{}, nil
	}
	doc, err := strictjson.Parse(b, strictjson.Reply)
	if err != nil {
		return ostiary.Value{}, corrupt(err)
	}
	return doc.Root(), nil
}

func corrupt(err error) error {
	return ostiary.Errorf(ostiary.Corrupt, "stored_call", "a stored call cannot be read").Because(err)
}

type stored struct {
	Subject subject `json:"subject"`
	Action  action  `json:"action"`
}

type subject struct {
	Agent     ostiary.AgentID     `json:"agent"`
	Principal ostiary.PrincipalID `json:"principal"`
	Chain     []ostiary.AgentID   `json:"chain,omitempty"`
	Key       string              `json:"key,omitempty"`
	Bound     bool                `json:"bound,omitempty"`
	Mandate   ostiary.MandateID   `json:"mandate"`
	Client    string              `json:"client,omitempty"`
	Scopes    []string            `json:"scopes,omitempty"`
	Via       ostiary.Via         `json:"via"`
	Serial    string              `json:"serial,omitempty"`
	Signers   []string            `json:"signers,omitempty"` // without them the authority refuses it
	Issued    time.Time           `json:"issued"`
	Expires   time.Time           `json:"expires"`
	Epoch     uint64              `json:"epoch"`
}

func subjectOf(s *ostiary.Subject) subject {
	return subject{
		Agent: s.Agent, Principal: s.Principal, Chain: s.Chain, Key: s.Key.String(), Bound: s.Bound, Mandate: s.Mandate, Client: s.Client,
		Scopes: s.Scopes, Via: s.Via, Serial: s.Serial, Signers: s.Signers, Issued: s.Issued, Expires: s.Expires, Epoch: s.Epoch,
	}
}

func (s *subject) open() ostiary.Subject {
	key, err := ostiary.ParseDigest(s.Key)
	if err != nil {
		return ostiary.Subject{} // nobody
	}
	return ostiary.Subject{
		Agent: s.Agent, Principal: s.Principal, Chain: s.Chain, Key: key, Bound: s.Bound, Mandate: s.Mandate, Client: s.Client,
		Scopes: s.Scopes, Via: s.Via, Serial: s.Serial, Signers: s.Signers, Issued: s.Issued, Expires: s.Expires, Epoch: s.Epoch,
	}
}

type action struct {
	Name      string `json:"name"`
	Method    string `json:"method"`
	Server    string `json:"server,omitempty"`
	Tool      string `json:"tool,omitempty"`
	URI       string `json:"uri,omitempty"`
	Pin       string `json:"pin,omitempty"`
	Arguments []byte `json:"arguments,omitempty"`
	Responses []byte `json:"responses,omitempty"`
	State     []byte `json:"state,omitempty"`
	Stateful  bool   `json:"stateful,omitempty"` // State was there, if only empty
	Rewritten bool   `json:"rewritten,omitempty"`
}

// actionOf leaves out the groups: they are policy's as it is when the call is
// made.
func actionOf(a *ostiary.Action) action {
	return action{
		Name: a.Name, Method: a.Method, Server: a.Server, Tool: a.Tool, URI: a.URI, Pin: a.Pin.String(),
		Arguments: a.Arguments.Bytes(), Responses: a.Responses.Bytes(), State: a.State, Stateful: a.State != nil, Rewritten: a.Rewritten,
	}
}

func (s *action) open() (ostiary.Action, error) {
	a := ostiary.Action{Name: s.Name, Method: s.Method, Server: s.Server, Tool: s.Tool, URI: s.URI, State: s.State, Rewritten: s.Rewritten}
	if s.Stateful && a.State == nil {
		a.State = []byte{}
	}
	var err error
	if a.Pin, err = ostiary.ParseDigest(s.Pin); err != nil {
		return a, corrupt(err)
	}
	if a.Arguments, err = Arguments(s.Arguments); err != nil {
		return a, corrupt(err)
	}
	if a.Responses, err = Arguments(s.Responses); err != nil {
		return a, corrupt(err)
	}
	return a, nil
}
