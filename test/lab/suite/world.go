package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
	"xapid/test/lab/dom0"
)

const mib = 1 << 20

// world is the daemon in the lab, and a client that is logged in to it.
type world struct {
	*client.Client
	password string
	dom0     dom0.Shell
	machine  []string
	pulls    int
	vms      map[string]*guest
}

// guest is a VM whose guest says on its console what it sees.
type guest struct {
	name string
	ref  xenapi.VMRef
	vdi  xenapi.VDIRef
}

// eventually asks until it is told yes.
func eventually(ctx context.Context, what string, within time.Duration, ok func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("not within %v: %s", within, what))
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	var last error
	for {
		yes, err := ok()
		if yes && err == nil {
			return nil
		}
		if errors.Is(err, errStopped) {
			return fmt.Errorf("%w: %s", err, what)
		}
		if err != nil {
			last = err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return fmt.Errorf("%w (%w)", context.Cause(ctx), last)
			}
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// make creates a VM of a type with a raw disk, once.
func (w *world) make(ctx context.Context, kind xenapi.DomainType) (*guest, error) {
	name := "lab-" + string(kind)
	if g := w.vms[name]; g != nil {
		return g, nil
	}
	r := w.record(name)
	r.DomainType = kind
	g, err := w.created(ctx, r)
	if err != nil {
		return nil, err
	}
	w.vms[name] = g
	if _, g.vdi, err = w.extraDisk(ctx, g, "0", diskBytes); err != nil {
		return nil, err
	}
	return g, nil
}

// record describes a VM whose guest is the lab's.
func (w *world) record(name string) *xenapi.VM {
	r := xenapi.NewVM()
	r.NameLabel = name
	r.MemoryStaticMin, r.MemoryDynamicMin, r.MemoryDynamicMax, r.MemoryStaticMax = 64*mib, 160*mib, 160*mib, 160*mib
	r.VCPUsMax, r.VCPUsAtStartup, r.HVMShadowMultiplier = 1, 1, 1
	r.PVKernel, r.PVRamdisk, r.PVArgs = "/lab/guest/vmlinux", "/lab/guest/initrd", "console=hvc0 quiet mitigations=off pci=noearly"
	r.ActionsAfterShutdown, r.ActionsAfterReboot = xenapi.OnNormalExitDestroy, xenapi.OnNormalExitRestart
	r.ActionsAfterCrash = xenapi.OnCrashBehaviourDestroy
	return r
}

// created makes a VM without devices.
func (w *world) created(ctx context.Context, r *xenapi.VM) (*guest, error) {
	ref, err := w.VM().Create(ctx, r)
	if err != nil {
		return nil, fmt.Errorf("VM.create: %w", err)
	}
	return &guest{name: r.NameLabel, ref: ref}, nil
}

// rawDisk makes a disk on the default SR.
func (w *world) rawDisk(ctx context.Context, name string, bytes int64) (xenapi.VDIRef, error) {
	pools, err := w.Pool().GetAll(ctx)
	if err != nil {
		return "", err
	}
	vdi := xenapi.NewVDI()
	vdi.NameLabel, vdi.VirtualSize, vdi.Type = name, bytes, xenapi.VDITypeUser
	vdi.SMConfig = map[string]string{"type": "raw"}
	if vdi.SR, err = w.Pool().GetDefaultSR(ctx, pools[0]); err != nil {
		return "", err
	}
	ref, err := w.VDI().Create(ctx, vdi)
	if err != nil {
		err = fmt.Errorf("VDI.create: %w", err)
	}
	return ref, err
}

// running gives a VM whose guest is up.
func (w *world) running(ctx context.Context, kind xenapi.DomainType) (*guest, error) {
	g, err := w.make(ctx, kind)
	if err != nil {
		return nil, err
	}
	switch state, err := w.VM().GetPowerState(ctx, g.ref); {
	case err != nil:
		return nil, err
	case state == xenapi.VMPowerStateRunning:
		return g, nil
	case state != xenapi.VMPowerStateHalted:
		if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
			return nil, fmt.Errorf("VM.hard_shutdown: %w", err)
		}
	}
	return g, w.boots(ctx, g)
}

// unheard removes what earlier guests of a halted VM have said on its console.
func (w *world) unheard(ctx context.Context, g *guest) error {
	uuid, err := w.VM().GetUUID(ctx, g.ref)
	if err == nil {
		_, err = w.dom0.Run(ctx, "rm -f /var/log/xen/console/guest-*-%s.log", uuid)
	}
	return err
}

