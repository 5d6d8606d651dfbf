package rpc_test

import (
	"fmt"
	"sync"
	"testing"

	"xapid/pkg/rpc"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// TestEverythingAtOnce mixes logins, logouts, both kinds of events, tasks,
// cancels and writes; the race detector and the end of the test judge it:
// nothing may be stuck and nothing left.
func TestEverythingAtOnce(t *testing.T) {
	e, vms := openBlocking(t)
	vm := e.vm("a")
	e.subject("alice", "pool-admin")
	call := func(session, method string, params ...any) wire.Value {
		v, _ := wire.DecodeJSONResponse(e.direct("/jsonrpc", wire.AppendJSONCall(nil, 1, method, append([]any{session}, params...)...)))
		return v
	}
	enter := func(user string) string {
		v, err := wire.DecodeJSONResponse(e.direct("/jsonrpc", wire.AppendJSONCall(nil, 1, "session.login_with_password", user, "pw")))
		if err != nil {
			t.Error(err)
		}
		return v.Text
	}
	var wg sync.WaitGroup
	for n := range 8 {
		wg.Go(func() {
			for i := range 30 {
				session := enter([]string{"root", "alice"}[n%2])
				waiting := make(chan struct{})
				call(session, "event.register", []string{"VM", "task"})
				go func() {
					defer close(waiting)
					call(session, "event.from", []string{"VBD_metrics"}, "", 60.0)
				}()
				task := call(session, "Async.VM.start", vm, false, false).Text
				call(session, "VM.set_tags", vm, []string{fmt.Sprint(n, i)})
				call(session, "event.next")
				call(session, "event.unregister", []string{"*"})
				call(session, "VM.get_all_records")
				call(session, "task.cancel", task)
				call(session, "task.destroy", task)
				call(session, "session.logout")
				<-waiting
			}
		})
		wg.Go(func() {
			for range 30 {
				rpc.Collect(e.api)
				call(e.root, "event.from", []string{"*"}, "", 0.0)
				call(e.root, "VM.get_all_records")
			}
		})
	}
	go func() {
		for range vms.started {
		}
	}()
	wg.Wait()
	eventually(t, "all starts end", func() bool { return vms.running.Load() == 0 })
	eventually(t, "all tasks go", func() bool { return len(e.must("task.get_all").([]string)) == 0 })
	close(vms.started)
	same(t, "waiters", e.DB.Feed().Waiting(), 0)
	same(t, "sessions", rpc.Sessions(e.api), 1)
	_, err := e.call("VM.get_name_label", xenapi.Null)
	fails(t, err, "HANDLE_INVALID", "VM", xenapi.Null)
}
