package rpc

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
)

// rowCache keeps the encoded forms of rows, with the row versions themselves,
// so that a list is a concatenation; and whole lists, of classes in which
// nothing changes between two of them. It holds at most limit bytes: what is
// stale goes first, then what was used least recently.
type rowCache struct {
	limit int64
	clock atomic.Int64 // ticks once a use: a list is one
	lists map[listKey]*atomic.Pointer[encodedList]

	mu      sync.Mutex
	size    int64
	entries []cachedRow
	sweepAt int // entries at which stale ones are looked for
}

// cachedRow is an encoded row, or a list.
type cachedRow struct {
	row  *db.Row
	enc  encoding
	d    *db.Derived
	list *atomic.Pointer[encodedList]
}

func (e *cachedRow) stale() bool {
	if e.list != nil {
		known := e.list.Load()
		return known == nil || known.d != e.d
	}
	return e.row.Stale.Load()
}

// release takes the encoded form out of its place.
func (e *cachedRow) release() {
	if e.list == nil {
		e.row.Cache[e.enc].Store(nil)
	} else if known := e.list.Load(); known != nil && known.d == e.d {
		e.list.CompareAndSwap(known, nil)
	}
}

// listKey names the list of all records of a class in an encoding.
type listKey struct {
	class int
	enc   encoding
}

// encodedList is such a list as of the class's generation; nothing is encoded
// when it was asked for once.
type encodedList struct {
	gen uint64
	d   *db.Derived
}

func newRowCache(limit int64, classes []*datamodel.Class) *rowCache {
	c := &rowCache{limit: limit, lists: map[listKey]*atomic.Pointer[encodedList]{}}
	for _, class := range classes {
		for _, enc := range []encoding{encodeXML, encodeJSON} {
			c.lists[listKey{class.ID, enc}] = &atomic.Pointer[encodedList]{}
		}
	}
	return c
}

// all gives the records of all objects of a class. The second time that
// nothing has changed since the last, the whole is kept.
func (c *rowCache) all(snap *db.Snapshot, class *datamodel.Class, enc encoding) any {
	c.tick()
	slot, gen := c.lists[listKey{class.ID, enc}], snap.ClassGen(class)
	known := slot.Load()
	again := known != nil && known.gen == gen
	if again && known.d != nil {
		known.d.Used.Store(c.clock.Load())
		return wire.Raw(known.d.Bytes)
	}
	list := make(wire.RawMap, 0, snap.Count(class))
	for row := range snap.Rows(class) {
		list = append(list, wire.RawMember{Name: row.Ref, Value: c.encoded(row, enc)})
	}
	if !again {
		slot.Store(&encodedList{gen: gen})
		return list
	}
	d := &db.Derived{Bytes: slices.Clip(encode(enc, list))}
	d.Used.Store(c.clock.Load())
	if int64(len(d.Bytes)) <= c.limit/4 && slot.CompareAndSwap(known, &encodedList{gen, d}) {
		c.add(cachedRow{enc: enc, d: d, list: slot})
	}
	return wire.Raw(d.Bytes)
}

func encode(enc encoding, v any) []byte {
	if enc == encodeXML {
		return wire.AppendXML(nil, nil, v)
	}
	return wire.AppendJSON(nil, nil, v)
}

// tick begins a use.
func (c *rowCache) tick() { c.clock.Add(1) }

// encoded gives a row's record in an encoding.
func (c *rowCache) encoded(row *db.Row, enc encoding) wire.Raw {
	now := c.clock.Load()
	if d := row.Cache[enc].Load(); d != nil {
		if d.Used.Load() != now {
			d.Used.Store(now)
		}
		return d.Bytes
	}
	d := &db.Derived{Bytes: slices.Clip(encode(enc, row.Rec))}
	d.Used.Store(now)
	if row.Cache[enc].CompareAndSwap(nil, d) {
		c.add(cachedRow{row: row, enc: enc, d: d})
	}
	return d.Bytes
}

func (c *rowCache) add(e cachedRow) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries = append(c.entries, e)
	c.size += int64(cap(e.d.Bytes))
	if c.size > c.limit {
		c.evict()
	} else if len(c.entries) > c.sweepAt {
		c.dropStale()
	}
}

// dropStale lets go of stale rows: they hold more memory than their encoded
// forms. It waits until the entries have doubled, so that its cost is spread.
func (c *rowCache) dropStale() {
	c.drop(func(e cachedRow) bool { return e.stale() })
	c.sweepAt = 2*len(c.entries) + minSweep
}

const minSweep = 1000

// evict lets go of stale rows, then of the oldest until a quarter is free, so
// that its cost is spread over many additions.
func (c *rowCache) evict() {
	goal := c.limit / 4 * 3
	c.dropStale()
	if c.size <= goal {
		return
	}
	slices.SortFunc(c.entries, func(a, b cachedRow) int { return cmp.Compare(a.d.Used.Load(), b.d.Used.Load()) })
	c.drop(func(cachedRow) bool { return c.size > goal })
}

func (c *rowCache) drop(gone func(e cachedRow) bool) {
	kept := c.entries[:0]
	for _, e := range c.entries {
		if !gone(e) {
			kept = append(kept, e)
			continue
		}
		e.release()
		c.size -= int64(cap(e.d.Bytes))
	}
	clear(c.entries[len(kept):])
	c.entries = kept
}

// bytes is how much the cache holds now.
func (c *rowCache) bytes() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.size
}
