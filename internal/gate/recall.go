package gate

import (
	"encoding/json"

	"github.com/ostiary/ostiary"
)

// Recall reads back what an Intent, or an Outcome that stands alone, keeps of
// its request and its decision: who asked, in which roles, for what, of which
// server, and what policy said. It is for people who ask why. The arguments are
// not read, nor is there all that policy knew, so nothing can be decided from
// it again. Malformed if the entry holds no decision.
func Recall(e *ostiary.Entry) (ostiary.Request, ostiary.Decision, error) {
	var in recorded
	if len(e.Payload.Inputs) == 0 || json.Unmarshal(e.Payload.Inputs, &in) != nil {
		return ostiary.Request{}, ostiary.Decision{}, ostiary.Errorf(ostiary.Malformed, "no_decision", "this entry does not hold what was decided, or its payload's key is gone")
	}
	r := ostiary.Request{
		Subject: ostiary.Subject{Agent: e.Agent, Principal: e.Principal, Mandate: e.Mandate, Chain: in.Chain, Bound: in.Bound, Via: viaOf(in.Via), Epoch: in.Epoch, Signers: in.Signers, Issued: e.Time},
		Action:  ostiary.Action{Name: e.Action, Method: in.Method, Server: e.Server, Tool: in.Tool, URI: in.URI, Pin: e.Pin},
	}
	if len(in.Chain) == 0 {
		r.Subject.Chain = []ostiary.AgentID{e.Agent}
	}
	r.Context.Roles, r.Context.Zone, r.Context.Principal, r.Context.Now = in.Roles, in.Zone, e.Principal, e.Time
	if in.Resource != nil {
		r.Resource = ostiary.Resource{Server: in.Resource.Server, Zone: in.Resource.Zone, Trusted: in.Resource.Trusted}
	}
	d := ostiary.Decision{Permit: e.Permit, Code: e.Code, Policy: e.Policy, Snapshot: e.Snapshot, Evaluated: in.Evaluated, Total: in.Total}
	for _, id := range e.Reasons {
		d.Reasons = append(d.Reasons, ostiary.Reason{Policy: id})
	}
	for _, o := range e.Obligations {
		d.Obligations = append(d.Obligations, ostiary.Obligation{Type: o})
	}
	d.Remedies = factsOf(in.Remedies, func(f remedyFact) ostiary.Remedy { return ostiary.Remedy(f) })
	d.Near = factsOf(in.Near, func(f nearFact) ostiary.NearMiss { return ostiary.NearMiss(f) })
	if s := in.Shadow; s != nil {
		d.Shadow = &ostiary.Shadow{Outcome: s.Outcome, Policies: s.Policies}
	}
	return r, d, nil
}

func viaOf(word string) ostiary.Via {
	for v := ostiary.ViaNothing; v <= ostiary.ViaHeld; v++ {
		if v.String() == word {
			return v
		}
	}
	return ostiary.ViaNothing
}
