package e2e

import (
	"maps"
	"math"
	"slices"
	"testing"

	"xapid/pkg/xenapi"
)

// rec is a VM's record.
func (w *world) rec(vm xenapi.VMRef) *xenapi.VM {
	w.Helper()
	return must(w.VM().GetRecord(w.ctx, vm))(w)
}

// limits wants the four memory settings, in MiB: static min, dynamic min,
// dynamic max, static max.
func (w *world) limits(vm xenapi.VMRef, want ...int64) {
	w.Helper()
	r := w.rec(vm)
	got := []int64{r.MemoryStaticMin / mib, r.MemoryDynamicMin / mib, r.MemoryDynamicMax / mib, r.MemoryStaticMax / mib}
	if !slices.Equal(got, want) {
		w.Errorf("memory is %v MiB, want %v", got, want)
	}
}

// TestMemorySettings sets each limit by itself and all of them at once.
func TestMemorySettings(t *testing.T) {
	w := start(t)
	vm := w.vm("memory")
	w.ok(w.VM().SetMemoryStaticMax(w.ctx, vm, 128*mib))
	w.ok(w.VM().SetMemoryDynamicMax(w.ctx, vm, 96*mib))
	w.ok(w.VM().SetMemoryStaticMin(w.ctx, vm, 32*mib))
	w.ok(w.VM().SetMemoryDynamicMin(w.ctx, vm, 48*mib))
	w.limits(vm, 32, 48, 96, 128)
	const order = "MEMORY_CONSTRAINT_VIOLATION_ORDER"
	w.fails(w.VM().SetMemoryStaticMax(w.ctx, vm, 80*mib), order)
	w.fails(w.VM().SetMemoryDynamicMax(w.ctx, vm, 129*mib), order)
	w.fails(w.VM().SetMemoryStaticMin(w.ctx, vm, 48*mib+1), order)
	w.fails(w.VM().SetMemoryDynamicMin(w.ctx, vm, 96*mib+1), order)
	w.fails(w.VM().SetMemoryLimits(w.ctx, vm, -1, 0, 0, 0), order)
	w.fails(w.VM().SetMemory(w.ctx, vm, 16*mib), order)
	w.limits(vm, 32, 48, 96, 128)
	w.ok(w.VM().SetMemoryDynamicRange(w.ctx, vm, 40*mib, 44*mib))
	w.limits(vm, 32, 40, 44, 128)
	w.ok(w.VM().SetMemoryStaticRange(w.ctx, vm, 16*mib, 256*mib))
	w.limits(vm, 16, 40, 44, 256)
	w.ok(w.VM().SetMemoryLimits(w.ctx, vm, 8*mib, 64*mib, 32*mib, 48*mib))
	w.limits(vm, 8, 32, 48, 64)
	w.ok(w.VM().SetMemory(w.ctx, vm, 72*mib))
	w.limits(vm, 8, 72, 72, 72)
}

// TestMemoryOfARunningVM: the static range is fixed, the balloon follows the
// dynamic one.
func TestMemoryOfARunningVM(t *testing.T) {
	w := start(t)
	vm := w.vm("memory")
	w.ok(w.VM().SetMemoryLimits(w.ctx, vm, 16*mib, 128*mib, 64*mib, 128*mib))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	const bad = "VM_BAD_POWER_STATE"
	for _, err := range []error{w.VM().SetMemoryStaticMax(w.ctx, vm, 256*mib), w.VM().SetMemoryStaticMin(w.ctx, vm, 8*mib),
		w.VM().SetMemoryStaticRange(w.ctx, vm, 8*mib, 256*mib), w.VM().SetMemoryLimits(w.ctx, vm, 8*mib, 64*mib, 64*mib, 64*mib),
		w.VM().SetMemory(w.ctx, vm, 64*mib), w.VM().SetVCPUsMax(w.ctx, vm, 3), w.VM().SetVCPUsAtStartup(w.ctx, vm, 2)} {
		w.fails(err, bad, string(vm), "halted", "running")
	}
	free := must(w.Host().ComputeFreeMemory(w.ctx, w.host()))(t)
	w.ok(w.VM().SetMemoryDynamicRange(w.ctx, vm, 48*mib, 48*mib))
	w.ok(w.VM().WaitMemoryTargetLive(w.ctx, vm))
	w.limits(vm, 16, 48, 48, 128)
	if now := must(w.Host().ComputeFreeMemory(w.ctx, w.host()))(t); now < free {
		t.Errorf("after the balloon went down %d bytes are free, before it was %d", now, free)
	}
	w.ok(w.VM().HardShutdown(w.ctx, vm))
}

