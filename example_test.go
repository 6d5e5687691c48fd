package ostiary_test

import (
	"errors"
	"fmt"
	"time"

	"github.com/ostiary/ostiary"
)

// An error keeps its kind, code and field however far up it is wrapped; its
// cause is for us and not for the caller. What nobody classified is Internal.
func ExampleAsError() {
	err := ostiary.Errorf(ostiary.Malformed, "duplicate_key", "the object has this member twice").At("/params/amount")
	e := ostiary.AsError(fmt.Errorf("reading a call: %w", err))
	fmt.Println(e.Kind, e.Code, e.Field)
	fmt.Println(e.Detail)
	fmt.Println(ostiary.AsError(errors.New("disk on fire")).Detail)
	// Output:
	// malformed duplicate_key /params/amount
	// the object has this member twice
	// internal error
}

// What a mandate does not say, it does not allow; the zero one allows nothing.
func ExampleMandate_Covers() {
	now := time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)
	m := ostiary.Mandate{ID: "m-1", Actions: []string{"bank___get_balance"}, Resources: []string{"bank"}, NotBefore: now, Expires: now.Add(time.Hour)}
	bank := &ostiary.Resource{Server: "bank"}
	fmt.Println(m.Covers(&ostiary.Action{Name: "bank___get_balance"}, bank, now))
	fmt.Println(m.Covers(&ostiary.Action{Name: "bank___send_payment"}, bank, now))
	fmt.Println(m.Covers(&ostiary.Action{Name: "bank___get_balance"}, bank, now.Add(time.Hour)))
	fmt.Println(new(ostiary.Mandate).Covers(&ostiary.Action{Name: "bank___get_balance"}, bank, now))
	// Output:
	// true
	// false
	// false
	// false
}

// Every word of the vocabulary has a text, and what is no word has one that
// refuses: a value from elsewhere never panics.
func ExampleContainment() {
	fmt.Println(ostiary.None, ostiary.Containment(0), ostiary.Containment(200))
	fmt.Println(ostiary.ToolPinned, ostiary.ToolState(200), ostiary.ViaSVID, ostiary.Via(200), ostiary.Disposition(200))
	// Output:
	// none not-established not-established
	// pinned unpinned svid nothing unknown
}
