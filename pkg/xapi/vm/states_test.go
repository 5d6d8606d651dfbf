package vm_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi/vm"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

// kinds are the VMs for which the table is printed.
var kinds = []struct {
	name string
	make func(r *xenapi.VM)
}{
	{"plain", func(*xenapi.VM) {}},
	{"template", func(r *xenapi.VM) { r.IsATemplate = true }},
	{"default template", func(r *xenapi.VM) { r.IsATemplate, r.IsDefaultTemplate = true, true }},
	{"snapshot", func(r *xenapi.VM) { r.IsATemplate, r.IsASnapshot = true, true }},
	{"control domain", func(r *xenapi.VM) { r.IsControlDomain, r.Domid = true, 0 }},
}

var powerStates = []xenapi.VMPowerState{xenapi.VMPowerStateHalted, xenapi.VMPowerStatePaused, xenapi.VMPowerStateRunning,
	xenapi.VMPowerStateSuspended}

// TestStatesGolden prints what every operation is answered, in every power
// state, on every kind of VM, so that a change to the rules is seen in review.
// A verdict ends in * where allowed_operations lists the operation.
func TestStatesGolden(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), func(tx *db.Tx) { vm.Derive(tx, tx.Edited()) })
	xapitest.Host(t, env)
	var out bytes.Buffer
	for _, kind := range kinds {
		for _, state := range powerStates {
			var ref xenapi.VMRef
			xapitest.Update(t, env, func(tx *db.Tx) {
				r := xenapi.NewVM()
				r.UUID, r.PowerState, r.Domid = xenapi.NewUUID(), state, 7
				kind.make(r)
				ref = db.Insert[xenapi.VMRef](tx, r)
			})
			fmt.Fprintf(&out, "# %s, %s\n", kind.name, state)
			for _, op := range datamodel.Get().Enum("vm_operations").Members {
				fmt.Fprintf(&out, "%-32s %s\n", op, verdict(env.DB.View(), ref, xenapi.VMOperations(op)))
			}
		}
	}
	path := filepath.Join("testdata", "states.golden")
	if *rewrite {
		if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(want, out.Bytes()) {
		t.Error("the table of states is not testdata/states.golden: look at the difference that -rewrite makes")
	}
}

func verdict(rd db.Reader, ref xenapi.VMRef, op xenapi.VMOperations) string {
	text := "ok"
	if err := vm.Check(rd, ref, op); err != nil {
		text = xenapi.Code(err)
	}
	for _, allowed := range db.Find(rd, ref).AllowedOperations {
		if allowed == op {
			text += " *"
		}
	}
	return text
}

