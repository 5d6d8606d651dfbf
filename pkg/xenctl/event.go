package xenctl

import "time"

// EventKind is what happened to a domain.
type EventKind string

// The events.
const (
	EventStarted EventKind = "started" // created or restored; its state may be paused
	EventPaused  EventKind = "paused"
	EventResumed EventKind = "resumed"
	// EventStopped: the domain has gone; Event.Reason says why. Nothing of it is left, so whoever wants
	// the guest to reboot creates it anew. It is the last event of a domain's incarnation.
	EventStopped EventKind = "stopped"
	// EventCrashed: the guest crashed and the domain is kept (CrashPreserve); an EventStopped follows
	// when somebody destroys it.
	EventCrashed EventKind = "crashed"
	// EventGuestChanged: GuestInfo has changed.
	EventGuestChanged EventKind = "guest-changed"
	// EventBalloonChanged: the domain's memory has arrived at another figure.
	EventBalloonChanged EventKind = "balloon-changed"
	// EventResync: events may have been lost (the hypervisor's connection broke and is back, or the
	// subscriber was too slow). It names no domain: List again.
	EventResync EventKind = "resync"
)

// StopReason is why a domain stopped.
type StopReason string

// The reasons. The hypervisor never acts on them itself (no restart of its own): that is for the caller.
const (
	StopPoweroff  StopReason = "poweroff"  // the guest powered off, asked to or by itself
	StopReboot    StopReason = "reboot"    // the guest wants to be booted again
	StopCrash     StopReason = "crash"     // the guest crashed
	StopDestroyed StopReason = "destroyed" // Destroy, or somebody with another tool
	StopSaved     StopReason = "saved"     // Save
	StopMigrated  StopReason = "migrated"  // it runs on another host now
	StopFailed    StopReason = "failed"    // the hypervisor lost it
)

// Event is one thing that happened to one domain.
//
// Events of a domain come in the order in which they happened. They may come before or after the call that
// caused them returns. No event is lost without an EventResync in its place; a subscriber that is slow
// holds up nobody. After the subscription has been made, List sees every domain for which no event came.
type Event struct {
	Kind EventKind
	UUID string
	// ID is the incarnation's number (Domain.ID), 0 where it isn't known.
	ID     int
	Reason StopReason // of EventStopped and of EventCrashed
	At     time.Time
}
