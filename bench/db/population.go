package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/pool"
	"xapid/pkg/xenapi"
)

// graph is a DB with its log, as the daemon runs them.
type graph struct {
	*db.DB
	replica *pool.Replica
	close   func() error
}

func open(ctx context.Context, dir string) (*graph, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError}))
	d, err := db.Open(ctx, db.Options{Path: filepath.Join(dir, "state.db"), Log: log, Room: pool.Room(dir, pool.DefaultReserve)})
	if err != nil {
		return nil, err
	}
	r, err := pool.Open(pool.Options{Dir: dir, ServerID: "host", Log: log}, d)
	if err != nil {
		return nil, errors.Join(err, d.Close())
	}
	running, cancel := context.WithCancel(ctx)
	done := make(chan error)
	go func() { done <- d.Run(running, r) }()
	g := &graph{DB: d, replica: r}
	g.close = sync.OnceValue(func() error {
		cancel()
		return errors.Join(<-done, r.Close(), d.Close())
	})
	return g, r.Settle(ctx)
}

// populate makes n VMs, as clones of the default templates look once they have
// run, with what belongs to them, and leaves the log cut as a snapshot does.
func populate(ctx context.Context, dir string, n int) error {
	g, err := open(ctx, dir)
	if err != nil {
		return err
	}
	p := population{}
	if err = g.Update(ctx, p.surroundings); err != nil {
		return errors.Join(err, g.close())
	}
	for at := 0; at < n && err == nil; at += 100 {
		err = g.Update(ctx, func(tx *db.Tx) error {
			for i := at; i < min(at+100, n); i++ {
				p.vm(tx, i)
			}
			return nil
		})
	}
	if err == nil {
		err = g.replica.Snapshot()
	}
	return errors.Join(err, g.close())
}

type population struct {
	host    xenapi.HostRef
	sr      xenapi.SRRef
	network xenapi.NetworkRef
}

func (p *population) surroundings(tx *db.Tx) error {
	h := xenapi.NewHost()
	h.UUID, h.NameLabel = xenapi.NewUUID(), "host"
	p.host = db.Insert[xenapi.HostRef](tx, h)
	sr := xenapi.NewSR()
	sr.UUID, sr.NameLabel, sr.Type = xenapi.NewUUID(), "Local storage", "file"
	p.sr = db.Insert[xenapi.SRRef](tx, sr)
	n := xenapi.NewNetwork()
	n.UUID, n.NameLabel, n.Bridge = xenapi.NewUUID(), "Pool-wide network associated with eth0", "xenbr0"
	p.network = db.Insert[xenapi.NetworkRef](tx, n)
	return nil
}

var lately = time.Date(2026, 11, 1, 12, 0, 0, 0, time.UTC)

func (p *population) vm(tx *db.Tx, i int) {
	templates := datamodel.Get().Templates
	t := templates[i%len(templates)]
	vm := xenapi.NewVM()
	vm.UUID, vm.NameLabel = xenapi.NewUUID(), fmt.Sprintf("vm-%05d", i)
	vm.NameDescription, vm.ReferenceLabel = "Created by XO", t.ReferenceLabel
	vm.MemoryStaticMin, vm.MemoryStaticMax = t.MemoryStaticMin, t.MemoryStaticMax
	vm.MemoryDynamicMin, vm.MemoryDynamicMax, vm.MemoryTarget = t.MemoryDynamicMin, t.MemoryDynamicMax, t.MemoryDynamicMax
	vm.VCPUsMax, vm.VCPUsAtStartup = t.VCPUsMax, t.VCPUsAtStartup
	vm.DomainType, vm.HVMBootPolicy, vm.HVMBootParams = xenapi.DomainType(t.DomainType), t.HVMBootPolicy, t.HVMBootParams
	vm.PVBootloader, vm.PVArgs = t.PVBootloader, t.PVArgs
	vm.Platform = maps.Clone(t.Platform)
	vm.Platform["timeoffset"] = "0"
	vm.OtherConfig = maps.Clone(t.OtherConfig)
	vm.OtherConfig["base_template_name"] = t.NameLabel
	vm.OtherConfig["mac_seed"] = xenapi.NewUUID()
	vm.OtherConfig["import_task"] = xenapi.RefPrefix + xenapi.NewUUID()
	vm.Recommendations = recommendations
	vm.Tags = []string{"production", fmt.Sprintf("team-%d", i%20)}
	vm.PowerState, vm.ResidentOn, vm.Affinity = xenapi.VMPowerStateRunning, p.host, p.host
	vm.GenerationID = "3951174632716894209:-1294823413598457213"
	vm.BIOSStrings = biosStrings
	vm.LastBootCPUFlags = map[string]string{"vendor": "GenuineIntel", "features": "1fcbfbff-f7fa3223-2d93fbff-00000523-00000001-001c0fbb-00000000-00000000-00001000-9c000400"}
	vm.Metrics = db.Insert[xenapi.VMMetricsRef](tx, vmMetrics(t))
	vm.GuestMetrics = db.Insert[xenapi.VMGuestMetricsRef](tx, guestMetrics(i))
	ref := db.Insert[xenapi.VMRef](tx, vm)
	for d := range 2 {
		p.disk(tx, ref, vm, d)
	}
	p.vif(tx, ref, i)
}

