package policy

import (
	"bytes"
	"slices"
	"strings"

	"github.com/ostiary/ostiary"
)

// Limits on what policy sees of one call. They bound the work an agent can
// cause before it is refused: sets are hashed without a key, so long arrays
// can be made to collide.
const (
	maxElements  = 1024 // elements of an array of plain values
	maxComposite = 512  // elements of an array of arrays or records: comparing them costs more
	maxDepth     = 8    // nesting, of arguments and of the shapes read from a schema
	maxNodes     = 4096 // values converted for one call
	maxFields    = 256  // arguments read from one tool's schema, nested ones included
)

// kind is the type of one value as policy sees it. The names stand in
// snapshots and never change.
type kind string

const (
	kString   kind = "string"
	kLong     kind = "long"
	kBool     kind = "bool"
	kDecimal  kind = "decimal"
	kDatetime kind = "datetime"
	kSet      kind = "set"
	kRecord   kind = "record"
	kEntity   kind = "entity"
	kHidden   kind = "hidden" // declared, but policy cannot see it: a union, a free-form object, an untyped value
)

// shape is a type: of an argument, of the context, of an entity's attributes.
// It is our own model, from which Cedar's schema is made, arguments are
// converted and policies are checked, so that the three cannot disagree.
type shape struct {
	Kind   kind    `json:"kind"`
	Elem   *shape  `json:"elem,omitempty"`   // of a set
	Fields []field `json:"fields,omitempty"` // of a record, sorted by name
	Entity string  `json:"entity,omitempty"` // type name without the namespace
	Open   bool    `json:"open,omitempty"`   // an input that may hold anything: none of it is visible
	Why    string  `json:"why,omitempty"`    // why it is hidden
}

type field struct {
	Name     string `json:"name"`
	Shape    *shape `json:"shape"`
	Optional bool   `json:"optional,omitempty"`
	Nullable bool   `json:"nullable,omitempty"` // null is accepted, and reads as absent
}

// get returns the field of a record, nil if there is none.
func (s *shape) get(name string) *field {
	if s == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(s.Fields, name, func(f field, n string) int { return strings.Compare(f.Name, n) })
	if !ok {
		return nil
	}
	return &s.Fields[i]
}

// named is get by a name as it stands in JSON text. Only an escaped one is
// copied.
func (s *shape) named(name ostiary.Value) *field {
	b := name.Bytes()
	if len(b) < 2 || bytes.IndexByte(b, '\\') >= 0 {
		return s.get(name.Text())
	}
	b = b[1 : len(b)-1]
	i, ok := slices.BinarySearchFunc(s.Fields, b, func(f field, n []byte) int {
		switch { // strings made of n here are compared and not kept, so not copied
		case f.Name == string(n):
			return 0
		case f.Name < string(n):
			return -1
		}
		return 1
	})
	if !ok {
		return nil
	}
	return &s.Fields[i]
}

func (s *shape) names() []string {
	if s == nil {
		return nil
	}
	out := make([]string, len(s.Fields))
	for i, f := range s.Fields {
		out[i] = f.Name
	}
	return out
}

func plain(k kind) *shape         { return &shape{Kind: k} }
func setOf(e *shape) *shape       { return &shape{Kind: kSet, Elem: e} }
func entityOf(name string) *shape { return &shape{Kind: kEntity, Entity: name} }
func hidden(why string) *shape    { return &shape{Kind: kHidden, Why: why} }

// record makes a record of required fields from name, shape pairs.
func record(fields ...field) *shape {
	slices.SortFunc(fields, func(a, b field) int { return strings.Compare(a.Name, b.Name) })
	return &shape{Kind: kRecord, Fields: fields}
}

func req(name string, s *shape) field { return field{Name: name, Shape: s} }

// Entity types, without the namespace.
const (
	typeAgent   = "Agent"
	typeGateway = "Gateway"
	typeRole    = "Role"
	typePerson  = "Person"
	typeServer  = "Server"
	typeZone    = "Zone"
)

// entityDecl is an entity type: its attributes and what it can be in.
type entityDecl struct {
	name    string
	parents []string
	attrs   *shape
}

// entityDecls lists the entity types. A type whose facts no engine supplies
// yet is not declared: a policy that names it is refused, not ignored.
func entityDecls() []entityDecl {
	return []entityDecl{
		{typeAgent, []string{typeRole}, record(registeredFields()...)},
		{typeGateway, nil, record()},
		{typeRole, nil, record()},
		{typePerson, nil, record(req("kind", plain(kString)))},
		{typeServer, []string{typeZone}, record(append(registeredFields(), req("trusted", plain(kBool)))...)},
		{typeZone, nil, record()},
	}
}

// registeredFields are what the registry says of an entity.
func registeredFields() []field {
	var bounds []field
	for _, name := range limitNames {
		bounds = append(bounds, req(name, plain(kLong)))
	}
	return []field{
		req("registered", plain(kBool)), req("owned", plain(kBool)), req("owner", plain(kString)), req("purpose", plain(kString)),
		req("version", plain(kString)), req("baseline", plain(kString)), req("classes", setOf(plain(kString))), req("limits", record(bounds...)),
	}
}

// contextShape is the context of an action with this input. Every attribute
// is required, except optional arguments inside input.
func contextShape(input *shape, labelled bool) *shape {
	strs := setOf(plain(kString))
	var labels []field
	if labelled {
		for _, f := range input.Fields {
			labels = append(labels, req(f.Name, strs))
		}
	}
	return record(
		req("input", visible(input)),
		req("tool", record(registeredFields()...)),
		req("labels", record(labels...)),
		req("taint", strs),
		req("chosen", strs),
		req("task", record(req("given", plain(kBool)), req("asked", plain(kBool)))),
		req("satisfied", strs),
		req("findings", strs),
		req("user", entityOf(typePerson)),
		req("mandate", record(
			req("id", plain(kString)), req("purpose", plain(kString)),
			req("depth", plain(kLong)), req("standing", plain(kBool)), req("kind", plain(kString)),
			req("classes", strs), req("principal", plain(kString)), req("by", plain(kString)), req("links", plain(kLong)))),
		req("session", record(req("id", plain(kString)), req("bound", plain(kBool)), req("tainted", plain(kBool)), req("classes", strs))),
		req("zone", entityOf(typeZone)),
		req("risk", record(req("score", plain(kLong)), req("level", plain(kString)))),
		req("posture", record(req("appraised", plain(kDatetime)), req("ok", plain(kBool)), req("method", plain(kString)))),
		req("containment", plain(kString)),
		req("history", record(req("reads_untrusted", plain(kLong)))),
		req("system", record(req("now", plain(kDatetime)))),
	)
}

// visible returns the shape without what policy cannot see.
func visible(s *shape) *shape {
	switch s.Kind {
	case kSet:
		return setOf(visible(s.Elem))
	case kRecord:
		out := &shape{Kind: kRecord}
		for _, f := range s.Fields {
			if f.Shape.Kind != kHidden {
				f.Shape = visible(f.Shape)
				out.Fields = append(out.Fields, f)
			}
		}
		return out
	}
	return s
}
