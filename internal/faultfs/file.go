package faultfs

import (
	"errors"
	"io"
	"math/rand/v2"
	"os"
)

// file is one file's contents, with all that was done to it since the last
// sync, so that it can be undone.
type file struct {
	id      uint64
	data    *os.File
	size    int64
	pending []contentChange
}

// contentChange is a write, or with no bytes after it a change of size.
type contentChange struct {
	off              int64
	before, after    []byte
	oldSize, newSize int64
}

// sector is what a disk writes whole.
const sector = 512

func (n *file) read(off int64, length int64) ([]byte, error) {
	b := make([]byte, max(0, min(length, n.size-off)))
	if _, err := n.data.ReadAt(b, off); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return b, nil
}

func (n *file) write(b []byte, off int64) error {
	before, err := n.read(off, int64(len(b)))
	if err != nil {
		return err
	}
	if _, err := n.data.WriteAt(b, off); err != nil {
		return err
	}
	size := max(n.size, off+int64(len(b)))
	n.pending = append(n.pending, contentChange{off, before, append([]byte(nil), b...), n.size, size})
	n.size = size
	return nil
}

func (n *file) resize(size int64) error {
	if size == n.size {
		return nil
	}
	c := contentChange{off: size, oldSize: n.size, newSize: size}
	var err error
	if size < n.size {
		if c.before, err = n.read(size, n.size-size); err != nil {
			return err
		}
	}
	if err := n.data.Truncate(size); err != nil {
		return err
	}
	n.pending = append(n.pending, c)
	n.size = size
	return nil
}

// cut takes back what was not synced, then lets some of it have reached the
// disk after all: sector by sector, whatever came before or after.
func (n *file) cut(rng *rand.Rand, keep float64) error {
	for i := len(n.pending) - 1; i >= 0; i-- {
		c := n.pending[i]
		if err := n.data.Truncate(c.oldSize); err != nil {
			return err
		}
		if _, err := n.data.WriteAt(c.before, c.off); err != nil {
			return err
		}
		n.size = c.oldSize
	}
	for _, c := range n.pending {
		if err := n.redo(c, rng, keep); err != nil {
			return err
		}
	}
	n.pending = nil
	return nil
}

func (n *file) redo(c contentChange, rng *rand.Rand, keep float64) error {
	if len(c.after) == 0 {
		if rng.Float64() >= keep {
			return nil
		}
		n.size = c.newSize
		return n.data.Truncate(c.newSize)
	}
	for at := 0; at < len(c.after); {
		end := min(len(c.after), at+sector-int((c.off+int64(at))%sector))
		if rng.Float64() < keep {
			if _, err := n.data.WriteAt(c.after[at:end], c.off+int64(at)); err != nil {
				return err
			}
			n.size = max(n.size, c.off+int64(end))
		}
		at = end
	}
	return nil
}
