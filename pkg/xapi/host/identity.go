package host

// What the host says it is. Clients decide by these what to offer:
//
//   - Xen Orchestra reads product_brand and product_version to tell XCP-ng
//     from XenServer and to switch features on: XCP-ng 8.3 is the newest that
//     it gives everything without asking for a licence.
//   - XO Lite reads product_brand and the API version.
//   - XenCenter refuses hosts outside of xencenter_min..xencenter_max, and
//     hides what restrict_* says.
//   - The Terraform provider compares platform_version with the least that it
//     supports.
const (
	productBrand    = "XCP-ng"
	productVersion  = "8.3.0"
	platformName    = "XCP"
	platformVersion = "3.4.0"
	apiMajor        = 2
	apiMinor        = 23
	apiVendor       = "XenSource"
	edition         = "xcp-ng"
	xencenterMin    = "2.23"
	xencenterMax    = "2.23"
)

// Version is the daemon's own version; the build sets it.
var Version = "0.1.0"

// softwareVersion is host.software_version.
func softwareVersion(xen, linux, hostname string) map[string]string {
	return map[string]string{
		"product_brand":              productBrand,
		"product_version":            productVersion,
		"product_version_text":       "8.3",
		"product_version_text_short": "8.3",
		"platform_name":              platformName,
		"platform_version":           platformVersion,
		"build_number":               "xapid-" + Version,
		"hostname":                   hostname,
		"date":                       "2026-11-23",
		"xapi":                       "25.6",
		"xapi_build":                 "25.6.0",
		"xapid":                      Version,
		"xen":                        xen,
		"linux":                      linux,
		"network_backend":            "bridge",
		"db_schema":                  "5.909",
		"xencenter_min":              xencenterMin,
		"xencenter_max":              xencenterMax,
	}
}

// restrictions are the restrict_* switches: every feature is free.
var restricted = []string{"restrict_ad", "restrict_cbt", "restrict_checkpoint", "restrict_cifs", "restrict_connection",
	"restrict_corosync", "restrict_cpu_masking", "restrict_dmc", "restrict_dr", "restrict_email_alerting",
	"restrict_equalogic", "restrict_export_resource_data", "restrict_gfs2", "restrict_gpu", "restrict_guest_agent_auto_update",
	"restrict_guest_ip_setting", "restrict_ha", "restrict_health_check", "restrict_historical_performance",
	"restrict_hotfix_apply", "restrict_igmp_snooping", "restrict_intellicache", "restrict_lab", "restrict_live_patching",
	"restrict_marathon", "restrict_nested_virt", "restrict_net_sriov", "restrict_netapp", "restrict_pci_device_for_auto_update",
	"restrict_pool_attached_storage", "restrict_pool_size", "restrict_pooling", "restrict_pvs_proxy", "restrict_qos",
	"restrict_rbac", "restrict_read_caching", "restrict_rpu", "restrict_set_vcpus_number_live", "restrict_ssl_legacy_switch",
	"restrict_stage", "restrict_storage_xen_motion", "restrict_storagelink", "restrict_storagelink_site_recovery",
	"restrict_updates", "restrict_usb_passthrough", "restrict_vgpu", "restrict_vif_locking", "restrict_vlan",
	"restrict_vm_memory_introspection", "restrict_vmpr", "restrict_vmss", "restrict_vss", "restrict_vswitch_controller",
	"restrict_vtpm", "restrict_web_selfservice", "restrict_web_selfservice_manager", "restrict_wlb", "restrict_xcm",
	"restrict_xen_motion", "enable_xha"}

// restrictions is pool.restrictions, and the larger part of
// host.license_params.
func restrictions() map[string]string {
	out := map[string]string{}
	for _, key := range restricted {
		out[key] = "false"
	}
	out["enable_xha"] = "true"
	return out
}

// licenseParams is host.license_params.
func licenseParams(hostUUID string) map[string]string {
	out := restrictions()
	out["sku_type"], out["sku_marketing_name"] = edition, productBrand
	out["license_type"], out["name"], out["company"] = edition, "", ""
	out["expiry"], out["grace"] = "20991231T23:59:59Z", "no"
	out["uuid"], out["productcode"], out["serialnumber"] = hostUUID, "", ""
	out["version"], out["address1"], out["address2"] = "", "", ""
	out["city"], out["state"], out["postalcode"], out["country"] = "", "", "", ""
	return out
}