// boots starts a halted VM and waits until its guest is up.
func (w *world) boots(ctx context.Context, g *guest) error {
	if err := w.unheard(ctx, g); err != nil {
		return err
	}
	if err := w.VM().Start(ctx, g.ref, false, false); err != nil {
		return fmt.Errorf("VM.start: %w", err)
	}
	return w.says(ctx, g, 0, "MARK up")
}

// errStopped says that a guest has no domain any more.
var errStopped = errors.New("the guest has stopped")

// console is the file of the console of a VM's guest, in the dom0.
func (w *world) console(ctx context.Context, g *guest) (string, error) {
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if id < 0 {
		return "", errStopped
	}
	name, err := w.dom0.Run(ctx, "xenstore-read /local/domain/%d/name", id)
	return "/var/log/xen/console/guest-" + name + ".log", err
}

// mark is where the console's log ends now.
func (w *world) mark(ctx context.Context, g *guest) (bytes int, err error) {
	log, err := w.console(ctx, g)
	if err != nil {
		return 0, err
	}
	out, err := w.dom0.Run(ctx, "stat -c %%s %s", log)
	if err == nil {
		_, err = fmt.Sscan(out, &bytes)
	}
	return bytes, err
}

// says waits until the guest's console has a text after a mark.
func (w *world) says(ctx context.Context, g *guest, after int, text string) error {
	return w.hears(ctx, g, after, text, time.Minute)
}

// hears is says with a patience of its own.
func (w *world) hears(ctx context.Context, g *guest, after int, text string, within time.Duration) error {
	return eventually(ctx, "on the console: "+text, within, func() (bool, error) {
		log, err := w.console(ctx, g)
		if err != nil {
			return false, err
		}
		err = w.comes(ctx, text, "tail -c +%d -F %s", after+1, log)
		return err == nil, err
	})
}

// comes waits in the dom0, for some seconds, until what a command goes on printing has a text. To ask again and again
// from outside would take the emulated processor from those who are waited for.
func (w *world) comes(ctx context.Context, text, command string, args ...any) error {
	_, err := w.dom0.Run(ctx, `timeout 5 bash -c 'grep -aqF -- "$1" < <(exec %s 2>/dev/null); found=$?; kill $!; exit $found' - %q`,
		fmt.Sprintf(command, args...), text)
	return err
}

// tell types a line on the guest's console and waits until it has been obeyed.
func (w *world) tell(ctx context.Context, g *guest, line string) error {
	from, err := w.mark(ctx, g)
	if err != nil {
		return err
	}
	if err := w.typed(ctx, g, line); err != nil {
		return err
	}
	return w.says(ctx, g, from, "MARK exit 0")
}

func (w *world) typed(ctx context.Context, g *guest, line string) error {
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err == nil {
		_, err = w.dom0.Run(ctx, "printf '%%s\\n' %q >$(xenstore-read /local/domain/%d/console/tty)", line, id)
	}
	return err
}

// becomes waits for a power state.
func (w *world) becomes(ctx context.Context, g *guest, want xenapi.VMPowerState, within time.Duration) error {
	return eventually(ctx, g.name+" is "+string(want), within, func() (bool, error) {
		got, err := w.VM().GetPowerState(ctx, g.ref)
		return got == want, err
	})
}

// state compares a VM's power state.
func (w *world) state(ctx context.Context, g *guest, want xenapi.VMPowerState) error {
	got, err := w.VM().GetPowerState(ctx, g.ref)
	if err == nil && got != want {
		err = fmt.Errorf("%s is %s, not %s", g.name, got, want)
	}
	return err
}

// gone makes sure that nothing of a halted VM is left: no domain, no attached disk.
func (w *world) gone(ctx context.Context, g *guest) error {
	if err := w.state(ctx, g, xenapi.VMPowerStateHalted); err != nil {
		return err
	}
	uuid, err := w.VM().GetUUID(ctx, g.ref)
	if err != nil {
		return err
	}
	vbds, err := w.VM().GetVBDs(ctx, g.ref)
	if err != nil {
		return err
	}
	for _, vbd := range vbds {
		if attached, err := w.VBD().GetCurrentlyAttached(ctx, vbd); err != nil || attached {
			return errors.Join(errors.New("a disk is attached still"), err)
		}
	}
	return eventually(ctx, "no domain is left", 10*time.Second, func() (bool, error) {
		_, err := w.dom0.Run(ctx, "! xl list -v | grep -qF %s", uuid)
		return err == nil, err
	})
}
