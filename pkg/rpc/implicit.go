package rpc

import (
	"context"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/rpc/wire/query"
	"xapid/pkg/xenapi"
)

// handlerFunc carries out one message.
type handlerFunc = func(ctx context.Context, s *Server, c *call) (any, error)

// implicitHandler is the generic code for a message that follows from its
// class: thirteen kinds, each written once.
func implicitHandler(s *Server, m *datamodel.Message) handlerFunc {
	switch m.Kind {
	case datamodel.FieldGet:
		return getField(m)
	case datamodel.GetRecord:
		return getRecord(m.Class)
	case datamodel.GetByUUID:
		if m.Class.Name == "session" {
			return s.sessions.byUUID
		}
		return getByUUID(m.Class)
	case datamodel.GetByNameLabel:
		return getByNameLabel(m.Class)
	case datamodel.GetAll, datamodel.GetAllWhere:
		return getAll(m.Class)
	case datamodel.GetAllRecords, datamodel.GetAllRecordsWhere:
		return getAllRecords(m.Class)
	case datamodel.Create:
		return create(m)
	case datamodel.Destroy:
		return destroy(m)
	}
	if hook := s.opts.Hooks.Write[m.WireName()]; hook != nil {
		return func(ctx context.Context, _ *Server, c *call) (any, error) { return nil, hook(ctx, &c.Call, c.args) }
	}
	return writeField(m)
}

func find(s *Server, class *datamodel.Class, ref string) (*db.Row, error) {
	row := s.db.View().Find(class, ref)
	if row == nil {
		return nil, xenapi.ErrHandleInvalid(class.Name, wire.Clip(ref))
	}
	return row, nil
}

func getField(m *datamodel.Message) handlerFunc {
	return func(_ context.Context, s *Server, c *call) (any, error) {
		row, err := find(s, m.Class, c.args[0].(string))
		if err != nil {
			return nil, err
		}
		return row.Rec.Ptr(m.Field.Index), nil
	}
}

func getRecord(class *datamodel.Class) handlerFunc {
	return func(_ context.Context, s *Server, c *call) (any, error) {
		row, err := find(s, class, c.args[0].(string))
		if err != nil {
			return nil, err
		}
		s.rows.tick()
		return s.rows.encoded(row, c.enc), nil
	}
}

func getByUUID(class *datamodel.Class) handlerFunc {
	return func(_ context.Context, s *Server, c *call) (any, error) {
		uuid := c.args[0].(string)
		if ref := s.db.View().ByUUID(class, uuid); ref != "" {
			return ref, nil
		}
		return nil, xenapi.ErrUUIDInvalid(class.Name, wire.Clip(uuid))
	}
}

func getByNameLabel(class *datamodel.Class) handlerFunc {
	index := class.FieldByName("name_label").Index
	return func(_ context.Context, s *Server, c *call) (any, error) {
		refs := []string{}
		for row := range s.db.View().Rows(class) {
			if *row.Rec.Ptr(index).(*string) == c.args[0] {
				refs = append(refs, row.Ref)
			}
		}
		return refs, nil
	}
}

// selected gives the rows of a class that the call's query accepts: all when
// the message takes none.
func (s *Server) selected(class *datamodel.Class, c *call) ([]*db.Row, error) {
	s.rows.tick()
	snap := s.db.View()
	rows := make([]*db.Row, 0, snap.Count(class))
	accept := func(*db.Row) bool { return true }
	if len(c.args) > 0 {
		q, err := query.Parse(c.args[0].(string))
		if err != nil {
			return nil, err
		}
		for _, name := range q.Fields() {
			if f := class.FieldByName(name); f == nil || f.InternalOnly {
				return nil, xenapi.ErrInvalidValue("expr", "class "+class.Name+" has no field "+wire.Clip(name))
			}
		}
		accept = func(row *db.Row) bool {
			return q.Eval(func(name string) (string, bool) {
				f := class.FieldByName(name)
				return wire.DBText(f.Type, row.Rec.Ptr(f.Index)), true
			})
		}
	}
	for row := range snap.Rows(class) {
		if accept(row) {
			rows = append(rows, row)
		}
	}
	return rows, nil
}

func getAll(class *datamodel.Class) handlerFunc {
	return func(_ context.Context, s *Server, c *call) (any, error) {
		rows, err := s.selected(class, c)
		if err != nil {
			return nil, err
		}
		refs := make([]string, len(rows))
		for i, row := range rows {
			refs[i] = row.Ref
		}
		return refs, nil
	}
}

func getAllRecords(class *datamodel.Class) handlerFunc {
	return func(_ context.Context, s *Server, c *call) (any, error) {
		if len(c.args) == 0 {
			return s.rows.all(s.db.View(), class, c.enc), nil
		}
		rows, err := s.selected(class, c)
		if err != nil {
			return nil, err
		}
		out := make(wire.RawMap, len(rows))
		for i, row := range rows {
			out[i] = wire.RawMember{Name: row.Ref, Value: s.rows.encoded(row, c.enc)}
		}
		return out, nil
	}
}

// create makes an object from the constructor's record.
func create(m *datamodel.Message) handlerFunc {
	return func(ctx context.Context, s *Server, c *call) (any, error) {
		fields := c.args[0].(*wire.Fields)
		rec, err := recordFrom(m.Class, fields)
		if err != nil {
			return nil, err
		}
		if hook := s.opts.Hooks.Create[m.WireName()]; hook != nil {
			given := func(name string) bool {
				_, ok := fields.Get(m.Class.FieldByName(name))
				return ok
			}
			return hook(ctx, &c.Call, rec, given)
		}
		ref := xenapi.NewRef[string]()
		if f := m.Class.FieldByName("uuid"); f != nil {
			xenapi.SetField(rec.Ptr(f.Index), xenapi.NewUUID())
		}
		return ref, s.db.Update(ctx, func(tx *db.Tx) error {
			tx.Insert(ref, rec)
			return nil
		})
	}
}

// recordFrom makes a record of a constructor's members. Those that are no
// part of the constructor are ignored, so a whole record may be passed.
func recordFrom(class *datamodel.Class, fields *wire.Fields) (xenapi.Record, error) {
	rec := xenapi.New(class.ID)
	for _, f := range class.Fields {
		if !f.CanCreate() {
			continue
		}
		if v, ok := fields.Get(f); ok {
			xenapi.SetField(rec.Ptr(f.Index), v)
		} else if !f.HasDefault {
			return nil, xenapi.ErrFieldTypeError(f.Name)
		}
	}
	return rec, nil
}

func destroy(m *datamodel.Message) handlerFunc {
	return func(ctx context.Context, s *Server, c *call) (any, error) {
		ref := c.args[0].(string)
		if _, err := find(s, m.Class, ref); err != nil {
			return nil, err
		}
		if hook := s.opts.Hooks.Destroy[m.WireName()]; hook != nil {
			return nil, hook(ctx, &c.Call, ref)
		}
		return nil, s.db.Update(ctx, func(tx *db.Tx) error {
			tx.Delete(m.Class, ref)
			return nil
		})
	}
}

// writeField is the generic setter, add_to, remove_from, add and remove.
func writeField(m *datamodel.Message) handlerFunc {
	return func(ctx context.Context, s *Server, c *call) (any, error) {
		if _, err := find(s, m.Class, c.args[0].(string)); err != nil {
			return nil, err
		}
		return nil, s.db.Update(ctx, func(tx *db.Tx) error { return db.WriteField(tx, m.Field, m.Kind, c.args) })
	}
}
