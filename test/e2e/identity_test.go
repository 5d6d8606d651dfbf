package e2e

import (
	"strconv"
	"strings"
	"testing"

	"xapid/pkg/xenapi"
)

// TestIdentity looks at what clients decide by: Xen Orchestra and XO Lite
// read the brand and the version, XenCenter the range of versions that it may
// manage and the restrictions, the Terraform provider the platform's version.
func TestIdentity(t *testing.T) {
	w := start(t)
	h := must(w.Host().GetRecord(w.ctx, w.host()))(t)
	v := h.SoftwareVersion
	for key, want := range map[string]string{"product_brand": "XCP-ng", "product_version": "8.3.0", "platform_name": "XCP",
		"xencenter_min": "2.23", "xencenter_max": "2.23"} {
		if v[key] != want {
			t.Errorf("software_version %s is %q, want %q", key, v[key], want)
		}
	}
	for _, key := range []string{"product_version_text", "product_version_text_short", "build_number", "date", "hostname", "xapi",
		"xapi_build", "xen", "linux", "network_backend", "db_schema"} {
		if v[key] == "" {
			t.Errorf("software_version has no %s", key)
		}
	}
	if parts := strings.Split(v["platform_version"], "."); len(parts) != 3 || number(parts[0]) < 3 {
		t.Errorf("platform_version %q", v["platform_version"])
	}
	if h.APIVersionMajor != 2 || h.APIVersionMinor != 23 || h.APIVersionVendor != "XenSource" || h.Edition == "" {
		t.Errorf("API %d.%d of %s, edition %q", h.APIVersionMajor, h.APIVersionMinor, h.APIVersionVendor, h.Edition)
	}
	if h.LicenseParams["expiry"] == "" {
		t.Error("the licence never says when it ends")
	}
	restrictions := must(w.Pool().GetRestrictions(w.ctx, w.pool()))(t)
	seen := 0
	for key, value := range restrictions {
		if strings.HasPrefix(key, "restrict_") {
			seen++
			if value != "false" || h.LicenseParams[key] != "false" {
				t.Errorf("%s is %q for the pool, %q for the host", key, value, h.LicenseParams[key])
			}
		}
	}
	if seen < 40 {
		t.Errorf("only %d restrictions are spoken of", seen)
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		return -1
	}
	return n
}

// TestFirstObjects are what clients expect to find on a fresh host.
func TestFirstObjects(t *testing.T) {
	w := start(t)
	for _, name := range []string{"Other install media", "Debian Bookworm 12"} {
		vms := must(w.VM().GetByNameLabel(w.ctx, name))(t)
		if len(vms) != 1 {
			t.Fatalf("%d templates %q", len(vms), name)
		}
		r := w.rec(vms[0])
		if !r.IsATemplate || !r.IsDefaultTemplate || r.OtherConfig["default_template"] != "true" || r.OtherConfig["mac_seed"] == "" ||
			r.ReferenceLabel == "" || !strings.Contains(r.Recommendations, "memory-static-max") {
			t.Errorf("%+v", r)
		}
	}
	if must(w.Pool().GetMaster(w.ctx, w.pool()))(t) != w.host() {
		t.Error("the pool's master is not this host")
	}
	tools := must(w.SR().GetAllWhere(w.ctx, `field "is_tools_sr" = "true"`))(t)
	if len(tools) != 1 {
		t.Errorf("%d SRs of tools", len(tools))
	}
	for _, role := range []string{"pool-admin", "pool-operator", "vm-power-admin", "vm-admin", "vm-operator", "read-only"} {
		if len(must(w.Role().GetByNameLabel(w.ctx, role))(t)) != 1 {
			t.Errorf("no role %s", role)
		}
	}
	for _, sm := range must(w.SM().GetAllRecords(w.ctx))(t) {
		if r := sm.(*xenapi.SM); r.Type == "file" && (r.Features["VDI_CREATE"] == 0 || r.Features["VDI_DELETE"] == 0) {
			t.Errorf("features of the file driver: %v", r.Features)
		}
	}
	this := must(w.Session().GetThisHost(w.ctx, w.SessionRef()))(t)
	if this != w.host() {
		t.Errorf("this host is %s", this)
	}
}
