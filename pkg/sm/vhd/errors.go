package vhd

import (
	"errors"
	"fmt"
)

var (
	// ErrDifferencing says that an image is a difference to a parent, which this package does not read.
	ErrDifferencing = errors.New("vhd: differencing images are not supported")
	// ErrReadOnly says that an image was opened for reading alone.
	ErrReadOnly = errors.New("vhd: image is open read-only")
	// ErrOutOfRange says that a read or write reaches past the virtual size, or below 0.
	ErrOutOfRange = errors.New("vhd: outside of the virtual disk")
	// ErrSize says that a virtual size cannot be had.
	ErrSize = errors.New("vhd: impossible virtual size")
	// ErrShrink says that a smaller size than the present was asked for.
	ErrShrink = errors.New("vhd: shrinking is not possible")
	// ErrLayout says that an image of foreign make is laid out so that the call cannot be done on it.
	ErrLayout = errors.New("vhd: not possible with this image's layout")
)

// FormatError says which field of an image is wrong.
type FormatError struct {
	Field   string // such as "footer.checksum" or "bat[17]"
	Problem string
}

// Error names field and problem.
func (e *FormatError) Error() string { return fmt.Sprintf("vhd: %s: %s", e.Field, e.Problem) }

func bad(field, problem string, args ...any) *FormatError {
	return &FormatError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}
