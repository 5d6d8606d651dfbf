package vhd

import (
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
)

// memFile is a sparse file in memory with a write cache: Sync makes what was written durable, powerCut keeps any part
// of the rest, in any order.
type memFile struct {
	now, durable contents
	pending      []func(*contents)
	calls        int
	// fail, if set, is asked before the n-th change.
	fail func(n int) error
}

type contents struct {
	sectors map[int64][]byte // never changed in place
	size    int64
}

func newMemFile(b []byte) *memFile {
	f := &memFile{now: contents{sectors: map[int64][]byte{}}}
	f.now.write(b, 0)
	f.Sync()
	f.calls = 0
	return f
}

func (c *contents) clone() contents { return contents{maps.Clone(c.sectors), c.size} }

func (c *contents) write(p []byte, off int64) {
	c.size = max(c.size, off+int64(len(p)))
	for len(p) > 0 {
		i, within := off/sector, off%sector
		n := min(int64(len(p)), sector-within)
		s := make([]byte, sector)
		copy(s, c.sectors[i])
		copy(s[within:], p[:n])
		c.sectors[i] = s
		p, off = p[n:], off+n
	}
}

func (c *contents) truncate(size int64) {
	if size < c.size {
		for i := range c.sectors {
			if i*sector >= size {
				delete(c.sectors, i)
			}
		}
		if s := c.sectors[size/sector]; s != nil && size%sector != 0 {
			s = slices.Clone(s)
			clear(s[size%sector:])
			c.sectors[size/sector] = s
		}
	}
	c.size = size
}

func (f *memFile) change(op func(*contents)) error {
	f.calls++
	if f.fail != nil {
		if err := f.fail(f.calls); err != nil {
			return err
		}
	}
	op(&f.now)
	return nil
}

func (f *memFile) WriteAt(p []byte, off int64) (int, error) {
	p = slices.Clone(p)
	if err := f.change(func(c *contents) { c.write(p, off) }); err != nil {
		f.now.write(p[:len(p)/2], off) // a failed write leaves some of it
		return 0, err
	}
	for start := 0; start < len(p); start += sector {
		part, at := p[start:min(start+sector, len(p))], off+int64(start)
		f.pending = append(f.pending, func(c *contents) { c.write(part, at) })
	}
	return len(p), nil
}

func (f *memFile) Truncate(size int64) error {
	op := func(c *contents) { c.truncate(size) }
	if err := f.change(op); err != nil {
		return err
	}
	f.pending = append(f.pending, op)
	return nil
}

func (f *memFile) Sync() error {
	if err := f.change(func(*contents) {}); err != nil {
		return err
	}
	f.durable, f.pending = f.now.clone(), nil
	return nil
}

func (f *memFile) ReadAt(p []byte, off int64) (int, error) {
	n := 0
	for n < len(p) && off < f.now.size {
		i, within := off/sector, off%sector
		k := int(min(int64(len(p)-n), sector-within, f.now.size-off))
		clear(p[n : n+k])
		if s := f.now.sectors[i]; s != nil {
			copy(p[n:n+k], s[within:])
		}
		n, off = n+k, off+int64(k)
	}
	if n < len(p) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) Seek(off int64, whence int) (int64, error) {
	if off != 0 || whence != io.SeekEnd {
		return 0, errors.New("only the length")
	}
	return f.now.size, nil
}

// killed is the file as it is after its writer was killed.
func (f *memFile) killed() *memFile {
	c := f.now.clone()
	return &memFile{now: c, durable: c.clone()}
}

// powerCut is the file as it may be after a power cut.
func (f *memFile) powerCut(r *rand.Rand) *memFile {
	c := f.durable.clone()
	keep := r.Float64()
	for _, i := range r.Perm(len(f.pending)) {
		if r.Float64() < keep {
			f.pending[i](&c)
		}
	}
	return &memFile{now: c, durable: c.clone()}
}

// bytes is the whole file; for small ones.
func (f *memFile) bytes() []byte {
	b := make([]byte, f.now.size)
	f.ReadAt(b, 0)
	return b
}
