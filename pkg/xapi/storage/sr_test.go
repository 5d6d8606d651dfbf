package storage_test

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

func (b *bench) createSR(change func(*service.SRCreateParams)) (xenapi.SRRef, error) {
	p := service.SRCreateParams{Host: b.host, Type: "file", NameLabel: "made",
		DeviceConfig: map[string]string{"location": filepath.Join(b.dir, "made")}}
	if change != nil {
		change(&p)
	}
	return b.calls.SR.Create(b.Context(), xapitest.Call(), p)
}

func (b *bench) plugPBD(ref xenapi.PBDRef) error {
	return b.calls.PBD.Plug(b.Context(), xapitest.Call(), service.PBDPlugParams{Self: ref})
}

func (b *bench) unplugPBD(ref xenapi.PBDRef) error {
	return b.calls.PBD.Unplug(b.Context(), xapitest.Call(), service.PBDUnplugParams{Self: ref})
}

func TestSRCreateAndDestroy(t *testing.T) {
	b := open(t)
	ref, err := b.createSR(func(p *service.SRCreateParams) { p.DeviceConfig["password"] = "hush" })
	b.ok(err)
	sr, err := db.Get(b.env.DB.View(), ref)
	b.ok(err)
	pbd := b.pbdOf(ref)
	rec := db.Find(b.env.DB.View(), pbd)
	if !rec.CurrentlyAttached || sr.PhysicalSize == 0 || sr.NameLabel != "made" {
		t.Errorf("%+v %+v", sr, rec)
	}
	if _, open := rec.DeviceConfig["password"]; open || rec.DeviceConfig["password_secret"] == "" {
		t.Errorf("device_config shows the password: %v", rec.DeviceConfig)
	}
	b.agrees()
	call := xapitest.Call()
	xapitest.Fails(t, b.calls.SR.Destroy(b.Context(), call, service.SRDestroyParams{SR: ref}), "SR_HAS_PBD", string(ref))
	xapitest.Fails(t, b.calls.SR.Forget(b.Context(), call, service.SRForgetParams{SR: ref}), "SR_HAS_PBD", string(ref))
	disk := b.disk(func(r *xenapi.VDI) { r.SR = ref })
	b.ok(b.unplugPBD(pbd))
	b.ok(b.unplugPBD(pbd))
	xapitest.Fails(t, b.calls.SR.Destroy(b.Context(), call, service.SRDestroyParams{SR: ref}), "SR_NOT_EMPTY")
	b.ok(b.plugPBD(pbd))
	b.ok(b.plugPBD(pbd))
	b.ok(b.destroyVDI(disk))
	b.ok(b.unplugPBD(pbd))
	edit(b, ref, func(r *xenapi.SR) { r.OtherConfig = map[string]string{"indestructible": "true"} })
	xapitest.Fails(t, b.calls.SR.Destroy(b.Context(), call, service.SRDestroyParams{SR: ref}), "SR_INDESTRUCTIBLE", string(ref))
	edit(b, ref, func(r *xenapi.SR) { r.OtherConfig = nil })
	b.ok(b.calls.SR.Destroy(b.Context(), call, service.SRDestroyParams{SR: ref}))
	for _, secret := range db.All[xenapi.SecretRef](b.env.DB.View()) {
		t.Errorf("secret %s is left", secret.UUID)
	}
	b.agrees()
}

