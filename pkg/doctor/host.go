package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// checkLVM wants what LVM storage needs: its tools, and the kernel's device mapper.
func (h *Host) checkLVM(ctx context.Context) verdict {
	const install = "apt-get install lvm2"
	if !h.exists("dev/mapper/control") {
		return warn("modprobe dm_mod; "+install, "the kernel has no device mapper: LVM storage can't be used")
	}
	out, err := h.Command(ctx, "lvm", "version")
	if err != nil {
		return warn(install, "LVM storage can't be used: %v", err)
	}
	return ok("LVM %s, device mapper %s", field(out, "LVM version", ":"), field(out, "Driver version", ":"))
}

// checkBridges looks for the kernel's bridges: the module, loaded or in the kernel or to be loaded.
func (h *Host) checkBridges(context.Context) verdict {
	present, err := filepath.Glob(filepath.Join(h.Root, "sys/class/net/*/bridge"))
	if err != nil {
		return fail("", "%v", err)
	}
	var names []string
	for _, path := range present {
		names = append(names, filepath.Base(filepath.Dir(path)))
	}
	if len(names) > 0 {
		slices.Sort(names)
		return ok("there are %s", strings.Join(names, ", "))
	}
	if h.exists("sys/module/bridge") {
		return ok("the kernel can make them; there is none yet")
	}
	release := h.text("proc/sys/kernel/osrelease")
	for _, list := range []string{"modules.dep", "modules.builtin"} {
		if strings.Contains(h.text(filepath.Join("lib/modules", release, list)), "/bridge.ko") {
			return ok("the kernel has the module; there is none yet")
		}
	}
	return fail("boot Debian's kernel, or build CONFIG_BRIDGE; after an upgrade of the running kernel's package reboot",
		"kernel %s has no module for bridges: guests can't have networks", release)
}

func (h *Host) checkState(context.Context) verdict { return h.space(h.StateDir) }
func (h *Host) checkLog(context.Context) verdict   { return h.space(h.LogDir) }

// comfortBytes is how much free disk is no matter for thought.
const comfortBytes = 1 << 30

// space looks at the disk below a directory, or where it would be made.
func (h *Host) space(dir string) verdict {
	at := filepath.Join(h.Root, dir)
	for {
		info, err := os.Stat(at)
		if err == nil && !info.IsDir() {
			return fail("move it away", "%s is no directory", at)
		} else if err == nil {
			break
		} else if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return fail("make it readable for root", "%v", err)
		}
		at = filepath.Dir(at)
	}
	free, err := h.FreeBytes(at)
	const make = "make room on its file system, or name another directory in /etc/xapid/xapid.toml"
	switch mib := free >> 20; {
	case err != nil:
		return fail("see whether its file system is well: dmesg", "%s: %v", at, err)
	case free < h.ReserveBytes:
		return fail(make, "%s: %d MiB are free, and changes are refused below %d", dir, mib, h.ReserveBytes>>20)
	case free < comfortBytes:
		return warn(make, "%s: only %d MiB are free", dir, mib)
	default:
		return ok("%s: %d MiB are free", dir, mib)
	}
}

// plausible is when this was written: no clock that is right shows an earlier time.
var plausible = time.Date(2025, 1, 1, 0, 0, 0, 0, time.UTC)

// checkClock wants a clock that is right: sessions, certificates and the order of events hang on it.
func (h *Host) checkClock(context.Context) verdict {
	const keep = "apt-get install chrony (or systemd-timesyncd) and give it a server"
	now := h.Now().UTC()
	if now.Before(plausible) || now.After(plausible.AddDate(50, 0, 0)) {
		return fail("set it (date -s ...), then "+keep, "it shows %s", now.Format(time.DateTime))
	}
	synchronised, err := h.Synchronised()
	switch {
	case err != nil:
		return warn(keep, "the kernel does not say whether something keeps it right: %v", err)
	case !synchronised:
		return warn(keep, "%s UTC; nothing keeps it right", now.Format(time.DateTime))
	default:
		return ok("%s UTC, synchronised", now.Format(time.DateTime))
	}
}
