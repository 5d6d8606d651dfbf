package storage_test

import (
	"bytes"
	"context"
	"slices"
	"strconv"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

const mib = 1 << 20

// write puts bytes at the start of a disk.
func (b *bench) write(ref xenapi.VDIRef, text string, off int64) {
	b.Helper()
	blob := b.blob(ref, sm.ReadWrite)
	_, err := blob.WriteAt([]byte(text), off)
	b.ok(err)
	b.ok(blob.Close())
}

func (b *bench) read(ref xenapi.VDIRef, n int, off int64) string {
	b.Helper()
	blob := b.blob(ref, sm.ReadOnly)
	buf := make([]byte, n)
	_, err := blob.ReadAt(buf, off)
	b.ok(err)
	b.ok(blob.Close())
	return string(buf)
}

func (b *bench) blob(ref xenapi.VDIRef, mode sm.Mode) sm.Blob {
	b.Helper()
	vdi := b.vdi(ref)
	store, err := b.env.Node.Storage.SR(db.Find(b.env.DB.View(), vdi.SR).UUID)
	b.ok(err)
	blob, err := store.OpenVolume(context.Background(), vdi.Location, mode)
	b.ok(err)
	return blob
}

// secondSR is another file SR.
func (b *bench) secondSR() xenapi.SRRef {
	b.Helper()
	ref, err := b.calls.SR.Create(b.Context(), xapitest.Call(), service.SRCreateParams{Host: b.host, Type: "file",
		NameLabel: "second", DeviceConfig: map[string]string{"location": b.TempDir() + "/sr"}})
	b.ok(err)
	return ref
}

func TestVDICreateRoundsUp(t *testing.T) {
	b := open(t)
	ref := b.disk(func(r *xenapi.VDI) {
		r.VirtualSize, r.Tags, r.OtherConfig = 3*mib, []string{"x"}, map[string]string{"a": "b"}
	})
	vdi := b.vdi(ref)
	if vdi.VirtualSize != 4*mib || !vdi.Managed || vdi.UUID == "" || vdi.Location != vdi.UUID ||
		vdi.SMConfig["vdi_type"] != "vhd" || vdi.OtherConfig["a"] != "b" || !slices.Equal(vdi.Tags, []string{"x"}) {
		t.Errorf("%+v", vdi)
	}
	want := []xenapi.VDIOperations{xenapi.VDIOperationsClone, xenapi.VDIOperationsCopy, xenapi.VDIOperationsResize,
		xenapi.VDIOperationsDestroy, xenapi.VDIOperationsForget}
	if !slices.Equal(vdi.AllowedOperations, want) {
		t.Errorf("allowed %v, want %v", vdi.AllowedOperations, want)
	}
	if sr := db.Find(b.env.DB.View(), b.local()); sr.VirtualAllocation != 4*mib {
		t.Errorf("virtual_allocation is %d", sr.VirtualAllocation)
	}
	b.ok(b.destroyVDI(ref))
	if sr := db.Find(b.env.DB.View(), b.local()); sr.VirtualAllocation != 0 {
		t.Errorf("virtual_allocation is %d afterwards", sr.VirtualAllocation)
	}
	b.agrees()
}

func TestVDICreateRefuses(t *testing.T) {
	b := open(t)
	tools := b.tools()
	unplugged := b.secondSR()
	b.ok(b.calls.PBD.Unplug(b.Context(), xapitest.Call(), service.PBDUnplugParams{Self: b.pbdOf(unplugged)}))
	const sizes = "VDI Invalid size [opterr=VDI size must be between 1 MB and 2088960 MB]"
	size := func(n int64) func(*xenapi.VDI) { return func(r *xenapi.VDI) { r.VirtualSize = n } }
	for name, c := range map[string]struct {
		change func(*xenapi.VDI)
		code   string
		params []string
	}{
		"no size":           {size(0), "SR_BACKEND_FAILURE_79", []string{"", sizes, ""}},
		"one byte":          {size(1), "SR_BACKEND_FAILURE_79", []string{"", sizes, ""}},
		"a negative size":   {size(-1), "SR_BACKEND_FAILURE_79", []string{"", sizes, ""}},
		"too large a size":  {size(2040<<30 + 1), "SR_BACKEND_FAILURE_79", []string{"", sizes, ""}},
		"the largest int":   {size(1<<63 - 1), "SR_BACKEND_FAILURE_79", []string{"", sizes, ""}},
		"raw without room":  {func(r *xenapi.VDI) { r.VirtualSize, r.SMConfig = 2039<<30, map[string]string{"type": "raw"} }, "SR_FULL", []string{strconv.Itoa(2039 << 30), "*"}},
		"an unknown format": {func(r *xenapi.VDI) { r.SMConfig = map[string]string{"type": "qed"} }, "SR_BACKEND_FAILURE_66", []string{"", "Invalid VDI type", ""}},
		"CBT metadata":      {func(r *xenapi.VDI) { r.Type = xenapi.VDITypeCBTMetadata }, "VDI_INCOMPATIBLE_TYPE", []string{xenapi.Null, "cbt_metadata"}},
		"the tools SR":      {func(r *xenapi.VDI) { r.SR = tools }, "SR_OPERATION_NOT_SUPPORTED", []string{string(tools)}},
		"an unplugged SR":   {func(r *xenapi.VDI) { r.SR = unplugged }, "SR_HAS_NO_PBDS", []string{string(unplugged)}},
		"no SR":             {func(r *xenapi.VDI) { r.SR = "OpaqueRef:x" }, "HANDLE_INVALID", []string{"SR", "OpaqueRef:x"}},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := b.createVDI(c.change)
			xapitest.Fails(t, err, c.code, c.params...)
		})
	}
	b.agrees()
}

