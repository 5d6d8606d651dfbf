package storage

import (
	"xapid/pkg/db"
	"xapid/pkg/xapi/ops"
	"xapid/pkg/xenapi"
)

// Derive sets allowed_operations of the VBDs, VDIs and SRs that a transaction
// edited, and of those that depend on what it edited.
func Derive(tx *db.Tx, edited []db.Key) {
	d := deriver{tx: tx, g: graph{Reader: tx, vbds: map[xenapi.VDIRef][]xenapi.VBDRef{}, pbds: map[xenapi.SRRef][]xenapi.PBDRef{}}}
	for _, key := range edited {
		d.note(key)
	}
	for _, key := range edited {
		d.follow(key)
	}
	for _, ref := range d.srs.list {
		d.deriveSR(ref)
	}
	for _, ref := range d.vdis.list {
		d.deriveVDI(ref)
	}
	for _, ref := range d.vbds.list {
		d.deriveVBD(ref)
	}
}

// set is a set of references in the order in which they came.
type set[R comparable] struct {
	has  map[R]bool
	list []R
}

func (s *set[R]) add(refs ...R) {
	for _, ref := range refs {
		if !s.has[ref] {
			if s.has == nil {
				s.has = map[R]bool{}
			}
			s.has[ref] = true
			s.list = append(s.list, ref)
		}
	}
}

type deriver struct {
	tx   *db.Tx
	g    graph
	vbds set[xenapi.VBDRef]
	vdis set[xenapi.VDIRef]
	srs  set[xenapi.SRRef]
}

// note tells the graph of members that sets will get by this transaction.
func (d *deriver) note(key db.Key) {
	switch key.Class.Name {
	case "VBD":
		ref := xenapi.VBDRef(key.Ref)
		before := db.Find(d.tx.Snapshot(), ref)
		if vbd := db.Find(d.tx, ref); vbd != nil && (before == nil || before.VDI != vbd.VDI) {
			d.g.vbds[vbd.VDI] = append(d.g.vbds[vbd.VDI], ref)
		}
	case "PBD":
		ref := xenapi.PBDRef(key.Ref)
		if pbd := db.Find(d.tx, ref); pbd != nil && db.Find(d.tx.Snapshot(), ref) == nil {
			d.g.pbds[pbd.SR] = append(d.g.pbds[pbd.SR], ref)
		}
	}
}

// follow notes what depends on an edited object.
func (d *deriver) follow(key db.Key) {
	switch key.Class.Name {
	case "VM":
		d.followVM(xenapi.VMRef(key.Ref))
	case "VM_guest_metrics":
		for _, ref := range d.tx.Snapshot().Referrers(key.Ref) {
			d.followVM(xenapi.VMRef(ref))
		}
	case "VBD":
		ref := xenapi.VBDRef(key.Ref)
		d.vbds.add(ref)
		for _, rd := range []db.Reader{d.tx, d.tx.Snapshot()} {
			if vbd := db.Find(rd, ref); vbd != nil && vbd.VDI != xenapi.Null {
				d.followVDI(vbd.VDI)
			}
		}
	case "VDI":
		d.followVDI(xenapi.VDIRef(key.Ref))
	case "SR":
		d.srs.add(xenapi.SRRef(key.Ref))
	case "PBD":
		for _, rd := range []db.Reader{d.tx, d.tx.Snapshot()} {
			if pbd := db.Find(rd, xenapi.PBDRef(key.Ref)); pbd != nil {
				d.srs.add(pbd.SR)
			}
		}
	}
}

func (d *deriver) followVM(ref xenapi.VMRef) {
	if vm := db.Find(d.tx, ref); vm != nil {
		d.vbds.add(vm.VBDs...)
	}
}

// followVDI notes a disk and the drives that share it. Those of a disk that
// nobody may write to don't depend on each other, be they ever so many.
func (d *deriver) followVDI(ref xenapi.VDIRef) {
	vdi := db.Find(d.tx, ref)
	if vdi == nil || d.vdis.has[ref] {
		return
	}
	d.vdis.add(ref)
	before := db.Find(d.tx.Snapshot(), ref)
	if !vdi.ReadOnly || before == nil || !before.ReadOnly || len(vdi.CurrentOperations) != len(before.CurrentOperations) {
		d.g.vbdsOf(ref, vdi, func(r xenapi.VBDRef, _ *xenapi.VBD) bool {
			d.vbds.add(r)
			return true
		})
	}
}

func (d *deriver) deriveSR(ref xenapi.SRRef) {
	sr := db.Find(d.tx, ref)
	if sr == nil {
		return
	}
	allowed := make([]xenapi.StorageOperations, 0, len(srRules))
	for _, r := range srRules {
		if checkSR(d.g, ref, sr, r) == nil {
			allowed = append(allowed, r.op)
		}
	}
	ops.Allow(d.tx, "SR", ref, allowed)
}

func (d *deriver) deriveVDI(ref xenapi.VDIRef) {
	vdi := db.Find(d.tx, ref)
	if vdi == nil {
		return
	}
	u := d.g.useOf(ref, vdi)
	allowed := make([]xenapi.VDIOperations, 0, len(vdiRules))
	for _, r := range vdiRules {
		if !r.hidden && checkVDI(d.g, ref, vdi, u, r) == nil {
			allowed = append(allowed, r.op)
		}
	}
	ops.Allow(d.tx, "VDI", ref, allowed)
}

func (d *deriver) deriveVBD(ref xenapi.VBDRef) {
	allowed := make([]xenapi.VBDOperations, 0, len(vbdListed))
	for _, op := range vbdListed {
		if checkVBD(d.g, ref, op, xenapi.Null) == nil {
			allowed = append(allowed, op)
		}
	}
	ops.Allow(d.tx, "VBD", ref, allowed)
}
