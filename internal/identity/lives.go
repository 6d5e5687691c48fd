package identity

import "time"

// Lives are how long what the authority issues lives, as in [Options].
type Lives struct {
	SVID, Token, Mandate, Grace time.Duration
}

// Prepare checks other lives against the limits of [Options] and returns the
// function that puts them in place, for everything issued after it. What was
// issued before keeps its end. Safe for concurrent use.
func (a *Authority) Prepare(l Lives) (commit func(), err error) {
	o := Options{SVIDLife: l.SVID, TokenLife: l.Token, MandateLife: l.Mandate, Grace: l.Grace}
	if err := o.lives(); err != nil {
		return nil, err
	}
	l = Lives{SVID: o.SVIDLife, Token: o.TokenLife, Mandate: o.MandateLife, Grace: o.Grace}
	return func() { a.lives.Store(&l) }, nil
}

// Lives returns what is in place.
func (a *Authority) Lives() Lives { return *a.lives.Load() }
