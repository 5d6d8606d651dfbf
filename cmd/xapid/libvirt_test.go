package main

import (
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl/xenctltest/libvirtd"
)

// TestLibvirt takes a VM through its life on a private libvirtd's test driver,
// and has the daemon serve while libvirtd is down.
func TestLibvirt(t *testing.T) {
	lv := libvirtd.Start(t)
	d := testenv.Start(t, "--hypervisor", "libvirt", "--libvirt-uri", libvirtd.URI+"?socket="+lv.Socket)
	c := d.Client(t)
	r := xenapi.NewVM()
	r.NameLabel, r.MemoryStaticMax, r.MemoryDynamicMax, r.MemoryDynamicMin = "g", 64<<20, 64<<20, 64<<20
	r.VCPUsMax, r.VCPUsAtStartup, r.HVMBootPolicy, r.HVMShadowMultiplier = 1, 1, "BIOS order", 1
	vm, err := c.VM().Create(t.Context(), r)
	ok(t, err)
	ok(t, c.VM().Start(t.Context(), vm, false, false))
	ok(t, c.VM().Pause(t.Context(), vm))
	ok(t, c.VM().Unpause(t.Context(), vm))
	ok(t, c.VM().Suspend(t.Context(), vm))
	ok(t, c.VM().Resume(t.Context(), vm, false, false))
	ok(t, c.VM().HardReboot(t.Context(), vm))
	ok(t, c.VM().CleanShutdown(t.Context(), vm))
	is(t, c, vm, xenapi.VMPowerStateHalted)
	ok(t, c.VM().Start(t.Context(), vm, false, false))
	lv.Kill()
	if err := c.VM().Pause(t.Context(), vm); err == nil {
		t.Error("pause without libvirtd succeeded")
	}
	ok(t, d.Stop())
	d.Run(t) // it serves without libvirtd
	c = d.Client(t)
	ok(t, c.VM().SetNameLabel(t.Context(), vm, "still here"))
	lv.Restart() // its domains are gone
	testenv.Eventually(t, "the truth about the VM", 60*time.Second, func() bool {
		state, err := c.VM().GetPowerState(t.Context(), vm)
		ok(t, err)
		return state == xenapi.VMPowerStateHalted
	})
}

func is(t *testing.T, c *client.Client, vm xenapi.VMRef, want xenapi.VMPowerState) {
	t.Helper()
	state, err := c.VM().GetPowerState(t.Context(), vm)
	ok(t, err)
	if state != want {
		t.Errorf("the VM is %s, want %s", state, want)
	}
}