// TestChecks has a row for each check that the golden table does not show.
func TestChecks(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), func(tx *db.Tx) { vm.Derive(tx, tx.Edited()) })
	xapitest.Host(t, env)
	hvm := func(r *xenapi.VM) { r.DomainType = xenapi.DomainTypeHVM }
	for name, row := range map[string]struct {
		op   xenapi.VMOperations
		make func(tx *db.Tx, r *xenapi.VM)
		want []string
	}{
		"a blocked operation comes before the power state": {xenapi.VMOperationsStart, func(_ *db.Tx, r *xenapi.VM) {
			r.PowerState, r.BlockedOperations = xenapi.VMPowerStateRunning, map[string]string{"start": "no"}
		}, []string{"OPERATION_BLOCKED", "*", "no"}},
		"the power state comes before other operations": {xenapi.VMOperationsStart, func(_ *db.Tx, r *xenapi.VM) {
			r.PowerState, r.CurrentOperations = xenapi.VMPowerStateSuspended, map[string]string{"t": "resume"}
		}, []string{"VM_BAD_POWER_STATE", "*", "halted", "suspended"}},
		"other operations come before being a template": {xenapi.VMOperationsStart, func(_ *db.Tx, r *xenapi.VM) {
			r.IsATemplate, r.CurrentOperations = true, map[string]string{"t": "clone", "u": "copy"}
		}, []string{"OTHER_OPERATION_IN_PROGRESS", "VM", "*", "{clone,copy}", "{t,u}"}},
		"a clone beside an export": {xenapi.VMOperationsClone, func(_ *db.Tx, r *xenapi.VM) {
			r.CurrentOperations = map[string]string{"t": "export"}
		}, nil},
		"a hard shutdown beside a suspend": {xenapi.VMOperationsHardShutdown, func(_ *db.Tx, r *xenapi.VM) {
			r.PowerState, r.CurrentOperations = xenapi.VMPowerStateRunning, map[string]string{"t": "suspend"}
		}, nil},
		"a hard reboot beside a hard shutdown": {xenapi.VMOperationsHardReboot, func(_ *db.Tx, r *xenapi.VM) {
			r.PowerState, r.CurrentOperations = xenapi.VMPowerStateRunning, map[string]string{"t": "hard_shutdown"}
		}, []string{"OTHER_OPERATION_IN_PROGRESS", "VM", "*", "hard_shutdown", "t"}},
		"a clone of a suspended VM": {xenapi.VMOperationsClone, func(_ *db.Tx, r *xenapi.VM) {
			r.PowerState = xenapi.VMPowerStateSuspended
		}, []string{"VM_BAD_POWER_STATE", "*", "halted", "suspended"}},
		"a suspended VM moves, whatever its guest once said": {xenapi.VMOperationsMigrateSend, func(tx *db.Tx, r *xenapi.VM) {
			hvm(r)
			r.PowerState = xenapi.VMPowerStateSuspended
			m := xenapi.NewVMGuestMetrics()
			m.UUID, m.Other = xenapi.NewUUID(), map[string]string{"feature-shutdown": "1"}
			r.GuestMetrics = db.Insert[xenapi.VMGuestMetricsRef](tx, m)
		}, nil},
		"a running one needs feature-suspend": {xenapi.VMOperationsSuspend, func(tx *db.Tx, r *xenapi.VM) {
			hvm(r)
			r.PowerState = xenapi.VMPowerStateRunning
			m := xenapi.NewVMGuestMetrics()
			m.UUID, m.Other = xenapi.NewUUID(), map[string]string{"feature-shutdown": "1"}
			r.GuestMetrics = db.Insert[xenapi.VMGuestMetricsRef](tx, m)
		}, []string{"VM_LACKS_FEATURE", "*"}},
		"nomigrate": {xenapi.VMOperationsSuspend, func(_ *db.Tx, r *xenapi.VM) {
			r.PowerState, r.Platform = xenapi.VMPowerStateRunning, map[string]string{"nomigrate": "1"}
		}, []string{"VM_IS_IMMOBILE", "*"}},
	} {
		t.Run(name, func(t *testing.T) {
			var ref xenapi.VMRef
			xapitest.Update(t, env, func(tx *db.Tx) {
				r := xenapi.NewVM()
				r.UUID = xenapi.NewUUID()
				row.make(tx, r)
				ref = db.Insert[xenapi.VMRef](tx, r)
			})
			err := vm.Check(env.DB.View(), ref, row.op)
			if row.want != nil {
				xapitest.Fails(t, err, row.want[0], row.want[1:]...)
			} else if err != nil {
				t.Error(err)
			}
		})
	}
}

// TestCloneSuspended lets the pool allow what is refused by default.
func TestCloneSuspended(t *testing.T) {
	w := newWorld(t)
	ref := w.suspended()
	xapitest.Fails(t, vm.Check(w.env.DB.View(), ref, xenapi.VMOperationsClone), "VM_BAD_POWER_STATE", "*", "halted", "suspended")
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		for p := range db.All[xenapi.PoolRef](tx) {
			edit, err := db.Edit(tx, p)
			w.ok(err)
			edit.OtherConfig = map[string]string{"allow_clone_suspended_vm": "true"}
		}
	})
	w.ok(vm.Check(w.env.DB.View(), ref, xenapi.VMOperationsClone))
}
