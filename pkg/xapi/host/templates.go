package host

import (
	"crypto/md5"
	"encoding/xml"
	"fmt"
	"maps"
	"slices"
	"strings"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// derivedUUID makes a uuid of a text, always the same one.
func derivedUUID(text string) string { return xenapi.FormatUUID(md5.Sum([]byte(text))) }

// ensureTemplates makes the default templates that are not there yet. They
// keep what people changed in them.
func ensureTemplates(tx *db.Tx) error {
	class := datamodel.Get().Class("VM")
	for _, t := range datamodel.Get().Templates {
		if tx.Snapshot().ByUUID(class, t.UUID) == "" {
			vm, err := templateRecord(t)
			if err != nil {
				return err
			}
			metrics := xenapi.NewVMMetrics()
			metrics.UUID = derivedUUID("metrics of template " + t.UUID)
			vm.Metrics = db.Insert[xenapi.VMMetricsRef](tx, metrics)
			db.Insert[xenapi.VMRef](tx, vm)
		}
	}
	return nil
}

func templateRecord(t datamodel.Template) (*xenapi.VM, error) {
	vm := xenapi.NewVM()
	vm.UUID, vm.NameLabel, vm.ReferenceLabel = t.UUID, t.NameLabel, t.ReferenceLabel
	vm.NameDescription = "Clone this template to create a new VM"
	vm.IsATemplate, vm.IsDefaultTemplate, vm.UserVersion = true, true, 1
	vm.MemoryStaticMin, vm.MemoryStaticMax = t.MemoryStaticMin, t.MemoryStaticMax
	vm.MemoryDynamicMin, vm.MemoryDynamicMax = t.MemoryDynamicMin, t.MemoryDynamicMax
	vm.MemoryTarget = t.MemoryDynamicMax
	vm.VCPUsMax, vm.VCPUsAtStartup = t.VCPUsMax, t.VCPUsAtStartup
	vm.DomainType = xenapi.DomainType(t.DomainType)
	vm.HVMBootPolicy, vm.HVMBootParams = t.HVMBootPolicy, t.HVMBootParams
	vm.PVBootloader, vm.PVArgs = t.PVBootloader, t.PVArgs
	vm.HVMShadowMultiplier = 1
	vm.Platform = t.Platform
	vm.ActionsAfterShutdown, vm.ActionsAfterReboot = xenapi.OnNormalExitDestroy, xenapi.OnNormalExitRestart
	vm.ActionsAfterCrash = xenapi.OnCrashBehaviourRestart
	vm.Recommendations = recommendations(t.Restrictions)
	vm.OtherConfig = maps.Clone(t.OtherConfig)
	if vm.OtherConfig == nil {
		vm.OtherConfig = map[string]string{}
	}
	vm.OtherConfig["default_template"] = "true"
	vm.OtherConfig["mac_seed"] = derivedUUID("mac seed of template " + t.UUID)
	if len(t.Disks) > 0 {
		disks, err := provisionXML(t.Disks)
		if err != nil {
			return nil, err
		}
		vm.OtherConfig["disks"] = disks
	}
	return vm, nil
}

type provisionDisk struct {
	Device   string `xml:"device,attr"`
	Size     string `xml:"size,attr"`
	SR       string `xml:"sr,attr"`
	Bootable bool   `xml:"bootable,attr"`
	Type     string `xml:"type,attr"`
}

// provisionXML writes other_config:disks; the client fills in the SR.
func provisionXML(disks []datamodel.TemplateDisk) (string, error) {
	var doc struct {
		XMLName xml.Name        `xml:"provision"`
		Disks   []provisionDisk `xml:"disk"`
	}
	for i, d := range disks {
		doc.Disks = append(doc.Disks, provisionDisk{fmt.Sprint(i), fmt.Sprint(d.Size), "", d.Bootable, d.Type})
	}
	b, err := xml.Marshal(doc)
	return string(b), err
}

// recommendations writes VM.recommendations from a template's limits: numbers
// of fields are fields, the others properties.
func recommendations(limits map[string]any) string {
	var b strings.Builder
	b.WriteString("<restrictions>")
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		value := fmt.Sprint(limits[name])
		if n, ok := limits[name].(float64); ok {
			value = fmt.Sprintf("%.0f", n)
		}
		switch {
		case name == "memory-static-max" || name == "vcpus-max":
			fmt.Fprintf(&b, `<restriction field="%s" max="%s"/>`, name, value)
		case strings.HasPrefix(name, "number-of-"):
			fmt.Fprintf(&b, `<restriction property="%s" min="0" max="%s"/>`, name, value)
		case strings.HasPrefix(name, "supports-"):
			fmt.Fprintf(&b, `<restriction field="%s" value="%s"/>`, name, value)
		default:
			fmt.Fprintf(&b, `<restriction field="%s" value="%s"/>`, name, map[string]string{"true": "1", "false": "0"}[value])
		}
	}
	b.WriteString("</restrictions>")
	return b.String()
}