func TestVDIDestroyTakesItsDrivesAlong(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateHalted, nil)
	disk := b.disk(nil)
	drive := b.drive(vm, disk, xenapi.VBDModeRW)
	cd, err := b.createVBD(vm, func(r *xenapi.VBD) { r.VDI, r.Type, r.Mode = disk, xenapi.VBDTypeCD, xenapi.VBDModeRO })
	b.ok(err)
	b.ok(b.destroyVDI(disk))
	if db.Find(b.env.DB.View(), drive) != nil {
		t.Error("the drive is still there")
	}
	if rec := b.vbd(cd); !rec.Empty || rec.VDI != xenapi.Null {
		t.Errorf("the CD drive: %+v", rec)
	}
	b.agrees()
}

func TestVDIOperationsInUse(t *testing.T) {
	b := open(t)
	vm := b.vm(xenapi.VMPowerStateRunning, nil)
	disk := b.disk(nil)
	drive := b.drive(vm, disk, xenapi.VBDModeRW)
	b.ok(b.plug(drive))
	call := xapitest.Call()
	_, err := b.calls.VDI.Clone(b.Context(), call, service.VDICloneParams{VDI: disk})
	xapitest.Fails(t, err, "VDI_IN_USE", string(disk), "clone")
	_, err = b.calls.VDI.Copy(b.Context(), call, service.VDICopyParams{VDI: disk, SR: b.local(), BaseVDI: xenapi.Null, IntoVDI: xenapi.Null})
	xapitest.Fails(t, err, "VDI_IN_USE", string(disk), "copy")
	xapitest.Fails(t, b.calls.VDI.Resize(b.Context(), call, service.VDIResizeParams{VDI: disk, Size: 16 * mib}), "VDI_IN_USE", string(disk), "resize")
	xapitest.Fails(t, b.calls.VDI.Forget(b.Context(), call, service.VDIForgetParams{VDI: disk}), "VDI_IN_USE", string(disk), "forget")
	xapitest.Fails(t, b.destroyVDI(disk), "VDI_IN_USE", string(disk), "destroy")
	if got := b.vdi(disk).AllowedOperations; len(got) != 0 {
		t.Errorf("allowed on a disk in use: %v", got)
	}
	b.ok(b.unplug(drive))
	b.ok(b.destroyVDI(disk))
	b.agrees()
}

