package ostiary

// Decision is policy's answer. The zero Decision is a denial without reasons.
type Decision struct {
	Permit      bool
	Code        string       // why, for programs: "permit", "forbid", "no_permit", "policy_error", "no_snapshot", ...
	Reasons     []Reason     // the policies that determined it, sorted by id
	Obligations []Obligation // what a permit obliges the gate to do; never set on a denial
	Remedies    []Remedy     // what would change a denial; offered only if it would
	Policy      Digest       // digest of the policy set that decided
	Snapshot    uint64       // number of the snapshot that decided
	Evaluated   int          // policies evaluated, of Total
	Total       int

	// For operators alone; no caller is shown them.
	Near   []NearMiss // of a denial for want of a permit: permits that nearly held, sorted by id
	Shadow *Shadow    // what the candidate policies would have changed, nil if nothing
}

// NearMiss is a permit whose scope covers a call but whose conditions do not.
type NearMiss struct {
	Policy string // its @id
	Where  string // file:line
	Failed string // the first part of its conditions that does not hold, in Cedar
}

// Shadow is how candidate policies would have answered, where that differs
// from the Decision. It was recorded and not enforced.
type Shadow struct {
	Outcome  string   // "permit", "requestable", "deny"; "error" if they could not be evaluated
	Policies []string // the candidates that make the difference, sorted by id
}

// Requestable reports whether somebody's consent would change the denial.
func (d *Decision) Requestable() bool { return !d.Permit && len(d.Remedies) > 0 }

// Reason names one rule that decided.
type Reason struct {
	Policy string // its @id
	Text   string // its @reason annotation, "" if it has none; safe to show
	Where  string // file:line, for operators; not shown to agents
}

// Obligation is what a permit obliges the gate to do. One that is not
// understood denies.
type Obligation struct {
	Type       string
	Properties string // JSON, from the policy's annotation
	Policy     string
}

// Remedy is what would change a denial: a fact that someone could supply.
type Remedy struct {
	Fact   string // e.g. "approval:finance"
	Policy string // the forbid it would discharge
}

// Disposition is what became of a call. The zero value is Refused.
type Disposition uint8

const (
	Refused   Disposition = iota // nothing left
	Held                         // waiting for consent
	Delivered                    // it was sent and the reply reached its end
	Withheld                     // it was sent; its reply was not released
	Failed                       // it was sent or about to be; the far side or the way failed
	Unknown                      // it may have happened; nobody can say
)

// String returns the disposition's word, "unknown" for one that has none.
func (d Disposition) String() string {
	if int(d) >= len(dispositionNames) {
		return "unknown"
	}
	return dispositionNames[d]
}

var dispositionNames = [...]string{"refused", "held", "delivered", "withheld", "failed", "unknown"}
