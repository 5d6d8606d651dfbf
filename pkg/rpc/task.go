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
	call   *call
	once   sync.Once
	ref    xenapi.TaskRef
	cancel context.CancelCauseFunc
	object bool
	owner  string
	seen   float64 // the progress at the collector's last pass
}

// Ref implements service.Job.
func (j *job) Ref() xenapi.TaskRef {
	j.once.Do(func() {
		if j.ref == "" {
			j.ref = xenapi.NewRef[xenapi.TaskRef]()
		}
	})
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
	err := ts.s.db.Update(ts.s.base, func(tx *db.Tx) error {
		t, err := db.Edit(tx, ref)
		if err != nil {
			return nil
		}
		fn(t)
		return nil
	})
	if err != nil && ts.s.base.Err() == nil {
		ts.s.log.Warn("a task is not brought up to date", "task", ref, "error", err)
	}
}

// open makes the task object of a job.
func (ts *taskStore) open(ctx context.Context, j *job, label, description string) error {
	t := xenapi.NewTask()
	t.UUID, t.NameLabel, t.NameDescription = xenapi.NewUUID(), label, description
	t.Created = ts.s.now().UTC().Truncate(time.Second)
	t.Status, t.Type, t.Backtrace = xenapi.TaskStatusTypePending, "<none/>", "()"
	t.AllowedOperations = []xenapi.TaskAllowedOperations{xenapi.TaskAllowedOperationsCancel, xenapi.TaskAllowedOperationsDestroy}
	t.ResidentOn = ts.s.opts.ThisHost()
	t.SubtaskOf = parentTask(j.call, ts.s.db.View())
	j.object = true
	if sess := j.call.session; sess != nil {
		t.Session, j.owner = sess.identity.Ref, sess.identity.UserSID
	}
	ts.mu.Lock()
	ts.jobs[j.Ref()] = j
	ts.mu.Unlock()
	return ts.s.db.Update(ctx, func(tx *db.Tx) error {
		if db.Find(tx, t.Session) == nil {
			t.Session = xenapi.Null
		}
		tx.Insert(string(j.ref), t)
		return nil
	})
}

// parentTask is the task that the request says it is part of, if it exists.
func parentTask(c *call, rd db.Reader) xenapi.TaskRef {
	if c.http == nil {
		return xenapi.Null
	}
	ref := xenapi.TaskRef(c.http.Header.Get("subtask-of"))
	if ref == "" {
		ref = xenapi.TaskRef(c.http.URL.Query().Get("subtask_of"))
	}
	if db.Find(rd, ref) == nil {
		return xenapi.Null
	}
	return ref
}

// start runs a call in the background and returns its task at once.
func (ts *taskStore) start(c *call) (xenapi.TaskRef, error) {
	ctx, cancel := context.WithCancelCause(ts.s.base)
	j := c.job
	j.cancel = cancel
	if err := ts.open(ts.s.base, j, "Async."+c.msg.WireName(), ""); err != nil {
		cancel(nil)
		return "", err
	}
	c.session.pending.Add(1)
	ts.s.wg.Go(func() {
		defer cancel(nil)
		defer c.session.pending.Add(-1)
		val, err := ts.s.execute(ctx, c)
		ts.finish(ctx, j, func() string { return string(wire.AppendXML(nil, c.msg.Result, val)) }, err)
	})
	return j.ref, nil
}

// errCancelled is the cause with which task.cancel ends a call's context.
var errCancelled = errors.New("rpc: the task was cancelled")

