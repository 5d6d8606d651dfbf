package db

import (
	"bufio"
	"context"
	"database/sql/driver"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"

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
// each behind its length (4 bytes, big-endian). In the place of the batch id
// stands the index of the last entry in it.
func (im *Image) Write(w io.Writer) error {
	out := bufio.NewWriterSize(w, 1<<20)
	var tx entryTx
	flush := func() error {
		b := encodeEntry(imageID(im.snap.index), []entryTx{tx})
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
	return conn.each(context.Background(), "PRAGMA wal_checkpoint(TRUNCATE)", func(row []driver.Value) error {
		if row[0] != int64(0) {
			return errors.New("db: sqlite's log is in use and can't be moved into the file")
		}
		return nil
	})
}

// imageID and imageIndex carry the index of an image in an entry's id.
func imageID(index uint64) string { return strconv.FormatUint(index, 10) }

func imageIndex(id string) (uint64, error) {
	index, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("db: image: %w", err)
	}
	return index, nil
}

// Restore replaces the graph by an image, if the image is newer.
func (d *DB) Restore(r io.Reader) error {
	in := imageReader{bufio.NewReaderSize(r, 1<<20)}
	index, frame, err := in.next()
	if err != nil {
		return err
	}
	if index <= d.View().Index() {
		return nil
	}
	changes, journal, err := in.rest(frame)
	if err != nil {
		return err
	}
	d.mu.Lock()
	d.reset()
	kept := map[string]bool{}
	for _, c := range changes {
		kept[c.Ref] = true
		d.head.dropEphemeral(c)
	}
	for _, c := range stored() {
		for row := range d.head.Rows(c) {
			if !kept[row.Ref] {
				changes = append(changes, Change{Op: OpDelete, Class: c, Ref: row.Ref})
			}
		}
	}
	open := map[string]bool{}
	for _, j := range journal {
		open[j.id] = true
	}
	for id := range d.head.Journal() {
		if !open[id] {
			journal = append(journal, journalChange{id: id})
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

// imageReader reads what Image.Write wrote.
type imageReader struct{ in *bufio.Reader }

// next reads one frame: io.EOF after the last.
func (r imageReader) next() (index uint64, frame []entryTx, err error) {
	var n uint32
	if err := binary.Read(r.in, binary.BigEndian, &n); err != nil {
		return 0, nil, err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r.in, b); err != nil {
		return 0, nil, fmt.Errorf("db: image: %w", io.ErrUnexpectedEOF)
	}
	id, txs, err := decodeEntry(b)
	if err != nil {
		return 0, nil, err
	}
	index, err = imageIndex(id)
	return index, txs, err
}

// rest collects a frame and all that follow it.
func (r imageReader) rest(frame []entryTx) (changes []Change, journal []journalChange, err error) {
	for err == nil {
		for _, tx := range frame {
			changes, journal = append(changes, tx.changes...), append(journal, tx.journal...)
		}
		_, frame, err = r.next()
	}
	if !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	return changes, journal, nil
}
