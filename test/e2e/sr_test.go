package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/xenapi"
)

// library makes an ISO library of the files that are named.
func (w *world) library(names ...string) (xenapi.SRRef, string) {
	w.Helper()
	dir := w.TempDir()
	for _, name := range names {
		w.ok(os.WriteFile(filepath.Join(dir, name), make([]byte, mib), 0o600))
	}
	sr, err := w.SR().Create(w.ctx, w.host(), map[string]string{"location": dir, "legacy_mode": "true"}, 0, "library", "", "iso", "iso", false, nil)
	w.ok(err)
	w.ok(w.SR().Scan(w.ctx, sr))
	return sr, dir
}

// iso is a disc in a library of its own.
func (w *world) iso(name string) xenapi.VDIRef {
	w.Helper()
	sr, _ := w.library(name)
	return must(w.SR().GetVDIs(w.ctx, sr))(w)[0]
}

// fileSR makes an SR of files in a directory that is not there yet.
func (w *world) fileSR(dir string) (xenapi.SRRef, error) {
	return w.SR().Create(w.ctx, w.host(), map[string]string{"location": dir}, 0, "more", "files", "file", "user", false, nil)
}

// TestSRLife goes from create to destroy.
func TestSRLife(t *testing.T) {
	w := start(t)
	dir := filepath.Join(t.TempDir(), "sr")
	sr := must(w.fileSR(dir))(t)
	r := must(w.SR().GetRecord(w.ctx, sr))(t)
	if r.Type != "file" || r.Shared || len(r.PBDs) != 1 || r.PhysicalSize <= 0 || r.NameDescription != "files" {
		t.Errorf("%+v", r)
	}
	pbd := r.PBDs[0]
	w.ok(w.PBD().Plug(w.ctx, pbd)) // again: nothing to do
	w.ok(w.SR().SetNameLabel(w.ctx, sr, "renamed"))
	w.ok(w.SR().SetNameDescription(w.ctx, sr, "described"))
	disk := xenapi.NewVDI()
	disk.NameLabel, disk.SR, disk.VirtualSize, disk.Type = "in it", sr, 4*mib, xenapi.VDITypeUser
	vdi := must(w.VDI().Create(w.ctx, disk))(t)
	w.ok(w.SR().Update(w.ctx, sr))
	w.ok(w.SR().Scan(w.ctx, sr))
	w.fails(w.SR().Destroy(w.ctx, sr), "SR_HAS_PBD", string(sr))
	w.fails(w.SR().Forget(w.ctx, sr), "SR_HAS_PBD", string(sr))
	w.fails(w.PBD().Destroy(w.ctx, pbd), "OPERATION_NOT_ALLOWED")
	w.fails(w.PBD().SetDeviceConfig(w.ctx, pbd, map[string]string{"location": "/"}), "OPERATION_NOT_ALLOWED")
	w.ok(w.PBD().Unplug(w.ctx, pbd))
	w.ok(w.PBD().Unplug(w.ctx, pbd)) // again: nothing to do
	w.fails(w.SR().Scan(w.ctx, sr), "SR_HAS_NO_PBDS", string(sr))
	_, err := w.VDI().Create(w.ctx, disk)
	w.fails(err, "SR_HAS_NO_PBDS", string(sr))
	w.fails(w.SR().Destroy(w.ctx, sr), "SR_NOT_EMPTY")
	w.ok(w.PBD().SetDeviceConfig(w.ctx, pbd, map[string]string{"location": dir}))
	w.ok(w.PBD().Plug(w.ctx, pbd))
	w.ok(w.VDI().Destroy(w.ctx, vdi))
	w.ok(w.PBD().Unplug(w.ctx, pbd))
	w.ok(w.SR().AddToOtherConfig(w.ctx, sr, "indestructible", "true"))
	w.fails(w.SR().Destroy(w.ctx, sr), "SR_INDESTRUCTIBLE", string(sr))
	w.ok(w.SR().RemoveFromOtherConfig(w.ctx, sr, "indestructible"))
	if r := must(w.SR().GetRecord(w.ctx, sr))(t); r.NameLabel != "renamed" || r.NameDescription != "described" {
		t.Errorf("%+v", r)
	}
	w.ok(w.SR().Destroy(w.ctx, sr))
	_, err = w.PBD().GetRecord(w.ctx, pbd)
	w.fails(err, "HANDLE_INVALID", "PBD", string(pbd))
}

