package e2e

import (
	"encoding/pem"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"xapid/pkg/xenapi"
)

// TestHostSettings changes what a host's record says.
func TestHostSettings(t *testing.T) {
	w := start(t)
	h := w.host()
	w.ok(w.Host().SetIscsiIqn(w.ctx, h, "iqn.2026-11.example:one"))
	w.fails(w.Host().SetIscsiIqn(w.ctx, h, ""), "INVALID_VALUE", "value", "")
	w.fails(w.Host().SetIscsiIqn(w.ctx, h, "iqn\nInitiatorName=x"), "INVALID_VALUE", "value")
	w.ok(w.Host().SetMultipathing(w.ctx, h, true))
	w.ok(w.Host().SetPowerOnMode(w.ctx, h, "wake-on-lan", map[string]string{"power_on_ip": "192.0.2.1", "power_on_password": "hunter2"}))
	w.ok(w.Host().SetHostnameLive(w.ctx, h, "renamed"))
	for _, name := range []string{"", "-x", "a..b", "a b", "$(id)", strings.Repeat("x", 65)} {
		w.fails(w.Host().SetHostnameLive(w.ctx, h, name), "HOST_NAME_INVALID")
	}
	r := must(w.Host().GetRecord(w.ctx, h))(t)
	if r.IscsiIqn != "iqn.2026-11.example:one" || r.OtherConfig["iscsi_iqn"] != r.IscsiIqn || !r.Multipathing || r.Hostname != "renamed" ||
		r.PowerOnMode != "wake-on-lan" || r.PowerOnConfig["power_on_ip"] != "192.0.2.1" {
		t.Errorf("%+v", r)
	}
	if slices.Contains(values(r.PowerOnConfig), "hunter2") {
		t.Errorf("the password is in the record: %v", r.PowerOnConfig)
	}
	secret := must(w.Secret().GetByUUID(w.ctx, r.PowerOnConfig["power_on_password_secret"]))(t)
	if v := must(w.Secret().GetValue(w.ctx, secret))(t); v != "hunter2" {
		t.Errorf("the secret is %q", v)
	}
	if name, err := os.Hostname(); err == nil && name == "renamed" {
		t.Error("the machine was renamed")
	}
}

// TestHostFigures asks the host about itself.
func TestHostFigures(t *testing.T) {
	w := start(t)
	h := w.host()
	now := must(w.Host().GetServertime(w.ctx, h))(t)
	if d := time.Since(now); d < -2*time.Second || d > time.Minute {
		t.Errorf("the server's time is %s off", d)
	}
	if local := must(w.Host().GetServerLocaltime(w.ctx, h))(t); local.Sub(now).Abs() > 15*time.Hour {
		t.Errorf("the local time is %s", local)
	}
	free, over := must(w.Host().ComputeFreeMemory(w.ctx, h))(t), must(w.Host().ComputeMemoryOverhead(w.ctx, h))(t)
	r := must(w.Host().GetRecord(w.ctx, h))(t)
	metrics := must(w.HostMetrics().GetRecord(w.ctx, r.Metrics))(t)
	if free <= 0 || free >= metrics.MemoryTotal || over != r.MemoryOverhead || !metrics.Live || !r.Enabled {
		t.Errorf("free %d of %d, overhead %d, live %t, enabled %t", free, metrics.MemoryTotal, over, metrics.Live, r.Enabled)
	}
	if len(r.HostCPUs) == 0 || r.CPUInfo["cpu_count"] == "" || r.CPUInfo["cpu_count"] == "0" {
		t.Errorf("processors: %v", r.CPUInfo)
	}
	block, _ := pem.Decode([]byte(must(w.Host().GetServerCertificate(w.ctx, h))(t)))
	if block == nil || block.Type != "CERTIFICATE" {
		t.Error("the certificate is no PEM")
	}
	methods := must(w.Host().ListMethods(w.ctx))(t)
	for _, m := range []string{"VM.start", "event.from", "VM.get_record"} {
		if !slices.Contains(methods, m) {
			t.Errorf("%s is not among %d methods", m, len(methods))
		}
	}
	_, err := w.Host().GetServertime(w.ctx, "OpaqueRef:none")
	w.fails(err, "HANDLE_INVALID", "host", "OpaqueRef:none")
}

// TestEvacuate: with one host, guests can't go anywhere.
func TestEvacuate(t *testing.T) {
	w := start(t)
	vm := w.vm("stays")
	w.ok(w.VM().Start(w.ctx, vm, false, false))
	prevent := must(w.Host().GetVMsWhichPreventEvacuation(w.ctx, w.host()))(t)
	if len(prevent) != 1 || len(prevent[string(vm)]) == 0 {
		t.Errorf("evacuation is prevented by %v", prevent)
	}
	w.ok(w.Host().Disable(w.ctx, w.host(), false))
	w.fails(w.Host().Evacuate(w.ctx, w.host(), xenapi.Null, 0), "NO_HOSTS_AVAILABLE")
	w.ok(w.VM().HardShutdown(w.ctx, vm))
	w.ok(w.Host().Evacuate(w.ctx, w.host(), xenapi.Null, 0))
	if must(w.Host().GetEnabled(w.ctx, w.host()))(t) {
		t.Error("it is enabled")
	}
	w.ok(w.Host().Enable(w.ctx, w.host()))
	if !must(w.Host().GetEnabled(w.ctx, w.host()))(t) {
		t.Error("it is not enabled")
	}
}

