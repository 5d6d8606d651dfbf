package db

import (
	"bytes"
	"context"
	"database/sql/driver"
	"flag"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"testing"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

var rewrite = flag.Bool("rewrite", false, "write the golden files anew")

const goldenEntry = "testdata/entry.v1"

// sample is one transaction with every type of field, and its journal.
func sample() entryTx {
	vm := xenapi.NewVM()
	vm.UUID, vm.NameLabel, vm.MemoryTarget = "6c4a5f3e-0000-4000-8000-000000000001", `a "name" with ü and \`, 1<<40
	vm.HVMShadowMultiplier, vm.IsATemplate, vm.SnapshotTime = 1.25, true, time.Date(2026, 11, 23, 1, 2, 3, 0, time.UTC)
	vm.Tags, vm.OtherConfig = []string{"x", "y"}, map[string]string{"key": "value"}
	metrics := xenapi.NewVMMetrics()
	metrics.UUID = "6c4a5f3e-0000-4000-8000-000000000002"
	vif := xenapi.NewVIF()
	vif.VM, vif.Trunks = "OpaqueRef:vm", []int64{7, -7}
	create := func(ref string, rec xenapi.Record) Change {
		c, _ := Change{Op: OpCreate, Class: xenapi.Class(rec), Ref: ref, Rec: rec, Fields: allFields(xenapi.Class(rec))}.persistent()
		return c
	}
	return entryTx{
		changes: []Change{create("OpaqueRef:vm", vm), create("OpaqueRef:metrics", metrics), create("OpaqueRef:vif", vif),
			{Op: OpDelete, Class: datamodel.Get().Class("VBD"), Ref: "OpaqueRef:gone"}},
		journal: []journalChange{{"open", []byte("{}")}, {"empty", []byte{}}, {"ended", nil}},
	}
}

// TestEntryOfVersion1 replays a log entry as the first release wrote it.
func TestEntryOfVersion1(t *testing.T) {
	if *rewrite {
		if err := os.WriteFile(goldenEntry, encodeEntry("batch", []entryTx{sample()}), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(goldenEntry)
	if err != nil {
		t.Fatal(err)
	}
	id, txs, err := decodeEntry(b)
	if err != nil || id != "batch" || len(txs) != 1 {
		t.Fatalf("%q, %d transactions, %v", id, len(txs), err)
	}
	want := sample()
	for i, c := range txs[0].changes {
		w := want.changes[i]
		if c.Op != w.Op || c.Class != w.Class || c.Ref != w.Ref {
			t.Errorf("change %d: %v %s %s", i, c.Op, c.Class.Name, c.Ref)
		}
		for _, f := range c.Fields {
			if !xenapi.SameField(c.Rec.Ptr(f), w.Rec.Ptr(f)) {
				t.Errorf("%s.%s: %v", c.Class.Name, c.Class.Fields[f].Name, reflect.ValueOf(c.Rec.Ptr(f)).Elem())
			}
		}
	}
	if !reflect.DeepEqual(txs[0].journal, want.journal) {
		t.Errorf("journal: %+v", txs[0].journal)
	}
	d := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	if err := d.Apply(7, b); err != nil {
		t.Fatal(err)
	}
	vm := Find(d.View(), xenapi.VMRef("OpaqueRef:vm"))
	if vm == nil || vm.NameLabel != `a "name" with ü and \` || len(vm.VIFs) != 1 || d.View().Index() != 7 {
		t.Errorf("applied: %+v at %d", vm, d.View().Index())
	}
}

// TestDamagedEntries: no prefix of an entry, and none with a byte changed,
// brings the decoder down.
func TestDamagedEntries(t *testing.T) {
	whole := encodeEntry("batch", []entryTx{sample()})
	for n := range whole {
		if _, _, err := decodeEntry(whole[:n]); err == nil {
			t.Errorf("the first %d bytes pass for an entry", n)
		}
		bad := bytes.Clone(whole)
		bad[n] ^= 0xff
		_, _, _ = decodeEntry(bad)
	}
}

func openBare(t *testing.T, path string) *DB {
	t.Helper()
	d, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// TestOlderAndNewerSchema: a column that the file lacks is added with the
// default, one that the schema lacks stays with its value.
func TestOlderAndNewerSchema(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d := openBare(t, path)
	if err := d.Apply(1, encodeEntry("batch", []entryTx{sample()})); err != nil {
		t.Fatal(err)
	}
	if err := d.Flushed(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	conn, err := openSQL(path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.c.Close()
	for _, q := range []string{
		`ALTER TABLE "VM" DROP COLUMN "HVM__shadow_multiplier"`, `ALTER TABLE "VM" DROP COLUMN "tags"`,
		`ALTER TABLE "VM" ADD COLUMN "of_a_later_release" TEXT`, `UPDATE "VM" SET "of_a_later_release" = 'kept'`,
	} {
		if err := conn.exec(q); err != nil {
			t.Fatal(err)
		}
	}
	d = openBare(t, path)
	vm := Find(d.View(), xenapi.VMRef("OpaqueRef:vm"))
	if vm.HVMShadowMultiplier != 1 || len(vm.Tags) != 0 || vm.OtherConfig["key"] != "value" {
		t.Errorf("after the migration: %+v", vm)
	}
	vm = vm.Clone().(*xenapi.VM)
	vm.HVMShadowMultiplier, vm.NameLabel = 2, "renamed"
	class := datamodel.Get().Class("VM")
	change := Change{Op: OpUpdate, Class: class, Ref: "OpaqueRef:vm", Rec: vm,
		Fields: []int{class.FieldByName("HVM_shadow_multiplier").Index, class.FieldByName("name_label").Index}}
	if err := d.Apply(2, encodeEntry("next", []entryTx{{changes: []Change{change}}})); err != nil {
		t.Fatal(err)
	}
	if err := d.Flushed(t.Context(), 2); err != nil {
		t.Fatal(err)
	}
	var row []driver.Value
	query := `SELECT "HVM__shadow_multiplier", "name__label", "of_a_later_release" FROM "VM"`
	if err := conn.each(t.Context(), query, func(r []driver.Value) error { row = append(row, r...); return nil }); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(row, []driver.Value{2.0, "renamed", "kept"}) {
		t.Errorf("the row in SQLite: %v", row)
	}
}

// TestFlushedAfterOpen: what SQLite holds at the start counts as flushed.
func TestFlushedAfterOpen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	d, err := Open(t.Context(), Options{Path: path})
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Apply(5, encodeEntry("batch", []entryTx{sample()})); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = openBare(t, path)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := d.Flushed(ctx, d.View().Index()); err != nil || d.View().Index() != 5 {
		t.Errorf("index %d: %v", d.View().Index(), err)
	}
}

// TestRestoreReplaces: an image replaces what is older, journal included, and
// leaves alone what is newer.
func TestRestoreReplaces(t *testing.T) {
	from := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	if err := from.Apply(9, encodeEntry("batch", []entryTx{sample()})); err != nil {
		t.Fatal(err)
	}
	var image bytes.Buffer
	if err := from.Image().Write(&image); err != nil {
		t.Fatal(err)
	}
	older := xenapi.NewVM()
	older.UUID = sample().changes[0].Rec.(*xenapi.VM).UUID // under another ref
	entry := encodeEntry("old", []entryTx{{
		changes: []Change{{Op: OpCreate, Class: xenapi.Class(older), Ref: "OpaqueRef:older", Rec: older, Fields: []int{0}}},
		journal: []journalChange{{"forgotten", []byte("x")}},
	}})
	for index, replaced := range map[uint64]bool{3: true, 20: false} {
		d := openBare(t, filepath.Join(t.TempDir(), "state.db"))
		if err := d.Apply(index, entry); err != nil {
			t.Fatal(err)
		}
		if err := d.Restore(bytes.NewReader(image.Bytes())); err != nil {
			t.Fatal(err)
		}
		gone := Find(d.View(), xenapi.VMRef("OpaqueRef:older")) == nil
		if gone != replaced {
			t.Errorf("restored over index %d: the older object is gone: %v", index, gone)
		}
		if replaced && d.View().ByUUID(xenapi.Class(older), older.UUID) != "OpaqueRef:vm" {
			t.Error("the uuid leads to the object that was replaced")
		}
		for id := range d.View().Journal() {
			if replaced == (id == "forgotten") {
				t.Errorf("restored over index %d: journal has %s", index, id)
			}
		}
	}
	if err := from.Restore(io.LimitReader(&image, 40)); err == nil {
		t.Error("half an image was taken")
	}
}
