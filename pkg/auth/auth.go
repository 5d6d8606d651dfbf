// Package auth decides who a name and a password are, and how often a stranger
// may try.
//
// Its one invariant: no login waits on a stranger without a deadline of ours,
// and how a login failed can't be told from when the answer comes, if it goes
// through a Throttle. Start reading at Authenticator, then Throttle.
package auth

import (
	"context"
	"errors"
	"strings"
)

// Group is the group whose members may log in beside uid 0.
const Group = "xapid-admin"

// Errors that a login fails with; other errors say that it could not be
// decided.
var (
	ErrBadCredentials = errors.New("auth: wrong name or password")
	ErrNotAuthorized  = errors.New("auth: neither uid 0 nor in group " + Group)
	ErrHeldBack       = errors.New("auth: too many failed logins")
)

// Identity is who has logged in.
type Identity struct {
	User   string // canonical, which need not be what was typed
	UID    int
	IsRoot bool // a local superuser: uid 0 or a member of Group
}

// Authenticator checks a name and a password. It answers ErrBadCredentials
// for a wrong one and ErrNotAuthorized for a right one that may not manage
// this host, returns when ctx ends, and may be called by many at once.
type Authenticator interface {
	Authenticate(ctx context.Context, user, password string) (Identity, error)
}

// Bounds of what is looked at; PAM takes no more than 511 bytes either.
const (
	maxUser     = 256
	maxPassword = 511
)

// plausible refuses what no account can have: nothing, too much, control
// characters that end a line or a C string.
func plausible(user, password string) bool {
	return user != "" && len(user) <= maxUser && !strings.ContainsAny(user, "\x00\n\r:/") &&
		password != "" && len(password) <= maxPassword && !strings.ContainsAny(password, "\x00\n\r")
}
