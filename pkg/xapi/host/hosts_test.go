package host_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/host"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// world is a host with its service.
type world struct {
	*testing.T
	env *xapi.Env
	ref xenapi.HostRef
	s   *host.Hosts
}

func open(t *testing.T, change func(o *host.Options)) *world {
	t.Helper()
	env := xapitest.Open(t, t.TempDir(), func(tx *db.Tx) { host.Derive(tx, tx.Edited()) })
	o := host.Options{Env: env}
	if change != nil {
		change(&o)
	}
	return &world{T: t, env: env, ref: xapitest.Host(t, env), s: host.New(o)}
}

func (w *world) ok(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *world) host() *xenapi.Host { return db.Find(w.env.DB.View(), w.ref) }

// guest makes a VM that runs on the host.
func (w *world) guest() (ref xenapi.VMRef) {
	w.Helper()
	xapitest.Update(w, w.env, func(tx *db.Tx) {
		vm, m := xenapi.NewVM(), xenapi.NewVMMetrics()
		vm.UUID, m.UUID = xenapi.NewUUID(), xenapi.NewUUID()
		vm.PowerState, vm.ResidentOn, vm.DomainType = xenapi.VMPowerStateRunning, w.ref, xenapi.DomainTypePV
		vm.Metrics = db.Insert[xenapi.VMMetricsRef](tx, m)
		ref = db.Insert[xenapi.VMRef](tx, vm)
	})
	return ref
}

func (w *world) halt(ref xenapi.VMRef) {
	w.Helper()
	xapitest.Update(w, w.env, func(tx *db.Tx) {
		if vm, err := db.Edit(tx, ref); err == nil {
			vm.PowerState, vm.ResidentOn = xenapi.VMPowerStateHalted, xenapi.Null
		}
	})
}

func (w *world) allows(want ...xenapi.HostAllowedOperations) {
	w.Helper()
	if got := w.host().AllowedOperations; !slices.Equal(got, want) {
		w.Errorf("allowed %v, want %v", got, want)
	}
}

func TestDisableEnable(t *testing.T) {
	w := open(t, nil)
	ctx, c := t.Context(), xapitest.Call()
	w.allows("provision", "evacuate", "vm_start", "vm_resume", "vm_migrate")
	w.ok(w.s.Disable(ctx, c, service.HostDisableParams{Host: w.ref, AutoEnable: true}))
	w.allows("evacuate", "shutdown", "reboot", "enable")
	vm := w.guest()
	w.allows("evacuate", "enable")
	w.halt(vm)
	w.allows("evacuate", "shutdown", "reboot", "enable")
	w.ok(w.s.Disable(ctx, c, service.HostDisableParams{Host: w.ref}))
	if w.host().OtherConfig["xapid_stay_disabled"] != "true" {
		t.Error("a reboot would enable it")
	}
	w.ok(w.s.Enable(ctx, c, service.HostEnableParams{Host: w.ref}))
	if h := w.host(); !h.Enabled || h.OtherConfig["xapid_stay_disabled"] != "" {
		t.Errorf("%v %v", h.Enabled, h.OtherConfig)
	}
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		if m, err := db.Edit(tx, w.host().Metrics); err == nil {
			m.Live = false
		}
		if h, err := db.Edit(tx, w.ref); err == nil {
			h.PowerOnMode = "wake-on-lan"
		}
	})
	w.allows("power_on")
	xapitest.Fails(t, w.s.Enable(ctx, c, service.HostEnableParams{Host: w.ref}), "HOST_NOT_LIVE")
	xapitest.Fails(t, w.s.Enable(ctx, c, service.HostEnableParams{Host: "OpaqueRef:x"}), "HANDLE_INVALID", "host", "OpaqueRef:x")
}

