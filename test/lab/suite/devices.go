package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"xapid/pkg/xenapi"
)

// extraDisk makes a raw disk of a size and a drive for it in a guest's VM, unplugged.
func (w *world) extraDisk(ctx context.Context, g *guest, device string, bytes int64) (xenapi.VBDRef, xenapi.VDIRef, error) {
	vdi, err := w.rawDisk(ctx, g.name+" disk "+device, bytes)
	if err != nil {
		return "", "", err
	}
	vbd := xenapi.NewVBD()
	vbd.VM, vbd.VDI, vbd.Userdevice, vbd.Mode, vbd.Type = g.ref, vdi, device, xenapi.VBDModeRW, xenapi.VBDTypeDisk
	ref, err := w.VBD().Create(ctx, vbd)
	return ref, vdi, err
}

// hotDisk plugs a disk into a running guest, which reads and writes it, and unplugs it.
func hotDisk(ctx context.Context, w *world) (note string, err error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	vbd, vdi, err := w.extraDisk(ctx, g, "2", 32*mib)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.VBD().Destroy(ctx, vbd), w.VDI().Destroy(ctx, vdi)) }()
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.VBD().Plug(ctx, vbd); err != nil {
		return "", fmt.Errorf("VBD.plug: %w", err)
	}
	plugged := time.Since(began)
	if err := w.says(ctx, g, from, fmt.Sprintf("MARK disk xvdc %d", 32*mib/512)); err != nil {
		return "", err
	}
	if err := w.tell(ctx, g, "echo hot-plugged >/tmp/h; cat /tmp/h >/dev/xvdc && sync && echo 3 >/proc/sys/vm/drop_caches; head -c 11 /dev/xvdc | grep -q hot-plugged"); err != nil {
		return "", err
	}
	if err := w.refusesWhenFrozen(ctx, g, vbd); err != nil {
		return "", err
	}
	began = time.Now()
	if err := w.VBD().Unplug(ctx, vbd); err != nil {
		return "", fmt.Errorf("VBD.unplug: %w", err)
	}
	note = fmt.Sprintf("plug %.1f s, unplug %.1f s", plugged.Seconds(), time.Since(began).Seconds())
	if attached, err := w.VBD().GetCurrentlyAttached(ctx, vbd); err != nil || attached {
		return "", errors.Join(errors.New("it says that it is attached"), err)
	}
	return note, w.says(ctx, g, from, "MARK gone disk:xvdc")
}

// refusesWhenFrozen unplugs a disk from a guest that can't let go: it stays, and works afterwards.
func (w *world) refusesWhenFrozen(ctx context.Context, g *guest, vbd xenapi.VBDRef) error {
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return err
	}
	if _, err := w.dom0.Run(ctx, "xl pause %d", id); err != nil {
		return err
	}
	failure := w.VBD().Unplug(ctx, vbd)
	if _, err := w.dom0.Run(ctx, "xl unpause %d", id); err != nil {
		return err
	}
	if xenapi.Code(failure) != "DEVICE_DETACH_REJECTED" && xenapi.Code(failure) != "DEVICE_DETACH_TIMEOUT" {
		return fmt.Errorf("VBD.unplug of a frozen guest: %w", failure)
	}
	return w.tell(ctx, g, "echo 3 >/proc/sys/vm/drop_caches; head -c 11 /dev/xvdc | grep -q hot-plugged")
}

// hotNIC plugs a NIC into a running guest, which answers on it, and unplugs it.
func hotNIC(ctx context.Context, w *world) (note string, err error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	vif, network, err := w.nic(ctx, g, "1")
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, w.VIF().Destroy(ctx, vif), w.Network().Destroy(ctx, network)) }()
	mac, err := w.VIF().GetMAC(ctx, vif)
	if err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.VIF().Plug(ctx, vif); err != nil {
		return "", fmt.Errorf("VIF.plug: %w", err)
	}
	plugged := time.Since(began)
	if err := w.says(ctx, g, from, "MARK nic eth0 "+mac); err != nil {
		return "", err
	}
	if err := w.tell(ctx, g, "ip addr add 10.77.0.2/24 dev eth0 && ip link set eth0 up"); err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "ping -q -c 3 -i 0.3 -w 20 10.77.0.2"); err != nil {
		return "", err
	}
	if err := w.metricsOf(ctx, g, "attr/vif/0/ipv4/0", "10.77.0.2", func(m *xenapi.VMGuestMetrics) bool { return m.Networks["1/ip"] == "10.77.0.2" }); err != nil {
		return "", err
	}
	began = time.Now()
	if err := w.VIF().Unplug(ctx, vif); err != nil {
		return "", fmt.Errorf("VIF.unplug: %w", err)
	}
	return fmt.Sprintf("plug %.1f s, unplug %.1f s", plugged.Seconds(), time.Since(began).Seconds()), w.says(ctx, g, from, "MARK gone nic:eth0")
}

