package db

import (
	"sync"

	"xapid/pkg/datamodel"
)

// ringSize is how many changes the feed remembers. A reader that is further
// behind starts over.
const ringSize = 100_000

// Event is one object's change in the feed.
type Event struct {
	Gen, Created uint64
	Class        *datamodel.Class
	Op           Op
	Ref          string
}

// Feed remembers the last changes in the order of their generations, and
// wakes those who wait for some. It costs waiters nothing while nothing of
// theirs happens.
type Feed struct {
	mu      sync.Mutex
	ring    []Event
	next    int    // where the next event goes
	first   uint64 // generations above this one are all in the ring
	latest  *Snapshot
	waiters map[*Waiter]struct{}
	taps    map[*Tap]struct{}
}

func newFeed(start uint64) *Feed {
	return &Feed{first: start, waiters: map[*Waiter]struct{}{}, taps: map[*Tap]struct{}{}}
}

// Classes is a set of classes by their ids; the zero value is empty.
type Classes [2]uint64

// Add puts a class into the set.
func (c *Classes) Add(id int) { c[id/64] |= 1 << (id % 64) }

// Has reports whether a class is in the set.
func (c Classes) Has(id int) bool { return c[id/64]&(1<<(id%64)) != 0 }

func (c Classes) meets(o Classes) bool { return c[0]&o[0] != 0 || c[1]&o[1] != 0 }

// Waiter is woken when an object of its classes changes.
type Waiter struct {
	// C holds one value when there is something to look at.
	C       chan struct{}
	classes Classes
}

// Tap sees every change as it is committed, with the new version (nil for a
// deletion). It is called with the commit held up: it must be quick.
type Tap struct {
	classes Classes
	fn      func(e Event, row *Row)
}

// Wait registers a waiter; the caller must call Done on it.
func (f *Feed) Wait(classes Classes) *Waiter {
	w := &Waiter{C: make(chan struct{}, 1), classes: classes}
	f.mu.Lock()
	f.waiters[w] = struct{}{}
	f.mu.Unlock()
	return w
}

// Done takes the waiter out.
func (f *Feed) Done(w *Waiter) {
	f.mu.Lock()
	delete(f.waiters, w)
	f.mu.Unlock()
}

// Tap registers fn for every change to the classes, until the returned
// function is called.
func (f *Feed) Tap(classes Classes, fn func(e Event, row *Row)) (stop func()) {
	t := &Tap{classes, fn}
	f.mu.Lock()
	f.taps[t] = struct{}{}
	f.mu.Unlock()
	return func() {
		f.mu.Lock()
		delete(f.taps, t)
		f.mu.Unlock()
	}
}

// Snapshot is the newest state whose changes are all in the feed: Since may be
// asked up to its generation, which DB.View can be ahead of for a moment. It
// is nil before the first commit.
func (f *Feed) Snapshot() *Snapshot {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.latest
}

// add appends a commit's changes and wakes whom they concern.
func (f *Feed) add(snap *Snapshot, done []applied) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.latest = snap
	var touched Classes
	for i := range done {
		a := &done[i]
		row := a.after
		if row == nil {
			row = a.before
		}
		e := Event{Gen: snap.gen, Created: row.Created, Class: a.Class, Op: a.Op, Ref: a.Ref}
		touched.Add(a.Class.ID)
		f.push(e)
		for t := range f.taps {
			if t.classes.Has(a.Class.ID) {
				t.fn(e, a.after)
			}
		}
	}
	for w := range f.waiters {
		if w.classes.meets(touched) {
			select {
			case w.C <- struct{}{}:
			default:
			}
		}
	}
}

func (f *Feed) push(e Event) {
	if len(f.ring) < ringSize {
		f.ring = append(f.ring, e)
		return
	}
	f.first = f.ring[f.next].Gen
	f.ring[f.next] = e
	f.next = (f.next + 1) % ringSize
}

// Since lists the changes to the classes after generation gen and up to
// upTo, oldest first. It is false when the feed does not reach back so far.
func (f *Feed) Since(gen, upTo uint64, classes Classes) ([]Event, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if gen < f.first {
		return nil, false
	}
	lo, hi := 0, len(f.ring)
	for lo < hi { // the first event after gen
		mid := (lo + hi) / 2
		if f.at(mid).Gen <= gen {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	var out []Event
	for ; lo < len(f.ring); lo++ {
		e := f.at(lo)
		if e.Gen > upTo {
			break
		}
		if classes.Has(e.Class.ID) {
			out = append(out, *e)
		}
	}
	return out, true
}

func (f *Feed) at(i int) *Event { return &f.ring[(f.next+i)%len(f.ring)] }

// Waiting is the number of waiters.
func (f *Feed) Waiting() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.waiters)
}
