package e2e

import (
	"maps"
	"net/http"
	"slices"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/xenapi"
)

// TestAsync: a task tells how a call goes and what came of it.
func TestAsync(t *testing.T) {
	w := start(t)
	vm := w.vm("slow", "boot-ms=50")
	task := must(w.Async(w.ctx, "VM.start", string(vm), false, false))(t)
	r := w.finish(task)
	if r.Status != xenapi.TaskStatusTypeSuccess || r.Progress != 1 || r.NameLabel != "Async.VM.start" || r.Type != "<none/>" ||
		r.Result != "" && r.Result != "<value></value>" || len(r.ErrorInfo) > 0 || r.Finished.Before(r.Created) || r.ResidentOn != w.host() {
		t.Errorf("%+v", r)
	}
	if s := w.state(vm); s != xenapi.VMPowerStateRunning {
		t.Errorf("it is %s", s)
	}
	failed := w.finish(must(w.Async(w.ctx, "VM.start", string(vm), false, false))(t))
	if failed.Status != xenapi.TaskStatusTypeFailure || !slices.Equal(failed.ErrorInfo, []string{"VM_BAD_POWER_STATE", string(vm), "halted", "running"}) {
		t.Errorf("%+v", failed)
	}
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	clone := w.finish(must(w.Async(w.ctx, "VM.clone", string(vm), "clone"))(t))
	made := must(w.VM().GetByNameLabel(w.ctx, "clone"))(t)
	if len(made) != 1 || clone.Result != "<value>"+string(made[0])+"</value>" {
		t.Errorf("the result is %q, the clone %v", clone.Result, made)
	}
	w.ok(w.Task().Destroy(w.ctx, task))
	_, err := w.Task().GetRecord(w.ctx, task)
	w.fails(err, "HANDLE_INVALID", "task", string(task))
	_, err = w.Async(w.ctx, "VM.get_record", string(vm))
	if err == nil {
		t.Error("a read was made a task")
	}
}

// TestOwnTask is a task that a client makes, fills and ends.
func TestOwnTask(t *testing.T) {
	w := start(t)
	task := must(w.Task().Create(w.ctx, "import", "by me"))(t)
	w.ok(w.Task().SetProgress(w.ctx, task, 0.5))
	w.fails(w.Task().SetProgress(w.ctx, task, 1.5), "VALUE_NOT_SUPPORTED", "progress")
	w.ok(w.Task().AddToOtherConfig(w.ctx, task, "k", "v"))
	w.ok(w.Task().AddToOtherConfig(w.ctx, task, "l", "w"))
	w.ok(w.Task().RemoveFromOtherConfig(w.ctx, task, "k"))
	w.ok(w.Task().SetResult(w.ctx, task, "done"))
	w.ok(w.Task().SetErrorInfo(w.ctx, task, []string{"NONE"}))
	r := must(w.Task().GetRecord(w.ctx, task))(t)
	if r.Status != xenapi.TaskStatusTypePending || r.Progress != 0.5 || r.NameLabel != "import" || r.NameDescription != "by me" ||
		r.Result != "done" || !slices.Equal(r.ErrorInfo, []string{"NONE"}) || r.OtherConfig["l"] != "w" || r.OtherConfig["k"] != "" {
		t.Errorf("%+v", r)
	}
	w.ok(w.Task().SetOtherConfig(w.ctx, task, map[string]string{"m": "x"}))
	if c := must(w.Task().GetOtherConfig(w.ctx, task))(t); !maps.Equal(c, map[string]string{"m": "x"}) {
		t.Errorf("other_config %v", c)
	}
	// Destroyed while it is pending, it goes when it ends.
	w.ok(w.Task().Destroy(w.ctx, task))
	if r := must(w.Task().GetRecord(w.ctx, task))(t); !slices.Contains(values(r.CurrentOperations), "destroy") {
		t.Errorf("%+v", r)
	}
	w.ok(w.Task().SetStatus(w.ctx, task, xenapi.TaskStatusTypeSuccess))
	testenv.Eventually(t, "the task gone", 10*time.Second, func() bool {
		_, err := w.Task().GetRecord(w.ctx, task)
		return xenapi.Code(err) == "HANDLE_INVALID"
	})
}

