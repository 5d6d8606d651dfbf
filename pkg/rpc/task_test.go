package rpc_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// openBlocking serves VMs that start when they are released.
func openBlocking(t *testing.T) (*env, *blockingVM) {
	vms := &blockingVM{started: make(chan struct{}, 100), release: make(chan struct{})}
	return open(t, func(o *rpc.Options) { o.Services.VM = vms }), vms
}

// start begins Async.VM.start and waits until it runs.
func (e *env) start(session string, vms *blockingVM, vm string) string {
	e.t.Helper()
	task, err := e.as(session, "Async.VM.start", vm, false, false)
	if err != nil {
		e.t.Fatal(err)
	}
	<-vms.started
	return task.(string)
}

// ended waits for a task's end.
func (e *env) ended(task string) *xenapi.Task {
	e.t.Helper()
	eventually(e.t, "the task ends", func() bool { return e.task(task).Status != xenapi.TaskStatusTypePending })
	return e.task(task)
}

// TestAsyncResults: the result as XML text, whichever way the call came, and
// the error as code and parameters.
func TestAsyncResults(t *testing.T) {
	e, _ := openBlocking(t)
	vm := e.vm("a")
	for name, c := range map[string]struct {
		call   string
		args   []any
		status xenapi.TaskStatusType
		result string
		code   string
	}{
		"a reference":         {"VM.clone", []any{vm, "b"}, "success", "<value>" + vm + "</value>", ""},
		"a set":               {"VM.get_possible_hosts", []any{vm}, "success", "<value><array><data><value>OpaqueRef:a</value><value>OpaqueRef:b</value></data></array></value>", ""},
		"void":                {"network.destroy", []any{e.network()}, "success", "<value></value>", ""},
		"an error of the API": {"VM.pause", []any{vm}, "failure", "", "NOT_IMPLEMENTED"},
		"an error of another": {"VM.clean_shutdown", []any{vm}, "failure", "", "INTERNAL_ERROR"},
		"a panic":             {"VM.hard_shutdown", []any{vm}, "failure", "", "INTERNAL_ERROR"},
	} {
		t.Run(name, func(t *testing.T) {
			ref := e.must("Async."+c.call, c.args...).(string)
			task := e.ended(ref)
			same(t, "name", task.NameLabel, "Async."+c.call)
			same(t, "status", task.Status, c.status)
			same(t, "result", task.Result, c.result)
			same(t, "progress", task.Progress, 1)
			same(t, "finished", task.Finished, e.clock.Now())
			same(t, "created", task.Created, e.clock.Now())
			same(t, "type", task.Type, "<none/>")
			same(t, "backtrace", task.Backtrace, "()")
			same(t, "resident_on", task.ResidentOn, e.Host())
			same(t, "allowed_operations", task.AllowedOperations, "[destroy]")
			same(t, "operations", len(task.CurrentOperations), 0)
			code := append(task.ErrorInfo, "")[0]
			same(t, "code", code, c.code)
			if strings.Contains(fmt.Sprint(task.ErrorInfo), "secret detail") || strings.Contains(fmt.Sprint(task.ErrorInfo), "a defect") {
				t.Errorf("what went wrong inside is told: %q", task.ErrorInfo)
			}
		})
	}
	_, err := e.call("VM.hard_shutdown", vm) // and direct
	fails(t, err, "INTERNAL_ERROR", "*")
	e.must("VM.get_all")
}

// network makes a network.
func (e *env) network() string {
	return e.must("network.create", wire.Object{{Name: "other_config", Value: wire.Object{}}}).(string)
}

// TestOneCommit: who sees the status sees the result, in one event.
func TestOneCommit(t *testing.T) {
	e, vms := openBlocking(t)
	task := e.start(e.root, vms, e.vm("a"))
	eventually(t, "progress", func() bool { return e.task(task).Progress == 0.25 })
	_, before := e.events(e.root, "", 0, "task")
	close(vms.release)
	got, _ := e.events(e.root, before, 10, "task")
	same(t, "events", len(got), 1)
	same(t, "status", got[0].member("status"), "success")
	same(t, "result", got[0].member("result"), "<value></value>")
}

