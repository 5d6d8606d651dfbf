package db

import (
	"fmt"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Point is a place that every durable commit passes.
type Point string

// The points, in the order in which a commit passes them; SQLite's come
// behind the answer.
const (
	BeforeAppend  Point = "before append"
	BeforePublish Point = "before publish"
	AfterPublish  Point = "after publish"
	AfterAppend   Point = "after append"
	BatchBegun    Point = "sqlite batch begun"
	BatchWritten  Point = "sqlite batch written"
	BatchHeld     Point = "sqlite batch committed"
)

func (d *DB) at(p Point) {
	if d.opts.At != nil {
		d.opts.At(p)
	}
}

// Apply carries out the log's entry at index; those that SQLite already holds
// are skipped. The log calls it, one entry at a time. An error means that the
// entry can't be read: nothing may be applied after it.
func (d *DB) Apply(index uint64, entry []byte) error {
	id, err := entryID(entry)
	if err != nil {
		return fmt.Errorf("entry %d: %w", index, err)
	}
	d.at(BeforePublish)
	d.mu.Lock()
	if index <= d.index {
		d.mu.Unlock()
		return nil
	}
	var rows []applied
	var journal []journalChange
	b := d.inflight
	own := b != nil && b.id == id
	if own && !b.stale {
		d.index = index
		d.publishAll(b)
		for _, p := range b.txs {
			if p.durable {
				rows, journal = append(rows, p.done...), append(journal, p.entry.journal...)
			}
		}
	} else if rows, journal, err = d.replay(index, entry); err != nil {
		d.mu.Unlock()
		return fmt.Errorf("entry %d: %w", index, err)
	} else if own {
		b.replayed()
	}
	if own {
		d.inflight = nil
		d.begin()
	}
	d.mu.Unlock()
	d.at(AfterPublish)
	d.writer.put(index, rows, journal)
	return nil
}

// replayed answers a batch whose entry was applied like a stranger's; what
// was not in the entry starts over.
func (b *batch) replayed() {
	for _, p := range b.txs {
		if !p.durable {
			p.err = errRetry
		}
		close(p.finished)
	}
	b.applied = true
}

// replay applies an entry that this process did not propose, or gave up on;
// under mu.
func (d *DB) replay(index uint64, entry []byte) (rows []applied, journal []journalChange, err error) {
	_, txs, err := decodeEntry(entry)
	if err != nil {
		return nil, nil, err
	}
	d.reset()
	d.index = index
	for _, tx := range txs {
		for _, c := range tx.changes {
			d.head.dropEphemeral(c)
		}
		p := &pending{finished: make(chan struct{})}
		p.snap, p.done = d.head.apply(tx.changes, tx.journal)
		d.head = p.snap
		d.publish(p)
		rows, journal = append(rows, p.done...), append(journal, tx.journal...)
	}
	return rows, journal, nil
}

// dropEphemeral nulls the references in a logged change to objects that no
// log brings back.
func (s *Snapshot) dropEphemeral(c Change) {
	for _, i := range c.Fields {
		f := c.Class.Fields[i]
		if f.Type.Kind != datamodel.Ref || f.Type.Class.Persist {
			continue
		}
		if p := c.Rec.Ptr(i).(*string); s.Find(f.Type.Class, *p) == nil {
			*p = xenapi.Null
		}
	}
}