func TestSRCreateRefuses(t *testing.T) {
	b := open(t)
	b.ok(os.MkdirAll(filepath.Join(b.dir, "full", "x"), 0o755))
	for name, c := range map[string]struct {
		change func(*service.SRCreateParams)
		code   string
		params []string
	}{
		"an unknown type":  {func(p *service.SRCreateParams) { p.Type = "zfs" }, "SR_UNKNOWN_DRIVER", []string{"zfs"}},
		"no host":          {func(p *service.SRCreateParams) { p.Host = "OpaqueRef:x" }, "HANDLE_INVALID", []string{"host", "OpaqueRef:x"}},
		"no location":      {func(p *service.SRCreateParams) { p.DeviceConfig = nil }, "SR_BACKEND_FAILURE_94", []string{"", "The request is missing the location parameter", ""}},
		"a full directory": {func(p *service.SRCreateParams) { p.DeviceConfig["location"] = filepath.Join(b.dir, "full") }, "SR_BACKEND_FAILURE_42", []string{"", "*", ""}},
		"a place in use":   {func(p *service.SRCreateParams) { p.DeviceConfig["location"] = filepath.Join(b.dir, "sr", "local") }, "SR_DEVICE_IN_USE", nil},
		"a dash":           {func(p *service.SRCreateParams) { p.DeviceConfig["location"] = "-o" }, "SR_BACKEND_FAILURE_2", []string{"", "*", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.createSR(c.change)
			xapitest.Fails(t, err, c.code, c.params...)
		})
	}
	b.agrees()
}

func TestSRIntroduceAndForget(t *testing.T) {
	b := open(t)
	ref, err := b.createSR(nil)
	b.ok(err)
	disk := b.disk(func(r *xenapi.VDI) { r.SR = ref })
	vdi, sr := b.vdi(disk), db.Find(b.env.DB.View(), ref)
	b.ok(b.unplugPBD(b.pbdOf(ref)))
	b.ok(b.calls.SR.Forget(b.Context(), xapitest.Call(), service.SRForgetParams{SR: ref}))
	if db.Find(b.env.DB.View(), disk) != nil {
		t.Error("the disk's record is still there")
	}
	introduce := func(uuid, srType string) (xenapi.SRRef, error) {
		return b.calls.SR.Introduce(b.Context(), xapitest.Call(), service.SRIntroduceParams{UUID: uuid, NameLabel: "again", Type: srType})
	}
	again, err := introduce(sr.UUID, "file")
	b.ok(err)
	_, err = introduce(sr.UUID, "file")
	xapitest.Fails(t, err, "SR_UUID_EXISTS", sr.UUID)
	_, err = introduce("", "zfs")
	xapitest.Fails(t, err, "SR_UNKNOWN_DRIVER", "zfs")
	_, err = introduce("../x", "file")
	xapitest.Fails(t, err, "INVALID_VALUE", "uuid", "../x")
	xapitest.Fails(t, b.calls.SR.Scan(b.Context(), xapitest.Call(), service.SRScanParams{SR: again}), "SR_HAS_NO_PBDS", string(again))
	xapitest.Fails(t, b.calls.SR.Destroy(b.Context(), xapitest.Call(), service.SRDestroyParams{SR: again}), "SR_HAS_NO_PBDS", string(again))

	pbd := b.createPBD(again, map[string]string{"location": filepath.Join(b.dir, "made")})
	b.ok(b.plugPBD(pbd))
	b.ok(b.calls.SR.Scan(b.Context(), xapitest.Call(), service.SRScanParams{SR: again}))
	found := db.Find(b.env.DB.View(), again).VDIs
	if len(found) != 1 || b.vdi(found[0]).UUID != vdi.UUID || !b.vdi(found[0]).Managed {
		t.Errorf("found %v", found)
	}
	b.agrees()
}

func (b *bench) createPBD(sr xenapi.SRRef, config map[string]string) xenapi.PBDRef {
	b.Helper()
	ref, err := b.tryPBD(sr, b.host, config)
	b.ok(err)
	return ref
}

func (b *bench) tryPBD(sr xenapi.SRRef, host xenapi.HostRef, config map[string]string) (xenapi.PBDRef, error) {
	rec := xenapi.NewPBD()
	rec.SR, rec.Host, rec.DeviceConfig = sr, host, config
	ref, err := b.hooks.Create["PBD.create"](b.Context(), xapitest.Call(), rec, func(string) bool { return true })
	return xenapi.PBDRef(ref), err
}