const recommendations = `<restrictions><restriction field="allow-gpu-passthrough" value="1"/><restriction field="allow-network-sriov" value="1"/>` +
	`<restriction field="allow-vgpu" value="1"/><restriction field="memory-static-max" max="1649267441664"/>` +
	`<restriction property="number-of-vbds" min="0" max="255"/><restriction property="number-of-vifs" min="0" max="7"/>` +
	`<restriction field="supports-bios" value="yes"/><restriction field="supports-secure-boot" value="yes"/>` +
	`<restriction field="supports-uefi" value="yes"/><restriction field="vcpus-max" max="64"/></restrictions>`

var biosStrings = map[string]string{"bios-vendor": "Xen", "bios-version": "", "system-manufacturer": "Xen", "system-product-name": "HVM domU",
	"system-version": "", "system-serial-number": "", "baseboard-manufacturer": "", "baseboard-product-name": "", "baseboard-version": "",
	"hp-rombios": ""}

func vmMetrics(t datamodel.Template) *xenapi.VMMetrics {
	m := xenapi.NewVMMetrics()
	m.UUID, m.MemoryActual, m.VCPUsNumber = xenapi.NewUUID(), t.MemoryStaticMax, t.VCPUsMax
	m.StartTime, m.InstallTime, m.LastUpdated, m.HVM = lately, lately, lately, true
	m.CurrentDomainType = xenapi.DomainTypeHVM
	return m
}

func guestMetrics(i int) *xenapi.VMGuestMetrics {
	m := xenapi.NewVMGuestMetrics()
	m.UUID, m.LastUpdated, m.Live, m.PVDriversDetected = xenapi.NewUUID(), lately, true, true
	m.OSVersion = map[string]string{"name": "Debian GNU/Linux 12 (bookworm)", "uname": "6.1.0-18-amd64", "distro": "debian", "major": "12", "minor": "5"}
	m.PVDriversVersion = map[string]string{"major": "7", "minor": "30", "micro": "0", "build": "12"}
	m.Networks = map[string]string{"0/ip": fmt.Sprintf("10.0.%d.%d", i/250, i%250+1), "0/ipv4/0": fmt.Sprintf("10.0.%d.%d", i/250, i%250+1),
		"0/ipv6/0": fmt.Sprintf("fe80::216:3eff:fe%02x:%04x", i>>16, i&0xffff)}
	m.Other = map[string]string{"platform-feature-multiprocessor-suspend": "1", "has-vendor-device": "0", "feature-suspend": "1",
		"feature-shutdown": "1", "feature-reboot": "1", "feature-vcpu-hotplug": "1", "feature-balloon": "1"}
	return m
}

func (p *population) disk(tx *db.Tx, ref xenapi.VMRef, vm *xenapi.VM, n int) {
	d := xenapi.NewVDI()
	d.UUID, d.NameLabel, d.NameDescription = xenapi.NewUUID(), fmt.Sprintf("%s disk %d", vm.NameLabel, n), "Created by template provisioner"
	d.Location, d.SR, d.Managed, d.Type = d.UUID, p.sr, true, xenapi.VDITypeUser
	d.VirtualSize, d.PhysicalUtilisation = 10<<30, 3<<30+int64(n)<<20
	d.SMConfig = map[string]string{"vdi_type": "vhd", "vhd-parent": xenapi.NewUUID(), "host_" + string(p.host): "RW"}
	d.XenstoreData = map[string]string{"scsi/0x12/0x80": "AIAAEjA1MTNlZDRlLWM4YTctNDEgIA==", "storage-type": "file", "vdi-uuid": d.UUID}
	b := xenapi.NewVBD()
	b.UUID, b.VM, b.VDI = xenapi.NewUUID(), ref, db.Insert[xenapi.VDIRef](tx, d)
	b.Userdevice, b.Device, b.Bootable = fmt.Sprint(n), fmt.Sprintf("xvd%c", 'a'+n), n == 0
	b.Mode, b.Type, b.CurrentlyAttached = xenapi.VBDModeRW, xenapi.VBDTypeDisk, true
	b.OtherConfig = map[string]string{"owner": "true"}
	db.Insert[xenapi.VBDRef](tx, b)
}

func (p *population) vif(tx *db.Tx, ref xenapi.VMRef, i int) {
	v := xenapi.NewVIF()
	v.UUID, v.VM, v.Network, v.Device, v.MTU = xenapi.NewUUID(), ref, p.network, "0", 1500
	v.MAC, v.MACAutogenerated, v.CurrentlyAttached = fmt.Sprintf("0a:16:3e:%02x:%02x:%02x", i>>16, i>>8&0xff, i&0xff), true, true
	db.Insert[xenapi.VIFRef](tx, v)
}
