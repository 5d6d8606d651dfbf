package e2e

import (
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// restart ends the daemon, as a crash does or in order, and logs in anew.
func (w *world) restart(crash bool) {
	w.Helper()
	if crash {
		w.d.Kill()
	} else {
		w.ok(w.d.Stop())
	}
	w.d.Run(w)
	w.Client = w.d.Client(w)
}

// everything reads all objects of the classes that stay over a restart.
func (w *world) everything() map[string]map[string]xenapi.Record {
	w.Helper()
	out := map[string]map[string]xenapi.Record{}
	for _, name := range []string{"VM", "VBD", "VIF", "VDI", "SR", "PBD", "network", "PIF", "pool", "host", "VM_metrics", "secret",
		"subject", "role", "SM", "VM_group", "VM_appliance", "blob", "message"} {
		v, err := w.Call(w.ctx, name+".get_all_records")
		w.ok(err)
		out[name] = v.(map[string]xenapi.Record)
	}
	return out
}

// lasting are fields that a restart sets anew although they are kept: facts of
// the machine, and what an SR's medium says when it is plugged.
var lasting = []string{"host.other_config", "host.software_version", "host.cpu_info", "pool.cpu_info", "PBD.currently_attached",
	"SR.physical_size", "SR.physical_utilisation", "SR.virtual_allocation"}

// TestRestartKeepsFields compares every kept field of every object.
func TestRestartKeepsFields(t *testing.T) {
	w := start(t)
	vm := w.vm("all sorts")
	w.disk(vm, 4*mib, "0")
	w.vif(vm, "0", w.network("lan"))
	w.ok(w.VM().AddToOtherConfig(w.ctx, vm, "XenCenter.CustomFields.x", "ä & \n"))
	w.ok(w.VM().SetTags(w.ctx, vm, []string{"b", "a"}))
	w.ok(w.VM().SetAffinity(w.ctx, vm, w.host()))
	w.ok(w.VM().SetBlockedOperations(w.ctx, vm, map[string]string{"destroy": "mine"}))
	must(w.Message().Create(w.ctx, "note", 4, xenapi.ClsVM, w.rec(vm).UUID, "kept"))(t)
	w.subject("ann", "vm-admin")
	for _, crash := range []bool{false, true} {
		before := w.everything()
		w.restart(crash)
		after := w.everything()
		for class, objects := range before {
			c := datamodel.Get().Class(class)
			for ref, was := range objects {
				is := after[class][ref]
				if is == nil {
					t.Errorf("%s %s is gone", class, ref)
					continue
				}
				for _, f := range c.Fields {
					if f.Persistent() && !slices.Contains(lasting, class+"."+f.Name) && !same(was, is, f) {
						t.Errorf("%s.%s of %s changed", class, f.Name, ref)
					}
				}
			}
			if len(after[class]) != len(objects) {
				t.Errorf("%d objects of class %s, there were %d", len(after[class]), class, len(objects))
			}
		}
	}
}

func same(a, b xenapi.Record, f *datamodel.Field) bool {
	va, vb := reflect.ValueOf(a.Ptr(f.Index)).Elem(), reflect.ValueOf(b.Ptr(f.Index)).Elem()
	if (va.Kind() == reflect.Map || va.Kind() == reflect.Slice) && va.Len() == 0 && vb.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(va.Interface(), vb.Interface())
}

// TestRestartForgets sessions and tasks, and what only a running daemon knows.
func TestRestartForgets(t *testing.T) {
	w := start(t)
	vm := w.vm("deaf", "shutdown=ignore")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	task := must(w.Async(w.ctx, "VM.clean_shutdown", string(vm)))(t)
	w.underWay(vm, "clean_shutdown")
	own := must(w.Task().Create(w.ctx, "mine", ""))(t)
	session := w.SessionRef()
	w.restart(true)
	old := w.d.Anonymous(t)
	old.SetSession(session)
	_, err := old.VM().GetAll(w.ctx)
	w.fails(err, "SESSION_INVALID")
	for _, ref := range []xenapi.TaskRef{task, own} {
		_, err = w.Task().GetRecord(w.ctx, ref)
		w.fails(err, "HANDLE_INVALID", "task", string(ref))
	}
	w.becomes(vm, xenapi.VMPowerStateRunning)
	if ops := w.rec(vm).CurrentOperations; len(ops) > 0 {
		t.Errorf("current_operations %v", ops)
	}
	w.ok(w.VM().Pause(w.ctx, vm))
	w.ok(w.VM().HardShutdown(w.ctx, vm))
}

// TestSQLite reads the database with the shell while the daemon runs.
func TestSQLite(t *testing.T) {
	shell, err := exec.LookPath("sqlite3")
	if err != nil {
		t.Skip("no sqlite3 shell")
	}
	w := start(t)
	vm := w.vm("it's in SQLite")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.ok(w.Pool().SyncDatabase(w.ctx))
	out, err := exec.Command(shell, filepath.Join(w.d.Dir, "state", "state.db"),
		"select name__label, power_state from VM where not is_a_template order by 1").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "it's in SQLite|Running") || !strings.Contains(string(out), "Control domain on host") {
		t.Errorf("%v: %s", err, out)
	}
}
