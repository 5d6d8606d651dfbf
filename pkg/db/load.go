package db

import (
	"context"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"strings"

	"golang.org/x/sync/errgroup"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// loaders is how many tables are read at once.
const loaders = 3

// load reads the whole graph and the index of the last log entry in it.
func (w *writer) load(ctx context.Context, gen uint64) (*Snapshot, uint64, error) {
	snap := emptySnapshot(gen)
	var index uint64
	err := w.conn.each(ctx, "SELECT value FROM xapid_meta WHERE key = 'applied_index'", func(row []driver.Value) error {
		n, _ := row[0].(int64)
		index = uint64(n)
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	err = w.conn.each(ctx, "SELECT id, data FROM xapid_journal", func(row []driver.Value) error {
		data, _ := row[1].([]byte)
		snap.journal = snap.journal.put(journalEntry{fmt.Sprint(row[0]), append([]byte{}, data...)})
		return nil
	})
	if err != nil {
		return nil, 0, err
	}
	if err := w.loadTables(ctx, snap); err != nil {
		return nil, 0, err
	}
	linkLoaded(snap, w.log)
	return snap, index, nil
}

func (w *writer) loadTables(ctx context.Context, snap *Snapshot) error {
	work := make(chan *datamodel.Class, 128)
	for _, c := range stored() {
		work <- c
	}
	close(work)
	g, ctx := errgroup.WithContext(ctx)
	for range loaders {
		g.Go(func() error {
			conn, err := openSQL(w.path)
			if err != nil {
				return err
			}
			defer conn.c.Close()
			for c := range work {
				if err := loadTable(ctx, conn, c, snap.tables[c.ID]); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return g.Wait()
}

func loadTable(ctx context.Context, conn *sqlConn, c *datamodel.Class, t *table) error {
	fields := storedFields(c)
	names := []string{"ref"}
	for _, f := range fields {
		names = append(names, quoteName(f.Column()))
	}
	reader := columnReader{seen: map[string]string{}}
	return conn.each(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+quoteName(c.Name), func(row []driver.Value) error {
		rec := xenapi.New(c.ID)
		for i, f := range fields {
			if err := reader.read(rec.Ptr(f.Index), row[i+1]); err != nil {
				return fmt.Errorf("db: %s.%s: %w", c.Name, f.Name, err)
			}
		}
		r := &Row{Ref: fmt.Sprint(row[0]), Rec: rec, Gen: t.gen, Created: t.gen}
		t.rows = t.rows.put(r)
		if uuid := r.UUID(); uuid != "" {
			t.uuids = t.uuids.put(uuidEntry{uuid, r.Ref})
		}
		return nil
	})
}

// linkLoaded fills the derived sets and the index of references of a graph
// that nobody reads yet, and nulls references to what did not survive the
// restart: objects of ephemeral classes.
func linkLoaded(snap *Snapshot, log *slog.Logger) {
	b := builder{next: snap}
	for _, t := range snap.tables {
		for row := range t.rows.all() {
			for _, f := range row.Class().Fields {
				if !refersOut(f) {
					continue
				}
				for _, ref := range targets(row, f) {
					linkRow(&b, row, f, ref, log)
				}
			}
		}
	}
}

func linkRow(b *builder, row *Row, f *datamodel.Field, ref string, log *slog.Logger) {
	class := refType(f.Type).Class
	target := b.next.Find(class, ref)
	switch {
	case target == nil && f.Type.Kind == datamodel.Ref:
		if class.Persist {
			log.Warn("a reference names nothing", "class", f.Class.Name, "field", f.Name, "ref", row.Ref)
		}
		*row.Rec.Ptr(f.Index).(*string) = xenapi.Null
	case target == nil:
	case f.Rel != nil:
		set := target.Rec.Ptr(f.Rel.To.Index).(*[]string)
		*set = append(*set, row.Ref)
	default:
		b.link(f, row.Ref, ref)
	}
}
