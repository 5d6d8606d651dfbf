package vm

import (
	"strconv"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// overhead is the memory that a domain costs the host beyond the guest's own:
// page tables and, for HVM, shadow memory and the device model's pages.
func overhead(vm *xenapi.VM) int64 {
	const mib = 1 << 20
	perMiB := vm.MemoryStaticMax / 128 // 8 bytes of tables for each KiB
	switch domainType(vm) {
	case xenapi.DomainTypeHVM, xenapi.DomainTypePVH, xenapi.DomainTypePVInPVH:
		shadow := float64(vm.VCPUsMax*mib+perMiB) * max(vm.HVMShadowMultiplier, 1)
		return 10*mib + int64(shadow)
	}
	return 2*mib + perMiB/4
}

// needed is the host memory that a start of the VM takes, in bytes.
func needed(vm *xenapi.VM) int64 { return vm.MemoryDynamicMax + overhead(vm) }

// free is what a host has left for more domains: its memory, less what its
// residents and those that are on their way to it take. Both kinds are found
// by reference, so the cost grows with this host's guests alone.
func free(rd db.Reader, ref xenapi.HostRef, except xenapi.VMRef) int64 {
	host := db.Find(rd, ref)
	if host == nil {
		return 0
	}
	metrics := db.Find(rd, host.Metrics)
	if metrics == nil {
		return 0
	}
	left := metrics.MemoryTotal - host.MemoryOverhead
	counted := map[xenapi.VMRef]bool{except: true}
	take := func(vmRef xenapi.VMRef) {
		vm := db.Find(rd, vmRef)
		if vm == nil || counted[vmRef] || vm.IsControlDomain {
			return
		}
		if vm.ResidentOn == ref || vm.ScheduledToBeResidentOn == ref {
			counted[vmRef] = true
			left -= needed(vm)
		}
	}
	for _, r := range host.ResidentVMs {
		take(r)
	}
	for _, r := range rd.Snapshot().Referrers(string(ref)) {
		take(xenapi.VMRef(r))
	}
	return max(left, 0)
}

// canBoot checks that a VM could start on a host now, apart from its own
// state. Memory is last: its figures are the most useful answer.
func canBoot(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, host xenapi.HostRef) error {
	h, err := db.Get(rd, host)
	if err != nil {
		return err
	}
	if m := db.Find(rd, h.Metrics); m == nil || !m.Live {
		return xenapi.ErrHostNotLive()
	}
	if !h.Enabled {
		return xenapi.ErrHostDisabled(string(host))
	}
	if err := storageOn(rd, ref, vm, host); err != nil {
		return err
	}
	if err := networksOn(rd, ref, vm, host); err != nil {
		return err
	}
	need, left := needed(vm), free(rd, host, ref)
	if need > left {
		return xenapi.ErrHostNotEnoughFreeMemory(strconv.FormatInt(need, 10), strconv.FormatInt(left, 10))
	}
	return nil
}

// storageOn checks that a host sees the SR of every disk.
func storageOn(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, host xenapi.HostRef) error {
	for _, v := range vm.VBDs {
		vbd := db.Find(rd, v)
		if vbd == nil || vbd.Empty {
			continue
		}
		vdi := db.Find(rd, vbd.VDI)
		if vdi == nil {
			continue
		}
		if !plugged(rd, vdi.SR, host) {
			return xenapi.ErrVMRequiresSR(string(ref), string(vdi.SR))
		}
	}
	return nil
}

func plugged(rd db.Reader, sr xenapi.SRRef, host xenapi.HostRef) bool {
	rec := db.Find(rd, sr)
	if rec == nil {
		return false
	}
	for _, p := range rec.PBDs {
		if pbd := db.Find(rd, p); pbd != nil && pbd.Host == host && pbd.CurrentlyAttached {
			return true
		}
	}
	return false
}

// networksOn checks that a host is on every VIF's network; networks without
// any PIF are internal to each host.
func networksOn(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, host xenapi.HostRef) error {
	for _, v := range vm.VIFs {
		vif := db.Find(rd, v)
		if vif == nil {
			continue
		}
		network := db.Find(rd, vif.Network)
		if network == nil || len(network.PIFs) == 0 {
			continue
		}
		here := false
		for _, p := range network.PIFs {
			if pif := db.Find(rd, p); pif != nil && pif.Host == host {
				here = true
			}
		}
		if !here {
			return xenapi.ErrVMRequiresNetwork(string(ref), string(vif.Network))
		}
	}
	return nil
}

// choose picks the host for a start: the one asked for, the VM's favourite,
// or the one with the most memory left. With one candidate its reason is the
// answer, with several NO_HOSTS_AVAILABLE.
func choose(rd db.Reader, ref xenapi.VMRef, vm *xenapi.VM, asked xenapi.HostRef) (xenapi.HostRef, error) {
	if asked != xenapi.Null && asked != "" {
		return asked, canBoot(rd, ref, vm, asked)
	}
	var best xenapi.HostRef
	var most int64 = -1
	var reason error
	hosts := 0
	for host := range db.All[xenapi.HostRef](rd) {
		hosts++
		if err := canBoot(rd, ref, vm, host); err != nil {
			reason = err
			continue
		}
		left := free(rd, host, ref)
		if host == vm.Affinity {
			return host, nil
		}
		if left > most {
			best, most = host, left
		}
	}
	switch {
	case most >= 0:
		return best, nil
	case hosts == 1:
		return "", reason
	}
	return "", xenapi.ErrNoHostsAvailable()
}
