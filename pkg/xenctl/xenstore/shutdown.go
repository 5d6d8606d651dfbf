package xenstore

import (
	"context"
	"errors"
	"fmt"
	"time"

	"xapid/pkg/xenctl"
)

// DefaultPatience is how long a guest may take to acknowledge a request.
const DefaultPatience = 30 * time.Second

// Shutdown asks guests to power off or to reboot, as Xen's own toolstack does: it writes the request into
// control/shutdown, and the guest makes that empty when it has read it.
type Shutdown struct {
	Store *Client
	// Patience is how long a guest may take for that; 0 is DefaultPatience.
	Patience time.Duration
}

// errWithdrawn says that a request was taken back before the guest had read it.
var errWithdrawn = errors.New("the guest has not acknowledged the request")

// RequestShutdown returns when the guest has acknowledged the request, or has gone. ErrRefused when it did
// neither in time; the request is taken back then, so that a guest that wakes up later goes on.
func (s *Shutdown) RequestShutdown(ctx context.Context, domain xenctl.Domain, kind xenctl.ShutdownKind) error {
	patience := s.Patience
	if patience == 0 {
		patience = DefaultPatience
	}
	path := fmt.Sprintf("/local/domain/%d/control/shutdown", domain.ID)
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w, err := s.Store.Watch(waiting, path)
	if err != nil {
		return err
	}
	defer w.Release(ctx)
	err = s.Store.Update(waiting, func(tx Tx) error {
		if err := tx.Check(waiting, domain); err != nil {
			return err
		}
		return tx.Write(waiting, path, string(kind))
	})
	if err != nil {
		return err
	}
	read, err := w.until(waiting, s.Store, func(value string) bool { return value != string(kind) })
	if read || err != nil {
		return err
	}
	return s.withdraw(ctx, path, kind)
}

// withdraw takes a request back, unless the guest has read it at the last moment.
func (s *Shutdown) withdraw(ctx context.Context, path string, kind xenctl.ShutdownKind) error {
	cause := xenctl.ContextError(ctx)
	if cause == nil {
		cause = fmt.Errorf("%w: %w", xenctl.ErrRefused, errWithdrawn)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	read := false
	err := s.Store.Update(ctx, func(tx Tx) error {
		value, err := tx.Read(ctx, path)
		read = errors.Is(err, ErrNotFound) || err == nil && value != string(kind)
		if read || err != nil {
			return nil
		}
		return tx.Write(ctx, path, "")
	})
	switch {
	case err != nil:
		return errors.Join(cause, fmt.Errorf("the request is still there: %w", err))
	case read:
		return nil
	}
	return cause
}
