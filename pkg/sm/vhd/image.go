package vhd

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"sync"
)

// File is what an image lies in. *os.File is one; a block device will do for what does not change its length.
type File interface {
	io.ReaderAt
	io.WriterAt
	io.Seeker // only to find the length
	Truncate(size int64) error
	Sync() error
}

// Image is an open fixed or dynamic image. It is safe for concurrent use; reads go on beside each other. While it is
// open for writing nobody else may write to the file.
type Image struct {
	f        File
	writable bool

	mu     sync.RWMutex
	foot   footer
	head   header
	bat    []uint32 // of the blocks that the virtual size needs, no more
	broken []byte   // a bit for each block that bat places wrongly
	batmap []byte   // of a full header.entries; also kept, though never written, where the file has none
	// keepBatmap says that the file has room for a batmap, and a reader that expects it.
	keepBatmap bool
	staleMap   bool  // the batmap in the file lacks bits
	staleFoot  bool  // a footer in the file is damaged or old
	dataEnd    int64 // where free room begins
	fileEnd    int64 // the file's length, end footer included; unknown after a failure

	bitmaps bitmapCache
}

// Open opens the image in f, which stays the caller's to close after Close. A damaged structure is a *FormatError
// that names the field. Single blocks that the BAT places wrongly do not prevent opening for reading: Broken lists
// them, and reading their bytes is the same error. For writing such an image is refused, since new blocks
// could come to lie where a wrong entry points. A differencing image is ErrDifferencing.
func Open(f File, writable bool) (*Image, error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, fmt.Errorf("vhd: length of file: %w", err)
	}
	h, err := readHeads(f, size)
	if err != nil {
		return nil, err
	}
	if h.foot.kind == Differencing {
		return nil, ErrDifferencing
	}
	im := &Image{f: f, writable: writable, foot: h.foot, head: h.head, staleFoot: h.stale, fileEnd: size}
	if im.foot.kind == Fixed {
		return im, nil
	}
	if writable && im.head.block != BlockSize {
		return nil, fmt.Errorf("%w: blocks of %d bytes", ErrLayout, im.head.block)
	}
	if err := im.readBAT(); err != nil {
		return nil, err
	}
	im.batmap = make([]byte, batmapBytes(im.head.entries))
	if im.keepBatmap {
		im.batmap = im.readBatmap()
	}
	im.bitmaps.limit = max(1, (1<<20)/int(bitmapBytes(im.head.block)))
	if !writable {
		return im, nil
	}
	if broken := im.Broken(); len(broken) > 0 {
		return nil, broken[0]
	}
	if err := im.cutTail(); err != nil {
		return nil, err
	}
	return im, nil
}

// readBAT reads the table, marks the entries that cannot be right, and finds where free room begins.
func (im *Image) readBAT() error {
	n := blocksOf(im.size(), im.head.block)
	raw := make([]byte, 4*n)
	if err := readFull(im.f, raw, im.head.table); err != nil {
		return fmt.Errorf("vhd: BAT: %w", err)
	}
	im.bat = make([]uint32, n)
	for i := range im.bat {
		im.bat[i] = binary.BigEndian.Uint32(raw[4*i:])
	}
	im.checkBAT()

	im.dataEnd = im.metadataEnd()
	im.keepBatmap = im.foot.hasBatmap()
	if im.keepBatmap {
		room := im.batmapSpan()
		im.keepBatmap = room.end <= im.fileEnd-footerSize && !im.anyBlockIn(room)
		if im.keepBatmap {
			im.dataEnd = max(im.dataEnd, room.end)
		}
	}
	// An image with room to grow its metadata keeps it.
	im.dataEnd = max(im.dataEnd, min(reserve, im.fileEnd-footerSize))
	for i := range im.bat {
		if s, ok := im.blockSpan(int64(i)); ok {
			im.dataEnd = max(im.dataEnd, s.end)
		}
	}
	im.dataEnd = roundUp(im.dataEnd, sector)
	return nil
}

// checkBAT marks the entries that lead into the metadata or past the end, and all that share a byte.
func (im *Image) checkBAT() {
	im.broken = make([]byte, (len(im.bat)+7)/8)
	var order []int32 // the other blocks that are there, as they lie in the file
	for i, e := range im.bat {
		switch {
		case e == unallocated:
		case im.outside(e) != "":
			setBit(im.broken, int64(i))
		default:
			order = append(order, int32(i))
		}
	}
	slices.SortFunc(order, func(a, b int32) int { return cmp.Compare(im.bat[a], im.bat[b]) })
	for i := 1; i < len(order); i++ {
		a, b := order[i-1], order[i]
		if im.spanAt(im.bat[a]).overlaps(im.spanAt(im.bat[b])) {
			setBit(im.broken, int64(a))
			setBit(im.broken, int64(b))
		}
	}
}

// outside says what is wrong with the place of an entry, seen by itself; empty means nothing.
func (im *Image) outside(entry uint32) string {
	s := im.spanAt(entry)
	data := int64(im.foot.dataOffset)
	switch {
	case s.end > im.fileEnd:
		return "is past the end of the file"
	case s.overlaps(span{0, footerSize}), s.overlaps(span{data, data + headerSize}),
		s.overlaps(span{im.head.table, batEnd(im.head.table, im.head.entries)}):
		return "is in the metadata"
	}
	return ""
}

