package db

import (
	"iter"
	"sync/atomic"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Row is one version of one object. It never changes; a write makes a new one.
type Row struct {
	Ref string
	// Rec is shared by all readers: never change it.
	Rec xenapi.Record
	// Gen is the generation of the commit that made this version; Created
	// that of the object's first.
	Gen, Created uint64
	// Cache is the place for what a reader derives from this version, such
	// as its encoded form; it goes with the version.
	Cache [2]atomic.Pointer[Derived]
	// Stale is set once a newer version exists, so that caches can let go.
	Stale atomic.Bool
}

// Derived is a cached rendering of a row.
type Derived struct {
	Bytes []byte
	// Used is the reader's clock at the last use.
	Used atomic.Int64
}

// Class is the row's class.
func (r *Row) Class() *datamodel.Class { return xenapi.Class(r.Rec) }

// UUID is the value of the row's uuid field.
func (r *Row) UUID() string {
	f := r.Class().FieldByName("uuid")
	if f == nil {
		return ""
	}
	return *r.Rec.Ptr(f.Index).(*string)
}

// table holds the rows of one class in one snapshot.
type table struct {
	rows  pmap[*Row]
	uuids pmap[uuidEntry]
	// gen is the generation of the last change to any of the rows.
	gen uint64
}

type uuidEntry struct{ uuid, ref string }

// referrers are the places, other than relations, that refer to one object.
type referrers struct {
	target string
	from   []referrer
}

type referrer struct {
	ref   string
	field *datamodel.Field
}

// Snapshot is the whole graph at one generation. It never changes.
type Snapshot struct {
	tables []*table
	refs   pmap[referrers]
	// journal holds the sagas under way: by id, what their owner wrote.
	journal pmap[journalEntry]
	gen     uint64
	// index is the last log entry in it.
	index uint64
}

type journalEntry struct {
	id   string
	data []byte
}

// Reader is what Snapshot and Tx have in common.
type Reader interface {
	// Row finds an object of the class; false if there is none.
	Row(class *datamodel.Class, ref string) (xenapi.Record, bool)
	// Snapshot is the committed state that the reader looks at.
	Snapshot() *Snapshot
}

func emptySnapshot(gen uint64) *Snapshot {
	s := &Snapshot{gen: gen,
		refs:    newMap(func(r referrers) string { return r.target }),
		journal: newMap(func(e journalEntry) string { return e.id })}
	for range datamodel.Get().Classes {
		s.tables = append(s.tables, &table{gen: gen,
			rows:  newMap(func(r *Row) string { return r.Ref }),
			uuids: newMap(func(u uuidEntry) string { return u.uuid })})
	}
	return s
}

// Snapshot implements Reader.
func (s *Snapshot) Snapshot() *Snapshot { return s }

// Gen is the snapshot's generation: it grows with every commit, ephemeral
// ones too, and never repeats, not even over restarts.
func (s *Snapshot) Gen() uint64 { return s.gen }

// Index is the last log entry that the snapshot contains.
func (s *Snapshot) Index() uint64 { return s.index }

// Find returns an object's current version, or nil.
func (s *Snapshot) Find(class *datamodel.Class, ref string) *Row {
	r, _ := s.tables[class.ID].rows.get(ref)
	return r
}

// Row implements Reader.
func (s *Snapshot) Row(class *datamodel.Class, ref string) (xenapi.Record, bool) {
	r, ok := s.tables[class.ID].rows.get(ref)
	if !ok {
		return nil, false
	}
	return r.Rec, true
}

// Rows walks all objects of a class, in no order that means anything.
func (s *Snapshot) Rows(class *datamodel.Class) iter.Seq[*Row] { return s.tables[class.ID].rows.all() }

// Count is the number of objects of a class.
func (s *Snapshot) Count(class *datamodel.Class) int { return s.tables[class.ID].rows.size }

// ClassGen is the generation of the last change to an object of the class.
func (s *Snapshot) ClassGen(class *datamodel.Class) uint64 { return s.tables[class.ID].gen }

// ByUUID finds an object by its uuid field; "" if there is none.
func (s *Snapshot) ByUUID(class *datamodel.Class, uuid string) string {
	e, _ := s.tables[class.ID].uuids.get(uuid)
	return e.ref
}

// Journal walks the entries that sagas left open.
func (s *Snapshot) Journal() iter.Seq2[string, []byte] {
	return func(yield func(string, []byte) bool) {
		for e := range s.journal.all() {
			if !yield(e.id, e.data) {
				return
			}
		}
	}
}

// recordOf ties a typed reference to its record type.
type recordOf[T any] interface {
	~string
	Of() *T
}

// recordPtr is a pointer to a generated record.
type recordPtr[T any] interface {
	*T
	xenapi.Record
}

// Get reads the object that ref names. The record is shared: don't change it.
// It fails with HANDLE_INVALID.
func Get[R recordOf[T], T any, P recordPtr[T]](rd Reader, ref R) (P, error) {
	class := datamodel.Get().Classes[P(nil).XenClass()]
	rec, ok := rd.Row(class, string(ref))
	if !ok {
		return nil, xenapi.ErrHandleInvalid(class.Name, string(ref))
	}
	return rec.(P), nil
}

// Find is Get for references that may dangle or be null: nil then.
func Find[R recordOf[T], T any, P recordPtr[T]](rd Reader, ref R) P {
	class := datamodel.Get().Classes[P(nil).XenClass()]
	rec, ok := rd.Row(class, string(ref))
	if !ok {
		return nil
	}
	return rec.(P)
}

// All walks the objects of R's class in the reader's committed state.
func All[R recordOf[T], T any, P recordPtr[T]](rd Reader) iter.Seq2[R, P] {
	class := datamodel.Get().Classes[P(nil).XenClass()]
	return func(yield func(R, P) bool) {
		for row := range rd.Snapshot().Rows(class) {
			if !yield(R(row.Ref), row.Rec.(P)) {
				return
			}
		}
	}
}

// Referrers lists the objects that refer to one by plain references, not by
// relations.
func (s *Snapshot) Referrers(ref string) []string {
	known, _ := s.refs.get(ref)
	out := make([]string, len(known.from))
	for i, r := range known.from {
		out[i] = r.ref
	}
	return out
}
