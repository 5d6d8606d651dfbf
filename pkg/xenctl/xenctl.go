// Package xenctl is the toolstack's view of one host's hypervisor: domains, the devices in them, what
// they are doing and what the host has left for more. It knows nothing of VMs: those are records in a
// database, a domain is what runs.
//
// The one invariant: a domain's UUID is the UUID of what runs in it, and at most one domain of a UUID
// exists on a host. Domains are transient; when one stops nothing of it remains here.
//
// Start reading at Hypervisor, then DomainConfig and Event. What only some hypervisors can do is a
// capability interface (capabilities.go), found by As. Implementations are in sim (in this process) and
// libvirt; both pass the suite in xenctltest.
package xenctl

import (
	"context"
)

// Hypervisor is one host's hypervisor. It is safe for concurrent use; calls on different domains don't
// wait for each other.
//
// Deadlines. Every call honours its context. When the context ends first the call returns an error that is
// ErrTimeout (deadline) or context.Canceled, and the outcome is unknown: the operation may still take
// effect. Ask Lookup before deciding anything. ErrUnavailable from a call that changes something means the
// same, from one that reads that nothing was read.
//
// Errors are sentinels of this package wrapped with the operation and the domain: ErrNotFound (no such
// domain), ErrBadState (there is one, but in its state this can't be done), ErrUnavailable (the hypervisor
// doesn't answer; it is retried inside, later calls may succeed) and those that a method names.
type Hypervisor interface {
	// Create builds a domain and starts it (paused with StartPaused). Memory is reserved atomically:
	// of many calls at once exactly those that fit succeed, the others return *MemoryError. A domain
	// with the UUID that exists already gives ErrExists, a config that Validate refuses ErrInvalid.
	// After an error no domain is left, unless the outcome is unknown (see above).
	Create(ctx context.Context, cfg *DomainConfig) (Domain, error)

	// Destroy ends a domain at once, whatever its state, without asking the guest. It has gone when
	// Destroy returns nil. ErrNotFound when there is none: callers that want it gone are content.
	Destroy(ctx context.Context, uuid string) error

	// Pause stops the domain's VCPUs; pausing a paused domain does nothing.
	Pause(ctx context.Context, uuid string) error

	// Unpause lets them go on; unpausing a running domain does nothing.
	Unpause(ctx context.Context, uuid string) error

	// Save writes the domain's memory and state to path, a file (made or overwritten) or a block device,
	// syncs it and then destroys the domain. On an error the domain goes on as before and the file is
	// removed. The error of a full disk wraps syscall.ENOSPC where the hypervisor tells it.
	Save(ctx context.Context, uuid, path string) error

	// Restore makes a domain from a file that Save wrote, which is left in place. cfg says what the
	// domain is to look like now (StartPaused included); its type, memory and devices must be those at
	// Save. ErrBadImage for a file that isn't a whole image, or is one of another domain, otherwise the
	// errors of Create.
	Restore(ctx context.Context, path string, cfg *DomainConfig) (Domain, error)

	// RequestShutdown asks the guest to power off or to reboot, and returns when it has been asked. The
	// guest may take its time, ignore it or do something else: the outcome comes as an EventStopped.
	// ErrRefused when it is known already that the guest doesn't listen to such requests.
	RequestShutdown(ctx context.Context, uuid string, kind ShutdownKind) error

	// Lookup returns one domain, or ErrNotFound.
	Lookup(ctx context.Context, uuid string) (Domain, error)

	// List returns all domains but the control domain, in no order. It is the one call whose cost
	// grows with the number of domains.
	List(ctx context.Context) ([]Domain, error)

	// Host describes the machine and what is free on it now.
	Host(ctx context.Context) (HostInfo, error)

	// Subscribe gives all events from now on, until ctx ends or the hypervisor is closed; the channel is
	// closed then. See Event for what is promised.
	Subscribe(ctx context.Context) (<-chan Event, error)

	// Close stops what runs for this Hypervisor in this process and waits for it until ctx ends.
	// Domains go on. Calls after Close return ErrClosed.
	Close(ctx context.Context) error
}

// ShutdownKind is what a guest is asked to do.
type ShutdownKind string

// The requests that a guest understands.
const (
	ShutdownPoweroff ShutdownKind = "poweroff"
	ShutdownReboot   ShutdownKind = "reboot"
)

// Unwrapper is implemented by decorators of a Hypervisor.
type Unwrapper interface {
	// Unwrap returns the Hypervisor inside.
	Unwrap() Hypervisor
}

// As finds capability T in h or in what h decorates.
//
//	if p, ok := xenctl.As[xenctl.DiskPlugger](h); ok { err = p.AttachDisk(ctx, uuid, disk) }
func As[T any](h Hypervisor) (T, bool) {
	for h != nil {
		if t, ok := h.(T); ok {
			return t, true
		}
		u, ok := h.(Unwrapper)
		if !ok {
			break
		}
		h = u.Unwrap()
	}
	var none T
	return none, false
}
