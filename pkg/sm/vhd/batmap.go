package vhd

import "encoding/binary"

// The batmap, XenServer's extension, has a bit for each block, set when all sectors of the block hold data, so that
// its bitmap need not be read. The most significant bit of byte 0 is block 0. A bit that is not set says nothing;
// hence a stale batmap is a valid one, and a damaged one can be taken as empty.
const (
	batmapCookie  = "tdbatmap"
	batmapVersion = 0x00010002
)

func hasBit(m []byte, i int64) bool { return i/8 < int64(len(m)) && m[i/8]&(0x80>>(i%8)) != 0 }

func setBit(m []byte, i int64) { m[i/8] |= 0x80 >> (i % 8) }

// batmapSum is the checksum that goes with a virtual size: it covers only the sectors which that size needs.
func batmapSum(m []byte, size int64) uint32 {
	n := max(1, blocksOf(size/(16<<20), sector)) * sector
	return checksum(m[:min(n, int64(len(m)))], len(m))
}

// marshalBatmapHeader makes the sector before a map that begins at offset at.
func marshalBatmapHeader(m []byte, at, size int64) []byte {
	b := make([]byte, sector)
	copy(b, batmapCookie)
	be := binary.BigEndian
	be.PutUint64(b[8:], uint64(at))
	be.PutUint32(b[16:], uint32(len(m)/sector))
	be.PutUint32(b[20:], batmapVersion)
	be.PutUint32(b[24:], batmapSum(m, size))
	return b
}

// batmapAt gives the offset of the batmap's header: the sector after the BAT.
func (h *header) batmapAt() int64 { return batEnd(h.table, h.entries) }

// readBatmap reads the map. It returns an empty one when the file's cannot be believed: wrong in itself, lying
// elsewhere than right behind its header, or full for a block that is not there.
func (im *Image) readBatmap() []byte {
	empty := make([]byte, batmapBytes(im.head.entries))
	b := make([]byte, sector)
	at := im.head.batmapAt()
	if _, err := im.f.ReadAt(b, at); err != nil || string(b[:8]) != batmapCookie {
		return empty
	}
	be := binary.BigEndian
	sectors := int64(be.Uint32(b[16:]))
	if be.Uint64(b[8:]) != uint64(at+sector) || be.Uint32(b[20:]) != batmapVersion ||
		sectors*sector > int64(len(empty)) || sectors*sector*8 < int64(len(im.bat)) {
		return empty
	}
	m := make([]byte, len(empty))
	if _, err := im.f.ReadAt(m[:sectors*sector], at+sector); err != nil {
		return empty
	}
	if batmapSum(m, im.size()) != be.Uint32(b[24:]) {
		return empty
	}
	for i, e := range im.bat {
		if e == unallocated && hasBit(m, int64(i)) {
			return empty
		}
	}
	return m
}

// writeBatmap puts the map and then its header, for a disk of the given size.
func (im *Image) writeBatmap(size int64) error {
	at := im.head.batmapAt()
	if _, err := im.f.WriteAt(im.batmap, at+sector); err != nil {
		return err
	}
	_, err := im.f.WriteAt(marshalBatmapHeader(im.batmap, at+sector, size), at)
	return err
}
