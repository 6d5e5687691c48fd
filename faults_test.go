package ostiary_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strings"
	"testing"
)

// fault is a place at which the flow can fail, with the tests that make it
// fail there: once so that it did not happen, once so that it happened and was
// reported as failed.
type fault struct {
	place string // package, interface and method
	did   string // a test in which it did not happen, or "none: " and why
	lost  string // a test in which it happened all the same; of what changes nothing, "reads", "computes" or "undoes nothing"; or "none: " and why
}

// reads and computes need no second fault: what happened and was lost is the
// same as what did not happen.
const (
	reads    = "reads"
	computes = "computes"
)

const (
	gateFaults    = "internal/gate TestFaults"
	gateMatrix    = "internal/gate TestFailClosedMatrix"
	logFaults     = "internal/ledger TestEveryFault"
	controlFaults = "internal/ledger TestEveryFaultOfControl"
	idFaults      = "internal/identity TestFaults"
	wholeGateway  = "internal/daemon TestMatrix"
	storeFaults   = "internal/store TestSQLite" // and every engine: storetest fails each write in both ways
)

// faults is every place that the interfaces of the flow have.
var faults = []fault{
	{"gate.Identity.Authenticate", gateFaults, reads},
	{"gate.Facts.Resolve", gateFaults, reads},
	{"gate.Validator.Validate", gateFaults, computes},
	{"gate.Ledger.Append", gateFaults, gateFaults},
	{"gate.Egress.Forward", gateFaults, gateFaults},
	{"gate.Inspector.Inspect", gateMatrix, computes},
	{"gate.Obliger.Oblige", gateMatrix, computes},
	{"gate.Tainter.Taint", gateFaults, gateFaults},
	{"gate.Holder.Hold", gateMatrix, gateMatrix},
	{"gate.Consents.Satisfied", "internal/gate TestConsentFaults", reads},
	{"gate.Consents.Spend", "internal/gate TestConsentFaults", "internal/gate TestConsentFaults"},
	{"gate.Budgets.Reserve", "internal/gate TestBudgetFaults", "internal/budget TestEveryFault"},
	{"gate.Hold.Take", "internal/gate TestBudgetFaults", "internal/budget TestEveryFault"},
	{"gate.Stream.Next", gateFaults, gateFaults},
	{"gate.Stream.Answer", "internal/egress TestStdioDeaf", "none: an answer is part of a call under way, which it ends as Unknown"},
	{"gate.Stream.Close", "internal/gate TestLeavingEarlyIsUnknown", "internal/gate TestLeavingEarlyIsUnknown"},
	{"gate.Registry.AgentFacts", gateMatrix, reads},
	{"gate.Sessions.Session", gateMatrix, reads},

	{"ledger.FS.MkdirAll", "none: at a start only, which it ends", reads},
	{"ledger.FS.Create", logFaults, logFaults},
	{"ledger.FS.Open", "none: at a start only, which it ends", reads},
	{"ledger.FS.Rename", logFaults, logFaults},
	{"ledger.FS.Remove", logFaults, logFaults},
	{"ledger.FS.SyncDir", logFaults, logFaults},
	{"ledger.FS.ReadDir", "none: at a start only, which it ends", reads},
	{"ledger.FS.Free", "internal/ledger TestM02DiskFull", reads},
	{"ledger.FS.Lock", "internal/ledger TestSecondOpener", "undoes nothing"},
	{"ledger.File.Sync", logFaults, logFaults},
	{"ledger.File.Size", "none: at a start only, which it ends", reads},
	{"ledger.File.Links", "none: at a start only, which it ends", reads},
	{"ledger.File.Close", logFaults, "undoes nothing"},
	{"ledger.AEAD.Seal", "internal/keyring TestSealedValuesAreBound", computes},
	{"ledger.AEAD.Open", "internal/keyring TestSealedValuesAreBound", computes},
	{"ledger.Control.OpenLog", controlFaults, controlFaults},
	{"ledger.Control.Fence", controlFaults, controlFaults},
	{"ledger.Control.Anchor", controlFaults, controlFaults},
	{"ledger.Control.PutDataKey", controlFaults, controlFaults},
	{"ledger.Control.DataKey", controlFaults, reads},
	{"ledger.Control.Head", "none: at a start only, which it ends", reads},
	{"ledger.Control.Logs", "none: at a start only, which it ends", reads},
	{"ledger.Revisions.Revision", wholeGateway, reads},
	{"ledger.Index.Position", wholeGateway, reads},
	{"ledger.Index.Put", wholeGateway, "internal/ledger TestIndexLostAnswer"},
	{"ledger.Index.Query", wholeGateway, reads},
	{"ledger.Index.Reset", wholeGateway, "undoes nothing"},
	{"ledger.Index.Close", wholeGateway, "undoes nothing"},

	{"identity.Keys.ECDSA", "internal/keyring TestFailureLeavesNothing", "internal/keyring TestProcessesAgree"},
	{"identity.Mandates.IssueUnder", "none: it signs with a key in memory", computes},
	{"identity.Mandates.Verify", wholeGateway, computes},
	{"identity.Registry.CreateJoinToken", idFaults, idFaults},
	{"identity.Registry.RedeemJoinToken", idFaults, idFaults},
	{"identity.Registry.Agents", idFaults, reads},
	{"identity.Registry.Mandates", idFaults, reads},
	{"identity.Registry.Revoke", idFaults, idFaults},
	{"identity.Registry.AddAgent", "internal/identity TestAdmitClient", "internal/identity TestAdmitClient"},
	{"identity.Registry.CreateMandate", "internal/identity TestMandateFaults", "internal/identity TestMandateFaults"},
	{"identity.Registry.EndMandate", "internal/identity TestMandateFaults", "internal/identity TestMandateFaults"},
	{"identity.Registry.ReviewMandate", "none: for commands of an operator", "none: for commands of an operator"},
	{"identity.Registry.MandateHistory", "none: for commands of an operator", reads},
	{"identity.Registry.Revocations", idFaults, reads},

	{"catalog.Pins.SavePins", "internal/catalog TestFaultsOfAcceptance", "internal/catalog TestFaultsOfAcceptance"},
	{"catalog.Pins.DropPin", storeFaults, storeFaults},
	{"catalog.Pins.Pins", wholeGateway, reads},
	{"containment.Register.SetContainment", "internal/containment TestSet", "internal/containment TestSet"},
	{"containment.Register.Containments", "internal/containment TestSet", reads},
	{"containment.Register.Revision", "internal/containment TestFollow", reads},
	{"provenance.SessionStore.OpenSession", "internal/provenance TestSessionNotOpened", "internal/provenance TestSessionNotOpened"},
	{"provenance.SessionStore.TaintSession", "internal/provenance TestTaintNotStored", "internal/provenance TestTaintNotStored"},
	{"provenance.SessionStore.Session", "none: for commands of an operator", reads},
	{"control.Sessions.Owner", "none: for commands of an operator", reads},
	{"provenance.SharedSessions.SessionTaint", wholeGateway, reads},
	{"policy.Snapshots.SaveSnapshot", "internal/control TestNothingChangesUnrecorded", "internal/control TestNothingChangesUnrecorded"},
	{"policy.Snapshots.NewestSnapshot", wholeGateway, reads},
	{"policy.Snapshots.Snapshot", "none: for commands of an operator", reads},
	{"approval.Store.CreateHold", "internal/approval TestHoldFaults", "internal/approval TestHoldFaults"},
	{"approval.Store.ReplaceHold", "internal/approval TestVoteFaults", "internal/approval TestVoteFaults"},
	{"approval.Store.SweepHolds", storeFaults, storeFaults},
	{"approval.Store.Hold", storeFaults, reads},
	{"approval.Store.Holds", storeFaults, reads},
	{"approval.Store.CountHolds", storeFaults, reads},
	{"approval.People.Approver", "internal/approval TestWhoMayNotVote", reads},
	{"approval.AEAD.Seal", "internal/keyring TestSealedValuesAreBound", computes},
	{"approval.AEAD.Open", "internal/keyring TestSealedValuesAreBound", computes},
	{"control.Changes.Append", "internal/control TestNothingChangesUnrecorded", "internal/control TestNothingChangesUnrecorded"},
	{"control.Gate.Handle", "internal/control TestReadingSurvives", reads},
	{"control.Gate.Settle", "internal/control TestUndoAgain", "internal/control TestUndoAgain"},
	{"control.Log.Query", "internal/control TestListingWaitsForTheIndex", reads},
	{"control.Log.Entry", "none: for commands of an operator", reads},
	{"control.Log.Prove", "none: for commands of an operator", reads},
	{"control.Log.Key", "none: for commands of an operator", reads},
}

