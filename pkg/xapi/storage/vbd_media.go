package storage

import (
	"context"
	"errors"

	"xapid/pkg/db"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
	"xapid/pkg/xenctl"
)

// Insert puts a CD image into an empty drive.
func (v *VBDs) Insert(ctx context.Context, c *service.Call, p service.VBDInsertParams) error {
	rd := v.s.Env.DB.View()
	vdi, err := db.Get(rd, p.VDI)
	if err != nil {
		return err
	}
	if sr := db.Find(rd, vdi.SR); sr != nil && sr.ContentType != "iso" && sr.Type != "iso" {
		if err := checkVBD(look(rd), p.VBD, xenapi.VBDOperationsInsert, p.VDI); err != nil {
			return err
		}
		return xenapi.ErrVDIIsNotISO(string(p.VDI), sr.ContentType)
	}
	return v.locked(ctx, c, p.VBD, xenapi.VBDOperationsInsert, p.VDI, func(ctx context.Context) error {
		return v.s.changeMedium(ctx, p.VBD, p.VDI)
	})
}

// Eject takes the image out of a drive.
func (v *VBDs) Eject(ctx context.Context, c *service.Call, p service.VBDEjectParams) error {
	return v.locked(ctx, c, p.VBD, xenapi.VBDOperationsEject, xenapi.Null, func(ctx context.Context) error {
		return v.s.changeMedium(ctx, p.VBD, xenapi.Null)
	})
}

// changeMedium puts a VDI into a drive, or takes what is in it out if vdi is
// null. For a VM without a domain it is a change of the database alone.
func (s *Storage) changeMedium(ctx context.Context, ref xenapi.VBDRef, vdi xenapi.VDIRef) error {
	d, err := s.hotDriveOf(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	before := d.vbd.VDI
	op := s.begin(kindMedia, note{SR: s.srUUID(before, vdi), VBD: ref, UUID: d.uuid, Device: d.device})
	record := s.recordStep(op, ref, func(vbd *xenapi.VBD) { vbd.VDI, vbd.Empty = vdi, vdi == xenapi.Null },
		func(vbd *xenapi.VBD) { vbd.VDI, vbd.Empty = before, before == xenapi.Null })
	if !d.vbd.CurrentlyAttached {
		return record.Do(ctx)
	}
	if vdi == xenapi.Null {
		return op.run(ctx, append(s.ejectSteps(d), record))
	}
	var at sm.Attachment
	return op.run(ctx, []saga.Step{s.attachStep(d, vdi, &at),
		{Name: "insert the medium", Partial: true,
			Do:   func(ctx context.Context) error { return s.setMedium(ctx, d, diskSource(at)) },
			Undo: func(ctx context.Context) error { return s.setMedium(ctx, d, xenctl.DiskSource{}) }},
		record})
}

// srUUID is the uuid of the SR of the first VDI that there is.
func (s *Storage) srUUID(refs ...xenapi.VDIRef) string {
	rd := s.Env.DB.View()
	for _, ref := range refs {
		if vdi := db.Find(rd, ref); vdi != nil {
			if sr := db.Find(rd, vdi.SR); sr != nil {
				return sr.UUID
			}
		}
	}
	return ""
}

// ejectSteps take the medium out of the domain's drive and detach it.
func (s *Storage) ejectSteps(d hotDrive) []saga.Step {
	return []saga.Step{
		{Name: "eject the medium", Partial: true,
			Do: func(ctx context.Context) error { return s.setMedium(ctx, d, xenctl.DiskSource{}) },
			Undo: func(ctx context.Context) error {
				at, err := s.AttachVDI(ctx, d.vbd.VDI, Holder(d.ref), true)
				if err != nil {
					return err
				}
				return s.setMedium(ctx, d, diskSource(at))
			}},
		{Name: "detach the volume", Do: func(ctx context.Context) error {
			return s.DetachVDI(ctx, d.vbd.VDI, Holder(d.ref))
		}},
	}
}

// setMedium changes what lies in the drive of a domain; a domain that has gone
// has none.
func (s *Storage) setMedium(ctx context.Context, d hotDrive, source xenctl.DiskSource) error {
	changer, ok := xenctl.As[xenctl.MediaChanger](s.Env.Node.Hypervisor)
	if !ok {
		return deviceFault(d.ref, d.device, true, xenctl.ErrNotSupported)
	}
	err := changer.InsertMedia(ctx, d.uuid, d.device, source)
	if errors.Is(err, xenctl.ErrNotFound) {
		return nil
	}
	return deviceFault(d.ref, d.device, true, err)
}
