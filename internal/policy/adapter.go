package policy

// This file alone uses what cedar-go calls experimental (x/exp), which may
// change in any minor release. Everything it hands out is our own type.

import (
	"slices"
	"strings"

	"github.com/cedar-policy/cedar-go"
	cedarast "github.com/cedar-policy/cedar-go/ast"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema"
	schemaast "github.com/cedar-policy/cedar-go/x/exp/schema/ast"
	"github.com/cedar-policy/cedar-go/x/exp/schema/resolved"
	"github.com/cedar-policy/cedar-go/x/exp/schema/validate"
)

// A change of these signatures must be found by the compiler, not by an
// operator.
var (
	_ func(ast.Node, func(ast.IsNode) bool)                                                            = ast.Inspect
	_ func(*schemaast.Schema) *schema.Schema                                                           = schema.NewSchemaFromAST
	_ func(*schema.Schema) (*resolved.Schema, error)                                                   = (*schema.Schema).Resolve
	_ func(*schema.Schema) ([]byte, error)                                                             = (*schema.Schema).MarshalCedar
	_ func(*resolved.Schema, ...validate.Option) *validate.Validator                                   = validate.New
	_ func(*validate.Validator, string, *ast.Policy) error                                             = (*validate.Validator).Policy
	_ func(*validate.Validator, types.Request) error                                                   = (*validate.Validator).Request
	_ func(cedar.PolicyIterator, types.EntityGetter, cedar.Request) (cedar.Decision, cedar.Diagnostic) = cedar.Authorize
)

// actionSpec is what the Cedar schema must say about one action.
type actionSpec struct {
	name       string
	parents    []string // names of groups
	pin        string   // hex; "" for an action without one
	principals []string // entity types; none for a group
	resources  []string
	context    *shape
}

// cedarSchema is the resolved schema and its validator.
type cedarSchema struct {
	text     []byte
	resolved *resolved.Schema
	full     *validate.Validator
}

// newCedarSchema builds the schema of all actions and groups.
func newCedarSchema(actions []actionSpec) (*cedarSchema, error) {
	ns := schemaast.Namespace{Entities: schemaast.Entities{}, Actions: schemaast.Actions{}}
	for _, e := range entityDecls() {
		var parents []schemaast.EntityTypeRef
		for _, p := range e.parents {
			parents = append(parents, schemaast.EntityTypeRef(p))
		}
		decl := schemaast.Entity{ParentTypes: parents}
		if len(e.attrs.Fields) > 0 {
			decl.Shape = schemaType(e.attrs).(schemaast.RecordType)
		}
		ns.Entities[schemaast.Ident(e.name)] = decl
	}
	for _, a := range actions {
		var decl schemaast.Action
		for _, p := range a.parents {
			decl.Parents = append(decl.Parents, schemaast.ParentRefFromID(types.String(p)))
		}
		if a.pin != "" {
			decl.Annotations = schemaast.Annotations{"pin": types.String(a.pin)}
		}
		if a.context != nil {
			to := &schemaast.AppliesTo{Context: schemaType(a.context)}
			for _, p := range a.principals {
				to.Principals = append(to.Principals, schemaast.EntityTypeRef(p))
			}
			for _, r := range a.resources {
				to.Resources = append(to.Resources, schemaast.EntityTypeRef(r))
			}
			decl.AppliesTo = to
		}
		ns.Actions[types.String(a.name)] = decl
	}
	s := schema.NewSchemaFromAST(&schemaast.Schema{Namespaces: schemaast.Namespaces{Namespace: ns}})
	res, err := s.Resolve()
	if err != nil {
		return nil, err
	}
	text, err := s.MarshalCedar()
	if err != nil {
		return nil, err
	}
	return &cedarSchema{text, res, validate.New(res, validate.WithStrict())}, nil
}

func schemaType(s *shape) schemaast.IsType {
	switch s.Kind {
	case kString:
		return schemaast.String()
	case kLong:
		return schemaast.Long()
	case kBool:
		return schemaast.Bool()
	case kDecimal:
		return schemaast.Decimal()
	case kDatetime:
		return schemaast.Datetime()
	case kSet:
		return schemaast.Set(schemaType(s.Elem))
	case kEntity:
		return schemaast.EntityType(types.EntityType(s.Entity))
	}
	rec := schemaast.RecordType{}
	for _, f := range s.Fields {
		rec[types.String(f.Name)] = schemaast.Attribute{Type: schemaType(f.Shape), Optional: f.Optional}
	}
	return rec
}

// actionEntities returns the action entities with their groups: without them
// in the store no "action in group" holds.
func (c *cedarSchema) actionEntities() cedar.EntityMap {
	out := make(cedar.EntityMap, len(c.resolved.Actions))
	for uid, a := range c.resolved.Actions {
		out[uid] = a.Entity
	}
	return out
}

// request validates a request against the schema.
func (c *cedarSchema) request(r cedar.Request) error { return c.full.Request(r) }

