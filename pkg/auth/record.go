package auth

import (
	"slices"
	"time"
)

// Bounds on what the throttle remembers.
const (
	maxRecords = 10_000
	maxKnown   = 64
	forget     = 15 * time.Minute
)

// table holds a record an address, or an account.
type table map[string]*record

// record counts the failures of one address or account.
type record struct {
	failures int
	last     time.Time // of use
	until    time.Time // held back so long
	known    []string  // of an account: addresses that have logged in
	turns    chan struct{}
	users    int // of turns
}

// get finds a record or makes it, and makes room for it.
func (t table) get(key string) *record {
	now := time.Now()
	r := t[key]
	if r == nil {
		if len(t) >= maxRecords {
			t.shrink(now)
		}
		r = &record{}
		t[key] = r
	}
	if now.Sub(r.last) > forget && !now.Before(r.until) {
		r.failures = 0
	}
	r.last = now
	return r
}

// shrink drops what is forgotten anyway; if that is not enough, a part of what
// holds nobody back, and then of the rest, wherever the map begins.
func (t table) shrink(now time.Time) {
	drops := [](func(*record) bool){
		func(r *record) bool { return now.Sub(r.last) > forget && r.known == nil },
		func(r *record) bool { return !now.Before(r.until) && r.known == nil },
		func(*record) bool { return true },
	}
	for _, drop := range drops {
		for key, r := range t {
			if len(t) <= maxRecords*9/10 {
				return
			}
			if r.users == 0 && drop(r) {
				delete(t, key)
			}
		}
	}
}

// fail counts a failure; above the free ones, each doubles the time held.
func (r *record) fail(free int, longest time.Duration) {
	r.failures++
	over := r.failures - free
	if over < 0 {
		return
	}
	hold := longest
	if over < 20 {
		hold = min(longest, time.Second<<over)
	}
	r.until = time.Now().Add(hold)
}

func (r *record) knows(address string) bool { return slices.Contains(r.known, address) }

func (r *record) learn(address string) {
	if r.knows(address) {
		return
	}
	if len(r.known) == maxKnown {
		r.known = slices.Delete(r.known, 0, 1)
	}
	r.known = append(r.known, address)
}
