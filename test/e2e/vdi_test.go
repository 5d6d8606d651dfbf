package e2e

import (
	"slices"
	"testing"
	"time"

	"xapid/pkg/xenapi"
)

func (w *world) vdiRec(vdi xenapi.VDIRef) *xenapi.VDI {
	w.Helper()
	return must(w.VDI().GetRecord(w.ctx, vdi))(w)
}

// TestVDICreate makes disks, and refuses sizes that can't be.
func TestVDICreate(t *testing.T) {
	w := start(t)
	before := must(w.SR().GetVirtualAllocation(w.ctx, w.sr()))(t)
	vdi := w.vdi("odd", 3*mib+1)
	r := w.vdiRec(vdi)
	if r.VirtualSize < 3*mib+1 || r.VirtualSize > 8*mib || r.SR != w.sr() || !r.Managed || r.Location == "" {
		t.Errorf("%+v", r)
	}
	if after := must(w.SR().GetVirtualAllocation(w.ctx, w.sr()))(t); after-before != r.VirtualSize {
		t.Errorf("virtual_allocation grew by %d, want %d", after-before, r.VirtualSize)
	}
	for _, size := range []int64{-1, 2041 << 30, 1<<63 - 1} {
		bad := xenapi.NewVDI()
		bad.NameLabel, bad.SR, bad.VirtualSize, bad.Type = "bad", w.sr(), size, xenapi.VDITypeUser
		if _, err := w.VDI().Create(w.ctx, bad); err == nil {
			t.Errorf("a disk of %d bytes was made", size)
		}
	}
	if found := must(w.VDI().GetByNameLabel(w.ctx, "bad"))(t); len(found) > 0 {
		t.Errorf("%d bad disks are left", len(found))
	}
	meta := xenapi.NewVDI()
	meta.NameLabel, meta.SR, meta.VirtualSize, meta.Type = "cbt", w.sr(), mib, xenapi.VDITypeCBTMetadata
	_, err := w.VDI().Create(w.ctx, meta)
	w.fails(err, "VDI_INCOMPATIBLE_TYPE")
	w.ok(w.VDI().Destroy(w.ctx, vdi))
	if after := must(w.SR().GetVirtualAllocation(w.ctx, w.sr()))(t); after != before {
		t.Errorf("virtual_allocation is %d after all, was %d", after, before)
	}
}

// TestVDISettings writes what is only recorded.
func TestVDISettings(t *testing.T) {
	w := start(t)
	vdi := w.vdi("old", 4*mib)
	w.ok(w.VDI().SetNameLabel(w.ctx, vdi, "new"))
	w.ok(w.VDI().SetNameDescription(w.ctx, vdi, "a disk"))
	w.ok(w.VDI().SetSharable(w.ctx, vdi, true))
	w.ok(w.VDI().SetReadOnly(w.ctx, vdi, true))
	w.ok(w.VDI().SetAllowCaching(w.ctx, vdi, true))
	w.ok(w.VDI().SetMissing(w.ctx, vdi, true))
	w.ok(w.VDI().SetManaged(w.ctx, vdi, false))
	w.ok(w.VDI().SetIsASnapshot(w.ctx, vdi, true))
	taken := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	w.ok(w.VDI().SetSnapshotTime(w.ctx, vdi, taken))
	w.ok(w.VDI().SetPhysicalUtilisation(w.ctx, vdi, 1234))
	w.ok(w.VDI().SetMetadataOfPool(w.ctx, vdi, w.pool()))
	r := w.vdiRec(vdi)
	if r.NameLabel != "new" || r.NameDescription != "a disk" || !r.Sharable || !r.ReadOnly || !r.AllowCaching || !r.Missing ||
		r.Managed || !r.IsASnapshot || !r.SnapshotTime.Equal(taken) || r.PhysicalUtilisation != 1234 || r.MetadataOfPool != w.pool() {
		t.Errorf("%+v", r)
	}
	w.fails(w.VDI().SetOnBoot(w.ctx, vdi, xenapi.OnBootReset), "SR_OPERATION_NOT_SUPPORTED", string(w.sr()))
	w.ok(w.VDI().SetOnBoot(w.ctx, vdi, xenapi.OnBootPersist))
	w.ok(w.VDI().SetVirtualSize(w.ctx, vdi, 5*mib))
	if r := w.vdiRec(vdi); r.VirtualSize != 5*mib {
		t.Errorf("virtual_size %d", r.VirtualSize)
	}
}

