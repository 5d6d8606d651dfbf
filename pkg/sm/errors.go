package sm

import (
	"errors"
	"fmt"
	"syscall"
)

// What callers branch on. The first four stand for numbers that XenServer never shows as SR_BACKEND_FAILURE.
var (
	// ErrSRInUse says that an SR is attached, or that its medium is held by another (16).
	ErrSRInUse = errors.New("storage repository in use")
	// ErrInUse says that a volume has a holder that rules the call out (24).
	ErrInUse = errors.New("volume in use")
	// ErrNotSupported says that the driver, or the volume's format, cannot do this at all (38).
	ErrNotSupported = errors.New("operation not supported by the storage driver")
	// ErrNotEmpty says that an SR to be destroyed still has volumes (39).
	ErrNotEmpty = errors.New("storage repository is not empty")
	// ErrMissing says that the SR has no such volume (144).
	ErrMissing = errors.New("no such volume")
	// ErrUnknownDriver says that no driver has that SR type.
	ErrUnknownDriver = errors.New("unknown storage driver")
)

// Code is the number of a failure in XenServer's table, the <n> of SR_BACKEND_FAILURE_<n>.
type Code int

// The codes that drivers here use.
const (
	CodeInvalidArgument Code = 1
	CodeBadCharacter    Code = 2
	CodeScanFailed      Code = 40
	CodeSRExists        Code = 42
	CodeVolumeExists    Code = 43
	CodeNoSpace         Code = 44
	CodeVolumeGone      Code = 46
	CodeSRGone          Code = 47
	CodeSRCreate        Code = 61
	CodeSRDelete        Code = 63
	CodeVolumeDelete    Code = 64
	CodeVolumeLoad      Code = 65
	CodeVolumeType      Code = 66
	CodeVolumeCreate    Code = 78
	CodeVolumeSize      Code = 79
	CodeHidden          Code = 80
	CodeLocation        Code = 94
	CodeVolumeResize    Code = 110
	CodeIO              Code = 200
	CodeTryAgain        Code = 201
	CodeReadOnly        Code = 461
	CodeISOLocation     Code = 220
	CodeISOPath         Code = 226
)

// messages are XenServer's texts, which clients match and show.
var messages = map[Code]string{
	CodeInvalidArgument: "Invalid argument",
	CodeBadCharacter:    "A bad character was detected in the dconf string",
	CodeScanFailed:      "The SR scan failed",
	CodeSRExists:        "The SR already exists",
	CodeVolumeExists:    "The VDI already exists",
	CodeNoSpace:         "There is insufficient space",
	CodeVolumeGone:      "The VDI is not available",
	CodeSRGone:          "The SR is not available",
	CodeSRCreate:        "File SR creation error",
	CodeSRDelete:        "File SR deletion error",
	CodeVolumeDelete:    "Failed to remove VDI",
	CodeVolumeLoad:      "Failed to load VDI",
	CodeVolumeType:      "Invalid VDI type",
	CodeVolumeCreate:    "VDI Creation failed",
	CodeVolumeSize:      "VDI Invalid size",
	CodeHidden:          "Failed to mark VDI hidden",
	CodeLocation:        "The request is missing the location parameter",
	CodeVolumeResize:    "VDI resize failed",
	CodeIO:              "General IO error",
	CodeTryAgain:        "Currently unavailable, try again",
	CodeReadOnly:        "The file system for SR cannot be written to.",
	CodeISOLocation:     "The request is missing the location parameter",
	CodeISOPath:         "Unable to attach the SR: the path is not a valid local directory",
}

// Error is a failure with a number in XenServer's table.
type Error struct {
	Code    Code
	Message string // XenServer's text for the code
	Reason  string // what it was this time; shown after the message
	Detail  string // an XML document for the few codes that carry one
	Err     error  // the cause, or nil
}

// Failure makes the Error of a code; cause may be nil. A cause that is an Error already, or that means a full or a
// read-only medium, keeps its own number, since that is the truer one.
func Failure(code Code, reason string, cause error) error {
	var inner *Error
	if errors.As(cause, &inner) {
		return cause
	}
	switch {
	case errors.Is(cause, syscall.ENOSPC), errors.Is(cause, syscall.EDQUOT):
		code = CodeNoSpace
	case errors.Is(cause, syscall.EROFS):
		code = CodeReadOnly
	}
	return &Error{Code: code, Message: messages[code], Reason: reason, Err: cause}
}

// Error gives the text that a client sees, and the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text()
	}
	return fmt.Sprintf("%s: %v", e.Text(), e.Err)
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Text is the second of the three strings of SR_BACKEND_FAILURE, "message [opterr=reason]"; it holds no cause,
// so nothing of dom0 leaks through it.
func (e *Error) Text() string {
	if e.Reason == "" {
		return e.Message
	}
	return fmt.Sprintf("%s [opterr=%s]", e.Message, e.Reason)
}

// FullError says that a medium has no room. It unwraps to an *Error with CodeNoSpace.
type FullError struct {
	RequestedBytes int64
	MaxBytes       int64 // what would have fitted
}

// Error names both figures.
func (e *FullError) Error() string {
	return fmt.Sprintf("not enough room: %d bytes asked, %d free", e.RequestedBytes, e.MaxBytes)
}

// Unwrap makes errors.As find the numbered failure.
func (e *FullError) Unwrap() error {
	return &Error{Code: CodeNoSpace, Message: messages[CodeNoSpace]}
}