// TestSRReturns forgets an SR and introduces it again, with its disks.
func TestSRReturns(t *testing.T) {
	w := start(t)
	dir := filepath.Join(t.TempDir(), "sr")
	sr := must(w.fileSR(dir))(t)
	r := must(w.SR().GetRecord(w.ctx, sr))(t)
	disk := xenapi.NewVDI()
	disk.NameLabel, disk.SR, disk.VirtualSize, disk.Type = "kept", sr, 4*mib, xenapi.VDITypeUser
	uuid := must(w.VDI().GetUUID(w.ctx, must(w.VDI().Create(w.ctx, disk))(t)))(t)
	introduce := func() (xenapi.SRRef, error) {
		return w.SR().Introduce(w.ctx, r.UUID, "back", "", "file", "user", false, nil)
	}
	_, err := introduce()
	w.fails(err, "SR_UUID_EXISTS", r.UUID)
	w.ok(w.PBD().Unplug(w.ctx, r.PBDs[0]))
	w.ok(w.SR().Forget(w.ctx, sr))
	_, err = w.VDI().GetByUUID(w.ctx, uuid)
	w.fails(err, "UUID_INVALID", "VDI", uuid)
	_, err = w.SR().Probe(w.ctx, w.host(), map[string]string{"location": dir}, "file", nil)
	w.fails(err, "SR_OPERATION_NOT_SUPPORTED")
	back := must(introduce())(t)
	pbd := xenapi.NewPBD()
	pbd.Host, pbd.SR, pbd.DeviceConfig = w.host(), back, map[string]string{"location": dir}
	made := must(w.PBD().Create(w.ctx, pbd))(t)
	_, err = w.PBD().Create(w.ctx, pbd)
	w.fails(err, "PBD_EXISTS", string(back), string(w.host()), string(made))
	w.ok(w.PBD().Plug(w.ctx, made))
	w.ok(w.SR().Scan(w.ctx, back))
	if vdi := must(w.VDI().GetByUUID(w.ctx, uuid))(t); w.vdiRec(vdi).SR != back {
		t.Error("the disk is in another SR")
	}
}

// TestSRRefused is what can't be made, and leaves nothing behind.
func TestSRRefused(t *testing.T) {
	w := start(t)
	before := len(must(w.SR().GetAll(w.ctx))(t)) + len(must(w.PBD().GetAll(w.ctx))(t))
	create := func(kind string, config map[string]string) error {
		_, err := w.SR().Create(w.ctx, w.host(), config, 0, "bad", "", kind, "user", false, nil)
		return err
	}
	w.fails(create("nosuch", nil), "SR_UNKNOWN_DRIVER", "nosuch")
	for _, location := range []string{"", "relative", "/tmp/../etc", "/tmp/a\nb", "/proc/1/" + strings.Repeat("x", 70_000)} {
		if err := create("file", map[string]string{"location": location}); !strings.HasPrefix(xenapi.Code(err), "SR_BACKEND_FAILURE") {
			t.Errorf("location %.40q: %v", location, err)
		}
	}
	if after := len(must(w.SR().GetAll(w.ctx))(t)) + len(must(w.PBD().GetAll(w.ctx))(t)); after != before {
		t.Errorf("%d SRs and PBDs, there were %d", after, before)
	}
	_, err := w.SR().ProbeExt(w.ctx, w.host(), nil, "file", nil)
	w.fails(err, "SR_OPERATION_NOT_SUPPORTED")
	w.fails(w.SR().AssertCanHostHAStatefile(w.ctx, w.sr()), "HA_CONSTRAINT_VIOLATION_SR_NOT_SHARED", string(w.sr()))
	if types := must(w.SR().GetSupportedTypes(w.ctx))(t); !slices.Contains(types, "file") || !slices.Contains(types, "iso") {
		t.Errorf("types %v", types)
	}
	w.ok(w.SR().SetShared(w.ctx, w.sr(), true))
	if !must(w.SR().GetShared(w.ctx, w.sr()))(t) {
		t.Error("not shared")
	}
	w.ok(w.SR().SetShared(w.ctx, w.sr(), false))
}

// TestLibrary shows discs, read only, as they come and go.
func TestLibrary(t *testing.T) {
	w := start(t)
	sr, dir := w.library("one.iso")
	names := func() []string {
		var out []string
		for _, vdi := range must(w.SR().GetVDIs(w.ctx, sr))(t) {
			r := w.vdiRec(vdi)
			if !r.ReadOnly {
				t.Errorf("%s can be written", r.NameLabel)
			}
			out = append(out, r.NameLabel)
		}
		slices.Sort(out)
		return out
	}
	if got := names(); !slices.Equal(got, []string{"one.iso"}) {
		t.Errorf("discs %v", got)
	}
	w.ok(os.WriteFile(filepath.Join(dir, "two.iso"), make([]byte, mib), 0o600))
	w.ok(os.Remove(filepath.Join(dir, "one.iso")))
	w.ok(w.SR().Scan(w.ctx, sr))
	if got := names(); !slices.Equal(got, []string{"two.iso"}) {
		t.Errorf("discs %v", got)
	}
	disk := xenapi.NewVDI()
	disk.NameLabel, disk.SR, disk.VirtualSize, disk.Type = "no disc", sr, mib, xenapi.VDITypeUser
	_, err := w.VDI().Create(w.ctx, disk)
	w.fails(err, "SR_OPERATION_NOT_SUPPORTED", string(sr))
}

// TestUnplugUnderVM: a PBD that a running VM needs stays.
func TestUnplugUnderVM(t *testing.T) {
	w := start(t)
	vm := w.vm("uses it")
	vdi, _ := w.disk(vm, 4*mib, "0")
	pbd := must(w.SR().GetPBDs(w.ctx, w.sr()))(t)[0]
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	w.fails(w.PBD().Unplug(w.ctx, pbd), "VDI_IN_USE", string(vdi))
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.ok(w.PBD().Unplug(w.ctx, pbd))
	if err := w.VM().Start(w.ctx, vm, false, false); xenapi.Code(err) != "VM_REQUIRES_SR" && xenapi.Code(err) != "SR_HAS_NO_PBDS" {
		t.Errorf("without its SR: %v", err)
	}
	w.ok(w.PBD().Plug(w.ctx, pbd))
	w.ok(w.VM().Start(w.ctx, vm, false, false))
}