func TestEvacuate(t *testing.T) {
	w := open(t, nil)
	ctx, c := t.Context(), xapitest.Call()
	evacuate := func(p service.HostEvacuateParams) error { return w.s.Evacuate(ctx, c, p) }
	empty := service.HostEvacuateParams{Host: w.ref, Network: xenapi.Null}
	w.ok(evacuate(empty))
	w.ok(w.s.AssertCanEvacuate(ctx, c, service.HostAssertCanEvacuateParams{Host: w.ref}))
	vm := w.guest()
	xapitest.Fails(t, evacuate(empty), "NO_HOSTS_AVAILABLE")
	err := w.s.AssertCanEvacuate(ctx, c, service.HostAssertCanEvacuateParams{Host: w.ref})
	xapitest.Fails(t, err, "CANNOT_EVACUATE_HOST", "NO_HOSTS_AVAILABLE")
	reasons, err := w.s.GetVMsWhichPreventEvacuation(ctx, c, service.HostGetVMsWhichPreventEvacuationParams{Self: w.ref})
	w.ok(err)
	if len(reasons) != 1 || !slices.Equal(reasons[string(vm)], []string{"NO_HOSTS_AVAILABLE"}) {
		t.Errorf("reasons %v", reasons)
	}
	w.halt(vm)
	xapitest.Fails(t, evacuate(service.HostEvacuateParams{Host: w.ref, Network: "OpaqueRef:x"}), "HANDLE_INVALID", "network", "OpaqueRef:x")
	xapitest.Fails(t, evacuate(service.HostEvacuateParams{Host: w.ref, Network: xenapi.Null, EvacuateBatchSize: -1}), "INVALID_VALUE", "evacuate_batch_size", "negative")
	if len(w.host().CurrentOperations) != 0 {
		t.Error("the operation stays marked")
	}
	vms, err := w.s.GetUncooperativeResidentVMs(ctx, c, service.HostGetUncooperativeResidentVMsParams{Self: w.ref})
	if err != nil || len(vms) != 0 {
		t.Errorf("%v %v", vms, err)
	}
}

func TestTimes(t *testing.T) {
	w := open(t, nil)
	ctx, c := t.Context(), xapitest.Call()
	got, err := w.s.GetServertime(ctx, c, service.HostGetServertimeParams{Host: w.ref})
	if err != nil || !got.Equal(xapitest.Now) {
		t.Errorf("%v %v", got, err)
	}
	for zone, want := range map[string]time.Time{"UTC": xapitest.Now, "Asia/Kolkata": xapitest.Now.Add(5*time.Hour + 30*time.Minute)} {
		xapitest.Update(t, w.env, func(tx *db.Tx) {
			if h, err := db.Edit(tx, w.ref); err == nil {
				h.Timezone = zone
			}
		})
		got, err := w.s.GetServerLocaltime(ctx, c, service.HostGetServerLocaltimeParams{Host: w.ref})
		if err != nil || !got.Equal(want) {
			t.Errorf("%s: %v %v", zone, got, err)
		}
	}
}

func TestFiguresOfMemory(t *testing.T) {
	w := open(t, nil)
	ctx, c := t.Context(), xapitest.Call()
	vm := w.guest()
	_, err := w.env.Node.Hypervisor.Create(ctx, &xenctl.DomainConfig{UUID: db.Find(w.env.DB.View(), vm).UUID, Name: "guest", Type: xenctl.TypePV,
		Memory: xenctl.Memory{StaticMaxBytes: 256 << 20, TargetBytes: 256 << 20}, VCPUs: xenctl.VCPUs{Max: 1, AtStart: 1},
		Boot: xenctl.Boot{Kernel: "/boot/vmlinuz"}})
	w.ok(err)
	figures := host.NewFigures(w.env)
	w.ok(figures.Refresh(ctx))
	info, err := w.env.Node.Hypervisor.Host(ctx)
	w.ok(err)
	rd := w.env.DB.View()
	m := db.Find(rd, w.host().Metrics)
	if m.MemoryFree != info.MemoryFreeBytes || m.MemoryTotal != info.MemoryTotalBytes || !m.Live || !m.LastUpdated.Equal(xapitest.Now) {
		t.Errorf("%+v", m)
	}
	if g := db.Find(rd, db.Find(rd, vm).Metrics); g.MemoryActual != 256<<20 {
		t.Errorf("the guest has %d bytes", g.MemoryActual)
	}
	commits := w.env.DB.Commits()
	w.ok(figures.Refresh(ctx))
	if w.env.DB.Commits() != commits {
		t.Error("a commit although nothing has changed")
	}
	free, err := w.s.ComputeFreeMemory(ctx, c, service.HostComputeFreeMemoryParams{Host: w.ref})
	if err != nil || free != info.MemoryFreeBytes {
		t.Errorf("%d %v", free, err)
	}
	if n, err := w.s.ComputeMemoryOverhead(ctx, c, service.HostComputeMemoryOverheadParams{Host: w.ref}); err != nil || n != w.host().MemoryOverhead {
		t.Errorf("%d %v", n, err)
	}
}

