package libvirt

import (
	"context"
	"fmt"
	"strings"

	"xapid/pkg/xenctl"
)

// Bootloader takes what a guest boots with out of its disk.
type Bootloader interface {
	// Extract returns the files and the command line that a disk names, and what removes the files: they are needed
	// until the domain has been built. It fails with ErrBootloader, or ErrInvalid for args that aren't allowed.
	Extract(ctx context.Context, disk xenctl.DiskSource, args string) (boot xenctl.Boot, remove func() error, err error)
}

// bootFiles gives a config in which a PV or PVH guest has a kernel, and a function to call when the domain is there.
// libvirt's Xen driver must never see a guest without one: it would run pygrub itself, on the guest's disk, as root.
func (d *Driver) bootFiles(ctx context.Context, cfg *xenctl.DomainConfig) (*xenctl.DomainConfig, func(), error) {
	if d.kind != KindXen || cfg.Type == xenctl.TypeHVM || cfg.Boot.Kernel != "" {
		return cfg, func() {}, nil
	}
	if d.opts.Bootloader == nil {
		return cfg, nil, fmt.Errorf("%w: there is no bootloader here", xenctl.ErrNotSupported)
	}
	disk, found := bootDisk(cfg.Disks)
	if !found {
		return cfg, nil, fmt.Errorf("%w: there is no disk to boot from", xenctl.ErrBootloader)
	}
	boot, remove, err := d.opts.Bootloader.Extract(ctx, disk.Source, cfg.Boot.BootloaderArgs)
	if err != nil {
		return cfg, nil, err
	}
	done := func() {
		if err := remove(); err != nil {
			d.log.Warn("files of a bootloader are left", "domain", cfg.UUID, "error", err)
		}
	}
	own := *cfg
	own.Boot = boot
	own.Boot.Cmdline = strings.TrimSpace(boot.Cmdline + " " + cfg.Boot.Cmdline)
	if err := own.Validate(); err != nil { // it may hold anything that the guest's root wrote
		done()
		return cfg, nil, fmt.Errorf("%w: what the disk says: %w", xenctl.ErrBootloader, err)
	}
	return &own, done, nil
}

// bootDisk is the disk that the guest sees first.
func bootDisk(disks []xenctl.Disk) (xenctl.Disk, bool) {
	for _, d := range bootableFirst(disks) {
		if d.Source.Path != "" {
			return d, true
		}
	}
	return xenctl.Disk{}, false
}
