package vm

import (
	"context"
	"errors"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// errOverridden is the cause with which a hard operation ends another one.
var errOverridden = errors.New("vm: overridden by a hard shutdown or reboot")

// underway is an operation that is at work on a VM.
type underway struct {
	cancel context.CancelCauseFunc
	ended  chan struct{}
}

// do runs fn under the operation locks, so that a hard shutdown or reboot of
// the VM, which may come over it, can end it first. The first target says what
// is being done.
func (s *VMs) do(ctx context.Context, c *service.Call, ref xenapi.VMRef, wait time.Duration, targets []ops.Target,
	check func(tx *db.Tx) error, fn func(ctx context.Context) error) (err error) {
	ctx, tell := s.timed(ctx, c, ref, targets[0].Op)
	defer func() { tell(err) }()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	u := &underway{cancel, make(chan struct{})}
	defer s.leave(ref, u)
	// Entered with the lock, in its transaction: whoever may come over the
	// operation has seen the lock, and must find what there is to end.
	enter := func(tx *db.Tx) error {
		if err := check(tx); err != nil {
			return err
		}
		s.enter(ref, u)
		return nil
	}
	return s.Env.Locks.Do(ctx, c, wait, targets, enter, func(ctx context.Context) error {
		err := fn(context.WithValue(ctx, underwayKey{}, u))
		if err != nil && errors.Is(context.Cause(ctx), errOverridden) {
			s.Env.Log.Info("an operation gave way to a hard one", "vm", ref, "error", err)
			return xenapi.ErrTaskCancelled(string(c.Task.Ref()))
		}
		return err
	})
}

type underwayKey struct{}

func (s *VMs) enter(ref xenapi.VMRef, u *underway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.underway[ref] == nil {
		s.underway[ref] = map[*underway]bool{}
	}
	s.underway[ref][u] = true
}

func (s *VMs) leave(ref xenapi.VMRef, u *underway) {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(u.ended)
	if delete(s.underway[ref], u); len(s.underway[ref]) == 0 {
		delete(s.underway, ref)
	}
}

// override ends whatever else is at work on a VM and waits until it has come
// to rest, done or undone.
func (s *VMs) override(ctx context.Context, ref xenapi.VMRef) error {
	mine, _ := ctx.Value(underwayKey{}).(*underway)
	s.mu.Lock()
	var others []*underway
	for u := range s.underway[ref] {
		if u != mine {
			others = append(others, u)
		}
	}
	s.mu.Unlock()
	for _, u := range others {
		u.cancel(errOverridden)
	}
	for _, u := range others {
		select {
		case <-u.ended:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
