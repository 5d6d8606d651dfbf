package doctor

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
)

// text reads a small file below the root; one that can't be read is empty.
func (h *Host) text(path string) string {
	b, err := os.ReadFile(filepath.Join(h.Root, path))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}

func (h *Host) exists(path string) bool {
	_, err := os.Stat(filepath.Join(h.Root, path))
	return err == nil
}

// checkXen wants Xen below the kernel, and the kernel to be the one that governs it.
func (h *Host) checkXen(context.Context) verdict {
	if kind := h.text("sys/hypervisor/type"); kind != "xen" {
		return fail("apt-get install xen-system-amd64, then boot the entry of the boot menu that says Xen",
			"this kernel does not run on Xen")
	}
	if !h.exists("proc/xen/capabilities") {
		return fail("mount -t xenfs xenfs /proc/xen", "/proc/xen is not mounted: it can't be seen whether this is dom0")
	}
	if !strings.Contains(h.text("proc/xen/capabilities"), "control_d") {
		return fail("run xapid in dom0", "this is a guest of Xen and not dom0")
	}
	major, minor := h.text("sys/hypervisor/version/major"), h.text("sys/hypervisor/version/minor")
	if major == "" || minor == "" {
		return warn("see whether sysfs is mounted", "Xen does not say its version; this is dom0")
	}
	return ok("Xen %s.%s%s, this is dom0", major, minor, h.text("sys/hypervisor/version/extra"))
}

// setMemory is how to give dom0 its own memory on Debian.
const setMemory = "add dom0_mem=2048M,max:2048M (or more) to GRUB_CMDLINE_XEN_DEFAULT in /etc/default/grub, then update-grub and reboot"

// checkMemory wants dom0 to have memory of its own. Without dom0_mem it has all of it, and libxl takes what each new
// guest needs from it: starts get slow, fail under load, and dom0 ends up without memory. The Linux kernel doesn't tell
// Xen's command line; xl does.
func (h *Host) checkMemory(ctx context.Context) verdict {
	out, err := h.Command(ctx, "xl", "info")
	if err != nil {
		return warn("apt-get install xen-utils-common, then see what 'xl info' says", "xl does not tell Xen's command line: %v", err)
	}
	setting := ""
	for _, word := range strings.Fields(field(out, "xen_commandline", ":")) {
		if strings.HasPrefix(word, "dom0_mem=") {
			setting = word
		}
	}
	for _, file := range []string{"etc/xen/xl.conf", "etc/libvirt/libxl.conf"} {
		value := strings.Trim(field(h.text(file), "autoballoon", "="), `"' `)
		if value == "1" || value == "on" {
			return warn("set autoballoon to off (0 in libxl.conf) in /"+file+", with dom0_mem on Xen's command line",
				"autoballoon is on in /%s: dom0 shrinks with each guest that starts", file)
		}
	}
	if setting == "" {
		return warn(setMemory, "dom0_mem is not on Xen's command line: dom0 shrinks with each guest that starts")
	}
	return ok("%s", setting)
}

// field finds a key's value in lines of "key separator value".
func field(text, key, separator string) string {
	for line := range strings.Lines(text) {
		k, v, found := strings.Cut(line, separator)
		if found && strings.TrimSpace(k) == key {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

func (h *Host) checkXenstore(ctx context.Context) verdict {
	if err := h.Xenstore(ctx); err != nil {
		if ctx.Err() != nil || errors.Is(err, os.ErrPermission) {
			return fail("run this as root; else read the log: journalctl -u xenstored", "%v", err)
		}
		return fail("systemctl start xenstored (or xen, which starts it)", "%v", err)
	}
	return ok("xenstored answers")
}

func (h *Host) checkLibvirt(ctx context.Context) verdict {
	version, err := h.Libvirt(ctx)
	if err != nil {
		return fail("apt-get install libvirt-daemon-system libvirt-daemon-driver-xen, then systemctl start libvirtd; why it fails says journalctl -u libvirtd",
			"libvirtd's Xen driver can't be used: %v", err)
	}
	return ok("%s", version)
}

func (h *Host) checkBootloader(context.Context) verdict {
	found, err := h.Bootloader()
	if err != nil {
		return warn("apt-get install xen-utils-4.17 for pygrub, systemd-sysusers for its user; without them guests boot from kernels of dom0 or HVM",
			"guests can't boot by PV_bootloader: %v", err)
	}
	return ok("%s", found)
}
