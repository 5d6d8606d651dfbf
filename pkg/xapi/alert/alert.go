// Package alert is the behaviour of messages, the alerts about objects that
// stay until somebody deletes them.
//
// Its one invariant: there are never more than Keep of them; the oldest make
// room. Start reading at Post.
package alert

import (
	"context"
	"slices"
	"strconv"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// What an alert may cost.
const (
	// Keep is how many alerts are kept.
	Keep     = 10_000
	makeRoom = 100 // that many of the oldest go at once
	maxName  = 1024
	maxBody  = 64 << 10
)

// unknownPriority is that of an alert whose name is in no list: information.
const unknownPriority = 5

// class is datamodel's entry for messages.
func class() *datamodel.Class { return datamodel.Get().Class("message") }

// Post adds an alert about an object within a transaction; the priority
// follows from its name.
func Post(tx *db.Tx, name string, cls xenapi.Cls, objUUID, body string, now time.Time) xenapi.MessageRef {
	rec := xenapi.NewMessage()
	rec.UUID, rec.Name, rec.Priority = xenapi.NewUUID(), name, unknownPriority
	rec.Cls, rec.ObjUUID, rec.Timestamp, rec.Body = cls, objUUID, now, body
	for _, a := range datamodel.Get().Alerts {
		if a.Name == name {
			rec.Priority = int64(a.Priority)
		}
	}
	ref := xenapi.NewRef[xenapi.MessageRef]()
	insert(tx, ref, rec)
	return ref
}

// insert adds an alert, and makes room for it.
func insert(tx *db.Tx, ref xenapi.MessageRef, rec *xenapi.Message) {
	if tx.Snapshot().Count(class()) >= Keep {
		for _, old := range oldest(tx, makeRoom) {
			db.Delete(tx, old)
		}
	}
	tx.Insert(string(ref), rec)
}

// oldest lists the n alerts that were made first.
func oldest(rd db.Reader, n int) []xenapi.MessageRef {
	type entry struct {
		ref  xenapi.MessageRef
		made time.Time
	}
	all := make([]entry, 0, Keep)
	for ref, m := range db.All[xenapi.MessageRef](rd) {
		all = append(all, entry{ref, m.Timestamp})
	}
	slices.SortFunc(all, func(a, b entry) int { return a.made.Compare(b.made) })
	out := make([]xenapi.MessageRef, 0, n)
	for _, e := range all[:min(n, len(all))] {
		out = append(out, e.ref)
	}
	return out
}

// Where makes a test of records from an expression of the query language.
type Where func(class *datamodel.Class, expr string) (func(rec xenapi.Record) bool, error)

// Messages serves class message.
type Messages struct {
	service.UnimplementedMessage
	env   *xapi.Env
	where Where
}

// New makes the service; without where, get_all_records_where is not there.
func New(env *xapi.Env, where Where) *Messages { return &Messages{env: env, where: where} }

// Register puts the messages where the server finds them.
func (s *Messages) Register(_ xapi.Hooks, services *service.Services) { services.Message = s }

// classOf names the class of an object that an alert is about.
func classOf(cls xenapi.Cls) *datamodel.Class {
	switch cls {
	case xenapi.ClsHost:
		return datamodel.Get().Class("host")
	case xenapi.ClsPool:
		return datamodel.Get().Class("pool")
	}
	return datamodel.Get().Class(string(cls))
}

// Create implements service.Message.
func (s *Messages) Create(ctx context.Context, _ *service.Call, p service.MessageCreateParams) (xenapi.MessageRef, error) {
	switch {
	case p.Name == "" || len(p.Name) > maxName:
		return "", xenapi.ErrInvalidValue("name", strconv.Itoa(len(p.Name))+" bytes")
	case len(p.Body) > maxBody:
		return "", xenapi.ErrInvalidValue("body", strconv.Itoa(len(p.Body))+" bytes")
	case p.Priority < 0:
		return "", xenapi.ErrInvalidValue("priority", strconv.FormatInt(p.Priority, 10))
	}
	rec, ref := xenapi.NewMessage(), xenapi.NewRef[xenapi.MessageRef]()
	rec.UUID, rec.Name, rec.Priority = xenapi.NewUUID(), p.Name, p.Priority
	rec.Cls, rec.ObjUUID, rec.Timestamp, rec.Body = p.Cls, p.ObjUUID, s.env.Time(), p.Body
	return ref, s.env.Update(ctx, func(tx *db.Tx) error {
		if tx.Snapshot().ByUUID(classOf(p.Cls), p.ObjUUID) == "" {
			return xenapi.ErrUUIDInvalid(string(p.Cls), p.ObjUUID)
		}
		insert(tx, ref, rec.Clone().(*xenapi.Message))
		return nil
	})
}

// Destroy implements service.Message.
func (s *Messages) Destroy(ctx context.Context, _ *service.Call, p service.MessageDestroyParams) error {
	return s.destroy(ctx, []xenapi.MessageRef{p.Self})
}

// DestroyMany implements service.Message: all of them or, if one is not there,
// none.
func (s *Messages) DestroyMany(ctx context.Context, _ *service.Call, p service.MessageDestroyManyParams) error {
	return s.destroy(ctx, p.Messages)
}

func (s *Messages) destroy(ctx context.Context, refs []xenapi.MessageRef) error {
	return s.env.Update(ctx, func(tx *db.Tx) error {
		for _, ref := range refs {
			if _, err := db.Get(tx.Snapshot(), ref); err != nil {
				return err
			}
			db.Delete(tx, ref)
		}
		return nil
	})
}

// DestroyAll implements service.Message. The filters are class, object (its
// uuid), priority, and before and after, which are times.
func (s *Messages) DestroyAll(ctx context.Context, _ *service.Call, p service.MessageDestroyAllParams) error {
	accept, err := filters(p.Filters)
	if err != nil {
		return err
	}
	return s.env.Update(ctx, func(tx *db.Tx) error {
		for ref, m := range db.All[xenapi.MessageRef](tx) {
			if accept(m) {
				db.Delete(tx, ref)
			}
		}
		return nil
	})
}

// timeForm is how a time is written in a filter.
const timeForm = "20060102T15:04:05Z"

// filters reads the filters of destroy_all; an alert must pass them all.
func filters(texts map[string]string) (func(m *xenapi.Message) bool, error) {
	var tests []func(m *xenapi.Message) bool
	for name, text := range texts {
		var test func(m *xenapi.Message) bool
		switch name {
		case "class":
			test = func(m *xenapi.Message) bool { return string(m.Cls) == text }
		case "object":
			test = func(m *xenapi.Message) bool { return m.ObjUUID == text }
		case "priority":
			n, err := strconv.ParseInt(text, 10, 64)
			if err != nil {
				return nil, xenapi.ErrInvalidValue("filters", name+": "+text)
			}
			test = func(m *xenapi.Message) bool { return m.Priority == n }
		case "before", "after":
			t, err := time.Parse(timeForm, text)
			if err != nil {
				return nil, xenapi.ErrInvalidValue("filters", name+": "+text)
			}
			test = func(m *xenapi.Message) bool {
				return m.Timestamp.Before(t) == (name == "before") && !m.Timestamp.Equal(t)
			}
		default:
			return nil, xenapi.ErrInvalidValue("filters", name)
		}
		tests = append(tests, test)
	}
	return func(m *xenapi.Message) bool {
		return !slices.ContainsFunc(tests, func(test func(m *xenapi.Message) bool) bool { return !test(m) })
	}, nil
}

// selected gives the records that accept takes.
func (s *Messages) selected(accept func(m *xenapi.Message) bool) map[string]xenapi.Record {
	out := map[string]xenapi.Record{}
	for ref, m := range db.All[xenapi.MessageRef](s.env.DB.View()) {
		if accept(m) {
			out[string(ref)] = m
		}
	}
	return out
}

// Get implements service.Message.
func (s *Messages) Get(_ context.Context, _ *service.Call, p service.MessageGetParams) (map[string]xenapi.Record, error) {
	return s.selected(func(m *xenapi.Message) bool {
		return m.Cls == p.Cls && m.ObjUUID == p.ObjUUID && !m.Timestamp.Before(p.Since)
	}), nil
}

// GetSince implements service.Message.
func (s *Messages) GetSince(_ context.Context, _ *service.Call, p service.MessageGetSinceParams) (map[string]xenapi.Record, error) {
	return s.selected(func(m *xenapi.Message) bool { return !m.Timestamp.Before(p.Since) }), nil
}

// GetAll implements service.Message.
func (s *Messages) GetAll(context.Context, *service.Call) ([]xenapi.MessageRef, error) {
	refs := []xenapi.MessageRef{}
	for ref := range db.All[xenapi.MessageRef](s.env.DB.View()) {
		refs = append(refs, ref)
	}
	return refs, nil
}

// GetAllRecords implements service.Message.
func (s *Messages) GetAllRecords(context.Context, *service.Call) (map[string]xenapi.Record, error) {
	return s.selected(func(*xenapi.Message) bool { return true }), nil
}

// GetAllRecordsWhere implements service.Message.
func (s *Messages) GetAllRecordsWhere(_ context.Context, _ *service.Call, p service.MessageGetAllRecordsWhereParams) (map[string]xenapi.Record, error) {
	if s.where == nil {
		return nil, xenapi.ErrNotImplemented("message.get_all_records_where")
	}
	accept, err := s.where(class(), p.Expr)
	if err != nil {
		return nil, err
	}
	return s.selected(func(m *xenapi.Message) bool { return accept(m) }), nil
}

// GetRecord implements service.Message.
func (s *Messages) GetRecord(_ context.Context, _ *service.Call, p service.MessageGetRecordParams) (*xenapi.Message, error) {
	return db.Get(s.env.DB.View(), p.Self)
}

// GetByUUID implements service.Message.
func (s *Messages) GetByUUID(_ context.Context, _ *service.Call, p service.MessageGetByUUIDParams) (xenapi.MessageRef, error) {
	ref := s.env.DB.View().ByUUID(class(), p.UUID)
	if ref == "" {
		return "", xenapi.ErrUUIDInvalid("message", p.UUID)
	}
	return xenapi.MessageRef(ref), nil
}