// TestMemoryFigures asks what a VM costs.
func TestMemoryFigures(t *testing.T) {
	w := start(t)
	small, large := w.vm("small"), w.vmOf("large", 4096*mib)
	a, b := must(w.VM().ComputeMemoryOverhead(w.ctx, small))(t), must(w.VM().ComputeMemoryOverhead(w.ctx, large))(t)
	if a <= 0 || b <= a {
		t.Errorf("the overhead of 64 MiB is %d, that of 4 GiB %d", a, b)
	}
	total := int64(1024 * mib)
	fits := must(w.VM().MaximiseMemory(w.ctx, small, total, false))(t)
	if fits <= 0 || fits >= total {
		t.Errorf("%d of %d bytes fit", fits, total)
	}
	w.ok(w.VM().SetMemoryLimits(w.ctx, small, fits, fits, fits, fits))
	if over := must(w.VM().ComputeMemoryOverhead(w.ctx, small))(t); fits+over > total || fits+over < total-8*mib {
		t.Errorf("%d bytes and an overhead of %d don't just fit into %d", fits, over, total)
	}
}

// TestVCPUSettings bounds the processors, halted and running.
func TestVCPUSettings(t *testing.T) {
	w := start(t)
	vm := w.vm("processors")
	w.ok(w.VM().SetVCPUsMax(w.ctx, vm, 4))
	w.ok(w.VM().SetVCPUsAtStartup(w.ctx, vm, 3))
	for _, n := range []int64{0, -1, 1_000_000_000, math.MinInt64} {
		w.fails(w.VM().SetVCPUsMax(w.ctx, vm, n), "INVALID_VALUE")
		w.fails(w.VM().SetVCPUsAtStartup(w.ctx, vm, n), "INVALID_VALUE")
	}
	w.fails(w.VM().SetVCPUsMax(w.ctx, vm, 2), "INVALID_VALUE")
	w.fails(w.VM().SetVCPUsAtStartup(w.ctx, vm, 5), "INVALID_VALUE")
	w.fails(w.VM().SetVCPUsNumberLive(w.ctx, vm, 2), "VM_BAD_POWER_STATE", string(vm), "running", "halted")
	if r := w.rec(vm); r.VCPUsMax != 4 || r.VCPUsAtStartup != 3 {
		t.Errorf("%d of %d VCPUs", r.VCPUsAtStartup, r.VCPUsMax)
	}
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.ok(w.VM().SetVCPUsNumberLive(w.ctx, vm, 4))
	metrics := w.rec(vm).Metrics
	if n := must(w.VMMetrics().GetVCPUsNumber(w.ctx, metrics))(t); n != 4 {
		t.Errorf("the guest has %d VCPUs, want 4", n)
	}
	w.fails(w.VM().SetVCPUsNumberLive(w.ctx, vm, 5), "INVALID_VALUE")
	w.fails(w.VM().SetVCPUsNumberLive(w.ctx, vm, 0), "INVALID_VALUE")
	w.ok(w.VM().HardShutdown(w.ctx, vm))
}

