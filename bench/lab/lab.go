package main

import (
	"context"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
	"xapid/test/lab/dom0"
)

const mib = 1 << 20

// lab is the daemon in a dom0, with the VM that is started.
type lab struct {
	c    *client.Client
	dom0 dom0.Shell
	vm   xenapi.VMRef
	uuid string
	// told is how many starts the log has told of.
	told int
}

// split is where the time of a VM.start went, as the daemon logs it.
type split struct{ total, hypervisor, disks, networks, own time.Duration }

// prepare makes a PV guest with a raw disk, and leaves its domain's XML in the dom0.
func (l *lab) prepare(ctx context.Context) error {
	r := xenapi.NewVM()
	r.NameLabel, r.DomainType = "bench", xenapi.DomainTypePV
	r.MemoryStaticMin, r.MemoryDynamicMin, r.MemoryDynamicMax, r.MemoryStaticMax = 64*mib, 128*mib, 128*mib, 128*mib
	r.VCPUsMax, r.VCPUsAtStartup, r.HVMShadowMultiplier = 1, 1, 1
	r.PVKernel, r.PVRamdisk, r.PVArgs = "/lab/guest/vmlinux", "/lab/guest/initrd", "console=hvc0 quiet mitigations=off pci=noearly"
	r.ActionsAfterShutdown, r.ActionsAfterReboot = xenapi.OnNormalExitDestroy, xenapi.OnNormalExitRestart
	r.ActionsAfterCrash = xenapi.OnCrashBehaviourDestroy
	var err error
	if l.vm, err = l.c.VM().Create(ctx, r); err != nil {
		return err
	}
	if l.uuid, err = l.c.VM().GetUUID(ctx, l.vm); err != nil {
		return err
	}
	if err := l.disk(ctx); err != nil {
		return err
	}
	if err := l.c.VM().Start(ctx, l.vm, false, false); err != nil { // the first warms the caches
		return err
	}
	l.told = 1
	// xapid's name for the disk goes with its domain, so that virsh's gets a loop device of its own.
	if _, err := l.dom0.Run(ctx, "link=/run/xapid/disks/%s/xvda; file=$(losetup -n -O BACK-FILE $(readlink -f $link)) && own=$(losetup -f --show $file) && "+
		"virsh -q dumpxml %s | sed \"s|$link|$own|\" >/root/bench.xml && grep -q $own /root/bench.xml", l.uuid, l.uuid); err != nil {
		return err
	}
	if err := l.c.VM().HardShutdown(ctx, l.vm); err != nil {
		return err
	}
	return l.gone(ctx)
}

func (l *lab) disk(ctx context.Context) error {
	pools, err := l.c.Pool().GetAll(ctx)
	if err != nil {
		return err
	}
	vdi := xenapi.NewVDI()
	vdi.NameLabel, vdi.VirtualSize, vdi.Type = "bench disk", 64*mib, xenapi.VDITypeUser
	vdi.SMConfig = map[string]string{"type": "raw"}
	if vdi.SR, err = l.c.Pool().GetDefaultSR(ctx, pools[0]); err != nil {
		return err
	}
	vbd := xenapi.NewVBD()
	vbd.VM, vbd.Userdevice, vbd.Mode, vbd.Type = l.vm, "0", xenapi.VBDModeRW, xenapi.VBDTypeDisk
	if vbd.VDI, err = l.c.VDI().Create(ctx, vdi); err != nil {
		return err
	}
	_, err = l.c.VBD().Create(ctx, vbd)
	return err
}

// gone waits until neither Xen nor libvirt has the domain.
func (l *lab) gone(ctx context.Context) error {
	_, err := l.dom0.Run(ctx, "for i in $(seq 100); do { xl list -v; virsh -q list --uuid; } | grep -qF %s || exit 0; sleep 0.1; done; exit 1", l.uuid)
	return err
}

var logLine = regexp.MustCompile(`total=(\S+) hypervisor=(\S+) disks=(\S+) networks=(\S+) guest=\S+ own=(\S+)`)

// start is one VM.start, and reads from the log where its time went.
func (l *lab) start(ctx context.Context) (s split, err error) {
	if err := l.c.VM().Start(ctx, l.vm, false, false); err != nil {
		return s, err
	}
	out, err := l.dom0.Run(ctx, `journalctl --sync && journalctl -q -o cat -u xapid | grep -F 'msg="operation ended" op=start vm=%s'`, l.vm)
	if err != nil {
		return s, err
	}
	lines := strings.Split(out, "\n")
	m := logLine.FindStringSubmatch(lines[len(lines)-1])
	if l.told++; m == nil || len(lines) != l.told {
		return s, fmt.Errorf("the log has %d lines about starts, not %d: %s", len(lines), l.told, out)
	}
	for i, to := range []*time.Duration{&s.total, &s.hypervisor, &s.disks, &s.networks, &s.own} {
		if *to, err = time.ParseDuration(m[i+1]); err != nil {
			return s, err
		}
	}
	if err := l.c.VM().HardShutdown(ctx, l.vm); err != nil {
		return s, err
	}
	return s, l.gone(ctx)
}

// create is one `virsh create`, timed in the dom0.
func (l *lab) create(ctx context.Context) (time.Duration, error) {
	out, err := l.dom0.Run(ctx, "a=$(date +%%s%%N); virsh -q create /root/bench.xml >/dev/null && b=$(date +%%s%%N) && echo $((b - a))")
	if err != nil {
		return 0, err
	}
	ns, err := strconv.ParseInt(out, 10, 64)
	if err != nil {
		return 0, err
	}
	if _, err := l.dom0.Run(ctx, "virsh -q destroy %s", l.uuid); err != nil {
		return 0, err
	}
	return time.Duration(ns), l.gone(ctx)
}
