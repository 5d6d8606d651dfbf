package db

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"xapid/pkg/datamodel"
)

// Image is one state of the graph, to be written out whole: what a raft
// snapshot holds. It pins a snapshot and costs nothing until it is written.
type Image struct {
	db   *DB
	snap *Snapshot
}

// Image pins the newest committed state.
func (d *DB) Image() *Image { return &Image{d, d.View()} }

// Index is the last log entry in the image.
func (im *Image) Index() uint64 { return im.snap.index }

// rowsPerFrame bounds what one frame of an image holds.
const rowsPerFrame = 256

// Write streams the persistent part of the graph as log entries of creations,
// each behind its length (4 bytes, big-endian).
func (im *Image) Write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<20)
	var tx entryTx
	flush := func() error {
		b := encodeEntry("", []entryTx{tx})
		tx = entryTx{}
		if err := binary.Write(out, binary.BigEndian, uint32(len(b))); err != nil {
			return err
		}
		_, err := out.Write(b)
		return err
	}
	for _, c := range stored() {
		for row := range im.snap.Rows(c) {
			ch, _ := Change{Op: OpCreate, Class: c, Ref: row.Ref, Rec: row.Rec, Fields: allFields(c)}.persistent()
			tx.changes = append(tx.changes, ch)
			if len(tx.changes) == rowsPerFrame {
				if err := flush(); err != nil {
					return err
				}
			}
		}
	}
	for id, data := range im.snap.Journal() {
		tx.journal = append(tx.journal, journalChange{id, data})
	}
	if err := flush(); err != nil {
		return err
	}
	return out.Flush()
}

func allFields(c *datamodel.Class) []int {
	out := make([]int, len(c.Fields))
	for i := range out {
		out[i] = i
	}
	return out
}

// Settled waits until SQLite durably holds the image, so that the log may be
// cut below it.
func (im *Image) Settled(ctx context.Context) error {
	if err := im.db.Flushed(ctx, im.snap.index); err != nil {
		return err
	}
	return im.db.writer.checkpoint()
}

// checkpoint moves SQLite's own log into the file and syncs it.
func (w *writer) checkpoint() error {
	conn, err := openSQL(w.path)
	if err != nil {
		return err
	}
	defer conn.c.Close()
	return conn.exec("PRAGMA wal_checkpoint(TRUNCATE)")
}

// Restore replaces the whole graph by an image that holds the log up to index.
func (d *DB) Restore(r io.Reader, index uint64) error {
	changes, journal, err := readImage(r)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.reset()
	kept := map[string]bool{}
	for _, c := range changes {
		kept[c.Ref] = true
	}
	for _, c := range stored() {
		for row := range d.head.Rows(c) {
			if !kept[row.Ref] {
				changes = append(changes, Change{Op: OpDelete, Class: c, Ref: row.Ref})
			}
		}
	}
	p := &pending{finished: make(chan struct{})}
	p.snap, p.done = d.head.apply(changes, journal)
	d.head, d.index = p.snap, index
	d.publish(p)
	d.mu.Unlock()
	d.writer.put(index, p.done, journal)
	return nil
}

func readImage(r io.Reader) (changes []Change, journal []journalChange, err error) {
	in := bufio.NewReaderSize(r, 1<<20)
	for {
		var n uint32
		if err := binary.Read(in, binary.BigEndian, &n); errors.Is(err, io.EOF) {
			return changes, journal, nil
		} else if err != nil {
			return nil, nil, fmt.Errorf("db: image: %w", err)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(in, b); err != nil {
			return nil, nil, fmt.Errorf("db: image: %w", err)
		}
		_, txs, err := decodeEntry(b)
		if err != nil {
			return nil, nil, err
		}
		for _, tx := range txs {
			changes, journal = append(changes, tx.changes...), append(journal, tx.journal...)
		}
	}
}