// policy validates one policy against the schema cut to the given actions and
// their groups; nil means all. Validation costs time for every action the
// schema holds, so the cut is what keeps thousands of policies loadable. The
// messages come back sorted, as the validator's order is random.
// Actions in awaiting are known by name alone: they apply to nothing.
func (c *cedarSchema) policy(id string, p *cedar.Policy, actions, awaiting []cedar.EntityUID) []string {
	v := c.full
	if actions != nil {
		cut := &resolved.Schema{
			Namespaces: c.resolved.Namespaces, Entities: c.resolved.Entities, Enums: c.resolved.Enums,
			Actions: map[types.EntityUID]resolved.Action{},
		}
		for _, a := range actions {
			c.keep(cut.Actions, a)
		}
		for _, a := range awaiting {
			cut.Actions[a] = resolved.Action{Entity: types.Entity{UID: a}}
		}
		v = validate.New(cut, validate.WithStrict())
	}
	err := v.Policy("", (*ast.Policy)(p.AST()))
	if err == nil {
		return nil
	}
	out := strings.Split(err.Error(), "\n")
	slices.Sort(out)
	return slices.Compact(out)
}

func (c *cedarSchema) keep(into map[types.EntityUID]resolved.Action, uid types.EntityUID) {
	a, ok := c.resolved.Actions[uid]
	if _, have := into[uid]; !ok || have {
		return
	}
	into[uid] = a
	for p := range a.Entity.Parents.All() {
		c.keep(into, p)
	}
}

// scopeKind is the form of one part of a policy's scope.
type scopeKind uint8

const (
	scopeAny  scopeKind = iota
	scopeEq             // == entity
	scopeIn             // in entity, or in [entities]
	scopeIs             // is type
	scopeIsIn           // is type in entity
)

// scope is one part of a policy's scope.
type scope struct {
	kind     scopeKind
	entities []cedar.EntityUID
	typ      cedar.EntityType
}

// rule is a policy's structure in our own words.
type rule struct {
	permit                      bool
	principal, action, resource scope
	conditions                  []condition
}

type condition struct {
	when bool
	body *expr
}

// op is the operator of an expression.
type op uint8

const (
	opOther  op = iota
	opVar       // name
	opLit       // lit
	opAccess    // args[0].name
	opHas       // args[0] has name
	opLike      // args[0] like name
	opIs        // args[0] is name [in args[1]]
	opIn        // args[0] in args[1]
	opAnd
	opOr
	opNot
	opIf
	opArith    // + - * and negation
	opCompare  // == != < <= > >=
	opContains // args[0].contains(args[1]), containsAll, containsAny; name says which
	opSet
	opRecord
	opCall // name(args...), a function or method of an extension type
)

// expr is an expression.
type expr struct {
	op   op
	name string
	lit  cedar.Value
	args []*expr
}

// ruleOf translates a parsed policy.
func ruleOf(p *cedar.Policy) *rule {
	a := (*ast.Policy)(p.AST())
	r := &rule{
		permit:    a.Effect == ast.EffectPermit,
		principal: scopeOf(a.Principal), action: scopeOf(a.Action), resource: scopeOf(a.Resource),
	}
	for _, c := range a.Conditions {
		r.conditions = append(r.conditions, condition{bool(c.Condition == ast.ConditionWhen), exprOf(c.Body)})
	}
	return r
}

func scopeOf(n ast.IsScopeNode) scope {
	switch n := n.(type) {
	case ast.ScopeTypeEq:
		return scope{kind: scopeEq, entities: []cedar.EntityUID{n.Entity}}
	case ast.ScopeTypeIn:
		return scope{kind: scopeIn, entities: []cedar.EntityUID{n.Entity}}
	case ast.ScopeTypeInSet:
		return scope{kind: scopeIn, entities: n.Entities}
	case ast.ScopeTypeIs:
		return scope{kind: scopeIs, typ: n.Type}
	case ast.ScopeTypeIsIn:
		return scope{kind: scopeIsIn, typ: n.Type, entities: []cedar.EntityUID{n.Entity}}
	}
	return scope{}
}

