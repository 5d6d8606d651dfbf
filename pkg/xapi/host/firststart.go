// Package host is the behaviour of the host's own objects: the host, its
// metrics and processors, the control domain, the pool of one, templates and
// roles.
//
// Its one invariant: Ensure may run at every start; what is there keeps its
// references and what people set, and only facts are brought up to date.
// Start reading at Ensure.
package host

import (
	"context"
	"fmt"
	"maps"
	"strings"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl"
)

// Machine is what is known of the machine at the start.
type Machine struct {
	Facts      facts.Facts
	Hypervisor xenctl.HostInfo
	// Address is where clients reach the API.
	Address string
}

// ControlDomainUUID is the control domain's uuid for a host: fixed, so that it
// is found again.
func ControlDomainUUID(hostUUID string) string {
	return derivedUUID("control domain of " + hostUUID)
}

// Ensure makes the objects of the pool and the host at the first start, and
// brings their facts up to date at every start.
func Ensure(ctx context.Context, env *xapi.Env, m Machine) error {
	return env.Update(ctx, func(tx *db.Tx) error {
		host, err := ensureHost(tx, env, m)
		if err != nil {
			return err
		}
		for _, step := range []func() error{
			func() error { return ensureMetrics(tx, env, host, m) },
			func() error { return ensureCPUs(tx, host, m) },
			func() error { return ensureControlDomain(tx, env, host, m) },
			func() error { return ensurePool(tx, host, m) },
			func() error { ensureRoles(tx); return nil },
			func() error { return ensureTemplates(tx) },
		} {
			if err := step(); err != nil {
				return err
			}
		}
		return nil
	})
}

// editOrInsert gives the object with a uuid to change, made by fresh if there
// is none.
func editOrInsert[R interface {
	~string
	Of() *T
}, T any, P interface {
	*T
	xenapi.Record
}](tx *db.Tx, uuid string, fresh func() P) (R, P, error) {
	class := datamodel.Get().Classes[P(nil).XenClass()]
	if ref := tx.Snapshot().ByUUID(class, uuid); ref != "" {
		rec, err := tx.Edit(class, ref)
		if err != nil {
			return "", nil, err
		}
		return R(ref), rec.(P), nil
	}
	rec := fresh()
	return db.Insert[R](tx, rec), rec, nil
}

func ensureHost(tx *db.Tx, env *xapi.Env, m Machine) (xenapi.HostRef, error) {
	ref, h, err := editOrInsert[xenapi.HostRef](tx, env.HostUUID, func() *xenapi.Host {
		h := xenapi.NewHost()
		h.UUID, h.NameLabel = env.HostUUID, m.Facts.Hostname
		h.NameDescription = "Default install"
		h.Enabled = true
		h.Logging = map[string]string{}
		h.SuspendImageSR = xenapi.Null
		h.OtherConfig = map[string]string{"iscsi_iqn": "iqn.2026-01.com.xapid:" + env.HostUUID[:8]}
		return h
	})
	if err != nil {
		return "", err
	}
	h.APIVersionMajor, h.APIVersionMinor, h.APIVersionVendor = apiMajor, apiMinor, apiVendor
	h.SoftwareVersion = softwareVersion(m.Hypervisor.Hypervisor.Version, m.Facts.KernelRelease, m.Facts.Hostname)
	h.LicenseParams, h.Edition, h.Editions = licenseParams(env.HostUUID), edition, []string{edition}
	h.Hostname, h.Address = m.Facts.Hostname, m.Address
	h.CPUInfo = cpuInfo(m)
	h.CPUConfiguration = map[string]string{}
	h.BIOSStrings = m.Facts.DMI.BIOSStrings()
	h.ChipsetInfo = map[string]string{"iommu": fmt.Sprint(m.Facts.IOMMU)}
	h.Capabilities = m.Hypervisor.Hypervisor.Capabilities
	h.SchedPolicy = "credit"
	h.SupportedBootloaders = []string{"pygrub", "eliloader"}
	h.MemoryOverhead = m.Hypervisor.ControlDomainBytes
	h.BootFreeMem = m.Hypervisor.MemoryFreeBytes
	h.VirtualHardwarePlatformVersions = []int64{0, 1, 2}
	h.TLSVerificationEnabled = true
	h.Timezone = m.Facts.Timezone
	config := maps.Clone(h.OtherConfig)
	if config == nil {
		config = map[string]string{}
	}
	if rebooted(config, m.Facts) && config[stayDisabled] == "" {
		h.Enabled = true
	}
	config["agent_start_time"] = fmt.Sprintf("%d.", env.Now().Unix())
	config[bootTimeKey], config[bootIDKey] = fmt.Sprintf("%d.", m.Facts.BootTime.Unix()), m.Facts.BootID
	h.OtherConfig = config
	return ref, nil
}

func cpuInfo(m Machine) map[string]string {
	cpu := m.Hypervisor.CPU
	return map[string]string{
		"cpu_count":        fmt.Sprint(cpu.Count),
		"socket_count":     fmt.Sprint(max(cpu.Sockets, 1)),
		"threads_per_core": fmt.Sprint(max(m.Facts.CPU.ThreadsPerCore, 1)),
		"vendor":           cpu.Vendor,
		"speed":            fmt.Sprintf("%d.000", cpu.SpeedMHz),
		"modelname":        cpu.Model,
		"family":           fmt.Sprint(m.Facts.CPU.Family),
		"model":            fmt.Sprint(m.Facts.CPU.Model),
		"stepping":         fmt.Sprint(m.Facts.CPU.Stepping),
		"flags":            strings.Join(cpu.Flags, " "),
		"features":         "",
		"features_pv":      "",
		"features_hvm":     "",
	}
}