// unlisted are interfaces that no call passes through: commands of an
// operator, whose answer says what happened.
var unlisted = []string{"control.Process.", "identity.Delegations."}

// TestEveryFaultTwice: every method of the flow's interfaces that can fail has
// its tests for both ways, and these tests exist.
func TestEveryFaultTwice(t *testing.T) {
	tests, methods := map[string]bool{}, map[string]bool{}
	for _, f := range goFiles(t) {
		if f.test {
			file, err := parser.ParseFile(token.NewFileSet(), f.name, f.source, parser.SkipObjectResolution)
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range file.Decls {
				if fn, ok := d.(*ast.FuncDecl); ok && strings.HasPrefix(fn.Name.Name, "Test") {
					tests[f.pkg+" "+fn.Name.Name] = true
				}
			}
			continue
		}
		if slices.Contains([]string{"internal/gate", "internal/ledger", "internal/identity", "internal/catalog", "internal/containment", "internal/provenance", "internal/policy", "internal/approval", "internal/control"}, f.pkg) {
			fallible(t, f, methods)
		}
	}
	for _, x := range faults {
		if !methods[x.place] {
			t.Errorf("%s is listed, and is no method that can fail", x.place)
		}
		delete(methods, x.place)
		if !tests[x.did] && !strings.HasPrefix(x.did, "none: ") {
			t.Errorf("%s: there is no test %q", x.place, x.did)
		}
		if !tests[x.lost] && !strings.HasPrefix(x.lost, "none: ") && !slices.Contains([]string{reads, computes, "undoes nothing"}, x.lost) {
			t.Errorf("%s: there is no test %q", x.place, x.lost)
		}
	}
	for m := range methods {
		if !slices.ContainsFunc(unlisted, func(p string) bool { return strings.HasPrefix(m, p) }) {
			t.Errorf("%s can fail, and nothing says which tests make it fail", m)
		}
	}
}

// fallible adds the methods of a file's exported interfaces that return an
// error.
func fallible(t *testing.T, f file, methods map[string]bool) {
	t.Helper()
	tree, err := parser.ParseFile(token.NewFileSet(), f.name, f.source, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(tree, func(n ast.Node) bool {
		s, ok := n.(*ast.TypeSpec)
		if !ok || !s.Name.IsExported() {
			return true
		}
		i, ok := s.Type.(*ast.InterfaceType)
		if !ok {
			return true
		}
		for _, m := range i.Methods.List {
			fn, ok := m.Type.(*ast.FuncType)
			if !ok || fn.Results == nil || len(m.Names) == 0 {
				continue
			}
			last := fn.Results.List[len(fn.Results.List)-1]
			if id, ok := last.Type.(*ast.Ident); ok && id.Name == "error" {
				methods[strings.TrimPrefix(f.pkg, "internal/")+"."+s.Name.Name+"."+m.Names[0].Name] = true
			}
		}
		return true
	})
}
