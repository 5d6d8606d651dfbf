package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"xapid/pkg/xenapi"
)

const diskBytes = 64 * mib

// scenario does one thing and sees whether it is so; its note is printed.
type scenario struct {
	name   string
	do     func(ctx context.Context, w *world) (note string, err error)
	always bool // also when only others are asked for
	asked  bool // only when it is asked for
	dom0   bool // of the second half, which the contracts and the saga test make as long as the first
	// patience is how long it may take, if not as long as the others.
	patience func(w *world) time.Duration
}

var scenarios = []scenario{
	{name: "log in over HTTPS through PAM", do: login, always: true},
	{name: "the host is a Xen host", do: aboutHost},
	{name: "the service shares mounts and devices with dom0", do: sharing},
	{name: "start a PV guest with a raw disk", do: starting(xenapi.DomainTypePV)},
	{name: "pause and unpause", do: pausing},
	{name: "suspend and resume, the disk's pattern is there", do: suspending},
	{name: "kill -9 of xapid, the guest runs on", do: killing},
	{name: "clean reboot", do: rebooting},
	{name: "a disk is plugged and unplugged, a frozen guest keeps it", do: hotDisk},
	{name: "a NIC is plugged, answers and is unplugged", do: hotNIC},
	{name: "memory down and up", do: balloon},
	{name: "guest metrics", do: guestMetrics},
	{name: "xenstore_data reaches the guest", do: xenstoreData},
	{name: "the guest reboots by itself", do: ownReboot},
	{name: "the guest crashes, with restart and with destroy", do: crashes},
	{name: "the guest crashes and is preserved", do: preserved},
	{name: "weight, cap and one more processor", do: processors},
	{name: "a CD is inserted and ejected", do: media},
	{name: "a guest that floods xenstore", do: hostile},
	{name: "clean shutdown", do: shutting},
	{name: "clean shutdown of a frozen guest fails in time", do: frozen},
	{name: "hard shutdown", do: hard},
	{name: "the guest powers itself off", do: poweroff},
	{name: "xl destroy behind its back", do: behind},
	{name: "a start without its kernel leaves nothing", do: noKernel},
	{name: "a start without memory says the figures", do: noMemory},
	{name: "start a PVH guest with a raw disk", do: starting(xenapi.DomainTypePVH)},
	{name: "clean shutdown of the PVH guest", do: shuttingPVH},
	{name: "a PV guest boots by pygrub", do: pygrub(xenapi.DomainTypePV)},
	{name: "a PVH guest boots by pygrub", do: pygrub(xenapi.DomainTypePVH)},
	{name: "an HVM guest boots from a CD by UEFI", do: hvm("uefi"), patience: long, asked: true},
	{name: "xapid check", do: checked},
	{name: "restart of libvirtd, the guest runs on", do: libvirtdRestarts},
	{name: "libvirtd stops answering, and answers again", do: libvirtdSilent, patience: long},
	{name: "a domain made behind its back is told of and left alone", do: stranger},
	{name: "a start without its disk leaves nothing", do: noDisk},
	{name: "kill -9 of libvirtd in the middle of a start", do: libvirtdKilled, patience: long},
	{name: "five frozen guests don't slow down the others", do: frozenMany, patience: long},
	{name: "reboot of dom0 starts the VMs that it is to start", do: dom0Reboots, patience: long, dom0: true},
	{name: "power pulls", do: powerPulls, patience: aPull},
	{name: "an HVM guest boots from a CD by BIOS", do: hvm("bios"), patience: long},
	{name: "100 failed starts leave nothing", do: failedStarts, patience: long, dom0: true},
	{name: "upgrade keeps the state, purge takes it", do: upgrade, dom0: true},
}

func login(ctx context.Context, w *world) (string, error) {
	if err := w.Login(ctx, "root", w.password+"x"); err == nil {
		return "", errors.New("a wrong password was accepted")
	}
	return "", w.Login(ctx, "root", w.password)
}

func aboutHost(ctx context.Context, w *world) (string, error) {
	hosts, err := w.Host().GetAll(ctx)
	if err != nil {
		return "", err
	}
	h, err := w.Host().GetRecord(ctx, hosts[0])
	if err != nil {
		return "", err
	}
	libvirt, err := w.dom0.Run(ctx, "libvirtd --version; uname -r")
	if err != nil {
		return "", err
	}
	xen, err := w.dom0.Run(ctx, "xl info xen_version")
	if err != nil {
		return "", err
	}
	note := fmt.Sprintf("Xen %s, %s, %s CPUs", h.SoftwareVersion["xen"], strings.ReplaceAll(libvirt, "\n", ", Linux "), h.CPUInfo["cpu_count"])
	if h.SoftwareVersion["xen"] != strings.TrimSpace(xen) {
		return "", fmt.Errorf("%s; xl says %q", note, xen)
	}
	return note, nil
}

