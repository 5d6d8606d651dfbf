package db

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/mattn/go-sqlite3"

	"xapid/pkg/datamodel"
)

// sqlConn is one connection to SQLite by the driver itself: database/sql
// between would double the cost of a row.
type sqlConn struct{ c *sqlite3.SQLiteConn }

func openSQL(path string) (*sqlConn, error) {
	dsn := "file:" + strings.NewReplacer("?", "%3f", "#", "%23", "%", "%25").Replace(path) +
		"?_journal_mode=WAL&_synchronous=NORMAL&_busy_timeout=10000"
	c, err := (&sqlite3.SQLiteDriver{}).Open(dsn)
	if err != nil {
		return nil, fmt.Errorf("db: open %s: %w", path, err)
	}
	return &sqlConn{c.(*sqlite3.SQLiteConn)}, nil
}

func (s *sqlConn) exec(query string, args ...driver.Value) error {
	st, err := s.c.Prepare(query)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer st.Close()
	return execute(st, args)
}

func execute(st driver.Stmt, args []driver.Value) error {
	named := make([]driver.NamedValue, len(args))
	for i, a := range args {
		named[i] = driver.NamedValue{Ordinal: i + 1, Value: a}
	}
	_, err := st.(driver.StmtExecContext).ExecContext(context.Background(), named)
	return err
}

// each runs a query and calls fn with every row; the row's slice is reused.
// ctx is looked at between rows: handed to the driver it would cost a
// goroutine a row.
func (s *sqlConn) each(ctx context.Context, query string, fn func(row []driver.Value) error) error {
	rows, err := s.c.QueryContext(context.Background(), query, nil)
	if err != nil {
		return fmt.Errorf("%s: %w", query, err)
	}
	defer rows.Close()
	row := make([]driver.Value, len(rows.Columns()))
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := rows.Next(row); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return fmt.Errorf("%s: %w", query, err)
		}
		if err := fn(row); err != nil {
			return err
		}
	}
}

// stored lists the classes that have a table.
func stored() []*datamodel.Class {
	var out []*datamodel.Class
	for _, c := range datamodel.Get().Classes {
		if c.Stored() {
			out = append(out, c)
		}
	}
	return out
}

// storedFields lists the fields of a class that have a column.
func storedFields(c *datamodel.Class) []*datamodel.Field {
	var out []*datamodel.Field
	for _, f := range c.Fields {
		if f.Persistent() {
			out = append(out, f)
		}
	}
	return out
}

func quoteName(s string) string { return `"` + strings.ReplaceAll(s, `"`, `""`) + `"` }

// migrate makes the tables, and adds the columns that the schema gained since
// the file was made. Columns that it lost stay: an older daemon may return.
func (s *sqlConn) migrate(ctx context.Context) error {
	for _, q := range []string{
		"CREATE TABLE IF NOT EXISTS xapid_meta (key TEXT PRIMARY KEY, value)",
		"CREATE TABLE IF NOT EXISTS xapid_journal (id TEXT PRIMARY KEY, data BLOB)",
	} {
		if err := s.exec(q); err != nil {
			return err
		}
	}
	for _, c := range stored() {
		if err := s.migrateClass(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

func (s *sqlConn) migrateClass(ctx context.Context, c *datamodel.Class) error {
	have := map[string]bool{}
	err := s.each(ctx, "PRAGMA table_info("+quoteName(c.Name)+")", func(row []driver.Value) error {
		have[fmt.Sprint(row[1])] = true
		return nil
	})
	if err != nil {
		return err
	}
	if len(have) == 0 {
		cols := []string{"ref TEXT PRIMARY KEY"}
		for _, f := range storedFields(c) {
			cols = append(cols, quoteName(f.Column())+" "+columnType(f))
		}
		return s.exec("CREATE TABLE " + quoteName(c.Name) + " (" + strings.Join(cols, ", ") + ") WITHOUT ROWID")
	}
	for _, f := range storedFields(c) {
		if have[f.Column()] {
			continue
		}
		if err := s.exec("ALTER TABLE " + quoteName(c.Name) + " ADD COLUMN " + quoteName(f.Column()) + " " + columnType(f)); err != nil {
			return err
		}
	}
	return nil
}