func TestHostname(t *testing.T) {
	w := open(t, nil)
	set := func(name string) error {
		return w.s.SetHostnameLive(t.Context(), xapitest.Call(), service.HostSetHostnameLiveParams{Host: w.ref, Hostname: name})
	}
	for _, name := range []string{"host-1", "a.example.org", "X9"} {
		w.ok(set(name))
		if w.host().Hostname != name {
			t.Errorf("hostname %q", w.host().Hostname)
		}
	}
	for _, name := range []string{"", "-a", "a-", "a..b", "a b", "a_b", "ä", "a;b", "a\nb", strings.Repeat("a", 64), strings.Repeat("a.", 33)} {
		xapitest.Fails(t, set(name), "HOST_NAME_INVALID", "*")
	}
}

func TestSettings(t *testing.T) {
	w := open(t, func(o *host.Options) { o.Certificate = func() string { return "PEM" } })
	ctx, c := t.Context(), xapitest.Call()
	iqn := func(v string) error {
		return w.s.SetIscsiIqn(ctx, c, service.HostSetIscsiIqnParams{Host: w.ref, Value: v})
	}
	w.ok(iqn("iqn.2026-01.org.example:a"))
	for _, bad := range []string{"", "iqn a", "iqn\nb", "iqn#", strings.Repeat("i", 224)} {
		xapitest.Fails(t, iqn(bad), "INVALID_VALUE", "value", bad)
	}
	w.ok(w.s.SetMultipathing(ctx, c, service.HostSetMultipathingParams{Host: w.ref, Value: true}))
	w.ok(w.s.SetSSLLegacy(ctx, c, service.HostSetSSLLegacyParams{Self: w.ref}))
	err := w.s.SetSSLLegacy(ctx, c, service.HostSetSSLLegacyParams{Self: w.ref, Value: true})
	xapitest.Fails(t, err, "VALUE_NOT_SUPPORTED", "value", "true", "*")
	w.ok(w.s.SetPowerOnMode(ctx, c, service.HostSetPowerOnModeParams{Self: w.ref, PowerOnMode: "DRAC",
		PowerOnConfig: map[string]string{"power_on_ip": "192.0.2.9", "power_on_password": "hush"}}))
	h := w.host()
	if h.IscsiIqn != "iqn.2026-01.org.example:a" || h.OtherConfig["iscsi_iqn"] != h.IscsiIqn || !h.Multipathing ||
		h.OtherConfig["multipathing"] != "true" || h.SSLLegacy || h.PowerOnMode != "DRAC" {
		t.Errorf("%+v", h)
	}
	rd := w.env.DB.View()
	secret := rd.ByUUID(datamodel.Get().Class("secret"), h.PowerOnConfig["power_on_password_secret"])
	if s := db.Find(rd, xenapi.SecretRef(secret)); s == nil || s.Value != "hush" || h.PowerOnConfig["power_on_password"] != "" {
		t.Error("the password is not a secret")
	}
	if pem, err := w.s.GetServerCertificate(ctx, c, service.HostGetServerCertificateParams{Host: w.ref}); pem != "PEM" || err != nil {
		t.Errorf("%q %v", pem, err)
	}
	b, err := w.s.CreateNewBlob(ctx, c, service.HostCreateNewBlobParams{Host: w.ref, Name: "x"})
	w.ok(err)
	if got := db.Find(w.env.DB.View(), b); got.MimeType != "application/octet-stream" || w.host().Blobs["x"] != string(b) {
		t.Errorf("%+v", got)
	}
	w.ok(w.s.SyncData(ctx, c, service.HostSyncDataParams{Host: w.ref}))
}

