package rpc

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// The limits on tasks.
const (
	taskKept    = 65 * time.Minute // after it finished
	taskPending = 24 * time.Hour   // without progress
	tasksKept   = 200              // the oldest finished ones go first
)

// job is a call's task. It becomes an object when somebody is to see it.
type job struct {
	server *Server
	call   *call // nil for a task that the client completes
	once   sync.Once
	ref    xenapi.TaskRef
	object bool
	owner  string // the user's identifier; empty for superusers

	cancel context.CancelCauseFunc // of a call under way; guarded by the store
	seen   float64                 // the progress at the collector's last pass, plus one
}

// Ref implements service.Job.
func (j *job) Ref() xenapi.TaskRef {
	j.once.Do(func() { j.ref = xenapi.NewRef[xenapi.TaskRef]() })
	return j.ref
}

// Progress implements service.Job.
func (j *job) Progress(fraction float64) {
	if !j.object {
		return
	}
	j.server.tasks.edit(j.ref, func(t *xenapi.Task) { t.Progress = min(max(fraction, t.Progress), 1) })
}

// taskStore holds the jobs that are objects, and serves class task.
type taskStore struct {
	service.UnimplementedTask
	s *Server

	mu   sync.Mutex
	jobs map[xenapi.TaskRef]*job
}

func newTaskStore(s *Server) *taskStore {
	return &taskStore{s: s, jobs: map[xenapi.TaskRef]*job{}}
}

// edit changes a task object; one that is gone is nobody's loss.
func (ts *taskStore) edit(ref xenapi.TaskRef, fn func(t *xenapi.Task)) {
	ts.update(ref, func(_ *db.Tx, t *xenapi.Task) { fn(t) })
}

func (ts *taskStore) update(ref xenapi.TaskRef, fn func(tx *db.Tx, t *xenapi.Task)) {
	err := ts.s.db.Update(ts.s.base, func(tx *db.Tx) error {
		if db.Find(tx, ref) == nil {
			return nil
		}
		t, err := db.Edit(tx, ref)
		if err == nil {
			fn(tx, t)
		}
		return err
	})
	if err != nil && ts.s.base.Err() == nil {
		ts.s.log.Warn("a task is not brought up to date", "task", ref, "error", err)
	}
}

// open makes the task object of a job, for a call.
func (ts *taskStore) open(ctx context.Context, j *job, c *call, label, description string) error {
	t := xenapi.NewTask()
	t.UUID, t.NameLabel, t.NameDescription = xenapi.NewUUID(), label, description
	t.Created = ts.s.now().UTC().Truncate(time.Second)
	t.Status, t.Type, t.Backtrace = xenapi.TaskStatusTypePending, "<none/>", "()"
	t.AllowedOperations = []xenapi.TaskAllowedOperations{xenapi.TaskAllowedOperationsCancel, xenapi.TaskAllowedOperationsDestroy}
	t.ResidentOn = ts.s.opts.ThisHost()
	t.Session, j.owner = c.session.identity.Ref, c.session.identity.UserSID
	parent := parentTask(c)
	j.object = true
	ts.mu.Lock()
	ts.jobs[j.Ref()] = j
	ts.mu.Unlock()
	err := ts.s.db.Update(ctx, func(tx *db.Tx) error {
		rec := t.Clone().(*xenapi.Task)
		if db.Find(tx, rec.Session) == nil {
			rec.Session = xenapi.Null
		}
		if db.Find(tx, parent) != nil {
			rec.SubtaskOf = parent
		}
		tx.Insert(string(j.ref), rec)
		return nil
	})
	if err != nil {
		ts.forget(j.ref)
	}
	return err
}

// forget drops the job of a task that is no object any more.
func (ts *taskStore) forget(refs ...xenapi.TaskRef) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, ref := range refs {
		delete(ts.jobs, ref)
	}
}

// parentTask is the task that the request says it is part of.
func parentTask(c *call) xenapi.TaskRef {
	if c.http == nil {
		return xenapi.Null
	}
	if ref := c.http.Header.Get("subtask-of"); ref != "" {
		return xenapi.TaskRef(ref)
	}
	return xenapi.TaskRef(requestValue(c.http, "subtask_of"))
}

// start runs a call in the background and returns its task at once.
func (ts *taskStore) start(c *call) (xenapi.TaskRef, error) {
	ctx, cancel := context.WithCancelCause(ts.s.base)
	j := c.job
	j.cancel = cancel // before the store knows the job
	c.session.pending.Add(1)
	if err := ts.open(ts.s.base, j, c, "Async."+c.msg.WireName(), ""); err != nil {
		c.session.pending.Add(-1)
		cancel(nil)
		return "", err
	}
	c.http = nil // it ends before the call does
	ts.s.wg.Go(func() {
		defer cancel(nil)
		defer c.session.pending.Add(-1)
		val, err := ts.s.execute(ctx, c)
		result, _ := val.(string)
		ts.finish(j.ref, result, err)
		ts.mu.Lock()
		j.cancel, j.call = nil, nil
		ts.mu.Unlock()
	})
	return j.ref, nil
}

// errCancelled is the cause with which task.cancel ends a call's context.
var errCancelled = errors.New("rpc: the task was cancelled")

// finish brings a pending task to its end, in one commit: who waits for the
// status sees the rest with it.
func (ts *taskStore) finish(ref xenapi.TaskRef, result string, err error) {
	finished := ts.s.now().UTC().Truncate(time.Second)
	gone := false
	ts.update(ref, func(tx *db.Tx, t *xenapi.Task) {
		if t.Status != xenapi.TaskStatusTypePending {
			return
		}
		if _, gone = t.CurrentOperations["destroy"]; gone {
			db.Delete(tx, ref)
			return
		}
		t.Finished, t.Progress = finished, 1
		t.AllowedOperations = []xenapi.TaskAllowedOperations{xenapi.TaskAllowedOperationsDestroy}
		t.CurrentOperations = nil
		t.Status, t.Result, t.ErrorInfo = outcome(ref, result, err)
	})
	if gone {
		ts.forget(ref)
	}
}