// brokenBlock is the error of a block that the BAT places wrongly, or nil.
func (im *Image) brokenBlock(block int64) error {
	if !hasBit(im.broken, block) {
		return nil
	}
	why := im.outside(im.bat[block])
	if why == "" {
		why = "overlaps another block"
	}
	return bad(fmt.Sprintf("bat[%d]", block), "sector %d %s", im.bat[block], why)
}

// stride is what a block takes in the file.
func (im *Image) stride() int64 { return bitmapBytes(im.head.block) + im.head.block }

func (im *Image) spanAt(entry uint32) span {
	start := int64(entry) * sector
	return span{start, start + im.stride()}
}

// blockSpan gives where a block lies; ok is false for one that is not there or broken.
func (im *Image) blockSpan(block int64) (s span, ok bool) {
	if im.bat[block] == unallocated || hasBit(im.broken, block) {
		return span{}, false
	}
	return im.spanAt(im.bat[block]), true
}

func (im *Image) anyBlockIn(room span) bool {
	for i := range im.bat {
		if s, ok := im.blockSpan(int64(i)); ok && s.overlaps(room) {
			return true
		}
	}
	return false
}

// metadataEnd is the end of header and BAT, whichever comes last.
func (im *Image) metadataEnd() int64 {
	return max(int64(im.foot.dataOffset)+headerSize, batEnd(im.head.table, im.head.entries))
}

func (im *Image) batmapSpan() span {
	at := im.head.batmapAt()
	return span{at, at + sector + batmapBytes(im.head.entries)}
}

// Size is the virtual size in bytes.
func (im *Image) Size() int64 {
	im.mu.RLock()
	defer im.mu.RUnlock()
	return im.size()
}

func (im *Image) size() int64 { return int64(im.foot.size) }

// Type tells how the image is laid out.
func (im *Image) Type() Type { return im.foot.kind }

// Hidden tells whether the image is marked as a base copy.
func (im *Image) Hidden() bool {
	im.mu.RLock()
	defer im.mu.RUnlock()
	return im.foot.hidden == 1
}

// UUID is the footer's uuid.
func (im *Image) UUID() [16]byte { return im.foot.uuid }

// Broken lists what is wrong with the blocks that the BAT places wrongly, the first few of them.
func (im *Image) Broken() []error {
	const few = 16
	im.mu.RLock()
	defer im.mu.RUnlock()
	var out []error
	for i := 0; i < len(im.bat) && len(out) < few; i++ {
		if err := im.brokenBlock(int64(i)); err != nil {
			out = append(out, err)
		}
	}
	return out
}

// AllocatedBytes is what the blocks take in the file, bitmaps included; for a fixed image its size.
func (im *Image) AllocatedBytes() int64 {
	im.mu.RLock()
	defer im.mu.RUnlock()
	if im.foot.kind == Fixed {
		return im.size()
	}
	var n int64
	for _, e := range im.bat {
		if e != unallocated {
			n += im.stride()
		}
	}
	return n
}

// SetHidden sets or clears the mark of a base copy, on stable storage when it returns.
func (im *Image) SetHidden(hidden bool) error {
	if !im.writable {
		return ErrReadOnly
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.foot.hidden = 0
	if hidden {
		im.foot.hidden = 1
	}
	return im.writeFooters()
}

// writeFooters writes the copy, then the end, each on stable storage before the next step.
func (im *Image) writeFooters() error {
	if err := im.cutTail(); err != nil {
		return err
	}
	b := im.foot.marshal()
	if im.foot.kind != Fixed {
		if _, err := im.f.WriteAt(b, 0); err != nil {
			return fmt.Errorf("vhd: footer: %w", err)
		}
		if err := im.f.Sync(); err != nil {
			return fmt.Errorf("vhd: footer: %w", err)
		}
	}
	if _, err := im.f.WriteAt(b, im.fileEnd-footerSize); err != nil {
		return fmt.Errorf("vhd: footer: %w", err)
	}
	if err := im.f.Sync(); err != nil {
		return fmt.Errorf("vhd: footer: %w", err)
	}
	return nil
}

// Sync puts all that was written so far on stable storage.
func (im *Image) Sync() error {
	if !im.writable {
		return nil
	}
	return im.f.Sync()
}

// Close gives back the room that was reserved behind the last block, brings batmap and footers up to date and syncs.
// A writer that never gets to Close has lost none of its synced data. The file stays open.
func (im *Image) Close() error {
	if !im.writable {
		return nil
	}
	im.mu.Lock()
	defer im.mu.Unlock()
	im.writable = false
	if im.foot.kind == Fixed {
		return im.f.Sync()
	}
	if im.keepBatmap && im.staleMap {
		if err := im.writeBatmap(im.size()); err != nil {
			return fmt.Errorf("vhd: batmap: %w", err)
		}
	}
	if err := im.cutTail(); err != nil {
		return err
	}
	if im.staleFoot {
		return im.writeFooters()
	}
	return im.f.Sync()
}
