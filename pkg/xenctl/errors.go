package xenctl

import (
	"context"
	"errors"
	"fmt"
)

// What can go wrong. Errors of this package and its implementations wrap one of these; test with errors.Is.
var (
	// ErrNotFound: no domain has that UUID.
	ErrNotFound = errors.New("no such domain")
	// ErrNoDevice: the domain has no such device.
	ErrNoDevice = errors.New("no such device")
	// ErrExists: a domain with the UUID, or a device with the name, is there already.
	ErrExists = errors.New("exists already")
	// ErrBadState: the domain's state doesn't allow it (pausing a crashed domain, say).
	ErrBadState = errors.New("not possible in the domain's state")
	// ErrInvalid: the arguments can't be right, whatever the state.
	ErrInvalid = errors.New("invalid argument")
	// ErrNotEnoughMemory: the host has too little free memory; the error is a *MemoryError.
	ErrNotEnoughMemory = errors.New("not enough free memory on the host")
	// ErrBadImage: a file isn't a whole image of a saved domain, or is of another domain.
	ErrBadImage = errors.New("not a valid image of the saved domain")
	// ErrBootloader: nothing to boot could be taken out of the domain's disk; the error says why.
	ErrBootloader = errors.New("the bootloader failed")
	// ErrRefused: the guest doesn't cooperate: it won't let go of a device or listens to no requests.
	ErrRefused = errors.New("the guest refused")
	// ErrTimeout: the call's deadline passed; the outcome is unknown.
	ErrTimeout = errors.New("no answer before the deadline")
	// ErrUnavailable: the hypervisor can't be reached now.
	ErrUnavailable = errors.New("the hypervisor is not available")
	// ErrNotSupported: this hypervisor can't do that at all.
	ErrNotSupported = errors.New("not supported by the hypervisor")
	// ErrClosed: the Hypervisor has been closed in this process.
	ErrClosed = errors.New("closed")
)

// MemoryError says how much memory was asked for and how much there was. It is an ErrNotEnoughMemory.
type MemoryError struct {
	NeededBytes    int64 // what the operation would have taken from the host
	AvailableBytes int64 // what was free at that moment; -1 when the hypervisor didn't say
}

// Error implements error.
func (e *MemoryError) Error() string {
	return fmt.Sprintf("%v: %d bytes needed, %d available", ErrNotEnoughMemory, e.NeededBytes, e.AvailableBytes)
}

// Is makes errors.Is(err, ErrNotEnoughMemory) true.
func (e *MemoryError) Is(target error) bool { return target == ErrNotEnoughMemory }

// OpError is the form of the errors of implementations: what was tried on which domain, and why it failed.
type OpError struct {
	Op   string // the method, in lower case: "create", "attach disk"
	UUID string // the domain; empty for operations on the host
	Err  error
}

// Error implements error.
func (e *OpError) Error() string {
	if e.UUID == "" {
		return fmt.Sprintf("xenctl: %s: %v", e.Op, e.Err)
	}
	return fmt.Sprintf("xenctl: %s of domain %s: %v", e.Op, e.UUID, e.Err)
}

// Unwrap gives the cause.
func (e *OpError) Unwrap() error { return e.Err }

// ContextError is the cause of ctx's end as this package reports it: a deadline is ErrTimeout (and
// context.DeadlineExceeded), a cancel stays context.Canceled with its cause. Nil while ctx goes on.
func ContextError(ctx context.Context) error {
	switch err := ctx.Err(); {
	case err == nil:
		return nil
	case errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", ErrTimeout, err)
	case errors.Is(context.Cause(ctx), err):
		return err
	default:
		return fmt.Errorf("%w: %w", err, context.Cause(ctx))
	}
}