// nic makes a network, with its bridge in dom0, and a NIC on it that is unplugged.
func (w *world) nic(ctx context.Context, g *guest, device string) (xenapi.VIFRef, xenapi.NetworkRef, error) {
	n := xenapi.NewNetwork()
	n.NameLabel, n.MTU = "lab", 1500
	network, err := w.Network().Create(ctx, n)
	if err != nil {
		return "", "", err
	}
	bridge, err := w.Network().GetBridge(ctx, network)
	if err != nil {
		return "", "", err
	}
	_, err = w.dom0.Run(ctx, "ip link show %[1]s >/dev/null 2>&1 || { ip link add %[1]s type bridge && ip addr add 10.77.0.1/24 dev %[1]s && ip link set %[1]s up; }", bridge)
	if err != nil {
		return "", "", err
	}
	vif := xenapi.NewVIF()
	vif.VM, vif.Network, vif.Device, vif.MTU = g.ref, network, device, 1500
	ref, err := w.VIF().Create(ctx, vif)
	return ref, network, err
}

// media puts a CD into a running guest's drive and takes it out.
func media(ctx context.Context, w *world) (note string, err error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	iso, err := w.library(ctx)
	if err != nil {
		return "", err
	}
	drive := xenapi.NewVBD()
	drive.VM, drive.Userdevice, drive.Mode, drive.Type, drive.Empty = g.ref, "3", xenapi.VBDModeRO, xenapi.VBDTypeCD, true
	vbd, err := w.VBD().Create(ctx, drive)
	if err != nil {
		return "", err
	}
	defer func() {
		if e := w.VM().HardShutdown(ctx, g.ref); e != nil {
			err = errors.Join(err, e)
		}
		err = errors.Join(err, w.VBD().Destroy(ctx, vbd))
	}()
	if _, err := w.running(ctx, xenapi.DomainTypePV); err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	if err := w.VBD().Insert(ctx, vbd, iso); err != nil {
		return "", fmt.Errorf("VBD.insert: %w", err)
	}
	if err := w.says(ctx, g, from, "MARK disk xvdd"); err != nil {
		return "", err
	}
	if err := w.tell(ctx, g, "dd if=/dev/xvdd bs=1 skip=32769 count=5 2>/dev/null | grep -q CD001"); err != nil {
		return "", err
	}
	if err := w.VBD().Eject(ctx, vbd); err != nil {
		return "", fmt.Errorf("VBD.eject: %w", err)
	}
	return "", w.says(ctx, g, from, "MARK gone disk:xvdd")
}

// library makes an ISO library of the lab's boot medium, once, and gives that.
func (w *world) library(ctx context.Context) (xenapi.VDIRef, error) {
	if known, err := w.VDI().GetByNameLabel(ctx, "boot.iso"); err != nil || len(known) > 0 {
		return first(known), err
	}
	if _, err := w.dom0.Run(ctx, "mkdir -p /srv/iso && cp /lab/guest/*.iso /srv/iso"); err != nil {
		return "", err
	}
	hosts, err := w.Host().GetAll(ctx)
	if err != nil {
		return "", err
	}
	config := map[string]string{"location": "/srv/iso", "legacy_mode": "true"}
	if _, err := w.SR().Create(ctx, hosts[0], config, 0, "lab library", "", "iso", "iso", false, nil); err != nil {
		return "", fmt.Errorf("SR.create: %w", err)
	}
	known, err := w.VDI().GetByNameLabel(ctx, "boot.iso")
	if err == nil && len(known) == 0 {
		err = errors.New("the library has no boot.iso")
	}
	return first(known), err
}

func first[T any](all []T) (one T) {
	if len(all) > 0 {
		one = all[0]
	}
	return one
}
