package rpc

import (
	"context"
	"fmt"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// set writes a field of a task that the client made with task.create: those
// of running calls are the server's alone.
func (ts *taskStore) set(ctx context.Context, ref xenapi.TaskRef, fn func(t *xenapi.Task)) error {
	j, err := ts.mine(callOf(ctx), ref)
	if err != nil {
		return err
	}
	if ts.running(j) {
		return xenapi.ErrOperationNotAllowed("the task belongs to a call that is under way")
	}
	return ts.s.db.Update(ctx, func(tx *db.Tx) error {
		t, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		fn(t)
		return nil
	})
}

// SetStatus ends a client's task, or puts it back to pending.
func (ts *taskStore) SetStatus(ctx context.Context, _ *service.Call, p service.TaskSetStatusParams) error {
	now := ts.s.now().UTC().Truncate(time.Second)
	doomed := false
	err := ts.set(ctx, p.Self, func(t *xenapi.Task) {
		_, doomed = t.CurrentOperations["destroy"]
		t.Status = p.Value
		if doomed = doomed && p.Value != xenapi.TaskStatusTypePending; p.Value != xenapi.TaskStatusTypePending {
			t.Finished = now
		}
	})
	if err == nil && doomed {
		ts.remove(p.Self)
	}
	return err
}

// SetProgress says how far a client's task has come.
func (ts *taskStore) SetProgress(ctx context.Context, _ *service.Call, p service.TaskSetProgressParams) error {
	if !(p.Value >= 0 && p.Value <= 1) {
		return xenapi.ErrValueNotSupported("progress", fmt.Sprint(p.Value), "not between 0 and 1")
	}
	return ts.set(ctx, p.Self, func(t *xenapi.Task) { t.Progress = p.Value })
}

// SetResult gives a client's task its result.
func (ts *taskStore) SetResult(ctx context.Context, _ *service.Call, p service.TaskSetResultParams) error {
	return ts.set(ctx, p.Self, func(t *xenapi.Task) { t.Result = p.Value })
}

// SetErrorInfo gives a client's task its error.
func (ts *taskStore) SetErrorInfo(ctx context.Context, _ *service.Call, p service.TaskSetErrorInfoParams) error {
	return ts.set(ctx, p.Self, func(t *xenapi.Task) { t.ErrorInfo = p.Value })
}

// other writes other_config: those keys that have a role of their own for
// whoever has it, others for the task's owner.
func (ts *taskStore) other(ctx context.Context, kind datamodel.Kind, args ...any) error {
	c := callOf(ctx)
	needs := ts.s.keyPermissions(c)
	if _, plain := needs[c.permission]; plain || needs == nil {
		if _, err := ts.mine(c, xenapi.TaskRef(args[0].(string))); err != nil {
			return err
		}
	}
	f := ts.s.model.Class("task").FieldByName("other_config")
	return ts.s.db.Update(ctx, func(tx *db.Tx) error { return db.WriteField(tx, f, kind, args) })
}

// AddToOtherConfig adds a key to a task's other_config.
func (ts *taskStore) AddToOtherConfig(ctx context.Context, _ *service.Call, p service.TaskAddToOtherConfigParams) error {
	return ts.other(ctx, datamodel.FieldAdd, string(p.Self), p.Key, p.Value)
}

// RemoveFromOtherConfig takes a key out of it.
func (ts *taskStore) RemoveFromOtherConfig(ctx context.Context, _ *service.Call, p service.TaskRemoveFromOtherConfigParams) error {
	return ts.other(ctx, datamodel.FieldRemove, string(p.Self), p.Key)
}

// SetOtherConfig replaces it.
func (ts *taskStore) SetOtherConfig(ctx context.Context, _ *service.Call, p service.TaskSetOtherConfigParams) error {
	return ts.other(ctx, datamodel.FieldSet, string(p.Self), p.Value)
}
