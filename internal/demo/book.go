package demo

import (
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Account is one account of the demo's bank. Balance is in minor units
// (cents), never a fraction.
type Account struct {
	ID       string `json:"id"`
	Title    string `json:"title"`
	Currency string `json:"currency"`
	Balance  int64  `json:"balance"`
}

// Payment is money that moved. Amount is in minor units.
type Payment struct {
	Number   int    `json:"number"` // 1, 2, 3 … in this process
	From     string `json:"from"`
	To       string `json:"to"`
	Amount   int64  `json:"amount"`
	Currency string `json:"currency"`
	Note     string `json:"note,omitempty"`
}

// book is the bank's state. Safe for concurrent use.
type book struct {
	journal *Journal

	mu       sync.Mutex // guards what follows
	accounts []Account
	payments int
}

func newBook(j *Journal) *book {
	return &book{journal: j, accounts: []Account{
		{"household", "Household", "EUR", 1_284_050},
		{"savings", "Savings", "EUR", 2_500_000},
		{"travel", "Travel money", "USD", 180_000},
	}}
}

func (b *book) list() []Account {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.accounts)
}

func (b *book) account(id string) (Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if a := b.find(id); a != nil {
		return *a, nil
	}
	return Account{}, b.unknown(id)
}

// pay moves the money and journals it in one step: an effect that could not
// be written down does not happen.
func (b *book) pay(p Payment, entry string) (Payment, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	from := b.find(p.From)
	switch {
	case from == nil:
		return p, b.unknown(p.From)
	case p.Currency != from.Currency:
		return p, fmt.Errorf("account %s holds %s, not %s", from.ID, from.Currency, p.Currency)
	case p.Amount < 1 || p.Amount > from.Balance:
		return p, fmt.Errorf("account %s holds %s; %s cannot be sent from it", from.ID, Money(from.Balance, from.Currency), Money(p.Amount, p.Currency))
	}
	p.Number = b.payments + 1
	if err := b.journal.Write(Event{What: Executed, Tool: "send_payment", Entry: entry, Payment: &p}); err != nil {
		return p, fmt.Errorf("the payment was not made: %w", err)
	}
	b.payments++
	from.Balance -= p.Amount
	if to := b.find(p.To); to != nil && to.Currency == p.Currency {
		to.Balance += p.Amount
	}
	return p, nil
}

func (b *book) find(id string) *Account {
	for i := range b.accounts {
		if b.accounts[i].ID == id {
			return &b.accounts[i]
		}
	}
	return nil
}

func (b *book) unknown(id string) error {
	names := make([]string, len(b.accounts))
	for i, a := range b.accounts {
		names[i] = a.ID
	}
	return fmt.Errorf("there is no account %q; there are %s", id, strings.Join(names, ", "))
}

// Money prints minor units for people: 1234567 EUR as "12,345.67 EUR".
func Money(minor int64, currency string) string {
	sign := ""
	u := uint64(minor)
	if minor < 0 {
		sign, u = "-", -u
	}
	whole := fmt.Sprint(u / 100)
	for i := len(whole) - 3; i > 0; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	return fmt.Sprintf("%s%s.%02d %s", sign, whole, u%100, currency)
}