func TestVDIOperationsThatTheDriverLacks(t *testing.T) {
	b := open(t)
	disk, call, local := b.disk(nil), xapitest.Call(), string(b.local())
	for name, err := range map[string]error{
		"resize_online": b.calls.VDI.ResizeOnline(b.Context(), call, service.VDIResizeOnlineParams{VDI: disk, Size: 16 * mib}),
		"update":        b.calls.VDI.Update(b.Context(), call, service.VDIUpdateParams{VDI: disk}),
		"set_on_boot":   b.calls.VDI.SetOnBoot(b.Context(), call, service.VDISetOnBootParams{Self: disk, Value: xenapi.OnBootReset}),
	} {
		t.Run(name, func(t *testing.T) { xapitest.Fails(t, err, "SR_OPERATION_NOT_SUPPORTED", local) })
	}
	b.ok(b.calls.VDI.SetOnBoot(b.Context(), call, service.VDISetOnBootParams{Self: disk, Value: xenapi.OnBootPersist}))
	_, err := b.calls.VDI.Snapshot(b.Context(), call, service.VDISnapshotParams{VDI: disk})
	xapitest.Fails(t, err, "NOT_IMPLEMENTED", "VDI.snapshot")
	xapitest.Fails(t, b.calls.VDI.ForceUnlock(b.Context(), call, service.VDIForceUnlockParams{VDI: disk}), "MESSAGE_DEPRECATED")
	xapitest.Fails(t, b.destroyVDI(b.toolsISO()), "SR_OPERATION_NOT_SUPPORTED", string(b.tools()))
}

func TestVDIDestroyRefuses(t *testing.T) {
	b := open(t)
	rrd := b.disk(func(r *xenapi.VDI) { r.Type = xenapi.VDITypeRRD })
	xapitest.Fails(t, b.destroyVDI(rrd), "VDI_HAS_RRDS", string(rrd))
	statefile := b.disk(func(r *xenapi.VDI) { r.Type = xenapi.VDITypeHAStatefile })
	for ref := range db.All[xenapi.PoolRef](b.env.DB.View()) {
		edit(b, ref, func(p *xenapi.Pool) { p.HAEnabled = true })
	}
	xapitest.Fails(t, b.destroyVDI(statefile), "HA_IS_ENABLED")
}

func TestVDIResize(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	resize := func(n int64) error {
		return b.calls.VDI.Resize(b.Context(), xapitest.Call(), service.VDIResizeParams{VDI: disk, Size: n})
	}
	b.ok(resize(15 * mib))
	if got := b.vdi(disk).VirtualSize; got != 16*mib {
		t.Errorf("size is %d", got)
	}
	xapitest.Fails(t, resize(4*mib), "SR_BACKEND_FAILURE_79", "", "VDI Invalid size [opterr=shrinking not allowed]", "")
	b.ok(b.calls.PBD.Unplug(b.Context(), xapitest.Call(), service.PBDUnplugParams{Self: b.pbdOf(b.local())}))
	xapitest.Fails(t, resize(32*mib), "SR_HAS_NO_PBDS", string(b.local()))
	if slices.Contains(b.vdi(disk).AllowedOperations, xenapi.VDIOperationsResize) {
		t.Error("resize is allowed on a disk whose SR is not attached")
	}
	b.ok(b.calls.PBD.Plug(b.Context(), xapitest.Call(), service.PBDPlugParams{Self: b.pbdOf(b.local())}))
	if !slices.Contains(b.vdi(disk).AllowedOperations, xenapi.VDIOperationsResize) {
		t.Error("resize is not allowed again")
	}
	b.agrees()
}