// sharing looks at what the unit's hardening could have taken.
func sharing(ctx context.Context, w *world) (string, error) {
	_, err := w.dom0.Run(ctx, "pid=$(systemctl show -P MainPID xapid) && "+
		"[ $(readlink /proc/$pid/ns/mnt) = $(readlink /proc/1/ns/mnt) ] && [ $(systemctl show -P DevicePolicy xapid) = auto ] && "+
		"[ -z \"$(systemctl show -P DeviceAllow xapid)\" ]")
	return "", err
}

func starting(kind xenapi.DomainType) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (string, error) {
		g, err := w.make(ctx, kind)
		if err != nil {
			return "", err
		}
		// The emulated processor now and then enters a PVH guest with Xen's own registers: a triple fault.
		var took time.Duration
		again := ""
		for try := 1; ; try++ {
			began := time.Now()
			if err := w.VM().Start(ctx, g.ref, false, false); err != nil {
				return "", fmt.Errorf("VM.start: %w", err)
			}
			took = time.Since(began)
			err := w.says(ctx, g, 0, "MARK up")
			if err == nil {
				break
			}
			if !errors.Is(err, errStopped) || kind != xenapi.DomainTypePVH || try == 3 {
				return "", err
			}
			again = fmt.Sprintf(", the emulated processor lost the guest %d times", try)
		}
		if err := w.says(ctx, g, 0, fmt.Sprintf("MARK disk xvda %d", diskBytes/512)); err != nil {
			return "", err
		}
		uuid, err := w.VM().GetUUID(ctx, g.ref)
		if err == nil {
			_, err = w.dom0.Run(ctx, "xl list -v | grep -F %s | grep -qF %s", uuid, g.name)
		}
		return fmt.Sprintf("VM.start took %.1f s%s", took.Seconds(), again), err
	}
}

func pausing(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	if err := w.VM().Pause(ctx, g.ref); err != nil {
		return "", err
	}
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "xl list %d | awk 'NR == 2 {print $5}' | grep -q p && sleep 3", id); err != nil {
		return "", err
	}
	if later, err := w.mark(ctx, g); err != nil || later != from {
		return "", errors.Join(errors.New("a paused guest spoke"), err)
	}
	if err := w.VM().Unpause(ctx, g.ref); err != nil {
		return "", err
	}
	return "", w.says(ctx, g, from, "MARK tick")
}

func suspending(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	const pattern = "yes pattern | head -c 1048576"
	if err := w.tell(ctx, g, pattern+" >/tmp/p; cat /tmp/p >/dev/xvda; sync"); err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.VM().Suspend(ctx, g.ref); err != nil {
		return "", fmt.Errorf("VM.suspend: %w", err)
	}
	suspended := time.Since(began)
	if err := w.state(ctx, g, xenapi.VMPowerStateSuspended); err != nil {
		return "", err
	}
	began = time.Now()
	if err := w.VM().Resume(ctx, g.ref, false, false); err != nil {
		return "", fmt.Errorf("VM.resume: %w", err)
	}
	resumed := time.Since(began)
	err = w.tell(ctx, g, "echo 3 >/proc/sys/vm/drop_caches; head -c 1048576 /dev/xvda | cmp - /tmp/p")
	return fmt.Sprintf("suspend %.1f s, resume %.1f s", suspended.Seconds(), resumed.Seconds()), err
}

func killing(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	before, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "systemctl kill -s KILL xapid"); err != nil {
		return "", err
	}
	began := time.Now()
	err = eventually(ctx, "log in again", time.Minute, func() (bool, error) {
		err := w.Login(ctx, "root", w.password)
		return err == nil, err
	})
	if err != nil {
		return "", err
	}
	back := time.Since(began)
	if err := w.state(ctx, g, xenapi.VMPowerStateRunning); err != nil {
		return "", err
	}
	after, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil || after != before {
		return "", errors.Join(fmt.Errorf("the domain was %d and is %d", before, after), err)
	}
	return fmt.Sprintf("the API was back after %.1f s", back.Seconds()), w.says(ctx, g, from, "MARK tick")
}

func rebooting(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	before, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	if err := w.VM().CleanReboot(ctx, g.ref); err != nil {
		return "", fmt.Errorf("VM.clean_reboot: %w", err)
	}
	if after, err := w.VM().GetDomid(ctx, g.ref); err != nil || after <= before {
		return "", errors.Join(fmt.Errorf("the domain was %d and is %d", before, after), err)
	}
	return "", w.says(ctx, g, from, "MARK up")
}
