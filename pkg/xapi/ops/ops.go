// Package ops knows what is being done to which object: the operation locks
// behind current_operations, and the waiting for them.
//
// Its one invariant: between Do's check and its end, the objects it names
// carry the operation in current_operations, so that every other check sees
// it; and whoever has to wait is woken by the change, and can be cancelled.
// Start reading at Locker.Do.
package ops

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Target is an object, and what a call is doing to it.
type Target struct {
	Class string
	Ref   string
	Op    string
}

// On makes a Target from a typed reference and operation.
func On[R, O ~string](class string, ref R, op O) Target {
	return Target{Class: class, Ref: string(ref), Op: string(op)}
}

// Wait bounds how long a call waits for others to end.
const (
	WaitQuick = 2 * time.Minute
	WaitLong  = 2 * time.Hour
)

// Locker takes operation locks on the graph.
type Locker struct {
	DB  *db.DB
	Log *slog.Logger
}

// Do runs fn while the targets carry their operations. check decides, in the
// transaction that takes the locks, whether the call may go on; while it fails
// with OTHER_OPERATION_IN_PROGRESS, Do waits for the objects to change, for at
// most wait. check may also edit, so that a reservation is made with the lock.
func (l *Locker) Do(ctx context.Context, c *service.Call, wait time.Duration, targets []Target,
	check func(tx *db.Tx) error, fn func(ctx context.Context) error) error {
	task := string(c.Task.Ref())
	if err := l.acquire(ctx, task, wait, targets, check); err != nil {
		return err
	}
	defer l.release(ctx, task, targets)
	return fn(ctx)
}

func (l *Locker) acquire(ctx context.Context, task string, wait time.Duration, targets []Target, check func(tx *db.Tx) error) error {
	// Not to be cancelled: whoever gave up waiting for the commit would not
	// know whether there is a lock to release.
	take := func() error {
		return l.DB.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
			if err := check(tx); err != nil {
				return err
			}
			return mark(tx, task, targets)
		})
	}
	err := take()
	if !busy(err) {
		return err
	}
	var classes db.Classes
	for _, class := range datamodel.Get().Classes {
		if class.FieldByName("current_operations") != nil {
			classes.Add(class.ID)
		}
	}
	waiter := l.DB.Feed().Wait(classes)
	defer l.DB.Feed().Done(waiter)
	deadline := time.NewTimer(wait)
	defer deadline.Stop()
	for {
		if err = take(); !busy(err) {
			return err
		}
		select {
		case <-waiter.C:
		case <-deadline.C:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func busy(err error) bool {
	return errors.Is(err, &xenapi.Error{Code: "OTHER_OPERATION_IN_PROGRESS"})
}

// mark adds the task's operation to each target.
func mark(tx *db.Tx, task string, targets []Target) error {
	for _, t := range targets {
		p, err := current(tx, t)
		if err != nil {
			return err
		}
		next := map[string]string{task: t.Op}
		maps.Copy(next, *p)
		*p = next
	}
	return nil
}

func current(tx *db.Tx, t Target) (*map[string]string, error) {
	class := datamodel.Get().Class(t.Class)
	rec, err := tx.Edit(class, t.Ref)
	if err != nil {
		return nil, err
	}
	return rec.Ptr(class.FieldByName("current_operations").Index).(*map[string]string), nil
}

// release takes the operations back, whatever became of the call's context.
func (l *Locker) release(ctx context.Context, task string, targets []Target) {
	err := l.DB.Update(context.WithoutCancel(ctx), func(tx *db.Tx) error {
		Unmark(tx, task, targets)
		return nil
	})
	if err != nil {
		l.Log.Error("operations stay marked", "error", err)
	}
}

// Unmark takes a task's operations back within a transaction; objects that
// have gone took theirs along.
func Unmark(tx *db.Tx, task string, targets []Target) {
	for _, t := range targets {
		p, err := current(tx, t)
		if err != nil {
			continue
		}
		next := maps.Clone(*p)
		delete(next, task)
		*p = next
	}
}

// Busy makes the error for an object that others are at work on: one
// operation and task by name, several in braces.
func Busy(class, ref string, current map[string]string) *xenapi.Error {
	tasks := slices.Sorted(maps.Keys(current))
	names := make([]string, len(tasks))
	for i, t := range tasks {
		names[i] = current[t]
	}
	list := func(items []string) string {
		if len(items) == 1 {
			return items[0]
		}
		return "{" + strings.Join(items, ",") + "}"
	}
	return xenapi.ErrOtherOperationInProgress(class, ref, list(names), list(tasks))
}
