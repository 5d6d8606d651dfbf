package vhd

import (
	"encoding/binary"
	"fmt"
	"slices"
)

// The order of writes. A block's data goes first, then its bitmap, then its entry in the BAT, so that a killed
// writer leaves every write that it acknowledged. A power cut may keep any of them and lose others; that is safe
// since a block is put only into room that was made part of the file, as a hole, and synced beforehand: whatever
// arrives, the entry leads to zeros or to the data. Room is made for many blocks at a time, so that this sync is
// rare. The end footer moves along with the length of the file.
//
// Bits of bitmaps are only ever set, and those of the batmap are written at Close alone, so that what is on disk
// is at worst too few.

// roomFor is how many blocks the file grows by at a time.
const roomFor = 64

// WriteAt writes virtual bytes. It returns with an error wrapping the file's (such as ENOSPC) when some of them, from
// the returned count on, may or may not have been written; what was there before elsewhere is untouched.
func (im *Image) WriteAt(p []byte, off int64) (int, error) {
	im.mu.Lock()
	defer im.mu.Unlock()
	switch {
	case !im.writable:
		return 0, ErrReadOnly
	case off < 0 || int64(len(p)) > im.size() || off > im.size()-int64(len(p)):
		return 0, ErrOutOfRange
	case im.foot.kind == Fixed:
		return im.f.WriteAt(p, off)
	}
	done := 0
	for done < len(p) {
		block, within := off/BlockSize, off%BlockSize
		n := int(min(int64(len(p)-done), BlockSize-within))
		if err := im.writeBlock(p[done:done+n], block, within); err != nil {
			return done, fmt.Errorf("vhd: write to block %d: %w", block, err)
		}
		done, off = done+n, off+int64(n)
	}
	return done, nil
}

func (im *Image) writeBlock(p []byte, block, within int64) error {
	if start, end := within/sector*sector, roundUp(within+int64(len(p)), sector); end-start != int64(len(p)) {
		whole := make([]byte, end-start)
		if err := im.readBlock(whole, block, start); err != nil {
			return err
		}
		copy(whole[within-start:], p)
		p, within = whole, start
	}
	if im.bat[block] == unallocated {
		if allZero(p) {
			return nil
		}
		return im.writeNew(p, block, within)
	}
	s := im.spanAt(im.bat[block])
	if _, err := im.f.WriteAt(p, s.start+sector+within); err != nil {
		return err
	}
	if hasBit(im.batmap, block) {
		return nil
	}
	return im.markWritten(block, s, within, int64(len(p)))
}

// markWritten sets the bits of the sectors just written, in the file first.
func (im *Image) markWritten(block int64, s span, within, n int64) error {
	old, err := im.bitmap(block, s)
	if err != nil {
		return err
	}
	m := withBits(old, within, n)
	if !slices.Equal(m, old) {
		if _, err := im.f.WriteAt(m, s.start); err != nil {
			im.bitmaps.drop(block)
			return err
		}
		im.bitmaps.put(block, m)
	}
	im.noteFull(block, m)
	return nil
}

// withBits returns a copy of a bitmap with the bits of n bytes from offset within set.
func withBits(m []byte, within, n int64) []byte {
	m = slices.Clone(m)
	for i := within / sector; i < (within+n)/sector; i++ {
		setBit(m, i)
	}
	return m
}

// noteFull remembers a block whose bitmap has every bit set.
func (im *Image) noteFull(block int64, m []byte) {
	for _, b := range m {
		if b != 0xFF {
			return
		}
	}
	setBit(im.batmap, block)
	im.staleMap = true
	im.bitmaps.drop(block)
}

// writeNew puts a block into free room and writes its first sectors.
func (im *Image) writeNew(p []byte, block, within int64) error {
	s, err := im.room()
	if err != nil {
		return err
	}
	m := withBits(make([]byte, sector), within, int64(len(p)))
	if _, err := im.f.WriteAt(p, s.start+sector+within); err != nil {
		im.fileEnd = unknown // the room is no hole any more
		return err
	}
	if _, err := im.f.WriteAt(m, s.start); err != nil {
		im.fileEnd = unknown
		return err
	}
	// From here on the room is taken, even if the entry fails: nobody knows whether it is on disk.
	im.dataEnd = s.end
	if err := im.writeEntry(block, s); err != nil {
		return err
	}
	im.bitmaps.put(block, m)
	im.noteFull(block, m)
	return nil
}

func (im *Image) writeEntry(block int64, s span) error {
	entry := uint32(s.start / sector)
	b := binary.BigEndian.AppendUint32(nil, entry)
	if _, err := im.f.WriteAt(b, im.head.table+4*block); err != nil {
		return err
	}
	im.bat[block] = entry
	return nil
}

// unknown stands for the length of the file after a failure.
const unknown = -1

// room returns where the next block goes: all zeros, in the file, and durably so. It is not taken until dataEnd is
// moved past it.
func (im *Image) room() (span, error) {
	if im.fileEnd == unknown {
		if err := im.cutTail(); err != nil {
			return span{}, err
		}
	}
	start := roundUp(im.dataEnd+sector, align) - sector
	s := span{start, start + sector + BlockSize}
	if s.start/sector >= int64(unallocated) {
		return span{}, fmt.Errorf("%w: the file is too long", ErrLayout)
	}
	if s.end+footerSize <= im.fileEnd {
		return s, nil
	}
	if err := im.extend(start + roomFor*(sector+BlockSize+align)); err != nil {
		im.fileEnd = unknown
		return span{}, err
	}
	return s, nil
}

// extend makes the file longer by a hole that ends at end, moves the footer behind that, and syncs.
func (im *Image) extend(end int64) error {
	end = roundUp(end, sector)
	if err := im.f.Truncate(end + footerSize); err != nil {
		return err
	}
	if _, err := im.f.WriteAt(make([]byte, footerSize), im.fileEnd-footerSize); err != nil {
		return err
	}
	if _, err := im.f.WriteAt(im.foot.marshal(), end); err != nil {
		return err
	}
	if err := im.f.Sync(); err != nil {
		return err
	}
	im.fileEnd = end + footerSize
	return nil
}

// cutTail ends the file with a footer right behind the last block, whatever lay there. It cuts first, so that a full
// medium has room for the footer.
func (im *Image) cutTail() error {
	if im.foot.kind == Fixed || im.fileEnd == im.dataEnd+footerSize {
		return nil
	}
	im.fileEnd = unknown
	if err := im.f.Truncate(im.dataEnd); err != nil {
		return fmt.Errorf("vhd: footer: %w", err)
	}
	if _, err := im.f.WriteAt(im.foot.marshal(), im.dataEnd); err != nil {
		return fmt.Errorf("vhd: footer: %w", err)
	}
	im.fileEnd = im.dataEnd + footerSize
	return nil
}

func allZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