// TestVDICopies clones and copies, into new disks and into one that is there.
func TestVDICopies(t *testing.T) {
	w := start(t)
	vdi := w.vdi("original", 4*mib)
	w.ok(w.VDI().AddTags(w.ctx, vdi, "tagged"))
	clone := must(w.VDI().Clone(w.ctx, vdi, nil))(t)
	full := must(w.VDI().Copy(w.ctx, vdi, w.sr(), xenapi.Null, xenapi.Null))(t)
	for _, made := range []xenapi.VDIRef{clone, full} {
		r, of := w.vdiRec(made), w.vdiRec(vdi)
		if made == vdi || r.NameLabel != "original" || r.VirtualSize != of.VirtualSize || r.Location == of.Location || r.UUID == of.UUID {
			t.Errorf("%+v", r)
		}
	}
	if r := w.vdiRec(clone); !slices.Equal(r.Tags, []string{"tagged"}) {
		t.Errorf("tags %v", r.Tags)
	}
	large, small := w.vdi("large", 8*mib), w.vdi("small", 2*mib)
	if into := must(w.VDI().Copy(w.ctx, vdi, xenapi.Null, xenapi.Null, large))(t); into != large {
		t.Errorf("copied into %s, want %s", into, large)
	}
	_, err := w.VDI().Copy(w.ctx, vdi, xenapi.Null, xenapi.Null, small)
	w.fails(err, "VDI_TOO_SMALL", string(small))
	w.ok(w.VDI().SetReadOnly(w.ctx, large, true))
	_, err = w.VDI().Copy(w.ctx, vdi, xenapi.Null, xenapi.Null, large)
	w.fails(err, "VDI_READONLY", string(large))
	_, err = w.VDI().Snapshot(w.ctx, vdi, nil)
	if err == nil {
		t.Error("a snapshot was made, where none can be")
	}
}

// TestVDIResize grows a disk, and never shrinks it.
func TestVDIResize(t *testing.T) {
	w := start(t)
	vm := w.vm("grows")
	vdi, _ := w.disk(vm, 4*mib, "0")
	w.ok(w.VDI().Resize(w.ctx, vdi, 8*mib))
	if r := w.vdiRec(vdi); r.VirtualSize != 8*mib {
		t.Errorf("virtual_size %d", r.VirtualSize)
	}
	if w.VDI().Resize(w.ctx, vdi, 4*mib) == nil {
		t.Error("it shrank")
	}
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.fails(w.VDI().Resize(w.ctx, vdi, 16*mib), "VDI_IN_USE", string(vdi), "resize")
	allowed := must(w.VDI().GetAllowedOperations(w.ctx, vdi))(t)
	err := w.VDI().ResizeOnline(w.ctx, vdi, 16*mib)
	if slices.Contains(allowed, xenapi.VDIOperationsResizeOnline) {
		w.ok(err)
		if r := w.vdiRec(vdi); r.VirtualSize != 16*mib {
			t.Errorf("online to %d", r.VirtualSize)
		}
	} else {
		w.fails(err, "SR_OPERATION_NOT_SUPPORTED", string(w.sr()))
	}
	w.fails(w.VDI().Destroy(w.ctx, vdi), "VDI_IN_USE", string(vdi), "destroy")
	w.fails(w.VDI().Forget(w.ctx, vdi), "VDI_IN_USE", string(vdi), "forget")
}

// TestVDIIntroduce forgets a disk and finds it again.
func TestVDIIntroduce(t *testing.T) {
	w := start(t)
	vdi := w.vdi("forgotten", 4*mib)
	r := w.vdiRec(vdi)
	introduce := func(uuid, location string) (xenapi.VDIRef, error) {
		return w.VDI().Introduce(w.ctx, uuid, "found", "again", w.sr(), xenapi.VDITypeUser, false, false, nil, location,
			nil, nil, true, 0, 0, xenapi.Null, false, xenapi.Epoch, xenapi.Null)
	}
	_, err := introduce(xenapi.NewUUID(), r.Location)
	w.fails(err, "LOCATION_NOT_UNIQUE", string(w.sr()), r.Location)
	if _, err := introduce(xenapi.NewUUID(), "../../etc/passwd"); err == nil {
		t.Error("a path was introduced")
	}
	w.ok(w.VDI().Forget(w.ctx, vdi))
	_, err = w.VDI().GetRecord(w.ctx, vdi)
	w.fails(err, "HANDLE_INVALID", "VDI", string(vdi))
	again := must(introduce(r.UUID, r.Location))(t)
	if now := w.vdiRec(again); now.UUID != r.UUID || now.VirtualSize != r.VirtualSize || now.NameLabel != "found" {
		t.Errorf("%+v", now)
	}
	err = w.VDI().Update(w.ctx, again)
	if ops := must(w.VDI().GetAllowedOperations(w.ctx, again))(t); slices.Contains(ops, xenapi.VDIOperationsUpdate) != (err == nil) {
		t.Errorf("update said %v, allowed are %v", err, ops)
	}
	w.ok(w.VDI().Forget(w.ctx, again))
	w.ok(w.SR().Scan(w.ctx, w.sr()))
	found := must(w.VDI().GetByUUID(w.ctx, r.UUID))(t)
	w.ok(w.VDI().Destroy(w.ctx, found))
	w.ok(w.SR().Scan(w.ctx, w.sr()))
	_, err = w.VDI().GetByUUID(w.ctx, r.UUID)
	w.fails(err, "UUID_INVALID", "VDI", r.UUID)
}