// TestSubtask names the task that a call is part of.
func TestSubtask(t *testing.T) {
	w := start(t)
	vm := w.vm("part")
	whole := must(w.Task().Create(w.ctx, "whole", ""))(t)
	_, err := w.post(w.ctx, http.Header{"Subtask-Of": {string(whole)}}, "Async.VM.start", w.SessionRef(), vm, false, false)
	w.ok(err)
	parts := must(w.Task().GetSubtasks(w.ctx, whole))(t)
	if len(parts) != 1 {
		t.Fatalf("subtasks %v", parts)
	}
	if r := w.finish(parts[0]); r.SubtaskOf != whole || r.Status != xenapi.TaskStatusTypeSuccess {
		t.Errorf("%+v", r)
	}
}

// TestCancelClone undoes the copy of a disk that is under way.
func TestCancelClone(t *testing.T) {
	w := start(t)
	vm := w.vm("big")
	for _, device := range []string{"0", "1", "2"} {
		w.disk(vm, 8<<30, device)
	}
	before := len(must(w.VDI().GetAll(w.ctx))(t))
	space := must(w.SR().GetVirtualAllocation(w.ctx, w.sr()))(t)
	for i := range 6 {
		task := must(w.Async(w.ctx, "VM.clone", string(vm), "clone"))(t)
		if i%2 == 1 {
			w.until(task, func() bool { return len(must(w.VDI().GetAll(w.ctx))(t)) > before })
		}
		w.ok(w.Task().Cancel(w.ctx, task))
		w.ok(w.Task().Cancel(w.ctx, task)) // twice is once
		r := w.finish(task)
		w.ok(w.Task().Cancel(w.ctx, task)) // too late
		if r.Status == xenapi.TaskStatusTypeSuccess {
			t.Log("it was faster")
			w.ok(w.VM().Destroy(w.ctx, must(w.VM().GetByNameLabel(w.ctx, "clone"))(t)[0]))
			w.sweep(before)
			continue
		}
		if r.Status != xenapi.TaskStatusTypeCancelled || !slices.Equal(r.ErrorInfo, []string{"TASK_CANCELLED", string(task)}) {
			t.Errorf("%+v", r)
		}
	}
	if vms := must(w.VM().GetByNameLabel(w.ctx, "clone"))(t); len(vms) > 0 {
		t.Errorf("%d clones are left", len(vms))
	}
	testenv.Eventually(t, "no disks left", 10*time.Second, func() bool { return len(must(w.VDI().GetAll(w.ctx))(t)) == before })
	w.ok(w.SR().Scan(w.ctx, w.sr()))
	if after := len(must(w.VDI().GetAll(w.ctx))(t)); after != before {
		t.Errorf("a scan finds %d disks, want %d", after, before)
	}
	if now := must(w.SR().GetVirtualAllocation(w.ctx, w.sr()))(t); now != space {
		t.Errorf("virtual_allocation is %d, was %d", now, space)
	}
	if ops := w.rec(vm).CurrentOperations; len(ops) > 0 {
		t.Errorf("current_operations %v", ops)
	}
	w.ok(w.VM().Start(w.ctx, vm, false, false))
}

// until waits until something is so, or a task has ended.
func (w *world) until(task xenapi.TaskRef, so func() bool) {
	w.Helper()
	testenv.Eventually(w, "the middle of a task", 20*time.Second, func() bool {
		return so() || must(w.Task().GetStatus(w.ctx, task))(w) != xenapi.TaskStatusTypePending
	})
}

// sweep destroys the disks that no drive has, beyond so many.
func (w *world) sweep(keep int) {
	w.Helper()
	for ref, rec := range must(w.VDI().GetAllRecords(w.ctx))(w) {
		if r := rec.(*xenapi.VDI); len(r.VBDs) == 0 && r.SR == w.sr() {
			w.ok(w.VDI().Destroy(w.ctx, xenapi.VDIRef(ref)))
		}
	}
	if n := len(must(w.VDI().GetAll(w.ctx))(w)); n != keep {
		w.Errorf("%d disks, want %d", n, keep)
	}
}

