package storage

import (
	"crypto/md5"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// graph reads objects for the checks. Within a transaction the sets on the
// many side of a relation lag behind, so it knows which objects the
// transaction adds to them.
type graph struct {
	db.Reader
	vbds map[xenapi.VDIRef][]xenapi.VBDRef
	pbds map[xenapi.SRRef][]xenapi.PBDRef
}

func look(rd db.Reader) graph { return graph{Reader: rd} }

// vbdsOf walks the drives of a VDI.
func (g graph) vbdsOf(ref xenapi.VDIRef, vdi *xenapi.VDI, yield func(xenapi.VBDRef, *xenapi.VBD) bool) {
	for _, set := range [][]xenapi.VBDRef{vdi.VBDs, g.vbds[ref]} {
		for _, r := range set {
			if vbd := db.Find(g, r); vbd != nil && vbd.VDI == ref && !yield(r, vbd) {
				return
			}
		}
	}
}

// pbdsOf walks the connections of an SR.
func (g graph) pbdsOf(ref xenapi.SRRef, sr *xenapi.SR, yield func(xenapi.PBDRef, *xenapi.PBD) bool) {
	for _, set := range [][]xenapi.PBDRef{sr.PBDs, g.pbds[ref]} {
		for _, r := range set {
			if pbd := db.Find(g, r); pbd != nil && pbd.SR == ref && !yield(r, pbd) {
				return
			}
		}
	}
}

// attached reports whether an SR is attached on any host.
func (g graph) attached(ref xenapi.SRRef, sr *xenapi.SR) (is bool) {
	g.pbdsOf(ref, sr, func(_ xenapi.PBDRef, pbd *xenapi.PBD) bool {
		is = pbd.CurrentlyAttached
		return !is
	})
	return is
}

// features are what the driver of an SR can do.
func (g graph) features(sr *xenapi.SR) map[string]int64 {
	if driver := db.Find(g, driverRef(sr.Type)); driver != nil {
		return driver.Features
	}
	return nil
}

// driverRef is the reference of a driver's SM object: fixed, so that an SR
// finds its driver without a search.
func driverRef(srType string) xenapi.SMRef {
	return xenapi.SMRef(xenapi.RefPrefix + derivedUUID("reference of driver "+srType))
}

// derivedUUID makes a uuid that is always the same for a text.
func derivedUUID(text string) string { return xenapi.FormatUUID(md5.Sum([]byte(text))) }

// inTransition reports whether an operation is under way on a drive that
// decides whether it is attached.
func inTransition(vbd *xenapi.VBD) bool { return len(vbd.CurrentOperations) > 0 || vbd.Reserved }

// holds reports whether a drive has its disk, or is about to.
func holds(vbd *xenapi.VBD) bool {
	if vbd.CurrentlyAttached || vbd.Reserved {
		return true
	}
	for _, op := range vbd.CurrentOperations {
		if slices.Contains([]xenapi.VBDOperations{xenapi.VBDOperationsAttach, xenapi.VBDOperationsPlug,
			xenapi.VBDOperationsInsert}, xenapi.VBDOperations(op)) {
			return true
		}
	}
	return false
}
