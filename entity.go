package ostiary

import "time"

// EntityKind says what an entity is. The zero kind is none.
type EntityKind string

// The kinds of entities, in the order people are shown them.
const (
	AgentEntity    EntityKind = "agent"    // an autonomous workload; its name is a SPIFFE ID
	PersonEntity   EntityKind = "person"   // somebody; dana is the principal person:dana
	ServiceEntity  EntityKind = "service"  // a tool server by its configured name, or any other service
	HostEntity     EntityKind = "host"     // a machine
	ToolEntity     EntityKind = "tool"     // one tool; its name is its action, SERVER___TOOL
	ModelEntity    EntityKind = "model"    // a model
	DatasetEntity  EntityKind = "dataset"  // a set of data
	WorkflowEntity EntityKind = "workflow" // an ordered piece of work
)

// EntityKinds lists every kind.
func EntityKinds() []EntityKind {
	return []EntityKind{AgentEntity, PersonEntity, ServiceEntity, HostEntity, ToolEntity, ModelEntity, DatasetEntity, WorkflowEntity}
}

// Entity is what the registry says of one thing: who answers for it, what it
// is for, and what it was when somebody looked at it. Nobody changes one; a
// change makes another.
type Entity struct {
	Kind     EntityKind
	Name     string // unique among its kind
	Owner    PrincipalID
	Purpose  string
	Classes  []string // data classes it may have to do with, sorted
	Limits   Limits
	Version  string
	Baseline Digest // of an agent's or a service's program, or a tool's definition, as it is to be; zero: nobody said
	Zone     string // "" leaves it to where the entity is set up
	Retired  bool   // it is kept for its history and may not be used

	Edition   int64 // how often it was written, from 1
	Created   time.Time
	CreatedBy string
	Changed   time.Time
	ChangedBy string
}

// Limits are bounds that policy may hold a request against. One that nobody
// set is 0: it allows nothing, if policy asks for it.
type Limits struct {
	Amount int64 // of one action, in the unit the tool counts in
	Calls  int64
	Tokens int64
	Bytes  int64
	Depth  int64 // of delegation
}

// Registered is what is known of an entity at one moment. The zero Registered
// is of something that nobody registered.
type Registered struct {
	Entity   *Entity // nil: it is not registered
	Owned    bool    // whoever answers for it is still there
	Baseline Baseline
}

// Baseline is how an entity compares with what it was registered as.
type Baseline uint8

const (
	NoBaseline        Baseline = iota // none was registered
	UncheckedBaseline                 // nothing that was shown could be compared with it
	SameBaseline
	OtherBaseline // it is something else than was registered
)

// String returns the word of b, the zero Baseline's for one that has none.
func (b Baseline) String() string {
	if int(b) >= len(baselineNames) {
		return baselineNames[0]
	}
	return baselineNames[b]
}

var baselineNames = [...]string{"none", "unchecked", "same", "other"}

// Against returns r with what was shown compared with its baseline. The zero
// Digest shows nothing.
func (r Registered) Against(shown Digest) Registered {
	switch {
	case r.Entity == nil || r.Entity.Baseline.IsZero():
		r.Baseline = NoBaseline
	case shown.IsZero():
		r.Baseline = UncheckedBaseline
	case shown == r.Entity.Baseline:
		r.Baseline = SameBaseline
	default:
		r.Baseline = OtherBaseline
	}
	return r
}

// Check refuses what may not be used: an entity that was retired, or that is
// not what it was registered as. What is not registered has nothing to break.
func (r *Registered) Check() error {
	switch {
	case r.Entity == nil:
		return nil
	case r.Entity.Retired:
		return Errorf(Denied, "retired", "the %s %s is retired in the registry", r.Entity.Kind, r.Entity.Name)
	case r.Baseline == OtherBaseline:
		return Errorf(Denied, "other_baseline", "the %s %s is not what was registered: somebody must look at it and register what it is now", r.Entity.Kind, r.Entity.Name)
	}
	return nil
}
