package gate

import (
	"strconv"
	"time"

	"github.com/ostiary/ostiary"
)

// Step is one of the nine steps of the flow. The zero Step is none of them.
type Step uint8

// The nine steps, in order.
const (
	StepAuthenticate Step = iota + 1
	StepResolve
	StepValidate
	StepDecide
	StepRecord
	StepBind
	StepForward
	StepInspect
	StepSettle
)

// Steps is one more than the last Step, for tables by step.
const Steps = int(StepSettle) + 1

var stepNames = [Steps]string{"none", "authenticate", "resolve", "validate", "decide", "record", "bind", "forward", "inspect", "settle"}

// String returns the step's name, "step" and its number for one that has none.
func (s Step) String() string {
	if int(s) < Steps {
		return stepNames[s]
	}
	return "step" + strconv.Itoa(int(s))
}

// Ending is what became of one exchange. What it points to belongs to the
// exchange: an Observer reads it before Ended returns and keeps nothing.
type Ending struct {
	Call     *Call
	Subject  *ostiary.Subject // zero if nobody authenticated: then the exchange was counted, not recorded
	Request  *ostiary.Request // nil if nothing was resolved
	Decision *ostiary.Decision

	Disposition ostiary.Disposition
	Err         error            // why it ended so, nil if it was delivered
	Entry       ostiary.EntryRef // where people find it, zero if it has no place in the log
	Lost        bool             // its outcome could not be recorded

	// Began holds when each step was entered, zero for one that never was; a
	// step ends where the next begins. inspect lasts while the reply is read.
	Began [Steps]time.Time
	At    time.Time // the end of the last
}

// at notes that the exchange enters a step.
func (x *exchange) at(s Step) {
	if x.clock != nil {
		x.began[s] = x.clock()
	}
}

// observe tells the observer how an exchange ended.
func (g *Gate) observe(x *exchange, d ostiary.Disposition, cause, lost error) {
	if g.observer == nil {
		return
	}
	defer func() {
		if p := recover(); p != nil {
			g.log.Error("panic in the observer of calls", "panic", ostiary.Panicked(p))
		}
	}()
	g.observer.Ended(&Ending{
		Call: x.call, Subject: &x.subject, Request: x.request, Decision: &x.decision,
		Disposition: d, Err: cause, Entry: x.ref(), Lost: lost != nil, Began: x.began, At: g.clock(),
	})
}