func TestPBD(t *testing.T) {
	b := open(t)
	local, call := b.local(), xapitest.Call()
	pbd := b.pbdOf(local)
	_, err := b.tryPBD(local, b.host, nil)
	xapitest.Fails(t, err, "PBD_EXISTS", string(local), string(b.host), string(pbd))
	_, err = b.tryPBD(local, b.host, map[string]string{"SRmaster": "true"})
	xapitest.Fails(t, err, "VALUE_NOT_SUPPORTED", "device_config", "*", "*")
	destroy := func(ref xenapi.PBDRef) error {
		return b.hooks.Destroy["PBD.destroy"](b.Context(), call, string(ref))
	}
	xapitest.Fails(t, destroy(pbd), "OPERATION_NOT_ALLOWED", "PBD is currently attached")
	config := service.PBDSetDeviceConfigParams{Self: pbd, Value: map[string]string{"location": "/x"}}
	xapitest.Fails(t, b.calls.PBD.SetDeviceConfig(b.Context(), call, config), "OPERATION_NOT_ALLOWED", "PBD is currently attached")

	vm := b.vm(xenapi.VMPowerStateRunning, nil)
	disk := b.disk(nil)
	drive := b.drive(vm, disk, xenapi.VBDModeRW)
	b.ok(b.plug(drive))
	xapitest.Fails(t, b.unplugPBD(pbd), "VDI_IN_USE", string(disk))
	b.ok(b.unplug(drive))
	b.ok(b.unplugPBD(pbd))
	allowed := db.Find(b.env.DB.View(), local).AllowedOperations
	if !slices.Contains(allowed, xenapi.StorageOperationsForget) || slices.Contains(allowed, xenapi.StorageOperationsScan) {
		t.Errorf("allowed on a detached SR: %v", allowed)
	}
	xapitest.Fails(t, b.plug(drive), "SR_HAS_NO_PBDS", string(local))

	other := b.secondHost()
	theirs, err := b.tryPBD(local, other, map[string]string{"location": "/x"})
	b.ok(err)
	xapitest.Fails(t, b.plugPBD(theirs), "HOST_OFFLINE", string(other))
	edit(b, theirs, func(r *xenapi.PBD) { r.CurrentlyAttached = true })
	xapitest.Fails(t, b.plugPBD(pbd), "SR_NOT_SHARABLE", string(local), string(b.host))
	err = b.calls.SR.SetShared(b.Context(), call, service.SRSetSharedParams{SR: local, Value: false})
	xapitest.Fails(t, err, "SR_HAS_MULTIPLE_PBDS", string(pbd))
	edit(b, theirs, func(r *xenapi.PBD) { r.CurrentlyAttached = false })
	b.ok(destroy(theirs))
	b.ok(b.calls.PBD.SetDeviceConfig(b.Context(), call, config))
	if err := b.plugPBD(pbd); xenapi.Code(err) != "SR_BACKEND_FAILURE_47" {
		t.Errorf("plugging what is not there: %v", err)
	}
}

func (b *bench) secondHost() (ref xenapi.HostRef) {
	b.Helper()
	xapitest.Update(b, b.env, func(tx *db.Tx) {
		h := xenapi.NewHost()
		h.UUID = xenapi.NewUUID()
		m := xenapi.NewHostMetrics()
		m.UUID = xenapi.NewUUID()
		h.Metrics = db.Insert[xenapi.HostMetricsRef](tx, m)
		ref = db.Insert[xenapi.HostRef](tx, h)
	})
	return ref
}

func TestSRScan(t *testing.T) {
	b := open(t)
	kept, lost, used := b.disk(nil), b.disk(nil), b.disk(nil)
	vm := b.vm(xenapi.VMPowerStateSuspended, nil)
	drive := b.drive(vm, used, xenapi.VBDModeRW)
	edit(b, drive, func(r *xenapi.VBD) { r.CurrentlyAttached = true })
	for _, ref := range []xenapi.VDIRef{lost, used} {
		b.ok(os.Remove(filepath.Join(b.dir, "sr", "local", b.vdi(ref).Location+".vhd")))
	}
	damaged := xenapi.NewUUID()
	b.ok(os.WriteFile(filepath.Join(b.dir, "sr", "local", damaged+".vhd"), []byte("no image"), 0o600))
	edit(b, kept, func(r *xenapi.VDI) { r.VirtualSize = 1 })
	b.ok(b.calls.SR.Scan(b.Context(), xapitest.Call(), service.SRScanParams{SR: b.local()}))
	if b.vdi(kept).VirtualSize != 8*mib || !b.vdi(used).Missing || db.Find(b.env.DB.View(), lost) != nil {
		t.Error("the records don't say what is on the storage")
	}
	if n := len(db.Find(b.env.DB.View(), b.local()).VDIs); n != 2 {
		t.Errorf("%d disks", n)
	}
}