func ensureMetrics(tx *db.Tx, env *xapi.Env, ref xenapi.HostRef, m Machine) error {
	h, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	if db.Find(tx, h.Metrics) == nil {
		hm := xenapi.NewHostMetrics()
		hm.UUID = xenapi.NewUUID()
		h.Metrics = db.Insert[xenapi.HostMetricsRef](tx, hm)
	}
	hm, err := db.Edit(tx, h.Metrics)
	if err != nil {
		return err
	}
	hm.Live, hm.LastUpdated = true, env.Time()
	hm.MemoryTotal, hm.MemoryFree = m.Hypervisor.MemoryTotalBytes, m.Hypervisor.MemoryFreeBytes
	return nil
}

func ensureCPUs(tx *db.Tx, host xenapi.HostRef, m Machine) error {
	known := map[int64]xenapi.HostCPURef{}
	if h := db.Find(tx.Snapshot(), host); h != nil {
		for _, ref := range h.HostCPUs {
			if cpu := db.Find(tx, ref); cpu != nil {
				known[cpu.Number] = ref
			}
		}
	}
	for n := range int64(m.Hypervisor.CPU.Count) {
		ref, ok := known[n]
		if !ok {
			cpu := xenapi.NewHostCPU()
			cpu.UUID, cpu.Host, cpu.Number = xenapi.NewUUID(), host, n
			ref = db.Insert[xenapi.HostCPURef](tx, cpu)
		}
		delete(known, n)
		cpu, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		info := m.Hypervisor.CPU
		cpu.Vendor, cpu.Modelname, cpu.Speed = info.Vendor, info.Model, int64(info.SpeedMHz)
		cpu.Family, cpu.Model = int64(m.Facts.CPU.Family), int64(m.Facts.CPU.Model)
		cpu.Stepping, cpu.Flags = fmt.Sprint(m.Facts.CPU.Stepping), strings.Join(info.Flags, " ")
	}
	for _, ref := range known {
		db.Delete(tx, ref)
	}
	return nil
}

// ensureControlDomain keeps the record of dom0: always running, never stopped
// by anybody.
func ensureControlDomain(tx *db.Tx, env *xapi.Env, host xenapi.HostRef, m Machine) error {
	ref, vm, err := editOrInsert[xenapi.VMRef](tx, ControlDomainUUID(env.HostUUID), func() *xenapi.VM {
		vm := xenapi.NewVM()
		vm.UUID = ControlDomainUUID(env.HostUUID)
		vm.IsControlDomain = true
		vm.NameDescription = "The domain which manages physical devices and manages other domains"
		vm.ActionsAfterCrash, vm.ActionsAfterReboot = xenapi.OnCrashBehaviourDestroy, xenapi.OnNormalExitDestroy
		vm.OtherConfig = map[string]string{"is_system_domain": "true", "perfmon": ""}
		vm.HVMShadowMultiplier = 1
		vm.DomainType = xenapi.DomainTypePV
		return vm
	})
	if err != nil {
		return err
	}
	h, err := db.Edit(tx, host)
	if err != nil {
		return err
	}
	h.ControlDomain = ref
	vm.NameLabel = "Control domain on host: " + m.Facts.Hostname
	vm.PowerState, vm.ResidentOn, vm.Domid = xenapi.VMPowerStateRunning, host, 0
	cpus := max(int64(m.Hypervisor.CPU.Count), 1)
	vm.VCPUsMax, vm.VCPUsAtStartup = cpus, cpus
	mem := m.Hypervisor.ControlDomainBytes
	vm.MemoryStaticMin, vm.MemoryDynamicMin, vm.MemoryTarget = mem, mem, mem
	vm.MemoryDynamicMax, vm.MemoryStaticMax = mem, mem
	if db.Find(tx, vm.Metrics) == nil {
		metrics := xenapi.NewVMMetrics()
		metrics.UUID = xenapi.NewUUID()
		vm.Metrics = db.Insert[xenapi.VMMetricsRef](tx, metrics)
	}
	metrics, err := db.Edit(tx, vm.Metrics)
	if err != nil {
		return err
	}
	metrics.MemoryActual, metrics.VCPUsNumber = mem, cpus
	metrics.StartTime, metrics.LastUpdated = m.Facts.BootTime, env.Time()
	metrics.State = []string{"running"}
	metrics.CurrentDomainType = xenapi.DomainTypePV
	return nil
}

func ensurePool(tx *db.Tx, host xenapi.HostRef, m Machine) error {
	ref, pool := xapi.Pool(tx)
	if pool == nil {
		p := xenapi.NewPool()
		p.UUID, p.Master = xenapi.NewUUID(), host
		p.OtherConfig = map[string]string{}
		ref = db.Insert[xenapi.PoolRef](tx, p)
	}
	pool, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	pool.Master, pool.Restrictions = host, restrictions()
	pool.TLSVerificationEnabled = true
	pool.CPUInfo = map[string]string{"cpu_count": fmt.Sprint(m.Hypervisor.CPU.Count),
		"socket_count": fmt.Sprint(max(m.Hypervisor.CPU.Sockets, 1)), "vendor": m.Hypervisor.CPU.Vendor}
	return nil
}

// ensureRoles keeps the seven roles under their fixed references.
func ensureRoles(tx *db.Tx) {
	class := datamodel.Get().Class("role")
	for _, r := range datamodel.Get().Roles {
		ref := xenapi.RefPrefix + r.UUID
		if _, there := tx.Row(class, ref); there {
			continue
		}
		rec := xenapi.NewRole()
		rec.UUID, rec.NameLabel, rec.IsInternal = r.UUID, r.Name, r.Internal
		tx.Insert(ref, rec)
	}
}
