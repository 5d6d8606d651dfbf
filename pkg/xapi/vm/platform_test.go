package vm_test

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/libvirt"
	"xapid/pkg/xenctl/sim"
	"xapid/pkg/xenctl/xenstore"
)

// platform is what a world has its guests on.
type platform interface {
	// connect opens the hypervisor, once more after a crash; its guests lived on.
	connect(ctx context.Context, dir string, log *slog.Logger) (xenctl.Hypervisor, error)
	// guest and volume shape a VM and its disks to what runs there.
	guest(rec *xenapi.VM)
	volume(rec *xenapi.VDI)
	// domains tells by uuid which guests there are in truth.
	domains(ctx context.Context, h xenctl.Hypervisor) (map[string]bool, error)
}

// simulated is the hypervisor in this process, which keeps its guests in a
// file.
type simulated struct{}

func (simulated) connect(_ context.Context, dir string, log *slog.Logger) (xenctl.Hypervisor, error) {
	return sim.New(sim.Options{Log: log, StateDir: filepath.Join(dir, "sim")})
}

func (simulated) guest(rec *xenapi.VM) {
	rec.MemoryStaticMax, rec.MemoryDynamicMax, rec.MemoryDynamicMin = 16*mib, 16*mib, 16*mib
	rec.HVMBootPolicy = "BIOS order"
}

func (simulated) volume(*xenapi.VDI) {}

func (simulated) domains(ctx context.Context, h xenctl.Hypervisor) (map[string]bool, error) {
	list, err := h.List(ctx)
	uuids := map[string]bool{}
	for _, d := range list {
		uuids[d.UUID] = true
	}
	return uuids, err
}

// realXen is the Xen below this machine, by libvirt; nobody else may use it
// meanwhile.
type realXen struct{}

func (realXen) connect(ctx context.Context, _ string, log *slog.Logger) (xenctl.Hypervisor, error) {
	store := xenstore.New("")
	h, err := libvirt.NewXen(libvirt.XenOptions{Options: libvirt.Options{Log: log}, Store: store})
	if err != nil {
		return nil, err
	}
	return xenHost{h, store}, h.Ready(ctx)
}

// xenHost closes its client of xenstore, too.
type xenHost struct {
	*libvirt.Xen
	store *xenstore.Client
}

func (h xenHost) Close(ctx context.Context) error {
	err := h.Xen.Close(ctx)
	h.store.Close()
	return err
}

func (realXen) guest(rec *xenapi.VM) {
	rec.MemoryStaticMax, rec.MemoryDynamicMax, rec.MemoryDynamicMin = 128*mib, 128*mib, 128*mib
	rec.DomainType = xenapi.DomainTypePV
	rec.PVKernel, rec.PVRamdisk, rec.PVArgs = "/lab/guest/vmlinux", "/lab/guest/initrd", "console=hvc0 quiet mitigations=off pci=noearly"
}

func (realXen) volume(rec *xenapi.VDI) { rec.SMConfig = map[string]string{"type": "raw"} }

var (
	uuidPattern = regexp.MustCompile(`[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}`)
	domainZero  = "00000000-0000-0000-0000-000000000000"
)

// domains asks xl too, which sees domains that libvirt doesn't; those that are
// dying have a moment to go.
func (realXen) domains(ctx context.Context, h xenctl.Hypervisor) (map[string]bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		byLibvirt, err := simulated{}.domains(ctx, h)
		if err != nil {
			return nil, err
		}
		out, err := exec.CommandContext(ctx, "xl", "list", "-v").Output()
		if err != nil {
			return nil, fmt.Errorf("xl list: %w", err)
		}
		byXen := map[string]bool{}
		for _, uuid := range uuidPattern.FindAllString(strings.ToLower(string(out)), -1) {
			byXen[uuid] = true
		}
		delete(byXen, domainZero)
		if maps.Equal(byLibvirt, byXen) {
			return byXen, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("libvirt has the domains %v, xl %v", byLibvirt, byXen)
		}
	}
}
