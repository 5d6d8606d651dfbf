package libvirt_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/libvirt"
	"xapid/pkg/xenctl/xenctltest"
	"xapid/pkg/xenctl/xenstore"
)

// The tests here run on real Xen: in the lab's dom0, where XAPID_XEN says so.
func needXen(t *testing.T) {
	if os.Getenv("XAPID_XEN") == "" {
		t.Skip("missing: a Xen host (XAPID_XEN=1 says that this is one; make lab runs this there)")
	}
}

// What the lab's dom0 has for guests.
const (
	labKernel    = "/lab/guest/vmlinux"
	labPacked    = "/lab/guest/vmlinuz" // QEMU boots no other
	labRamdisk   = "/lab/guest/initrd"
	labBridge    = "xenctltest"
	xenPatience  = 3 * time.Minute
	guestBytes   = 96 << 20
	emulatedWait = 6 * time.Minute
)

func openXen(t *testing.T) *libvirt.Xen {
	store := xenstore.New("")
	x, err := libvirt.NewXen(libvirt.XenOptions{Store: store, Pace: 100 * time.Millisecond, ReleasePatience: 3 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if err := x.Close(ctx); err != nil {
			t.Error(err)
		}
		store.Close()
	})
	if err := x.Ready(soon(t)); err != nil {
		t.Fatal(err)
	}
	return x
}

// onXen is the suite's harness for a type of guest.
func onXen(t *testing.T, kind xenctl.DomainType) xenctltest.Harness {
	x := openXen(t)
	return xenctltest.Harness{
		Hypervisor: x, Patience: xenPatience, MemoryBytes: guestBytes, Workers: 3, OverheadBytes: 8 << 20,
		Adapt: func(c *xenctl.DomainConfig) {
			c.Type, c.OnCrash = kind, xenctl.CrashDestroy
			c.Boot = xenctl.Boot{Kernel: labKernel, Ramdisk: labRamdisk, Cmdline: "console=hvc0 quiet mitigations=off pci=noearly"}
			if kind == xenctl.TypeHVM {
				c.Boot.Kernel = labPacked
				c.Boot.Cmdline = "console=hvc0 console=ttyS0 quiet mitigations=off pci=noearly"
			}
		},
		Bridge: labBridge,
		Lacks: map[xenctltest.Trait]string{
			xenctltest.TraitImageCheck: "libvirt's Xen driver saves no checksum",
		},
		Booted: func(uuid string) error { return says(t, x, uuid, "MARK tick") },
		Crash:  func(uuid string) error { return typed(t, x, uuid, "echo c >/proc/sysrq-trigger") },
		Stubborn: func(uuid string) error {
			if err := typed(t, x, uuid, "rm /sbin/poweroff; ln -s /bin/true /sbin/poweroff; echo MARK stubborn"); err != nil {
				return err
			}
			return says(t, x, uuid, "MARK stubborn\n")
		},
	}
}

// says waits for a text on a guest's console, as xenconsoled keeps it.
func says(t *testing.T, x *libvirt.Xen, uuid, text string) error {
	ctx, cancel := context.WithTimeout(t.Context(), xenPatience)
	defer cancel()
	d, err := x.Lookup(ctx, uuid)
	if err != nil {
		return err
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		log, err := os.ReadFile("/var/log/xen/console/guest-" + d.Name + ".log")
		if err == nil && strings.Contains(strings.ReplaceAll(string(log), "\r", ""), text) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("the guest never said %q: %w", text, ctx.Err())
		}
	}
}

func typed(t *testing.T, x *libvirt.Xen, uuid, line string) error {
	if err := says(t, x, uuid, "MARK tick"); err != nil {
		return err
	}
	d, err := x.Lookup(t.Context(), uuid)
	if err != nil {
		return err
	}
	tty, err := exec.CommandContext(t.Context(), "xenstore-read", fmt.Sprintf("/local/domain/%d/console/tty", d.ID)).Output()
	if err != nil {
		return err
	}
	return os.WriteFile(strings.TrimSpace(string(tty)), []byte(line+"\n"), 0)
}

func bridge(t *testing.T) {
	ip := func(args ...string) error { return exec.CommandContext(context.Background(), "ip", args...).Run() }
	if err := ip("link", "add", labBridge, "type", "bridge"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := ip("link", "del", labBridge); err != nil {
			t.Error(err)
		}
	})
	if err := ip("link", "set", labBridge, "up"); err != nil {
		t.Fatal(err)
	}
}

func TestContractOnXen(t *testing.T) {
	needXen(t)
	bridge(t)
	for _, kind := range []xenctl.DomainType{xenctl.TypePV, xenctl.TypePVH} {
		t.Run(string(kind), func(t *testing.T) {
			xenctltest.Run(t, func(t *testing.T) xenctltest.Harness { return onXen(t, kind) })
		})
	}
}
