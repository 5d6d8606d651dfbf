// Package timing says where the time of an operation goes: to the hypervisor, to storage, to networks, to the
// guest, or to this daemon itself.
//
// Its one invariant: no moment counts twice. What is measured within a part is that part's, so that the rest, the
// operation's time less that of its parts, is this daemon's own. An operation does one thing at a time.
//
// Start reading at Begin; hypervisor.go measures the calls of a hypervisor.
package timing

import (
	"context"
	"sync"
	"time"
)

// Part is a share of an operation's time that somebody else than the daemon takes.
type Part string

// The parts of an operation.
const (
	Hypervisor Part = "hypervisor"
	Disks      Part = "disks"
	Networks   Part = "networks"
	Guest      Part = "guest" // waiting until it does what it was asked
)

// Split is an operation's time by parts. The zero value is not usable: Begin makes one.
type Split struct {
	began time.Time

	mu    sync.Mutex
	busy  bool // a part is being measured
	parts map[Part]time.Duration
}

type splitKey struct{}

// Begin starts the clock of an operation, in whose context parts are measured.
func Begin(ctx context.Context) (context.Context, *Split) {
	s := &Split{began: time.Now(), parts: map[Part]time.Duration{}}
	return context.WithValue(ctx, splitKey{}, s), s
}

// Measure starts the clock of a part, and the function that it returns stops it. Outside an operation, and
// within another part, it does nothing.
//
//	defer timing.Measure(ctx, timing.Disks)()
func Measure(ctx context.Context, part Part) (stop func()) {
	s, ok := ctx.Value(splitKey{}).(*Split)
	if !ok || !s.take() {
		return func() {}
	}
	began := time.Now()
	return func() {
		took := time.Since(began)
		s.mu.Lock()
		defer s.mu.Unlock()
		s.busy = false
		s.parts[part] += took
	}
}

// take begins a part, unless it is within another.
func (s *Split) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.busy {
		return false
	}
	s.busy = true
	return true
}

// Times are how long an operation took, and what of it each part took.
type Times struct {
	Total, Hypervisor, Disks, Networks, Guest time.Duration
	// Own is the rest: the daemon's own work, commits and waiting for other operations.
	Own time.Duration
}

// Times reads the clock.
func (s *Split) Times() Times {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := Times{Total: time.Since(s.began), Hypervisor: s.parts[Hypervisor], Disks: s.parts[Disks],
		Networks: s.parts[Networks], Guest: s.parts[Guest]}
	t.Own = t.Total - t.Hypervisor - t.Disks - t.Networks - t.Guest
	return t
}
