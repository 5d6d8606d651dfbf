package xenstore

import (
	"errors"
	"fmt"
)

// What xenstored may say no for. Test with errors.Is.
var (
	// ErrNotFound: there is no such key.
	ErrNotFound = errors.New("no such key")
	// ErrExists: it is there already (a watch with the same token, say).
	ErrExists = errors.New("exists already")
	// ErrDenied: this connection may not do that.
	ErrDenied = errors.New("permission denied")
	// ErrQuota: the owner of the keys has as many of them, or as large ones, as it may have.
	ErrQuota = errors.New("quota reached")
	// ErrInvalid: the path or the value can't be right.
	ErrInvalid = errors.New("invalid path or value")
	// ErrAgain: the transaction met another one. Update tries it again by itself.
	ErrAgain = errors.New("transaction conflict")
)

// kinds are the codes of xenstored's that mean one of these.
var kinds = map[string]error{
	"ENOENT": ErrNotFound, "EEXIST": ErrExists, "EACCES": ErrDenied, "EPERM": ErrDenied, "EROFS": ErrDenied,
	"EQUOTA": ErrQuota, "ENOSPC": ErrQuota, "E2BIG": ErrQuota, "EINVAL": ErrInvalid, "EAGAIN": ErrAgain,
}

// Error is a no of xenstored's.
type Error struct {
	Op, Path string
	Code     string // "ENOENT"
}

// Error implements error.
func (e *Error) Error() string {
	if kind := kinds[e.Code]; kind != nil {
		return fmt.Sprintf("xenstore: %s %q: %v (%s)", e.Op, e.Path, kind, e.Code)
	}
	return fmt.Sprintf("xenstore: %s %q: %s", e.Op, e.Path, e.Code)
}

// Unwrap gives the kind.
func (e *Error) Unwrap() error { return kinds[e.Code] }