func exprOf(n ast.IsNode) *expr {
	bin := func(o op, name string, b ast.BinaryNode) *expr {
		return &expr{op: o, name: name, args: []*expr{exprOf(b.Left), exprOf(b.Right)}}
	}
	un := func(o op, name string, arg ast.IsNode) *expr {
		return &expr{op: o, name: name, args: []*expr{exprOf(arg)}}
	}
	switch n := n.(type) {
	case ast.NodeTypeVariable:
		return &expr{op: opVar, name: string(n.Name)}
	case ast.NodeValue:
		return &expr{op: opLit, lit: n.Value}
	case ast.NodeTypeAccess:
		return un(opAccess, string(n.Value), n.Arg)
	case ast.NodeTypeHas:
		return un(opHas, string(n.Value), n.Arg)
	case ast.NodeTypeLike:
		return un(opLike, string(n.Value.MarshalCedar()), n.Arg)
	case ast.NodeTypeIs:
		return un(opIs, string(n.EntityType), n.Left)
	case ast.NodeTypeIsIn:
		return &expr{op: opIs, name: string(n.EntityType), args: []*expr{exprOf(n.Left), exprOf(n.Entity)}}
	case ast.NodeTypeIn:
		return bin(opIn, "in", n.BinaryNode)
	case ast.NodeTypeAnd:
		return bin(opAnd, "&&", n.BinaryNode)
	case ast.NodeTypeOr:
		return bin(opOr, "||", n.BinaryNode)
	case ast.NodeTypeNot:
		return un(opNot, "!", n.Arg)
	case ast.NodeTypeIfThenElse:
		return &expr{op: opIf, args: []*expr{exprOf(n.If), exprOf(n.Then), exprOf(n.Else)}}
	case ast.NodeTypeAdd:
		return bin(opArith, "+", n.BinaryNode)
	case ast.NodeTypeSub:
		return bin(opArith, "-", n.BinaryNode)
	case ast.NodeTypeMult:
		return bin(opArith, "*", n.BinaryNode)
	case ast.NodeTypeNegate:
		return un(opArith, "-", n.Arg)
	case ast.NodeTypeEquals:
		return bin(opCompare, "==", n.BinaryNode)
	case ast.NodeTypeNotEquals:
		return bin(opCompare, "!=", n.BinaryNode)
	case ast.NodeTypeLessThan:
		return bin(opCompare, "<", n.BinaryNode)
	case ast.NodeTypeLessThanOrEqual:
		return bin(opCompare, "<=", n.BinaryNode)
	case ast.NodeTypeGreaterThan:
		return bin(opCompare, ">", n.BinaryNode)
	case ast.NodeTypeGreaterThanOrEqual:
		return bin(opCompare, ">=", n.BinaryNode)
	case ast.NodeTypeContains:
		return bin(opContains, "contains", n.BinaryNode)
	case ast.NodeTypeContainsAll:
		return bin(opContains, "containsAll", n.BinaryNode)
	case ast.NodeTypeContainsAny:
		return bin(opContains, "containsAny", n.BinaryNode)
	case ast.NodeTypeIsEmpty:
		return un(opOther, "isEmpty", n.Arg)
	case ast.NodeTypeHasTag:
		return bin(opOther, "hasTag", n.BinaryNode)
	case ast.NodeTypeGetTag:
		return bin(opOther, "getTag", n.BinaryNode)
	case ast.NodeTypeSet:
		e := &expr{op: opSet}
		for _, x := range n.Elements {
			e.args = append(e.args, exprOf(x))
		}
		return e
	case ast.NodeTypeRecord:
		e := &expr{op: opRecord}
		for _, x := range n.Elements {
			e.args = append(e.args, exprOf(x.Value))
		}
		return e
	case ast.NodeTypeExtensionCall:
		e := &expr{op: opCall, name: string(n.Name)}
		for _, x := range n.Args {
			e.args = append(e.args, exprOf(x))
		}
		return e
	}
	panic("policy: an expression this version of the language adapter does not know")
}

// conjunct is one part of a permit's conditions, as a policy of its own that
// has no scope.
type conjunct struct {
	policy *cedar.Policy
	text   string // in Cedar
}

// maxConjunct bounds the text of one part: a policy may be a thousand lines of
// one condition.
const maxConjunct = 512

// conjuncts takes a permit's conditions apart: a permit holds exactly if all
// of them do, tried in this order. What stands between && in a when are parts,
// and what stands between || in an unless, turned round.
func conjuncts(p *cedar.Policy) []conjunct {
	var out []conjunct
	var split func(n ast.IsNode, when bool)
	split = func(n ast.IsNode, when bool) {
		switch x := n.(type) {
		case ast.NodeTypeAnd:
			if when {
				split(x.Left, when)
				split(x.Right, when)
				return
			}
		case ast.NodeTypeOr:
			if !when {
				split(x.Left, when)
				split(x.Right, when)
				return
			}
		}
		out = append(out, conjunctOf(n, when))
	}
	for _, c := range (*ast.Policy)(p.AST()).Conditions {
		split(c.Body, bool(c.Condition == ast.ConditionWhen))
	}
	return out
}

func conjunctOf(n ast.IsNode, when bool) conjunct {
	alone := ast.Permit().When(ast.NewNode(n))
	text := string(cedar.NewPolicyFromAST((*cedarast.Policy)(alone)).MarshalCedar())
	_, text, _ = strings.Cut(text, "when {")
	text = strings.Join(strings.Fields(strings.TrimSuffix(strings.TrimSpace(text), "};")), " ")
	if !when {
		alone, text = ast.Permit().Unless(ast.NewNode(n)), "!("+text+")"
	}
	if len(text) > maxConjunct {
		text = strings.ToValidUTF8(text[:maxConjunct], "") + "…"
	}
	return conjunct{cedar.NewPolicyFromAST((*cedarast.Policy)(alone)), text}
}
