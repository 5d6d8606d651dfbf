package storage_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

func TestFirstStart(t *testing.T) {
	b := open(t)
	rd := b.env.DB.View()
	_, pool := xapi.Pool(rd)
	host, err := db.Get(rd, b.host)
	b.ok(err)
	local := b.local()
	for name, ref := range map[string]xenapi.SRRef{"pool.default_SR": pool.DefaultSR, "pool.suspend_image_SR": pool.SuspendImageSR,
		"pool.crash_dump_SR": pool.CrashDumpSR, "host.suspend_image_sr": host.SuspendImageSR, "host.crash_dump_sr": host.CrashDumpSR} {
		if ref != local {
			t.Errorf("%s is %s, want the local SR", name, ref)
		}
	}
	sr, err := db.Get(rd, local)
	b.ok(err)
	if sr.NameLabel != "Local storage" || sr.Type != "file" || sr.Shared || !slices.Contains(sr.AllowedOperations, xenapi.StorageOperationsVDICreate) {
		t.Errorf("the local SR: %+v", sr)
	}
	tools, err := db.Get(rd, b.tools())
	b.ok(err)
	if !tools.IsToolsSR || tools.ContentType != "iso" || tools.OtherConfig["xenserver_tools_sr"] != "true" ||
		slices.Contains(tools.AllowedOperations, xenapi.StorageOperationsVDICreate) {
		t.Errorf("the tools SR: %+v", tools)
	}
	iso := b.vdi(b.toolsISO())
	if !iso.IsToolsISO || !iso.ReadOnly || iso.NameLabel != "guest-tools.iso" || iso.VirtualSize == 0 || iso.SMConfig["xs-tools"] != "true" {
		t.Errorf("the tools image: %+v", iso)
	}
	drivers := map[string]*xenapi.SM{}
	for _, d := range db.All[xenapi.SMRef](rd) {
		drivers[d.Type] = d
	}
	if f := drivers["file"]; f == nil || f.Features["VDI_RESIZE"] != 1 || !slices.Contains(f.Capabilities, "VDI_CREATE") ||
		f.Configuration["location"] == "" || len(drivers) != 2 {
		t.Errorf("drivers: %v", drivers)
	}
	b.agrees()
}

func TestLaterStartKeepsReferences(t *testing.T) {
	b := open(t)
	disk := b.disk(nil)
	local, tools, image := b.local(), b.tools(), b.toolsISO()
	edit(b, local, func(sr *xenapi.SR) { sr.NameLabel = "mine" })
	b.restart()
	if b.local() != local || b.tools() != tools || b.toolsISO() != image {
		t.Error("references changed")
	}
	sr, err := db.Get(b.env.DB.View(), local)
	b.ok(err)
	if sr.NameLabel != "mine" || len(sr.PBDs) != 1 {
		t.Errorf("the local SR: %+v", sr)
	}
	if got := b.vdi(disk).AllowedOperations; !slices.Contains(got, xenapi.VDIOperationsResize) {
		t.Errorf("allowed on a disk after a start: %v", got)
	}
	b.agrees()
}

func TestAnSRThatWasDestroyedStaysAway(t *testing.T) {
	b := open(t)
	local := b.local()
	b.ok(b.calls.PBD.Unplug(b.Context(), xapitest.Call(), service.PBDUnplugParams{Self: b.pbdOf(local)}))
	b.ok(b.calls.SR.Destroy(b.Context(), xapitest.Call(), service.SRDestroyParams{SR: local}))
	b.restart()
	if b.local() != "" {
		t.Error("the local SR came back")
	}
}

func TestOneBadSRHoldsUpNoOther(t *testing.T) {
	b := open(t)
	dir := filepath.Join(b.dir, "lost")
	lost, err := b.calls.SR.Create(b.Context(), xapitest.Call(), service.SRCreateParams{Host: b.host, Type: "file",
		NameLabel: "lost", DeviceConfig: map[string]string{"location": dir}})
	b.ok(err)
	b.stop()
	sr, err := db.Get(b.env.DB.View(), lost)
	b.ok(err)
	b.ok(b.env.Node.Storage.Detach(b.Context(), sr.UUID))
	b.ok(os.Remove(dir))
	b.start()
	if db.Find(b.env.DB.View(), b.pbdOf(lost)).CurrentlyAttached {
		t.Error("an SR that has gone is attached")
	}
	if len(b.alerts) != 1 || !strings.HasPrefix(b.alerts[0], "PBD_PLUG_FAILED_ON_SERVER_START: SR 'lost'") {
		t.Errorf("alerts: %q", b.alerts)
	}
	b.disk(nil)
	b.agrees()
}
