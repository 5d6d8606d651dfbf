package storage

import (
	"context"
	"maps"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
)

// scan adds, updates and removes VDI records so that they say what is on the
// storage. Volumes that are being made or removed meanwhile are left alone.
func (s *Storage) scan(ctx context.Context, ref xenapi.SRRef) error {
	p, err := s.placeOf(s.Env.DB.View(), ref)
	if err != nil {
		return err
	}
	ctx, cancel := reading(ctx)
	defer cancel()
	w, stop := s.moving.watch()
	defer stop()
	volumes, err := p.store.Scan(ctx)
	if err != nil {
		return subject{sr: ref}.fault(err)
	}
	st, err := p.store.Stat(ctx)
	if err != nil {
		return subject{sr: ref}.fault(err)
	}
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		sr, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		known := map[string]xenapi.VDIRef{}
		for _, r := range sr.VDIs {
			if vdi := db.Find(tx, r); vdi != nil && !s.moving.moved(w, vdi.Location) {
				known[vdi.Location] = r
			}
		}
		for _, v := range volumes {
			if s.moving.moved(w, v.ID) {
				continue
			}
			r, there := known[v.ID]
			delete(known, v.ID)
			if there {
				err = refreshVDI(tx, r, v)
			} else {
				s.adopt(tx, ref, sr, v)
			}
			if err != nil {
				return err
			}
		}
		for _, r := range known {
			if err := lost(tx, r); err != nil {
				return err
			}
		}
		setSizes(sr, st)
		return nil
	})
}

// refreshVDI brings the record of a volume that was found up to date.
func refreshVDI(tx *db.Tx, ref xenapi.VDIRef, v sm.Volume) error {
	vdi, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	vdi.Missing = false
	if v.Err != nil {
		return nil // damaged: what is known of it stays
	}
	vdi.VirtualSize, vdi.PhysicalUtilisation = v.VirtualBytes, v.PhysicalBytes
	config := map[string]string{}
	maps.Copy(config, vdi.SMConfig)
	delete(config, "vhd-parent")
	maps.Copy(config, v.SMConfig)
	vdi.SMConfig = config
	if v.Hidden {
		vdi.Managed = false
	}
	return nil
}

// adopt records a volume that nobody knew of.
func (s *Storage) adopt(tx *db.Tx, ref xenapi.SRRef, sr *xenapi.SR, v sm.Volume) {
	if v.Err != nil {
		s.Env.Log.Warn("a volume that is not recorded is damaged; it is left alone", "sr", sr.UUID, "volume", v.ID, "error", v.Err)
		return
	}
	uuid := v.UUID
	if uuid == "" {
		uuid = xenapi.NewUUID()
	}
	if other := tx.Snapshot().ByUUID(xenapi.Class((*xenapi.VDI)(nil)), uuid); db.Find(tx, xenapi.VDIRef(other)) != nil {
		s.Env.Log.Warn("a volume has the uuid of another SR's disk; it is left alone", "sr", sr.UUID, "volume", v.ID)
		return
	}
	vdi := xenapi.NewVDI()
	vdi.UUID, vdi.Location, vdi.SR, vdi.Type = uuid, v.ID, ref, xenapi.VDITypeUser
	vdi.VirtualSize, vdi.PhysicalUtilisation, vdi.ReadOnly = v.VirtualBytes, v.PhysicalBytes, v.ReadOnly
	vdi.Managed = sr.DefaultVDIVisibility && !v.Hidden
	vdi.SMConfig = map[string]string{}
	maps.Copy(vdi.SMConfig, v.SMConfig)
	if v.ID != v.UUID {
		vdi.NameLabel = v.ID
	}
	if sr.IsToolsSR {
		vdi.IsToolsISO, vdi.SMConfig["xs-tools"] = true, "true"
		vdi.NameDescription = "Drivers and agent for guests"
	}
	db.Insert[xenapi.VDIRef](tx, vdi)
}

// lost deals with a record whose volume has gone: it goes too, but marked as
// missing while a VM has it.
func lost(tx *db.Tx, ref xenapi.VDIRef) error {
	vdi, err := db.Edit(tx, ref)
	if err != nil {
		return err
	}
	inUse := len(vdi.CurrentOperations) > 0
	look(tx).vbdsOf(ref, vdi, func(_ xenapi.VBDRef, vbd *xenapi.VBD) bool {
		inUse = inUse || holds(vbd)
		return !inUse
	})
	if inUse {
		vdi.Missing = true
		return nil
	}
	return dropVDI(tx, ref)
}