// TestCancel is T2 for cancelling.
func TestCancel(t *testing.T) {
	e, vms := openBlocking(t)
	vm := e.vm("a")
	alice, bob, operator := e.user("alice", "vm-operator"), e.user("bob", "vm-operator"), e.user("olga", "pool-operator")

	task := e.start(alice, vms, vm)
	_, err := e.as(bob, "task.cancel", task)
	fails(t, err, "RBAC_PERMISSION_DENIED", "task.destroy/any", "*")
	same(t, "running", vms.running.Load(), 1)
	for range 2 {
		if _, err := e.as(alice, "task.cancel", task); err != nil {
			t.Fatal(err)
		}
	}
	got := e.ended(task)
	same(t, "status", got.Status, xenapi.TaskStatusTypeCancelled)
	same(t, "error_info", got.ErrorInfo, []string{"TASK_CANCELLED", task})
	gen := e.DB.View().Gen()
	if _, err := e.as(alice, "task.cancel", task); err != nil {
		t.Error("cancel of one that has ended:", err)
	}
	same(t, "changes by that", e.DB.View().Gen(), gen)

	task = e.start(alice, vms, vm)
	if _, err := e.as(operator, "task.cancel", task); err != nil {
		t.Error("an operator may cancel anybody's:", err)
	}
	same(t, "status", e.ended(task).Status, xenapi.TaskStatusTypeCancelled)
	_, err = e.call("task.cancel", vm)
	fails(t, err, "HANDLE_INVALID", "task", vm)

	task = e.start(e.root, vms, vm)
	_, err = e.as(alice, "task.cancel", task)
	fails(t, err, "RBAC_PERMISSION_DENIED", "task.destroy/any", "*")
	other := e.login("alice") // another session of the same user
	mine := e.start(alice, vms, vm)
	if _, err := e.as(other, "task.cancel", mine); err != nil {
		t.Error(err)
	}
	close(vms.release)
	same(t, "status", e.ended(task).Status, xenapi.TaskStatusTypeSuccess)
}

// TestDestroyTask is T2 for destroying: while the call runs, it is only marked.
func TestDestroyTask(t *testing.T) {
	e, vms := openBlocking(t)
	alice, bob := e.user("alice", "vm-operator"), e.user("bob", "vm-operator")
	task := e.start(alice, vms, e.vm("a"))
	_, err := e.as(bob, "task.destroy", task)
	fails(t, err, "RBAC_PERMISSION_DENIED", "task.destroy/any", "*")
	if _, err := e.as(alice, "task.destroy", task); err != nil {
		t.Fatal(err)
	}
	same(t, "status", e.task(task).Status, xenapi.TaskStatusTypePending)
	same(t, "operations", e.task(task).CurrentOperations["destroy"], "destroy")
	same(t, "running", vms.running.Load(), 1)
	close(vms.release)
	eventually(t, "it goes when it ends", func() bool { return db.Find(e.DB.View(), xenapi.TaskRef(task)) == nil })

	done := e.must("Async.VM.clone", e.vm("b"), "c").(string)
	e.ended(done)
	e.must("task.destroy", done)
	same(t, "a finished one goes at once", db.Find(e.DB.View(), xenapi.TaskRef(done)) == nil, true)
	_, err = e.call("task.destroy", done)
	fails(t, err, "HANDLE_INVALID", "task", done)
}

