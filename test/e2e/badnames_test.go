package e2e

import (
	"fmt"
	"math"
	"strings"
	"testing"

	"xapid/pkg/xenapi"
)

// verbatim are names that are kept as they are, whatever they look like.
var verbatim = map[string]string{
	"long":          strings.Repeat("a", 100_000),
	"right to left": "abc\u202edef",
	"a line more":   "x\nsr-uuid=1\r\n\ty",
	"a command":     "$(id) `id` ; rm -rf / && | > <",
	"an option":     "--help",
	"markup":        `</value><!-- ]]> &amp; <b>"'`,
	"a label":       `"} 1` + "\nxapid_fake 1",
	"astral":        "𝕏🧨 e\u0301",
	"a query":       `" or field "power_state" = "Running`,
	"a path":        "../../etc/passwd\\",
	"empty":         "",
}

// refused are names that no client could be given back.
var refused = map[string]string{"an escape": "\x1b[31mred", "a NUL": "a\x00b", "a bell": "\a", "not a character": "a\ufffeb"}

// named is the making, reading and renaming of one class's objects.
type named struct {
	make   func(name string) (string, error)
	read   func(ref string) (string, error)
	rename func(ref, name string) error
	find   func(name string) (int, error)
}

func (w *world) named() map[string]named {
	return map[string]named{
		"VM": {
			func(name string) (string, error) {
				r := xenapi.NewVM()
				r.NameLabel = name
				ref, err := w.VM().Create(w.ctx, r)
				return string(ref), err
			},
			func(ref string) (string, error) { return w.VM().GetNameLabel(w.ctx, xenapi.VMRef(ref)) },
			func(ref, name string) error { return w.VM().SetNameLabel(w.ctx, xenapi.VMRef(ref), name) },
			func(name string) (int, error) {
				refs, err := w.VM().GetByNameLabel(w.ctx, name)
				return len(refs), err
			}},
		"VDI": {
			func(name string) (string, error) {
				r := xenapi.NewVDI()
				r.NameLabel, r.SR, r.VirtualSize, r.Type = name, w.sr(), mib, xenapi.VDITypeUser
				ref, err := w.VDI().Create(w.ctx, r)
				return string(ref), err
			},
			func(ref string) (string, error) { return w.VDI().GetNameLabel(w.ctx, xenapi.VDIRef(ref)) },
			func(ref, name string) error { return w.VDI().SetNameLabel(w.ctx, xenapi.VDIRef(ref), name) },
			func(name string) (int, error) {
				refs, err := w.VDI().GetByNameLabel(w.ctx, name)
				return len(refs), err
			}},
		"network": {
			func(name string) (string, error) {
				r := xenapi.NewNetwork()
				r.NameLabel, r.Managed = name, true
				ref, err := w.Network().Create(w.ctx, r)
				return string(ref), err
			},
			func(ref string) (string, error) { return w.Network().GetNameLabel(w.ctx, xenapi.NetworkRef(ref)) },
			func(ref, name string) error { return w.Network().SetNameLabel(w.ctx, xenapi.NetworkRef(ref), name) },
			func(name string) (int, error) {
				refs, err := w.Network().GetByNameLabel(w.ctx, name)
				return len(refs), err
			}},
	}
}

