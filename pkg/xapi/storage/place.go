package storage

import (
	"context"
	"sync"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
)

// place is an SR that is attached on this host.
type place struct {
	ref   xenapi.SRRef
	sr    *xenapi.SR
	store sm.SR
}

// placeOf finds an SR; SR_HAS_NO_PBDS if it isn't attached.
func (s *Storage) placeOf(rd db.Reader, ref xenapi.SRRef) (place, error) {
	sr, err := db.Get(rd, ref)
	if err != nil {
		return place{}, err
	}
	store, err := s.Env.Node.Storage.SR(sr.UUID)
	if err != nil {
		return place{}, subject{sr: ref}.fault(err)
	}
	return place{ref, sr, store}, nil
}

// readTime bounds how long a driver may take to tell what is on the storage.
const readTime = 10 * time.Minute

// reading is ctx with that bound.
func reading(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(ctx, readTime)
}

// allocator is the place as one where volumes can be made;
// SR_OPERATION_NOT_SUPPORTED if they can't.
func (p place) allocator() (sm.Allocator, error) {
	alloc, ok := p.store.(sm.Allocator)
	if !ok || p.sr.IsToolsSR {
		return nil, xenapi.ErrSROperationNotSupported(string(p.ref))
	}
	return alloc, nil
}

// volumeOf finds a VDI and its place.
func (s *Storage) volumeOf(rd db.Reader, ref xenapi.VDIRef) (*xenapi.VDI, place, error) {
	vdi, err := db.Get(rd, ref)
	if err != nil {
		return nil, place{}, err
	}
	p, err := s.placeOf(rd, vdi.SR)
	return vdi, p, err
}

// AttachVDI makes a VDI usable by a holder and tells where it is; the same
// holder attaching again gets the same answer.
func (s *Storage) AttachVDI(ctx context.Context, ref xenapi.VDIRef, holder string, readOnly bool) (sm.Attachment, error) {
	vdi, p, err := s.volumeOf(s.Env.DB.View(), ref)
	if err != nil {
		return sm.Attachment{}, err
	}
	mode := sm.ReadWrite
	switch {
	case readOnly:
		mode = sm.ReadOnly
	case vdi.ReadOnly:
		return sm.Attachment{}, xenapi.ErrVDIReadonly(string(ref))
	case vdi.Sharable:
		mode = sm.Shared
	}
	at, err := p.store.AttachVolume(ctx, vdi.Location, holder, mode)
	return at, subject{sr: p.ref, vdi: ref, op: string(xenapi.VBDOperationsAttach)}.fault(err)
}

// DetachVDI ends what AttachVDI gave. What is not attached, or not there, is
// no error.
func (s *Storage) DetachVDI(ctx context.Context, ref xenapi.VDIRef, holder string) error {
	rd := s.Env.DB.View()
	vdi := db.Find(rd, ref)
	if vdi == nil {
		return nil
	}
	p, err := s.placeOf(rd, vdi.SR)
	if err != nil {
		return nil // nothing is attached on an SR that isn't
	}
	return subject{sr: p.ref, vdi: ref, op: "detach"}.fault(p.store.DetachVolume(ctx, vdi.Location, holder))
}

// Holder names a VBD to the storage driver.
func Holder(ref xenapi.VBDRef) string { return "vbd-" + string(ref) }

// moving are the volumes that a saga is making or removing, so that a scan,
// which may see them without a record or a record without them, leaves them
// alone. The zero value is ready.
type moving struct {
	mu    sync.Mutex
	now   map[string]int
	scans map[*watch]bool
}

// watch is a scan under way: the volumes that moved since it began.
type watch struct{ seen map[string]bool }

// add marks a volume until the returned function is called.
func (m *moving) add(id string) func() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now == nil {
		m.now = map[string]int{}
	}
	m.now[id]++
	for w := range m.scans {
		w.seen[id] = true
	}
	return func() { m.drop(id) }
}

// drop ends what add began.
func (m *moving) drop(id string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.now[id]--; m.now[id] <= 0 {
		delete(m.now, id)
	}
}

// watch begins a scan; stop ends it.
func (m *moving) watch() (w *watch, stop func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w = &watch{seen: map[string]bool{}}
	for id := range m.now {
		w.seen[id] = true
	}
	if m.scans == nil {
		m.scans = map[*watch]bool{}
	}
	m.scans[w] = true
	return w, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.scans, w)
	}
}

// moved reports whether a volume has moved since the scan began.
func (m *moving) moved(w *watch, id string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return w.seen[id]
}
