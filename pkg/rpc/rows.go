package rpc

import (
	"cmp"
	"slices"
	"sync"
	"sync/atomic"

	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
)

// rowCache keeps the encoded forms of rows, with the row versions themselves,
// so that a list is a concatenation. It holds at most limit bytes: stale
// versions go first, then what was used least recently.
type rowCache struct {
	limit int64
	clock atomic.Int64 // ticks once a use: a list is one

	mu      sync.Mutex
	size    int64
	entries []cachedRow
	sweepAt int // entries at which stale ones are looked for
}

type cachedRow struct {
	row *db.Row
	enc encoding
	d   *db.Derived
}

func newRowCache(limit int64) *rowCache { return &rowCache{limit: limit} }

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
	var b []byte
	if enc == encodeXML {
		b = wire.AppendXML(nil, nil, row.Rec)
	} else {
		b = wire.AppendJSON(nil, nil, row.Rec)
	}
	d := &db.Derived{Bytes: slices.Clip(b)}
	d.Used.Store(now)
	if row.Cache[enc].CompareAndSwap(nil, d) {
		c.add(cachedRow{row, enc, d})
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
	c.drop(func(e cachedRow) bool { return e.row.Stale.Load() })
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
		e.row.Cache[e.enc].Store(nil)
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