// finish brings a task to its end, in one commit: who waits for the status
// sees the rest with it.
func (ts *taskStore) finish(ctx context.Context, j *job, result func() string, err error) {
	finished := ts.s.now().UTC().Truncate(time.Second)
	cancelled := err != nil && errors.Is(context.Cause(ctx), errCancelled)
	destroy := false
	ts.edit(j.ref, func(t *xenapi.Task) {
		t.Finished, t.Progress = finished, 1
		t.AllowedOperations = []xenapi.TaskAllowedOperations{xenapi.TaskAllowedOperationsDestroy}
		_, destroy = t.CurrentOperations["destroy"]
		t.CurrentOperations = nil
		var fault *xenapi.Error
		switch {
		case cancelled:
			t.Status, t.ErrorInfo = xenapi.TaskStatusTypeCancelled, []string{"TASK_CANCELLED", string(j.ref)}
		case errors.As(err, &fault):
			t.Status, t.ErrorInfo = xenapi.TaskStatusTypeFailure, fault.Description()
		case err != nil:
			t.Status, t.ErrorInfo = xenapi.TaskStatusTypeFailure, []string{"INTERNAL_ERROR", err.Error()}
		default:
			t.Status, t.Result = xenapi.TaskStatusTypeSuccess, result()
		}
	})
	ts.mu.Lock()
	j.cancel = nil
	ts.mu.Unlock()
	if destroy {
		ts.remove(j.ref)
	}
}

func (ts *taskStore) remove(refs ...xenapi.TaskRef) {
	ts.mu.Lock()
	for _, ref := range refs {
		delete(ts.jobs, ref)
	}
	ts.mu.Unlock()
	err := ts.s.db.Update(ts.s.base, func(tx *db.Tx) error {
		for _, ref := range refs {
			db.Delete(tx, ref)
		}
		return nil
	})
	if err != nil {
		ts.s.log.Warn("tasks stay listed", "error", err)
	}
}

// cancelOf cancels what a session has under way.
func (ts *taskStore) cancelOf(sess *session) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for _, j := range ts.jobs {
		if j.call.session == sess && j.cancel != nil {
			j.cancel(errCancelled)
		}
	}
}

// collect removes tasks that finished long ago, the oldest when there are
// many, and those that have stood still for a day.
func (ts *taskStore) collect(context.Context) {
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
func (ts *taskStore) mine(ctx context.Context, ref xenapi.TaskRef) (*job, error) {
	if _, err := db.Get(ts.s.db.View(), ref); err != nil {
		return nil, err
	}
	c := callOf(ctx)
	ts.mu.Lock()
	j := ts.jobs[ref]
	ts.mu.Unlock()
	if c.root || c.session.identity.Root || j != nil && j.owner == c.session.identity.UserSID {
		return j, nil
	}
	return j, ts.s.permit(c.session, "task.destroy/any", ts.s.model.ExtraPermissions["task.destroy/any"])
}

// Create makes a pending task that the client completes, or hands to an HTTP
// transfer.
func (ts *taskStore) Create(ctx context.Context, _ *service.Call, p service.TaskCreateParams) (xenapi.TaskRef, error) {
	j := &job{server: ts.s, call: callOf(ctx)}
	err := ts.open(ctx, j, p.Label, p.Description)
	return j.ref, err
}

// Destroy removes a finished task at once, and a pending one when it ends.
func (ts *taskStore) Destroy(ctx context.Context, c *service.Call, p service.TaskDestroyParams) error {
	j, err := ts.mine(ctx, p.Self)
	if err != nil {
		return err
	}
	ts.mu.Lock()
	running := j != nil && j.cancel != nil
	ts.mu.Unlock()
	if !running {
		ts.remove(p.Self)
		return nil
	}
	ts.edit(p.Self, func(t *xenapi.Task) { t.CurrentOperations = with(t.CurrentOperations, "destroy") })
	return nil
}

func with(m map[string]string, op string) map[string]string {
	next := map[string]string{op: op}
	maps.Copy(next, m)
	return next
}

// Cancel asks a task to stop. A finished one stays as it ended.
func (ts *taskStore) Cancel(ctx context.Context, _ *service.Call, p service.TaskCancelParams) error {
	j, err := ts.mine(ctx, p.Task)
	if err != nil {
		return err
	}
	if db.Find(ts.s.db.View(), p.Task).Status != xenapi.TaskStatusTypePending {
		return nil
	}
	ts.edit(p.Task, func(t *xenapi.Task) { t.CurrentOperations = with(t.CurrentOperations, "cancel") })
	ts.mu.Lock()
	defer ts.mu.Unlock()
	if j != nil && j.cancel != nil {
		j.cancel(errCancelled)
	}
	return nil
}