// TestEventsOfALife follows a VM from its making to its end.
func TestEventsOfALife(t *testing.T) {
	w := start(t)
	all := w.from("", 0, "vm")
	if len(all.Events) != 50 || all.ValidRefCounts["vm"] != 50 {
		t.Errorf("%d events, %d VMs counted", len(all.Events), all.ValidRefCounts["vm"])
	}
	token := must(w.Event().Inject(w.ctx, "pool", string(w.pool())))(t)
	if b := w.from(token, 5, "pool"); len(b.about(string(w.pool()))) != 1 {
		t.Errorf("after inject: %+v", b.Events)
	}
	vm := w.vm("watched")
	b := w.from(token, 5, "VM")
	made := b.about(string(vm))
	if len(made) != 1 || made[0].Operation != "add" || made[0].Class != "vm" || made[0].Snapshot["name_label"] != "watched" {
		t.Fatalf("after create: %+v", made)
	}
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.ok(w.VM().SetNameLabel(w.ctx, vm, "renamed"))
	b = w.from(b.Token, 5, "vm/"+string(vm))
	if e := b.about(string(vm)); len(b.Events) != 1 || len(e) != 1 || e[0].Operation != "mod" || e[0].Snapshot["power_state"] != "Running" ||
		e[0].Snapshot["name_label"] != "renamed" {
		t.Errorf("what happened is one event: %+v", b.Events)
	}
	passing := w.vm("comes and goes")
	w.ok(w.VM().Destroy(w.ctx, passing))
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.ok(w.VM().Destroy(w.ctx, vm))
	b = w.from(b.Token, 5, "vm")
	if e := b.about(string(vm)); len(e) != 1 || e[0].Operation != "del" || e[0].Snapshot != nil {
		t.Errorf("after destroy: %+v", e)
	}
	if e := b.about(string(passing)); len(e) > 0 {
		t.Errorf("one that came and went is told of: %+v", e)
	}
	if quiet := w.from(b.Token, 0.1, "vm"); len(quiet.Events) > 0 || quiet.Token < b.Token {
		t.Errorf("nothing happened: %+v", quiet)
	}
	_, err := w.post(w.ctx, nil, "event.from", w.SessionRef(), []string{"vm"}, "rubbish", 0.0)
	w.fails(err, "EVENT_FROM_TOKEN_PARSE_FAILURE", "rubbish")
	_, err = w.post(w.ctx, nil, "event.from", w.SessionRef(), []string{"vm/"}, "", 0.0)
	w.fails(err, "EVENT_SUBSCRIPTION_PARSE_FAILURE", "vm/")
	_, err = w.Event().Inject(w.ctx, "VM", string(vm))
	w.fails(err, "HANDLE_INVALID", "VM", string(vm))
}

// TestClassicEvents registers and reads what comes.
func TestClassicEvents(t *testing.T) {
	w := start(t)
	_, err := w.post(w.ctx, nil, "event.next", w.SessionRef())
	w.fails(err, "SESSION_NOT_REGISTERED")
	w.ok(w.Event().Register(w.ctx, []string{"network"}))
	id := must(w.Event().GetCurrentID(w.ctx))(t)
	net := w.network("heard of")
	if now := must(w.Event().GetCurrentID(w.ctx))(t); now <= id {
		t.Errorf("the event id went from %d to %d", id, now)
	}
	events := w.next()
	if len(events) != 1 || events[0].Operation != "add" || events[0].Ref != string(net) {
		t.Errorf("%+v", events)
	}
	w.vm("nobody asked for")
	w.ok(w.Network().SetNameLabel(w.ctx, net, "again"))
	if events := w.next(); len(events) != 1 || events[0].Operation != "mod" || events[0].Snapshot["name_label"] != "again" {
		t.Errorf("%+v", events)
	}
	w.ok(w.Event().Unregister(w.ctx, []string{"network"}))
}