// TestN1Names are kept verbatim, or refused: in records, events, after a
// restart; and they break no page.
func TestN1Names(t *testing.T) {
	w := start(t)
	token := w.from("", 0, "pool").Token
	made := map[string]string{} // the name by the reference
	for class, c := range w.named() {
		for what, name := range verbatim {
			ref := must(c.make("first"))(t)
			w.ok(c.rename(ref, name))
			made[class+" "+ref] = name
			if got := must(c.read(ref))(t); got != name {
				t.Errorf("%s, %s: %.60q", class, what, got)
			}
			if n := must(c.find(name))(t); n < 1 {
				t.Errorf("%s, %s: not found by its name", class, what)
			}
			made[class+" "+must(c.make(name))(t)] = name
		}
		ref := must(c.make("kept"))(t)
		for what, name := range refused {
			w.fails(c.rename(ref, name), "INVALID_VALUE")
			if _, err := c.make(name); xenapi.Code(err) != "INVALID_VALUE" {
				t.Errorf("%s with %s was made: %v", class, what, err)
			}
		}
		if got := must(c.read(ref))(t); got != "kept" {
			t.Errorf("%s: it is called %q", class, got)
		}
	}
	told := 0
	for _, e := range w.from(token, 5, "vm", "vdi", "network").Events {
		if name, ok := made[map[string]string{"vm": "VM", "vdi": "VDI", "network": "network"}[e.Class]+" "+e.Ref]; ok {
			told++
			if e.Snapshot["name_label"] != name {
				t.Errorf("the event says %.60q, want %.60q", e.Snapshot["name_label"], name)
			}
		}
	}
	if told != len(made) {
		t.Errorf("%d of %d are in events", told, len(made))
	}
	if strings.Contains(w.get("/metrics"), "\nxapid_fake") {
		t.Error("a name became a figure")
	}
	w.restart(false)
	for key, name := range made {
		class, ref, _ := strings.Cut(key, " ")
		if got := must(w.named()[class].read(ref))(t); got != name {
			t.Errorf("after a restart: %.60q, want %.60q", got, name)
		}
	}
}

// TestN1Guests have such names, too.
func TestN1Guests(t *testing.T) {
	w := start(t)
	for what, name := range verbatim {
		vm := w.vm(name)
		if err := w.VM().Start(w.ctx, vm, false, false); err != nil {
			t.Errorf("%s: %v", what, err)
			continue
		}
		w.ok(w.VM().HardShutdown(w.ctx, vm))
	}
}

// TestN2ManyKeys: a map has a limit, and the refusal names the field.
func TestN2ManyKeys(t *testing.T) {
	w := start(t)
	vm := w.vm("many keys")
	many := map[string]string{}
	for i := range 100_000 {
		many[fmt.Sprint("k", i)] = ""
	}
	w.fails(w.VM().SetOtherConfig(w.ctx, vm, many), "INVALID_VALUE", "other_config")
	w.fails(w.VM().SetXenstoreData(w.ctx, vm, map[string]string{"vm-data/x": strings.Repeat("x", 3<<20)}), "INVALID_VALUE", "xenstore_data")
	if n := len(w.rec(vm).OtherConfig); n != 1 {
		t.Errorf("other_config has %d keys", n)
	}
}

// TestN4References that are none.
func TestN4References(t *testing.T) {
	w := start(t)
	vm := w.vm("real")
	gone := w.vm("gone")
	w.ok(w.VM().Destroy(w.ctx, gone))
	for _, ref := range []string{"", "OpaqueRef:NULL", "nonsense", strings.ToLower(string(vm)), " " + string(vm), string(vm) + " ",
		w.rec(vm).UUID, string(gone), string(w.sr()), string(w.host())} {
		_, err := w.VM().GetRecord(w.ctx, xenapi.VMRef(ref))
		w.fails(err, "HANDLE_INVALID", "VM", ref)
		w.fails(w.VM().Start(w.ctx, xenapi.VMRef(ref), false, false), "HANDLE_INVALID", "VM", ref)
		w.fails(w.VM().SetNameLabel(w.ctx, xenapi.VMRef(ref), "x"), "HANDLE_INVALID", "VM", ref)
		w.fails(w.VM().Destroy(w.ctx, xenapi.VMRef(ref)), "HANDLE_INVALID", "VM", ref)
		vbd := xenapi.NewVBD()
		vbd.VM, vbd.VDI, vbd.Userdevice, vbd.Mode, vbd.Type = xenapi.VMRef(ref), w.vdi("d", mib), "0", xenapi.VBDModeRW, xenapi.VBDTypeDisk
		_, err = w.VBD().Create(w.ctx, vbd)
		w.fails(err, "HANDLE_INVALID", "VM", ref)
	}
	w.fails(w.VM().SetAffinity(w.ctx, vm, xenapi.HostRef(w.sr())), "HANDLE_INVALID", "host", string(w.sr()))
	_, err := w.VM().GetByUUID(w.ctx, string(vm))
	w.fails(err, "UUID_INVALID", "VM", string(vm))
}

