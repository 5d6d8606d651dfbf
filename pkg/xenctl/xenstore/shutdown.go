package xenstore

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	base := fmt.Sprintf("/local/domain/%d", domain.ID)
	path := base + "/control/shutdown"
	waiting, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w, err := s.Store.Watch(waiting, path)
	if err != nil {
		return err
	}
	defer w.Release(ctx)
	err = s.Store.Update(waiting, func(tx Tx) error {
		// Writing below a domain that has gone would make keys that nobody removes.
		owner, err := tx.Read(waiting, base+"/vm")
		if errors.Is(err, ErrNotFound) || err == nil && !strings.HasSuffix(owner, domain.UUID) {
			return fmt.Errorf("%w: domain %d is not %s", xenctl.ErrNotFound, domain.ID, domain.UUID)
		}
		if err != nil {
			return err
		}
		return tx.Write(waiting, path, string(kind))
	})
	if err != nil {
		return err
	}
	for {
		select {
		case <-w.C:
			w.Take()
			value, err := s.Store.Read(waiting, path)
			if errors.Is(err, ErrNotFound) || err == nil && value != string(kind) {
				return nil
			}
			if err != nil && waiting.Err() == nil {
				return err
			}
		case <-w.Done():
			return fmt.Errorf("%w: the connection broke after the request", xenctl.ErrUnavailable)
		case <-waiting.Done():
			return s.withdraw(ctx, path, kind)
		}
	}
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