func TestManagementInterface(t *testing.T) {
	w := open(t, nil)
	get := func() (xenapi.PIFRef, error) {
		return w.s.GetManagementInterface(t.Context(), xapitest.Call(), service.HostGetManagementInterfaceParams{Host: w.ref})
	}
	_, err := get()
	xapitest.Fails(t, err, "HOST_HAS_NO_MANAGEMENT_IP")
	var want xenapi.PIFRef
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		n, pif := xenapi.NewNetwork(), xenapi.NewPIF()
		n.UUID, pif.UUID, pif.Host, pif.Management = xenapi.NewUUID(), xenapi.NewUUID(), w.ref, true
		pif.Network = db.Insert[xenapi.NetworkRef](tx, n)
		want = db.Insert[xenapi.PIFRef](tx, pif)
	})
	if got, err := get(); got != want || err != nil {
		t.Errorf("%s %v", got, err)
	}
}

func TestOtherHostsAreOffline(t *testing.T) {
	w := open(t, nil)
	var far xenapi.HostRef
	xapitest.Update(t, w.env, func(tx *db.Tx) {
		h := xenapi.NewHost()
		h.UUID = xenapi.NewUUID()
		far = db.Insert[xenapi.HostRef](tx, h)
	})
	ctx, c := t.Context(), xapitest.Call()
	_, err := w.s.GetServertime(ctx, c, service.HostGetServertimeParams{Host: far})
	xapitest.Fails(t, err, "HOST_OFFLINE", string(far))
	_, err = w.s.ComputeFreeMemory(ctx, c, service.HostComputeFreeMemoryParams{Host: far})
	xapitest.Fails(t, err, "HOST_OFFLINE", string(far))
	xapitest.Fails(t, w.s.RestartAgent(ctx, c, service.HostRestartAgentParams{Host: far}), "HOST_OFFLINE", string(far))
	xapitest.Fails(t, w.s.RestartAgent(ctx, c, service.HostRestartAgentParams{Host: w.ref}), "NOT_IMPLEMENTED", "host.restart_agent")
}

func TestListMethods(t *testing.T) {
	names, err := open(t, nil).s.ListMethods(t.Context(), xapitest.Call())
	if err != nil || !slices.Contains(names, "VM.start") || !slices.Contains(names, "VM.get_record") || slices.Contains(names, "VM.get_all_where") {
		t.Errorf("%d names, %v", len(names), err)
	}
}

func TestEnsureKeepsDisabledUntilReboot(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), nil)
	m := host.Machine{Facts: facts.Facts{Hostname: "h", BootTime: xapitest.Now.Add(-time.Hour)},
		Hypervisor: xenctl.HostInfo{CPU: xenctl.CPUInfo{Count: 2}, MemoryTotalBytes: 8 << 30}}
	s := host.New(host.Options{Env: env})
	start := func(wantEnabled bool) {
		t.Helper()
		if err := host.Ensure(t.Context(), env, m); err != nil {
			t.Fatal(err)
		}
		if got := db.Find(env.DB.View(), env.Host()).Enabled; got != wantEnabled {
			t.Errorf("enabled %v", got)
		}
	}
	start(true)
	disable := func(auto bool) {
		if err := s.Disable(t.Context(), xapitest.Call(), service.HostDisableParams{Host: env.Host(), AutoEnable: auto}); err != nil {
			t.Fatal(err)
		}
	}
	disable(true)
	m.Facts.BootTime = m.Facts.BootTime.Add(time.Second) // the kernel's figure wanders
	start(false)
	m.Facts.BootTime = xapitest.Now
	start(true)
	disable(false)
	m.Facts.BootTime = xapitest.Now.Add(time.Hour)
	start(false)
}

// TestBootsInTheSameMinute tells boots apart that the clock doesn't.
func TestBootsInTheSameMinute(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), nil)
	m := host.Machine{Facts: facts.Facts{Hostname: "h", BootTime: xapitest.Now, BootID: "one"},
		Hypervisor: xenctl.HostInfo{CPU: xenctl.CPUInfo{Count: 2}, MemoryTotalBytes: 8 << 30}}
	if err := host.Ensure(t.Context(), env, m); err != nil {
		t.Fatal(err)
	}
	if host.BootedSince(env, m.Facts) {
		t.Error("the same boot is another one")
	}
	m.Facts.BootID, m.Facts.BootTime = "two", xapitest.Now.Add(20*time.Second)
	if !host.BootedSince(env, m.Facts) {
		t.Error("a boot 20 s later is the same one")
	}
}