// TestN5Numbers that no VM can have are refused when it starts at the latest.
func TestN5Numbers(t *testing.T) {
	w := start(t)
	for what, change := range map[string]func(r *xenapi.VM){
		"memory 2^63-1": func(r *xenapi.VM) {
			r.MemoryStaticMax, r.MemoryDynamicMax, r.MemoryDynamicMin = math.MaxInt64, math.MaxInt64, math.MaxInt64
		},
		"memory -1":        func(r *xenapi.VM) { r.MemoryStaticMax, r.MemoryDynamicMax, r.MemoryDynamicMin = -1, -1, -1 },
		"memory 0":         func(r *xenapi.VM) { r.MemoryStaticMax, r.MemoryDynamicMax, r.MemoryDynamicMin = 0, 0, 0 },
		"min over max":     func(r *xenapi.VM) { r.MemoryStaticMin = r.MemoryStaticMax + 1 },
		"0 VCPUs":          func(r *xenapi.VM) { r.VCPUsMax, r.VCPUsAtStartup = 0, 0 },
		"-1 VCPUs":         func(r *xenapi.VM) { r.VCPUsMax, r.VCPUsAtStartup = -1, -1 },
		"10^9 VCPUs":       func(r *xenapi.VM) { r.VCPUsMax, r.VCPUsAtStartup = 1e9, 1e9 },
		"more than max":    func(r *xenapi.VM) { r.VCPUsAtStartup = 3 },
		"a huge mask":      func(r *xenapi.VM) { r.VCPUsParams = map[string]string{"mask": "0-999999999"} },
		"weight 1e9":       func(r *xenapi.VM) { r.VCPUsParams = map[string]string{"weight": "1e9"} },
		"multiplier 0.5":   func(r *xenapi.VM) { r.HVMShadowMultiplier = 0.5 },
		"cores 0":          func(r *xenapi.VM) { r.Platform = map[string]string{"cores-per-socket": "0"} },
		"cores don't fit":  func(r *xenapi.VM) { r.Platform = map[string]string{"cores-per-socket": "3"} },
		"cores no number":  func(r *xenapi.VM) { r.Platform = map[string]string{"cores-per-socket": "two"} },
		"memory too large": func(r *xenapi.VM) { r.MemoryStaticMax, r.MemoryDynamicMax = 1<<50, 1<<50 },
	} {
		r := w.rec(w.vm("like"))
		change(r)
		vm, err := w.VM().Create(w.ctx, r)
		if err == nil {
			err = w.VM().Start(w.ctx, vm, false, false)
		}
		switch code := xenapi.Code(err); code {
		case "VALUE_NOT_SUPPORTED", "INVALID_VALUE", "MEMORY_CONSTRAINT_VIOLATION", "MEMORY_CONSTRAINT_VIOLATION_ORDER", "HOST_NOT_ENOUGH_FREE_MEMORY",
			"VCPU_MAX_NOT_CORES_PER_SOCKET_MULTIPLE":
		default:
			t.Errorf("%s: %v", what, err)
		}
		if err == nil || vm == "" {
			continue
		}
		if s := w.state(vm); s != xenapi.VMPowerStateHalted {
			t.Errorf("%s: it is %s", what, s)
		}
	}
}

// TestN6Loops: nothing is its own parent.
func TestN6Loops(t *testing.T) {
	w := start(t)
	vdi, other := w.vdi("a", mib), w.vdi("b", mib)
	if w.VDI().SetSnapshotOf(w.ctx, vdi, vdi) == nil {
		t.Error("a disk is its own snapshot")
	}
	w.ok(w.VDI().SetSnapshotOf(w.ctx, vdi, other))
	if w.VDI().SetSnapshotOf(w.ctx, other, vdi) == nil {
		t.Error("two disks are each other's snapshots")
	}
	if r := w.vdiRec(other); r.SnapshotOf != xenapi.Null || len(r.Snapshots) != 1 {
		t.Errorf("%+v", r)
	}
}