// outcome is how a task says that its call has ended.
func outcome(ref xenapi.TaskRef, result string, err error) (xenapi.TaskStatusType, string, []string) {
	var fault *xenapi.Error
	switch {
	case err == nil:
		return xenapi.TaskStatusTypeSuccess, result, nil
	case xenapi.Code(err) == "TASK_CANCELLED":
		return xenapi.TaskStatusTypeCancelled, "", []string{"TASK_CANCELLED", string(ref)}
	case errors.As(err, &fault):
		return xenapi.TaskStatusTypeFailure, "", fault.Description()
	}
	return xenapi.TaskStatusTypeFailure, "", []string{"INTERNAL_ERROR", err.Error()}
}

func (ts *taskStore) remove(refs ...xenapi.TaskRef) {
	ts.forget(refs...)
	err := ts.s.db.Update(ts.s.base, func(tx *db.Tx) error {
		for _, ref := range refs {
			db.Delete(tx, ref)
		}
		return nil
	})
	if err != nil && ts.s.base.Err() == nil {
		ts.s.log.Warn("tasks stay listed", "error", err)
	}
}

// cancelOf cancels those calls of a session that are under way and for which
// which is true.
func (ts *taskStore) cancelOf(sess *session, which func(c *call) bool) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, j := range ts.jobs {
		if j.cancel != nil && j.call.session == sess && which(j.call) {
			j.cancel(errCancelled)
		}
	}
}

// collect removes tasks that finished long ago, the oldest when there are
// many, and those that have stood still for a day.
func (ts *taskStore) collect() {
	now := ts.s.now()
	type finished struct {
		ref xenapi.TaskRef
		at  time.Time
	}
	var done []finished
	var gone []xenapi.TaskRef
	total := 0
	for ref, t := range db.All[xenapi.TaskRef](ts.s.db.View()) {
		total++
		if t.Status != xenapi.TaskStatusTypePending {
			done = append(done, finished{ref, t.Finished})
		} else if now.Sub(t.Created) > taskPending && ts.stuck(ref, t.Progress) {
			gone = append(gone, ref)
		}
	}
	slices.SortFunc(done, func(a, b finished) int { return a.at.Compare(b.at) })
	for _, f := range done {
		if now.Sub(f.at) > taskKept || total-len(gone) > tasksKept {
			gone = append(gone, f.ref)
		}
	}
	if len(gone) > 0 {
		ts.remove(gone...)
	}
}

// stuck reports whether a task has not moved since it was last asked about.
func (ts *taskStore) stuck(ref xenapi.TaskRef, progress float64) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	j := ts.jobs[ref]
	if j == nil || j.cancel != nil { // a running call always ends
		return j == nil
	}
	same := j.seen == progress+1
	j.seen = progress + 1 // never zero, so that the first pass differs
	return same
}

// mine checks that the caller owns a task, or may touch anybody's.
func (ts *taskStore) mine(c *call, ref xenapi.TaskRef) (*job, error) {
	if db.Find(ts.s.db.View(), ref) == nil {
		return nil, xenapi.ErrHandleInvalid("task", wire.Clip(string(ref)))
	}
	ts.mu.Lock()
	j := ts.jobs[ref]
	ts.mu.Unlock()
	if c.root || c.session.identity.Root || j != nil && j.owner != "" && j.owner == c.session.identity.UserSID {
		return j, nil
	}
	return j, ts.s.permit(c.session, "task.destroy/any", ts.s.model.ExtraPermissions["task.destroy/any"])
}

// running reports whether a job's call is under way.
func (ts *taskStore) running(j *job) bool {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	return j != nil && j.cancel != nil
}

// Create makes a pending task that the client completes, or hands to an HTTP
// transfer.
func (ts *taskStore) Create(ctx context.Context, _ *service.Call, p service.TaskCreateParams) (xenapi.TaskRef, error) {
	j := &job{server: ts.s}
	err := ts.open(ctx, j, callOf(ctx), p.Label, p.Description)
	return j.ref, err
}

// Destroy removes a finished task at once, and a pending one when it ends.
func (ts *taskStore) Destroy(ctx context.Context, _ *service.Call, p service.TaskDestroyParams) error {
	if _, err := ts.mine(callOf(ctx), p.Self); err != nil {
		return err
	}
	gone := false
	ts.update(p.Self, func(tx *db.Tx, t *xenapi.Task) {
		if gone = t.Status != xenapi.TaskStatusTypePending; gone {
			db.Delete(tx, p.Self)
			return
		}
		t.CurrentOperations = with(t.CurrentOperations, "destroy")
	})
	if gone {
		ts.forget(p.Self)
	}
	return nil
}

func with(m map[string]string, op string) map[string]string {
	next := map[string]string{op: op}
	maps.Copy(next, m)
	return next
}

// Cancel asks a task to stop. A finished one stays as it ended; one that the
// client completes itself is only marked.
func (ts *taskStore) Cancel(ctx context.Context, _ *service.Call, p service.TaskCancelParams) error {
	j, err := ts.mine(callOf(ctx), p.Task)
	if err != nil {
		return err
	}
	ts.edit(p.Task, func(t *xenapi.Task) {
		if t.Status == xenapi.TaskStatusTypePending {
			t.CurrentOperations = with(t.CurrentOperations, "cancel")
		}
	})
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if j != nil && j.cancel != nil {
		j.cancel(errCancelled)
	}
	return nil
}