func TestVDICloneCopiesEverything(t *testing.T) {
	b := open(t)
	disk := b.disk(func(r *xenapi.VDI) {
		r.NameDescription, r.Tags, r.OtherConfig = "about", []string{"t"}, map[string]string{"k": "v"}
		r.XenstoreData, r.SMConfig = map[string]string{"x": "y"}, map[string]string{"mine": "1"}
	})
	b.write(disk, "hello", 5*mib)
	ref, err := b.calls.VDI.Clone(b.Context(), xapitest.Call(), service.VDICloneParams{VDI: disk})
	b.ok(err)
	vdi := b.vdi(ref)
	if vdi.NameLabel != "disk" || vdi.NameDescription != "about" || vdi.OtherConfig["k"] != "v" || vdi.XenstoreData["x"] != "y" ||
		vdi.SMConfig["mine"] != "1" || !slices.Equal(vdi.Tags, []string{"t"}) || vdi.IsASnapshot || vdi.UUID == b.vdi(disk).UUID {
		t.Errorf("%+v", vdi)
	}
	if got := b.read(ref, 5, 5*mib); got != "hello" {
		t.Errorf("the clone has %q", got)
	}
	raw := b.disk(func(r *xenapi.VDI) { r.SMConfig = map[string]string{"type": "raw"} })
	ref, err = b.calls.VDI.Clone(b.Context(), xapitest.Call(), service.VDICloneParams{VDI: raw})
	b.ok(err)
	if got := b.vdi(ref).SMConfig["vdi_type"]; got != "aio" {
		t.Errorf("the clone of a raw disk is %s", got)
	}
	b.agrees()
}

func TestVDICopy(t *testing.T) {
	b := open(t)
	second := b.secondSR()
	disk := b.disk(nil)
	b.write(disk, "source", 0)
	b.write(disk, "more", 7*mib)
	copyTo := func(p service.VDICopyParams) (xenapi.VDIRef, error) {
		p.VDI = disk
		for _, ref := range []*xenapi.VDIRef{&p.BaseVDI, &p.IntoVDI} {
			if *ref == "" {
				*ref = xenapi.Null
			}
		}
		if p.SR == "" {
			p.SR = xenapi.Null
		}
		return b.calls.VDI.Copy(b.Context(), xapitest.Call(), p)
	}
	ref, err := copyTo(service.VDICopyParams{SR: second})
	b.ok(err)
	if b.vdi(ref).SR != second || b.read(ref, 6, 0) != "source" || b.read(ref, 4, 7*mib) != "more" {
		t.Error("the copy differs")
	}

	into := b.disk(func(r *xenapi.VDI) { r.SR, r.VirtualSize = second, 16*mib })
	b.write(into, "overwritten", 3*mib)
	got, err := copyTo(service.VDICopyParams{IntoVDI: into})
	b.ok(err)
	if zeros := string(bytes.Repeat([]byte{0}, 11)); got != into || b.read(into, 6, 0) != "source" || b.read(into, 11, 3*mib) != zeros {
		t.Error("copying over a disk left something of it")
	}

	base := b.disk(nil)
	b.write(base, "source", 0)
	delta, err := copyTo(service.VDICopyParams{SR: second, BaseVDI: base})
	b.ok(err)
	if b.read(delta, 4, 7*mib) != "more" || b.read(delta, 6, 0) == "source" {
		t.Error("copying the differences from a base copied something else")
	}

	small := b.disk(func(r *xenapi.VDI) { r.VirtualSize = 4 * mib })
	_, err = copyTo(service.VDICopyParams{IntoVDI: small})
	xapitest.Fails(t, err, "VDI_TOO_SMALL", string(small), strconv.Itoa(8*mib))
	b.ok(b.calls.VDI.SetReadOnly(b.Context(), xapitest.Call(), service.VDISetReadOnlyParams{Self: into, Value: true}))
	_, err = copyTo(service.VDICopyParams{IntoVDI: into})
	xapitest.Fails(t, err, "VDI_READONLY", string(into))
	_, err = copyTo(service.VDICopyParams{SR: b.tools()})
	xapitest.Fails(t, err, "SR_OPERATION_NOT_SUPPORTED", string(b.tools()))
	b.agrees()
}

