package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"xapid/pkg/xenapi"
)

// hvm boots a machine with emulated hardware from a CD, by the order of a firmware. Under emulation that takes minutes.
func hvm(firmware string) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (string, error) { return w.bootsHVM(ctx, firmware) }
}

func (w *world) bootsHVM(ctx context.Context, firmware string) (note string, err error) {
	iso, err := w.library(ctx)
	if err != nil {
		return "", err
	}
	if pv := w.vms["lab-"+string(xenapi.DomainTypePV)]; pv != nil { // for its memory
		if _, err := w.halted(ctx); err != nil {
			return "", err
		}
	}
	r := w.record("lab-hvm-" + firmware)
	r.DomainType, r.HVMBootPolicy = xenapi.DomainTypeHVM, "BIOS order"
	r.HVMBootParams = map[string]string{"order": "d", "firmware": firmware}
	r.Platform = map[string]string{"acpi": "1", "apic": "true", "pae": "true", "device-model": "/bin/false", "vga": "std"}
	r.PVKernel, r.PVRamdisk, r.PVArgs = "", "", ""
	if firmware == "uefi" {
		// 16 MiB of it are the video card's. The rest ends where hvmloader puts the PCI devices, which is then
		// where OVMF, who doesn't know, wants them too: a video card that moves has its memory left behind.
		r.MemoryDynamicMin, r.MemoryDynamicMax, r.MemoryStaticMax = 3856*mib, 3856*mib, 3856*mib
	}
	g, err := w.created(ctx, r)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.destroy(ctx, g)) }()
	drive := xenapi.NewVBD()
	drive.VM, drive.VDI, drive.Userdevice, drive.Mode, drive.Type, drive.Bootable = g.ref, iso, "3", xenapi.VBDModeRO, xenapi.VBDTypeCD, true
	vbd, err := w.VBD().Create(ctx, drive)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.VM().Start(ctx, g.ref, false, false); err != nil {
		return "", fmt.Errorf("VM.start: %w", err)
	}
	started := time.Since(began)
	if err := w.hears(ctx, g, 0, "MARK up", 8*time.Minute); err != nil {
		return "", err
	}
	note = fmt.Sprintf("VM.start %.1f s, the guest was up after %.0f s", started.Seconds(), time.Since(began).Seconds())
	consoles, err := w.VM().GetConsoles(ctx, g.ref)
	if err != nil || len(consoles) != 2 {
		return "", errors.Join(fmt.Errorf("%d consoles", len(consoles)), err)
	}
	if err := w.VBD().Eject(ctx, vbd); err != nil {
		return "", fmt.Errorf("VBD.eject: %w", err)
	}
	if err := w.VBD().Insert(ctx, vbd, iso); err != nil {
		return "", fmt.Errorf("VBD.insert: %w", err)
	}
	stop := w.VM().CleanShutdown
	if firmware == "uefi" { // which leaves the guest without ACPI, and so without a way to power off
		stop = w.VM().HardShutdown
	}
	if err := stop(ctx, g.ref); err != nil {
		return "", fmt.Errorf("shutdown: %w", err)
	}
	return note, w.gone(ctx, g)
}

// pygrub boots guests whose kernel lies in their disk, and refuses one whose disk is nonsense.
func pygrub(kind xenapi.DomainType) func(context.Context, *world) (string, error) {
	return func(ctx context.Context, w *world) (note string, err error) {
		if w.vms["lab-"+string(xenapi.DomainTypePV)] != nil { // for its memory
			if _, err := w.halted(ctx); err != nil {
				return "", err
			}
		}
		r := w.record("lab-pygrub-" + string(kind))
		r.DomainType, r.PVKernel, r.PVRamdisk, r.PVArgs, r.PVBootloader = kind, "", "", "lab=1", "pygrub"
		g, err := w.created(ctx, r)
		if err != nil {
			return "", err
		}
		defer func() { err = errors.Join(err, w.destroy(ctx, g)) }()
		_, vdi, err := w.extraDisk(ctx, g, "0", 128*mib)
		if err != nil {
			return "", err
		}
		g.vdi = vdi
		failure := w.VM().Start(ctx, g.ref, false, false) // of a disk of zeros
		if xenapi.Code(failure) != "BOOTLOADER_FAILED" {
			return "", fmt.Errorf("VM.start of an empty disk: %w", failure)
		}
		if err := w.gone(ctx, g); err != nil {
			return "", err
		}
		if err := w.installed(ctx, vdi); err != nil {
			return "", err
		}
		began := time.Now()
		if err := w.VM().Start(ctx, g.ref, false, false); err != nil {
			return "", fmt.Errorf("VM.start: %w", err)
		}
		note = fmt.Sprintf("VM.start took %.1f s; an empty disk: %s", time.Since(began).Seconds(), failure)
		if err := w.says(ctx, g, 0, "MARK up"); err != nil {
			return "", err
		}
		if err := w.tell(ctx, g, "grep -q 'fromdisk.*lab=1' /proc/cmdline"); err != nil {
			return "", err
		}
		if _, err := w.dom0.Run(ctx, "[ -z \"$(find /var/cache/xapid/boot /run/xapid -path '*boot-*' -type f 2>/dev/null)\" ]"); err != nil {
			return "", fmt.Errorf("files are left: %w", err)
		}
		if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
			return "", err
		}
		return note, w.gone(ctx, g)
	}
}

// installed puts a file system with a kernel and a boot menu on a disk.
func (w *world) installed(ctx context.Context, vdi xenapi.VDIRef) error {
	uuid, err := w.VDI().GetUUID(ctx, vdi)
	if err != nil {
		return err
	}
	menu := `menuentry "lab" {\n\tlinux /boot/vmlinuz console=hvc0 quiet mitigations=off pci=noearly fromdisk\n\tinitrd /boot/initrd\n}\n`
	_, err = w.dom0.Run(ctx, `d=$(mktemp -d) && mkdir -p $d/boot/grub && cp /lab/guest/initrd /lab/guest/vmlinuz $d/boot/ &&
		printf '%s' >$d/boot/grub/grub.cfg && mke2fs -q -F -t ext4 -d $d $(find /var/lib/xapid/sr -name '%s.raw') && rm -r $d`, menu, uuid)
	return err
}

// checked runs the doctor in the dom0: it finds the lab fit, and says what a dom0 without libvirtd lacks.
func checked(ctx context.Context, w *world) (note string, err error) {
	out, err := w.dom0.Run(ctx, "xapid check")
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "xapid check --json | python3 -m json.tool >/dev/null"); err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "systemctl stop libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket libvirtd"); err != nil {
		return "", err
	}
	bad, err := w.dom0.Run(ctx, "xapid check; [ $? = 1 ]; s=$?; systemctl start libvirtd; exit $s")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(bad) {
		if strings.HasPrefix(line, "failure") && strings.Contains(line, "libvirt") {
			return fmt.Sprintf("%d lines; without libvirtd: %s", strings.Count(out, "\n")+1, strings.Join(strings.Fields(line), " ")), nil
		}
	}
	return "", fmt.Errorf("without libvirtd: %s", bad)
}
