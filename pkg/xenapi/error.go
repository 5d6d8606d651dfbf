package xenapi

import (
	"errors"
	"strings"
)

// Error is a failure as clients see it: a code of the catalogue and its
// parameters, all text.
type Error struct {
	Code   string
	Params []string
}

// Error writes CODE [param, param].
func (e *Error) Error() string {
	return e.Code + " [" + strings.Join(e.Params, ", ") + "]"
}

// Description is the wire form: the code, then the parameters.
func (e *Error) Description() []string { return append([]string{e.Code}, e.Params...) }

// Is makes errors.Is(err, &Error{Code: X}) compare by code alone.
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && t.Params == nil
}

// Code returns the XenAPI code in err's chain, or "".
func Code(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}