// TestMaps writes the maps of a VM that have messages of their own.
func TestMaps(t *testing.T) {
	w := start(t)
	vm := w.vm("maps")
	seed := w.rec(vm).OtherConfig["mac_seed"]
	w.ok(w.VM().AddToOtherConfig(w.ctx, vm, "folder", "/a"))
	w.fails(w.VM().AddToOtherConfig(w.ctx, vm, "folder", "/b"), "MAP_DUPLICATE_KEY", "VM", "other_config", string(vm), "folder")
	if got := w.rec(vm).OtherConfig; !maps.Equal(got, map[string]string{"mac_seed": seed, "folder": "/a"}) {
		t.Errorf("other_config %v", got)
	}
	w.ok(w.VM().RemoveFromOtherConfig(w.ctx, vm, "folder"))
	w.ok(w.VM().RemoveFromOtherConfig(w.ctx, vm, "never there"))
	w.ok(w.VM().SetOtherConfig(w.ctx, vm, map[string]string{"x": "1"}))
	w.ok(w.VM().AddToPlatform(w.ctx, vm, "acpi", "1"))
	w.ok(w.VM().AddToPlatform(w.ctx, vm, "nx", "true"))
	w.ok(w.VM().RemoveFromPlatform(w.ctx, vm, "acpi"))
	if r := w.rec(vm); !maps.Equal(r.Platform, map[string]string{"nx": "true"}) || !maps.Equal(r.OtherConfig, map[string]string{"x": "1"}) {
		t.Errorf("platform %v, other_config %v", r.Platform, r.OtherConfig)
	}
	w.ok(w.VM().SetPlatform(w.ctx, vm, map[string]string{"vga": "std"}))
	w.ok(w.VM().SetNVRAM(w.ctx, vm, map[string]string{"EFI-variables": "AA=="}))
	w.ok(w.VM().AddToNVRAM(w.ctx, vm, "more", "1"))
	if got := w.rec(vm).NVRAM; !maps.Equal(got, map[string]string{"EFI-variables": "AA==", "more": "1"}) {
		t.Errorf("NVRAM %v", got)
	}
	w.ok(w.VM().RemoveFromNVRAM(w.ctx, vm, "more"))
	if r := w.rec(vm); len(r.NVRAM) != 1 || !maps.Equal(r.Platform, map[string]string{"vga": "std"}) {
		t.Errorf("NVRAM %v, platform %v", r.NVRAM, r.Platform)
	}
	w.fails(w.VM().AddToOtherConfig(w.ctx, vm, "", "x"), "INVALID_VALUE")
}

// TestBootSettings: policy and domain type go together.
func TestBootSettings(t *testing.T) {
	w := start(t)
	vm := w.vm("boot")
	if r := w.rec(vm); r.DomainType != xenapi.DomainTypeHVM {
		t.Errorf("with a boot policy the domain type is %s", r.DomainType)
	}
	w.ok(w.VM().SetHVMBootPolicy(w.ctx, vm, ""))
	if r := w.rec(vm); r.DomainType != xenapi.DomainTypePV || r.HVMBootPolicy != "" {
		t.Errorf("without a policy: %s %q", r.DomainType, r.HVMBootPolicy)
	}
	w.ok(w.VM().SetDomainType(w.ctx, vm, xenapi.DomainTypeHVM))
	if r := w.rec(vm); r.DomainType != xenapi.DomainTypeHVM || r.HVMBootPolicy != "BIOS order" {
		t.Errorf("as hvm: %s %q", r.DomainType, r.HVMBootPolicy)
	}
	w.ok(w.VM().SetDomainType(w.ctx, vm, xenapi.DomainTypePVH))
	w.ok(w.VM().SetHVMBootPolicy(w.ctx, vm, "BIOS order"))
	w.ok(w.VM().SetHVMShadowMultiplier(w.ctx, vm, 1.5))
	w.fails(w.VM().SetHVMShadowMultiplier(w.ctx, vm, 0.5), "INVALID_VALUE", "multiplier", "0.5")
	if r := w.rec(vm); r.DomainType != xenapi.DomainTypeHVM || r.HVMShadowMultiplier != 1.5 {
		t.Errorf("%s, multiplier %v", r.DomainType, r.HVMShadowMultiplier)
	}
	w.ok(w.VM().Start(w.ctx, vm, true, false))
	w.fails(w.VM().SetDomainType(w.ctx, vm, xenapi.DomainTypePV), "VM_BAD_POWER_STATE", string(vm), "halted", "paused")
	w.ok(w.VM().HardShutdown(w.ctx, vm))
}

// TestActionsAfterCrash refuses what no guest of the kind can have.
func TestActionsAfterCrash(t *testing.T) {
	w := start(t)
	vm := w.vm("crashes")
	for _, action := range []xenapi.OnCrashBehaviour{xenapi.OnCrashBehaviourRestart, xenapi.OnCrashBehaviourPreserve, xenapi.OnCrashBehaviourDestroy} {
		w.ok(w.VM().SetActionsAfterCrash(w.ctx, vm, action))
		if got := w.rec(vm).ActionsAfterCrash; got != action {
			t.Errorf("%s, want %s", got, action)
		}
	}
	for _, action := range []xenapi.OnCrashBehaviour{xenapi.OnCrashBehaviourRenameRestart, xenapi.OnCrashBehaviourCoredumpAndDestroy,
		xenapi.OnCrashBehaviourCoredumpAndRestart} {
		w.fails(w.VM().SetActionsAfterCrash(w.ctx, vm, action), "VALUE_NOT_SUPPORTED", "VM.actions_after_crash", string(action))
	}
	w.ok(w.VM().SetDomainType(w.ctx, vm, xenapi.DomainTypePV))
	w.ok(w.VM().SetActionsAfterCrash(w.ctx, vm, xenapi.OnCrashBehaviourCoredumpAndDestroy))
}

