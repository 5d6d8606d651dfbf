package db

import (
	"cmp"
	"context"
	"database/sql/driver"
	"fmt"
	"log/slog"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// loaders is how many tables are read at once, and then how many fields.
const loaders = 3

// loadGC is the garbage collector's percentage while the graph is loaded.
const loadGC = 400

// load reads the whole graph and the index of the last log entry in it.
func (w *writer) load(ctx context.Context, gen uint64) (*Snapshot, uint64, error) {
	// The heap grows from nothing: to collect at every doubling would mark the
	// graph over and over. Run gives back what is left over.
	defer debug.SetGCPercent(debug.SetGCPercent(loadGC))
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
	classes := stored()
	slices.SortFunc(classes, func(a, b *datamodel.Class) int { // VM, the longest, first
		return cmp.Compare(len(b.Fields), len(a.Fields))
	})
	work := make(chan *datamodel.Class, len(classes))
	for _, c := range classes {
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
	reader := newColumnReader()
	var rows []*Row
	err := conn.each(ctx, "SELECT "+strings.Join(names, ", ")+" FROM "+quoteName(c.Name), func(row []driver.Value) error {
		rec := xenapi.New(c.ID)
		for i, f := range fields {
			if err := reader.read(rec.Ptr(f.Index), row[i+1]); err != nil {
				return fmt.Errorf("db: %s.%s: %w", c.Name, f.Name, err)
			}
		}
		rows = append(rows, &Row{Ref: fmt.Sprint(row[0]), Rec: rec, Gen: t.gen, Created: t.gen})
		return nil
	})
	if err != nil || len(rows) == 0 {
		return err
	}
	t.rows = t.rows.filled(rows)
	if f := c.FieldByName("uuid"); f != nil {
		uuids := make([]uuidEntry, 0, len(rows))
		for _, r := range rows {
			if uuid := *r.Rec.Ptr(f.Index).(*string); uuid != "" {
				uuids = append(uuids, uuidEntry{uuid, r.Ref})
			}
		}
		t.uuids = t.uuids.filled(uuids)
	}
	return nil
}

// linkLoaded fills the derived sets and the index of references of a graph
// that nobody reads yet, and nulls references to what did not survive the
// restart: objects of ephemeral classes. Each field fills one other end, so
// that fields can be followed side by side.
func linkLoaded(snap *Snapshot, log *slog.Logger) {
	var fields []*datamodel.Field
	for _, c := range stored() {
		for _, f := range c.Fields {
			if refersOut(f) && snap.Count(c) > 0 {
				fields = append(fields, f)
			}
		}
	}
	work := make(chan *datamodel.Field, len(fields))
	for _, f := range fields {
		work <- f
	}
	close(work)
	var linkers [loaders]linker
	var wg sync.WaitGroup
	for i := range linkers {
		linkers[i] = linker{snap, log, map[string]*referrers{}}
		wg.Go(func() {
			for f := range work {
				for row := range snap.Rows(f.Class) {
					linkers[i].field(row, f)
				}
			}
		})
	}
	wg.Wait()
	all := linkers[0].refs
	for _, l := range linkers[1:] {
		for ref, more := range l.refs {
			if known := all[ref]; known != nil {
				known.from = append(known.from, more.from...)
			} else {
				all[ref] = more
			}
		}
	}
	list := make([]referrers, 0, len(all))
	for _, r := range all {
		list = append(list, *r)
	}
	snap.refs = snap.refs.filled(list)
}

// linker follows fields to the objects that they name.
type linker struct {
	snap *Snapshot
	log  *slog.Logger
	refs map[string]*referrers
}

func (l *linker) field(row *Row, f *datamodel.Field) {
	p, single := row.Rec.Ptr(f.Index).(*string)
	if !single {
		for _, ref := range targets(row, f) {
			l.link(row, f, ref)
		}
		return
	}
	if *p == xenapi.Null || *p == "" {
		return
	}
	class := refType(f.Type).Class
	target := l.snap.Find(class, *p)
	if target == nil {
		if class.Persist {
			l.log.Warn("a reference names nothing", "class", f.Class.Name, "field", f.Name, "ref", row.Ref)
		}
		*p = xenapi.Null
		return
	}
	*p = target.Ref // the same text, in the same memory
	if f.Rel != nil {
		set := target.Rec.Ptr(f.Rel.To.Index).(*[]string)
		*set = append(*set, row.Ref)
		return
	}
	l.link(row, f, target.Ref)
}

// link notes a plain reference at its target.
func (l *linker) link(row *Row, f *datamodel.Field, ref string) {
	known := l.refs[ref]
	if known == nil {
		known = &referrers{target: ref}
		l.refs[ref] = known
	}
	known.from = append(known.from, referrer{row.Ref, f})
}
