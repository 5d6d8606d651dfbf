package vm

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// parseDevice reads a VIF's device.
func parseDevice(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return 0, fmt.Errorf("%w: %q", errDevice, text)
	}
	return int(n), nil
}

// diskSpec is one disk of other_config:disks.
type diskSpec struct {
	Device   string `xml:"device,attr"`
	Size     string `xml:"size,attr"`
	SR       string `xml:"sr,attr"`
	Bootable string `xml:"bootable,attr"`
	Type     string `xml:"type,attr"`

	size int64
	sr   xenapi.SRRef
}

// maxProvisionDisks bounds what one document may ask for.
const maxProvisionDisks = 255

// parseDisks reads other_config:disks and finds the SRs.
func parseDisks(rd db.Reader, text string) ([]diskSpec, error) {
	if strings.TrimSpace(text) == "" {
		return nil, nil
	}
	var doc struct {
		XMLName xml.Name   `xml:"provision"`
		Disks   []diskSpec `xml:"disk"`
	}
	if err := xml.Unmarshal([]byte(text), &doc); err != nil {
		return nil, xenapi.ErrInvalidValue("other_config:disks", "not a provision document: "+err.Error())
	}
	if len(doc.Disks) > maxProvisionDisks {
		return nil, xenapi.ErrInvalidValue("other_config:disks", strconv.Itoa(len(doc.Disks))+" disks")
	}
	for i := range doc.Disks {
		if err := doc.Disks[i].resolve(rd); err != nil {
			return nil, err
		}
	}
	return doc.Disks, nil
}

func (d *diskSpec) resolve(rd db.Reader) (err error) {
	if d.size, err = strconv.ParseInt(d.Size, 10, 64); err != nil || d.size <= 0 {
		return xenapi.ErrInvalidValue("size", d.Size)
	}
	if d.Type == "" {
		d.Type = string(xenapi.VDITypeSystem)
	}
	switch xenapi.VDIType(d.Type) {
	case xenapi.VDITypeSystem, xenapi.VDITypeUser, xenapi.VDITypeEphemeral, xenapi.VDITypeSuspend, xenapi.VDITypeCrashdump:
	default:
		return xenapi.ErrInvalidValue("type", d.Type)
	}
	if d.Bootable != "true" && d.Bootable != "false" {
		return xenapi.ErrInvalidValue("bootable", d.Bootable)
	}
	ref := rd.Snapshot().ByUUID(datamodel.Get().Class("SR"), d.SR)
	if ref == "" {
		return xenapi.ErrUUIDInvalid("sr", d.SR)
	}
	d.sr = xenapi.SRRef(ref)
	return nil
}

// Provision makes a template that was cloned into a VM, with the disks that
// its other_config asks for.
func (s *VMs) Provision(ctx context.Context, c *service.Call, p service.VMProvisionParams) error {
	return s.provisioning(ctx, c, p.VM, func(ctx context.Context, parts *parts) error {
		disks, err := parseDisks(s.Env.DB.View(), parts.vm.OtherConfig["disks"])
		if err != nil {
			return err
		}
		vdis := make([]xenapi.VDIRef, len(disks))
		id, n := string(c.Task.Ref()), &note{Kind: kindDisks, VM: p.VM}
		var steps []saga.Step
		for i, d := range disks {
			steps = append(steps, s.provisionStep(parts, d, &vdis[i], id, n))
		}
		steps = append(steps, saga.Step{Name: "make the records", Do: func(ctx context.Context) error {
			return s.Env.Update(ctx, func(tx *db.Tx) error {
				tx.SetJournal(id, nil)
				return s.recordProvisioned(tx, p.VM, disks, vdis)
			})
		}})
		return s.owned(ctx, id, n, saga.Run(ctx, s.options(c), "provision", steps))
	})
}

// provisioning locks a VM for provision.
func (s *VMs) provisioning(ctx context.Context, c *service.Call, ref xenapi.VMRef, fn func(ctx context.Context, p *parts) error) error {
	check := func(tx *db.Tx) error { return Check(tx, ref, xenapi.VMOperationsProvision) }
	targets := []ops.Target{ops.On("VM", ref, xenapi.VMOperationsProvision)}
	return s.Env.Locks.Do(ctx, c, ops.WaitLong, targets, check, func(ctx context.Context) error {
		p, err := load(s.Env.DB.View(), ref)
		if err != nil {
			return err
		}
		return fn(ctx, p)
	})
}

func (s *VMs) provisionStep(p *parts, d diskSpec, out *xenapi.VDIRef, id string, n *note) saga.Step {
	return saga.Step{Name: "make disk " + d.Device,
		Do: func(ctx context.Context) (err error) {
			vdi := xenapi.NewVDI()
			vdi.NameLabel, vdi.NameDescription = d.Device, "Created by template provisioner"
			vdi.SR, vdi.VirtualSize, vdi.Type = d.sr, d.size, xenapi.VDIType(d.Type)
			vdi.SMConfig = map[string]string{"vmhint": p.vm.UUID}
			*out, err = s.Disks.CreateVDI(owning(ctx, id, n), vdi)
			return err
		},
		Undo: func(ctx context.Context) error { return s.Disks.DestroyVDI(ctx, *out) }}
}

func (s *VMs) recordProvisioned(tx *db.Tx, ref xenapi.VMRef, disks []diskSpec, vdis []xenapi.VDIRef) error {
	vm, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	vm.IsATemplate, vm.IsDefaultTemplate = false, false
	config := maps.Clone(vm.OtherConfig)
	delete(config, "disks")
	delete(config, "postinstall")
	vm.OtherConfig = config
	if m, err := db.Edit(tx, vm.Metrics); err == nil {
		m.InstallTime = s.Env.Time()
	}
	taken := map[string]bool{}
	for _, r := range vm.VBDs {
		if vbd := db.Find(tx, r); vbd != nil {
			device, err := s.Device(vbd.Userdevice)
			if err == nil {
				taken[device] = true
			}
		}
	}
	for i, d := range disks {
		device, err := s.Device(d.Device)
		if err != nil {
			return errors.Join(xenapi.ErrInvalidDevice(d.Device), err)
		}
		if taken[device] {
			return xenapi.ErrDeviceAlreadyExists(d.Device)
		}
		taken[device] = true
		vbd := xenapi.NewVBD()
		vbd.UUID, vbd.VM, vbd.VDI = xenapi.NewUUID(), ref, vdis[i]
		vbd.Userdevice, vbd.Bootable = d.Device, d.Bootable == "true"
		vbd.Mode, vbd.Type = xenapi.VBDModeRW, xenapi.VBDTypeDisk
		vbd.Unpluggable = d.Type != string(xenapi.VDITypeSystem)
		vbd.OtherConfig = map[string]string{"owner": ""}
		db.Insert[xenapi.VBDRef](tx, vbd)
	}
	return nil
}