func TestSRQueriesAndSetters(t *testing.T) {
	b := open(t)
	local, call, ctx := b.local(), xapitest.Call(), t.Context()
	types, err := b.calls.SR.GetSupportedTypes(ctx, call)
	if b.ok(err); !slices.Equal(types, []string{"file", "iso"}) {
		t.Errorf("types %v", types)
	}
	hosts, err := b.calls.SR.GetLiveHosts(ctx, call, service.SRGetLiveHostsParams{SR: local})
	if b.ok(err); !slices.Equal(hosts, []xenapi.HostRef{b.host}) {
		t.Errorf("hosts %v", hosts)
	}
	b.ok(b.calls.SR.Update(ctx, call, service.SRUpdateParams{SR: local}))
	if db.Find(b.env.DB.View(), local).PhysicalSize == 0 {
		t.Error("update read no size")
	}
	for _, err := range []error{
		b.calls.SR.SetNameLabel(ctx, call, service.SRSetNameLabelParams{SR: local, Value: "n"}),
		b.calls.SR.SetNameDescription(ctx, call, service.SRSetNameDescriptionParams{SR: local, Value: "d"}),
		b.calls.SR.SetPhysicalSize(ctx, call, service.SRSetPhysicalSizeParams{Self: local, Value: 1}),
		b.calls.SR.SetVirtualAllocation(ctx, call, service.SRSetVirtualAllocationParams{Self: local, Value: 2}),
		b.calls.SR.SetPhysicalUtilisation(ctx, call, service.SRSetPhysicalUtilisationParams{Self: local, Value: 3}),
		b.calls.SR.SetShared(ctx, call, service.SRSetSharedParams{SR: local, Value: true}),
	} {
		b.ok(err)
	}
	if r := db.Find(b.env.DB.View(), local); r.NameLabel != "n" || r.NameDescription != "d" || r.PhysicalSize != 1 ||
		r.VirtualAllocation != 2 || r.PhysicalUtilisation != 3 || !r.Shared {
		t.Errorf("%+v", r)
	}
	blob, err := b.calls.SR.CreateNewBlob(ctx, call, service.SRCreateNewBlobParams{SR: local, Name: "b"})
	b.ok(err)
	if got := db.Find(b.env.DB.View(), local).Blobs["b"]; got != string(blob) {
		t.Errorf("blob %s, want %s", got, blob)
	}
	xapitest.Fails(t, b.calls.SR.AssertCanHostHAStatefile(ctx, call, service.SRAssertCanHostHAStatefileParams{SR: local}), "SR_OPERATION_NOT_SUPPORTED", string(local))
	xapitest.Fails(t, b.calls.SR.AssertSupportsDatabaseReplication(ctx, call, service.SRAssertSupportsDatabaseReplicationParams{SR: local}), "SR_OPERATION_NOT_SUPPORTED", string(local))
	_, err = b.calls.SR.Probe(ctx, call, service.SRProbeParams{Host: b.host, Type: "file"})
	xapitest.Fails(t, err, "SR_OPERATION_NOT_SUPPORTED", xenapi.Null)
	_, err = b.calls.SR.ProbeExt(ctx, call, service.SRProbeExtParams{Host: b.host, Type: "zfs"})
	xapitest.Fails(t, err, "SR_UNKNOWN_DRIVER", "zfs")
	_, err = b.calls.SR.ProbeExt(ctx, call, service.SRProbeExtParams{Host: b.host, Type: "iso"})
	xapitest.Fails(t, err, "SR_OPERATION_NOT_SUPPORTED", xenapi.Null)
	xapitest.Fails(t, b.calls.SR.Destroy(ctx, call, service.SRDestroyParams{SR: b.tools()}), "SR_HAS_PBD", string(b.tools()))
}