// TestPlugins runs the executables of one directory, and nothing else.
func TestPlugins(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\ncat <<END\n<methodResponse><params><param><value><struct><member><name>Status</name><value>Success</value></member>" +
		"<member><name>Value</name><value>hello</value></member></struct></value></param></params></methodResponse>\nEND\n"
	if err := os.WriteFile(filepath.Join(dir, "hello"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "fails"), []byte("#!/bin/sh\nexit 3\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	w := start(t, "--plugin-dir", dir)
	if said := must(w.Host().CallPlugin(w.ctx, w.host(), "hello", "f", map[string]string{"k": "v"}))(t); said != "hello" {
		t.Errorf("it said %q", said)
	}
	_, err := w.Host().CallPlugin(w.ctx, w.host(), "fails", "f", nil)
	w.fails(err, "XENAPI_PLUGIN_FAILURE", "3")
	for _, name := range []string{"none", "../hello", "hello;id", "hello\x00", "", ".", "/bin/true"} {
		if _, err := w.Host().CallPlugin(w.ctx, w.host(), name, "f", nil); xenapi.Code(err) != "XENAPI_MISSING_PLUGIN" && name != "hello\x00" || err == nil {
			t.Errorf("plugin %q: %v", name, err)
		}
	}
}

// TestPool changes the pool's object.
func TestPool(t *testing.T) {
	w := start(t)
	p := w.pool()
	w.ok(w.Pool().SetNameLabel(w.ctx, p, "ours"))
	w.ok(w.Pool().SetDefaultSR(w.ctx, p, w.sr()))
	w.ok(w.Pool().SetSuspendImageSR(w.ctx, p, w.sr()))
	w.fails(w.Pool().SetDefaultSR(w.ctx, p, "OpaqueRef:none"), "HANDLE_INVALID", "SR", "OpaqueRef:none")
	w.ok(w.Pool().AddToGuestAgentConfig(w.ctx, p, "auto_update", "false"))
	w.ok(w.Pool().SetOtherConfig(w.ctx, p, map[string]string{"xo:clientInfo:1": "{}"}))
	w.ok(w.Pool().SyncDatabase(w.ctx))
	r := must(w.Pool().GetRecord(w.ctx, p))(t)
	if r.NameLabel != "ours" || r.Master != w.host() || r.DefaultSR != w.sr() || r.GuestAgentConfig["auto_update"] != "false" ||
		!maps.Equal(r.OtherConfig, map[string]string{"xo:clientInfo:1": "{}"}) {
		t.Errorf("%+v", r)
	}
	w.ok(w.Pool().RemoveFromGuestAgentConfig(w.ctx, p, "auto_update"))
	if c := must(w.Pool().GetGuestAgentConfig(w.ctx, p))(t); len(c) > 0 {
		t.Errorf("guest_agent_config %v", c)
	}
	if state := must(w.Pool().GetLicenseState(w.ctx, p))(t); state["edition"] == "" || state["expiry"] != "never" {
		t.Errorf("licence %v", state)
	}
	if names := must(w.Pool().CertificateList(w.ctx))(t); len(names) > 0 {
		t.Errorf("trusted certificates %v", names)
	}
	if got := must(w.Pool().GetGuestSecurebootReadiness(w.ctx, p))(t); got != xenapi.PoolGuestSecurebootReadinessNotReady {
		t.Errorf("secure boot is %s without certificates", got)
	}
}

// TestBlobs makes blobs, by themselves and of a VM, and fills one.
func TestBlobs(t *testing.T) {
	w := start(t)
	vm := w.vm("has a blob")
	own := must(w.Blob().Create(w.ctx, "text/plain", false))(t)
	of := must(w.VM().CreateNewBlob(w.ctx, vm, "icon", "image/png", true))(t)
	if _, err := w.VM().CreateNewBlob(w.ctx, vm, "icon", "", false); err == nil {
		t.Error("two blobs of a name")
	}
	if got := w.rec(vm).Blobs; !maps.Equal(got, map[string]string{"icon": string(of)}) {
		t.Errorf("blobs %v", got)
	}
	if r := must(w.Blob().GetRecord(w.ctx, of))(t); r.MimeType != "image/png" || !r.Public {
		t.Errorf("%+v", r)
	}
	w.ok(w.Blob().Destroy(w.ctx, own))
	w.ok(w.VM().Destroy(w.ctx, vm))
	for _, gone := range []xenapi.BlobRef{own, of} {
		_, err := w.Blob().GetRecord(w.ctx, gone)
		w.fails(err, "HANDLE_INVALID", "blob", string(gone))
	}
}