// TestClientTask: task.create and what completes it.
func TestClientTask(t *testing.T) {
	e, vms := openBlocking(t)
	alice, bob := e.user("alice", "vm-operator"), e.user("bob", "vm-operator")
	v, err := e.as(alice, "task.create", "upload", "of a disk")
	if err != nil {
		t.Fatal(err)
	}
	task := v.(string)
	same(t, "name", e.task(task).NameLabel+" "+e.task(task).NameDescription, "upload of a disk")
	for _, c := range []struct {
		call  string
		value any
	}{{"task.set_progress", 0.5}, {"task.set_result", "r"}, {"task.set_error_info", []string{"a"}}, {"task.set_status", "success"}} {
		_, err := e.as(bob, c.call, task, c.value)
		fails(t, err, "RBAC_PERMISSION_DENIED", "task.destroy/any", "*")
		if _, err := e.as(alice, c.call, task, c.value); err != nil {
			t.Errorf("%s: %v", c.call, err)
		}
	}
	got := e.task(task)
	same(t, "the task", fmt.Sprint(got.Progress, got.Result, got.ErrorInfo, got.Status, got.Finished), fmt.Sprint(0.5, "r", []string{"a"}, "success", e.clock.Now()))
	_, err = e.as(alice, "task.set_progress", task, 1.5)
	fails(t, err, "VALUE_NOT_SUPPORTED", "progress", "1.5", "*")

	pending := e.must("task.create", "a", "").(string)
	e.must("task.destroy", pending)
	same(t, "a pending one is marked", e.task(pending).CurrentOperations["destroy"], "destroy")
	e.must("task.set_status", pending, "failure")
	same(t, "and goes when it ends", db.Find(e.DB.View(), xenapi.TaskRef(pending)) == nil, true)

	running := e.start(alice, vms, e.vm("a"))
	_, err = e.as(alice, "task.set_status", running, "success")
	fails(t, err, "OPERATION_NOT_ALLOWED", "*")
	_, err = e.as(bob, "task.add_to_other_config", running, "k", "v")
	fails(t, err, "RBAC_PERMISSION_DENIED", "task.destroy/any", "*")
	for _, c := range []struct{ session, key string }{{bob, "applies_to"}, {alice, "k"}} {
		if _, err := e.as(c.session, "task.add_to_other_config", running, c.key, "v"); err != nil {
			t.Error(err)
		}
	}
	if _, err := e.as(alice, "task.remove_from_other_config", running, "k"); err != nil {
		t.Error(err)
	}
	same(t, "other_config", e.task(running).OtherConfig, map[string]string{"applies_to": "v"})
	e.must("task.set_other_config", running, map[string]string{"x": "y"})
	same(t, "other_config", e.task(running).OtherConfig, map[string]string{"x": "y"})
	close(vms.release)
	e.ended(running)
}

// TestSubtasks: the header names the parent; no task is its own ancestor.
func TestSubtasks(t *testing.T) {
	e, _ := openBlocking(t)
	parent := e.must("task.create", "parent", "").(string)
	body := string(wire.AppendJSONCall(nil, 1, "Async.VM.clone", e.root, e.vm("a"), "b"))
	for header, want := range map[string]string{parent: parent, "OpaqueRef:nothing": xenapi.Null} {
		_, answer := e.do(http.MethodPost, "/jsonrpc", body, map[string]string{"subtask-of": header})
		v, err := wire.DecodeJSONResponse(answer)
		if err != nil {
			t.Fatal(err)
		}
		same(t, "subtask_of", e.task(v.Text).SubtaskOf, want)
	}
	same(t, "subtasks", len(e.task(parent).Subtasks), 1)
}

// TestTaskExpiry: 65 minutes after the end, a day without progress, and no
// more than 200.
func TestTaskExpiry(t *testing.T) {
	e, vms := openBlocking(t)
	done := e.must("Async.VM.clone", e.vm("a"), "b").(string)
	e.ended(done)
	pending := e.must("task.create", "a", "").(string)
	running := e.start(e.root, vms, e.vm("b"))
	there := func(task string) bool { return db.Find(e.DB.View(), xenapi.TaskRef(task)) != nil }
	pass := func(after time.Duration, want string) {
		t.Helper()
		e.clock.move(after)
		rpc.Collect(e.api)
		same(t, "done, pending, running", fmt.Sprint(there(done), there(pending), there(running)), want)
	}
	pass(64*time.Minute, "true true true")
	pass(2*time.Minute, "false true true")
	pass(23*time.Hour, "false true true")
	e.must("task.set_progress", pending, 0.1)
	pass(time.Minute, "false true true")
	pass(time.Minute, "false false true")
	close(vms.release)
	e.ended(running)
	for range 210 {
		e.clock.move(time.Second)
		e.ended(e.must("Async.VM.clone", e.vm("a"), "b").(string))
	}
	rpc.Collect(e.api)
	same(t, "tasks", e.DB.View().Count(datamodel.Get().Class("task")), 200)
	same(t, "the oldest went", there(running), false)
}

// TestStopEndsTasks: no call outlives the server.
func TestStopEndsTasks(t *testing.T) {
	e, vms := openBlocking(t)
	e.start(e.root, vms, e.vm("a"))
	e.stop()
	same(t, "running", vms.running.Load(), 0)
}
