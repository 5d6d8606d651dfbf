package vhd

import (
	"fmt"
	"io"
	"sync"
)

// ReadAt reads virtual bytes, as io.ReaderAt says. What was never written reads as zeros; a broken block is its
// *FormatError.
func (im *Image) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, ErrOutOfRange
	}
	im.mu.RLock()
	defer im.mu.RUnlock()
	if off >= im.size() {
		return 0, io.EOF
	}
	want := len(p)
	p = p[:min(int64(want), im.size()-off)]
	if err := im.readRange(p, off); err != nil {
		return 0, err
	}
	if len(p) < want {
		return len(p), io.EOF
	}
	return want, nil
}

func (im *Image) readRange(p []byte, off int64) error {
	if im.foot.kind == Fixed {
		return readFull(im.f, p, off)
	}
	for len(p) > 0 {
		block, within := off/im.head.block, off%im.head.block
		n := min(int64(len(p)), im.head.block-within)
		if err := im.readBlock(p[:n], block, within); err != nil {
			return err
		}
		p, off = p[n:], off+n
	}
	return nil
}

func (im *Image) readBlock(p []byte, block, within int64) error {
	if err := im.brokenBlock(block); err != nil {
		return err
	}
	s, ok := im.blockSpan(block)
	if !ok {
		clear(p)
		return nil
	}
	data := s.start + bitmapBytes(im.head.block)
	if hasBit(im.batmap, block) {
		return readFull(im.f, p, data+within)
	}
	m, err := im.bitmap(block, s)
	if err != nil {
		return err
	}
	for len(p) > 0 {
		n, set := run(m, within, int64(len(p)))
		if !set {
			clear(p[:n])
		} else if err := readFull(im.f, p[:n], data+within); err != nil {
			return err
		}
		p, within = p[n:], within+n
	}
	return nil
}

// run gives how many of the limit bytes from offset within have sectors with the same bit as the first.
func run(m []byte, within, limit int64) (n int64, set bool) {
	first := within / sector
	set = hasBit(m, first)
	last := (within + limit - 1) / sector
	i := first + 1
	for i <= last && hasBit(m, i) == set {
		i++
	}
	return min(i*sector-within, limit), set
}

// NextData returns the first run [start, end) at or after off of which a byte may be other than zero, in whole
// sectors and within one block, or io.EOF. Bytes outside of such runs are zeros.
func (im *Image) NextData(off int64) (start, end int64, err error) {
	im.mu.RLock()
	defer im.mu.RUnlock()
	size := im.size()
	if off < 0 || off >= size {
		return 0, 0, io.EOF
	}
	if im.foot.kind == Fixed {
		return off, size, nil
	}
	for off < size {
		block := off / im.head.block
		limit := min((block+1)*im.head.block, size)
		if im.bat[block] == unallocated {
			off = limit
			continue
		}
		start, end, err := im.nextInBlock(block, off, limit)
		if err != nil || start < end {
			return start, end, err
		}
		off = limit
	}
	return 0, 0, io.EOF
}

// nextInBlock is NextData within [off, limit) of a block that is there; an empty run means none.
func (im *Image) nextInBlock(block, off, limit int64) (start, end int64, err error) {
	s, ok := im.blockSpan(block)
	if !ok || hasBit(im.batmap, block) {
		return off, limit, nil // reading a broken block says what is wrong with it
	}
	m, err := im.bitmap(block, s)
	if err != nil {
		return 0, 0, err
	}
	for off < limit {
		n, set := run(m, off%im.head.block, limit-off)
		if set {
			return off, off + n, nil
		}
		off += n
	}
	return limit, limit, nil
}

// bitmap returns a block's bitmap, which the caller must not change while it holds no more than the read lock.
func (im *Image) bitmap(block int64, s span) ([]byte, error) {
	if m := im.bitmaps.get(block); m != nil {
		return m, nil
	}
	m := make([]byte, bitmapBytes(im.head.block))
	if err := readFull(im.f, m, s.start); err != nil {
		return nil, fmt.Errorf("vhd: bitmap of block %d: %w", block, err)
	}
	im.bitmaps.put(block, m)
	return m, nil
}

// bitmapCache holds a bounded number of blocks' bitmaps.
type bitmapCache struct {
	mu    sync.Mutex
	limit int
	m     map[int64][]byte
}

func (c *bitmapCache) get(block int64) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.m[block]
}

func (c *bitmapCache) put(block int64, m []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.m == nil {
		c.m = map[int64][]byte{}
	}
	if _, known := c.m[block]; !known && len(c.m) >= c.limit {
		for victim := range c.m { // any will do
			delete(c.m, victim)
			break
		}
	}
	c.m[block] = m
}

func (c *bitmapCache) drop(block int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.m, block)
}
