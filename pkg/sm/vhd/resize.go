package vhd

import (
	"bytes"
	"fmt"
)

// Resize grows a dynamic image to sizeBytes, which must be as RoundSize gives it. The present size is no error, a
// smaller one ErrShrink. The new part reads as zeros. The new size is on stable storage when it returns; after a
// failure or a crash the image has the old size or the new, and all its bytes.
//
// The order: blocks that lie where the BAT must grow are copied to the end and then pointed to; the new entries and
// the batmap are written behind what the header counts; then the header counts them; then the footers tell the
// size. Each step is synced before the next. The new entries may overwrite the old batmap: until the header points
// to the new one it is read as damaged, which means empty.
func (im *Image) Resize(sizeBytes int64) error {
	im.mu.Lock()
	defer im.mu.Unlock()
	rounded, ok := RoundSize(sizeBytes)
	switch {
	case !im.writable:
		return ErrReadOnly
	case sizeBytes == im.size():
		return nil
	case sizeBytes < im.size():
		return ErrShrink
	case !ok || rounded != sizeBytes:
		return fmt.Errorf("%w: %d", ErrSize, sizeBytes)
	case im.foot.kind == Fixed, int64(im.foot.dataOffset) > im.head.table:
		return ErrLayout
	}
	if err := im.growTable(uint32(blocksOf(sizeBytes, BlockSize)), sizeBytes); err != nil {
		return fmt.Errorf("vhd: resize: %w", err)
	}
	im.foot.size = uint64(sizeBytes)
	im.foot.geometry = GeometryOf(sizeBytes)
	im.staleFoot = true
	if err := im.writeFooters(); err != nil {
		return err
	}
	im.staleFoot = false
	return nil
}

// growTable makes the BAT hold n blocks that are in use.
func (im *Image) growTable(n uint32, size int64) error {
	grown := im.head
	grown.entries = max(n, grown.entries)
	batmap := append(bytes.Clone(im.batmap), make([]byte, batmapBytes(grown.entries)-int64(len(im.batmap)))...)
	at := grown.batmapAt()
	if err := im.clearOut(span{im.head.table, at + sector + int64(len(batmap))}); err != nil {
		return err
	}
	free := bytes.Repeat([]byte{0xFF}, int(at-grown.table)-4*len(im.bat))
	if _, err := im.f.WriteAt(free, grown.table+4*int64(len(im.bat))); err != nil {
		return err
	}
	before, beforeMap := im.head, im.batmap
	im.head, im.batmap = grown, batmap
	if err := im.finishTable(size); err != nil {
		// Which header the file has is not known, and so neither where its batmap is: it is not written again.
		im.head, im.batmap, im.keepBatmap = before, beforeMap, false
		return err
	}
	for len(im.bat) < int(n) {
		im.bat = append(im.bat, unallocated)
	}
	im.broken = make([]byte, (len(im.bat)+7)/8)
	return nil
}

// finishTable makes the grown table count.
func (im *Image) finishTable(size int64) error {
	if im.keepBatmap {
		if err := im.writeBatmap(size); err != nil {
			return err
		}
	}
	if err := im.f.Sync(); err != nil {
		return err
	}
	if _, err := im.f.WriteAt(im.head.marshal(), int64(im.foot.dataOffset)); err != nil {
		return err
	}
	return im.f.Sync()
}

// clearOut moves the blocks that overlap room to the end of the file, and free room's start behind it.
func (im *Image) clearOut(room span) error {
	if im.dataEnd < room.end {
		im.dataEnd = roundUp(room.end, sector)
		if err := im.cutTail(); err != nil {
			return err
		}
	}
	buf := make([]byte, sector+BlockSize)
	for i := range im.bat {
		block := int64(i)
		from, ok := im.blockSpan(block)
		if !ok || !from.overlaps(room) {
			continue
		}
		to, err := im.room()
		if err != nil {
			return err
		}
		if err := readFull(im.f, buf, from.start); err != nil {
			return err
		}
		im.dataEnd = to.end
		if _, err := im.f.WriteAt(buf, to.start); err != nil {
			return err
		}
		if err := im.f.Sync(); err != nil {
			return err
		}
		if err := im.writeEntry(block, to); err != nil {
			return err
		}
	}
	return im.f.Sync()
}
