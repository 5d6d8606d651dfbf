package sm

import (
	"maps"
	"slices"
)

// Features returns what SM.features shows for a driver: XenServer's feature names with their versions, computed
// from the interfaces that the driver and its SRs implement, so that what is advertised is what there is.
func Features(d Driver) map[string]int64 {
	f := map[string]int64{
		"SR_UPDATE": 1, "VDI_ATTACH": 1, "VDI_DETACH": 1, "VDI_ACTIVATE": 1, "VDI_DEACTIVATE": 1,
	}
	sr := d.Model()
	if _, ok := sr.(Allocator); ok {
		f["VDI_CREATE"], f["VDI_DELETE"] = 1, 1
	}
	if _, ok := sr.(Resizer); ok {
		f["VDI_RESIZE"] = 1
	}
	if _, ok := d.(Prober); ok {
		f["SR_PROBE"] = 1
	}
	if d.Info().Thin {
		f["THIN_PROVISIONING"] = 1
	}
	return f
}

// FeatureNames returns the names of Features in order, as SM.capabilities shows them.
func FeatureNames(d Driver) []string {
	return slices.Sorted(maps.Keys(Features(d)))
}
