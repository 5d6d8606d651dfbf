package libvirt

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

// sectorBytes is what the kernel's counters of back ends count in.
const sectorBytes = 512

// Stats implements xenctl.Statser. The driver has no call for all domains at once, so this is two a domain.
func (d *Driver) Stats(ctx context.Context) (all []xenctl.DomainStats, err error) {
	err = d.reading(ctx, "stats", "", func(l *libvirt.Libvirt) (err error) {
		all, err = each(ctx, l, measure)
		return err
	})
	return all, err
}

// measure asks for one domain's processors and memory.
func measure(l *libvirt.Libvirt, dom libvirt.Domain) (xenctl.DomainStats, error) {
	s := xenctl.DomainStats{UUID: formatUUID(dom.UUID), ID: int(dom.ID), At: time.Now(), GuestFreeBytes: -1}
	_, _, nowKiB, online, _, err := l.DomainGetInfo(dom)
	if err != nil {
		return s, err
	}
	s.MemoryBytes = int64(nowKiB) << 10
	vcpus, _, err := l.DomainGetVcpus(dom, int32(online), 0)
	if err != nil {
		return s, err
	}
	for _, v := range vcpus {
		s.VCPUTime = append(s.VCPUTime, time.Duration(v.CPUTime))
	}
	return s, nil
}

// Stats implements xenctl.Statser, with what back ends and guests count.
func (x *Xen) Stats(ctx context.Context) ([]xenctl.DomainStats, error) {
	all, err := x.Driver.Stats(ctx)
	if err != nil {
		return nil, err
	}
	for i := range all {
		s := &all[i]
		if kib, err := strconv.ParseInt(x.guests.Value(s.UUID, "data/meminfo_free"), 10, 64); err == nil && kib >= 0 {
			s.GuestFreeBytes = kib << 10
		}
		if err := x.traffic(ctx, s); err != nil {
			return nil, opError("stats", s.UUID, err)
		}
	}
	return all, nil
}

// traffic reads the counters of a domain's back ends. One that the kernel doesn't serve has none.
func (x *Xen) traffic(ctx context.Context, s *xenctl.DomainStats) error {
	disks, err := x.store.Devices(ctx, s.ID, "vbd")
	if err != nil {
		return err
	}
	for _, d := range disks {
		name, err := x.store.Read(ctx, d.Backend+"/dev")
		if errors.Is(err, xenstore.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		dir := filepath.Join(x.sys, "bus/xen-backend/devices", fmt.Sprintf("vbd-%d-%d", s.ID, d.ID), "statistics")
		s.Disks = append(s.Disks, xenctl.DiskStats{Device: name,
			ReadBytes: readCounter(dir+"/rd_sect") * sectorBytes, WriteBytes: readCounter(dir+"/wr_sect") * sectorBytes,
			Reads: readCounter(dir + "/rd_req"), Writes: readCounter(dir + "/wr_req")})
	}
	nics, err := x.nicStats(ctx, s)
	s.NICs = nics
	return err
}

// nicStats counts the NICs' traffic. What the host receives on its end, the guest has sent.
func (x *Xen) nicStats(ctx context.Context, s *xenctl.DomainStats) (all []xenctl.NICStats, err error) {
	cards, err := x.store.Devices(ctx, s.ID, "vif")
	if err != nil || len(cards) == 0 {
		return nil, err
	}
	nics, err := x.nics(ctx, s.UUID)
	if err != nil {
		return nil, err
	}
	for _, d := range cards {
		index := d.ID
		mac, err := x.store.Read(ctx, d.Backend+"/mac")
		if err != nil && !errors.Is(err, xenstore.ErrNotFound) {
			return nil, err
		}
		for i, m := range nics {
			if m == mac {
				index = i
			}
		}
		dir := filepath.Join(x.sys, "class/net", fmt.Sprintf("vif%d.%d", s.ID, d.ID), "statistics")
		all = append(all, xenctl.NICStats{Index: index, RxBytes: readCounter(dir + "/tx_bytes"), TxBytes: readCounter(dir + "/rx_bytes")})
	}
	return all, nil
}
