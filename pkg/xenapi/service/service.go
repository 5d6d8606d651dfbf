// Package service says what behaviour must implement: an interface a class
// with a method an explicit message, and the table that dispatches a decoded
// call to it.
//
// Generated but for this file. Its one invariant: what nobody implements
// answers NOT_IMPLEMENTED with the message's name, never a silent success.
package service

import (
	"context"
	"log/slog"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Handler carries out one explicit message: canonical arguments in, a
// canonical value out (wire.Decode and wire.AppendXML say what that is).
type Handler func(ctx context.Context, s *Services, c *Call, args []any) (any, error)

// Call is what a message knows of its caller.
type Call struct {
	Message *datamodel.Message
	Session Identity
	Task    Job
	Log     *slog.Logger
	// RemoteAddr is the client's address, empty on the Unix socket.
	RemoteAddr string
	UserAgent  string
}

// Identity is the caller's session as behaviour may know it. The reference is
// a credential and stays out of logs; UUID names the session there.
type Identity struct {
	Ref     xenapi.SessionRef
	UUID    string
	User    string
	UserSID string
	// Root marks local superusers and pool members, whom RBAC passes.
	Root bool
	// Pool marks a session between members of the pool.
	Pool bool
}

// Job is the running call's task. Every call has one; only those of Async
// calls, of transfers and with subtasks are objects that clients see.
type Job interface {
	// Ref names the task; it keys current_operations.
	Ref() xenapi.TaskRef
	// Progress reports how far the call has come, from 0 to 1.
	Progress(fraction float64)
}

// All returns the handlers of every explicit message by wire name.
func All() map[string]Handler {
	all := map[string]Handler{}
	for _, class := range handlers {
		for name, h := range class {
			all[name] = h
		}
	}
	return all
}