// TestOrderAndGroups sets what says when, and with whom, a VM starts.
func TestOrderAndGroups(t *testing.T) {
	w := start(t)
	vm := w.vm("ordered")
	w.ok(w.VM().SetOrder(w.ctx, vm, 3))
	w.ok(w.VM().SetStartDelay(w.ctx, vm, 4))
	w.ok(w.VM().SetShutdownDelay(w.ctx, vm, 5))
	w.fails(w.VM().SetOrder(w.ctx, vm, -1), "VALUE_NOT_SUPPORTED", "order", "-1")
	w.fails(w.VM().SetStartDelay(w.ctx, vm, -1), "VALUE_NOT_SUPPORTED", "start_delay", "-1")
	w.fails(w.VM().SetShutdownDelay(w.ctx, vm, -1), "VALUE_NOT_SUPPORTED", "shutdown_delay", "-1")
	w.ok(w.VM().SetHARestartPriority(w.ctx, vm, "best-effort"))
	w.fails(w.VM().SetHARestartPriority(w.ctx, vm, "always"), "INVALID_VALUE", "ha_restart_priority", "always")
	w.ok(w.VM().SetHasVendorDevice(w.ctx, vm, true))
	group := xenapi.NewVMGroup()
	group.NameLabel, group.Placement = "apart", xenapi.PlacementPolicyAntiAffinity
	g := must(w.VMGroup().Create(w.ctx, group))(t)
	w.ok(w.VM().SetGroups(w.ctx, vm, []xenapi.VMGroupRef{g}))
	if members := must(w.VMGroup().GetVMs(w.ctx, g))(t); !slices.Equal(members, []xenapi.VMRef{vm}) {
		t.Errorf("the group has %v", members)
	}
	appliance := xenapi.NewVMAppliance()
	appliance.NameLabel = "together"
	a := must(w.VMAppliance().Create(w.ctx, appliance))(t)
	w.ok(w.VM().SetAppliance(w.ctx, vm, a))
	if members := must(w.VMAppliance().GetVMs(w.ctx, a))(t); !slices.Equal(members, []xenapi.VMRef{vm}) {
		t.Errorf("the appliance has %v", members)
	}
	w.fails(w.VM().SetIsATemplate(w.ctx, vm, true), "VM_IS_PART_OF_AN_APPLIANCE", string(vm), string(a))
	r := w.rec(vm)
	if r.Order != 3 || r.StartDelay != 4 || r.ShutdownDelay != 5 || r.HARestartPriority != "best-effort" || !r.HasVendorDevice {
		t.Errorf("%+v", r)
	}
	w.ok(w.VM().SetAppliance(w.ctx, vm, xenapi.Null))
	w.ok(w.VM().SetIsATemplate(w.ctx, vm, true))
}

// TestBIOSStrings can be set once, given or copied.
func TestBIOSStrings(t *testing.T) {
	w := start(t)
	own, copied := w.vm("own"), w.vm("copied")
	w.fails(w.VM().SetBIOSStrings(w.ctx, own, map[string]string{"hostname": "x"}), "INVALID_VALUE", "hostname", "x")
	w.ok(w.VM().SetBIOSStrings(w.ctx, own, map[string]string{"bios-vendor": "me"}))
	w.fails(w.VM().SetBIOSStrings(w.ctx, own, map[string]string{"bios-vendor": "you"}), "VM_BIOS_STRINGS_ALREADY_SET")
	if got := w.rec(own).BIOSStrings; !maps.Equal(got, map[string]string{"bios-vendor": "me"}) {
		t.Errorf("%v", got)
	}
	w.ok(w.VM().CopyBIOSStrings(w.ctx, copied, w.host()))
	if got, want := w.rec(copied).BIOSStrings, must(w.Host().GetBIOSStrings(w.ctx, w.host()))(t); !maps.Equal(got, want) || len(got) == 0 {
		t.Errorf("copied %v of %v", got, want)
	}
	w.fails(w.VM().CopyBIOSStrings(w.ctx, own, w.host()), "VM_BIOS_STRINGS_ALREADY_SET")
}