func TestVDIIntroduceAndForget(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	vdi := b.vdi(disk)
	introduce := func(location string) (xenapi.VDIRef, error) {
		return b.calls.VDI.Introduce(b.Context(), xapitest.Call(), service.VDIIntroduceParams{UUID: vdi.UUID, NameLabel: "again",
			SR: b.local(), Type: xenapi.VDITypeUser, Location: location, Managed: true})
	}
	_, err := introduce(vdi.Location)
	xapitest.Fails(t, err, "INVALID_VALUE", "uuid", vdi.UUID)
	b.ok(b.calls.VDI.Forget(b.Context(), xapitest.Call(), service.VDIForgetParams{VDI: disk}))
	_, err = introduce("elsewhere")
	xapitest.Fails(t, err, "VDI_MISSING", string(b.local()), "elsewhere")
	ref, err := introduce(vdi.Location)
	b.ok(err)
	if got := b.vdi(ref); got.NameLabel != "again" || got.VirtualSize != 8*mib {
		t.Errorf("%+v", got)
	}
	vdi = &xenapi.VDI{UUID: "", Location: vdi.Location}
	_, err = introduce(vdi.Location)
	xapitest.Fails(t, err, "LOCATION_NOT_UNIQUE", string(b.local()), vdi.Location)
	b.agrees()
}

func TestVDISetters(t *testing.T) {
	b := open(t)
	disk, other, call, ctx := b.disk(nil), b.disk(nil), xapitest.Call(), t.Context()
	v := b.calls.VDI
	for _, err := range []error{
		v.SetNameLabel(ctx, call, service.VDISetNameLabelParams{Self: disk, Value: "n"}),
		v.SetNameDescription(ctx, call, service.VDISetNameDescriptionParams{Self: disk, Value: "d"}),
		v.SetSharable(ctx, call, service.VDISetSharableParams{Self: disk, Value: true}),
		v.SetIsASnapshot(ctx, call, service.VDISetIsASnapshotParams{Self: disk, Value: true}),
		v.SetSnapshotOf(ctx, call, service.VDISetSnapshotOfParams{Self: disk, Value: other}),
		v.SetSnapshotTime(ctx, call, service.VDISetSnapshotTimeParams{Self: disk, Value: xapitest.Now}),
		v.SetMetadataOfPool(ctx, call, service.VDISetMetadataOfPoolParams{Self: disk, Value: xenapi.Null}),
		v.SetAllowCaching(ctx, call, service.VDISetAllowCachingParams{Self: disk, Value: true}),
		v.SetManaged(ctx, call, service.VDISetManagedParams{Self: disk, Value: false}),
		v.SetMissing(ctx, call, service.VDISetMissingParams{Self: disk, Value: true}),
		v.SetPhysicalUtilisation(ctx, call, service.VDISetPhysicalUtilisationParams{Self: disk, Value: 7}),
	} {
		b.ok(err)
	}
	got := b.vdi(disk)
	if got.NameLabel != "n" || got.NameDescription != "d" || !got.Sharable || !got.IsASnapshot || got.SnapshotOf != other ||
		!got.SnapshotTime.Equal(xapitest.Now) || !got.AllowCaching || got.Managed || !got.Missing || got.PhysicalUtilisation != 7 {
		t.Errorf("%+v", got)
	}
	b.ok(v.SetVirtualSize(ctx, call, service.VDISetVirtualSizeParams{Self: disk, Value: 9}))
	if b.vdi(disk).VirtualSize != 9 {
		t.Error("set_virtual_size did nothing")
	}
	xapitest.Fails(t, v.SetNameLabel(ctx, call, service.VDISetNameLabelParams{Self: "OpaqueRef:x"}), "HANDLE_INVALID", "VDI", "OpaqueRef:x")
}
