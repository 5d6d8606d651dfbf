package vhd

import (
	"encoding/binary"
	"unicode/utf16"
)

// header is the 1,024-byte structure of dynamic and differencing images. Of the parent locators, which name files
// by path, nothing is ever read.
type header struct {
	table      int64 // offset of the BAT
	entries    uint32
	block      int64
	parentUUID [16]byte
	parentName string
	raw        []byte // as read, so that what is not understood is kept when it is written again
}

func newHeader(entries uint32) header {
	raw := make([]byte, headerSize)
	copy(raw, headerCookie)
	be := binary.BigEndian
	be.PutUint64(raw[8:], noOffset)
	be.PutUint64(raw[16:], tableStart)
	be.PutUint32(raw[24:], formatVersion)
	be.PutUint32(raw[32:], BlockSize)
	return header{table: tableStart, entries: entries, block: BlockSize, raw: raw}
}

func (h *header) marshal() []byte {
	b := append([]byte(nil), h.raw...)
	binary.BigEndian.PutUint32(b[28:], h.entries)
	binary.BigEndian.PutUint32(b[36:], checksum(b, 36))
	return b
}

// parseHeader decodes and checks a header against the footer and the size of the file.
func parseHeader(b []byte, f *footer, fileSize int64) (header, error) {
	be := binary.BigEndian
	if string(b[:8]) != headerCookie {
		return header{}, bad("header.cookie", "%q", b[:8])
	}
	if got, want := be.Uint32(b[36:]), checksum(b, 36); got != want {
		return header{}, bad("header.checksum", "%#08x, computed %#08x", got, want)
	}
	if v := be.Uint32(b[24:]); v != formatVersion {
		return header{}, bad("header.version", "%#08x", v)
	}
	table, entries, block := be.Uint64(b[16:]), be.Uint32(b[28:]), int64(be.Uint32(b[32:]))
	switch {
	case block < minBlock || block > maxBlock || block&(block-1) != 0:
		return header{}, bad("header.block_size", "%d", block)
	case entries > maxEntries || int64(entries) < blocksOf(int64(f.size), block):
		return header{}, bad("header.max_table_entries", "%d for %d bytes", entries, f.size)
	case table < footerSize || table%sector != 0 || table > uint64(fileSize) ||
		int64(table)+4*int64(entries) > fileSize:
		return header{}, bad("header.table_offset", "%d", table)
	}
	h := header{
		table: int64(table), entries: entries, block: block,
		parentUUID: [16]byte(b[40:56]), raw: append([]byte(nil), b...),
	}
	if (span{h.table, batEnd(h.table, entries)}).overlaps(span{int64(f.dataOffset), int64(f.dataOffset) + headerSize}) {
		return header{}, bad("header.table_offset", "%d lies in the header", table)
	}
	if f.kind == Differencing {
		h.parentName = utf16Name(b[64:576])
	} else if h.parentUUID != [16]byte{} {
		return header{}, bad("header.parent_uuid", "set in a dynamic image")
	}
	return h, nil
}

// utf16Name decodes a name of big-endian UTF-16 that ends at the first zero.
func utf16Name(b []byte) string {
	var units []uint16
	for i := 0; i+1 < len(b); i += 2 {
		u := binary.BigEndian.Uint16(b[i:])
		if u == 0 {
			break
		}
		units = append(units, u)
	}
	return string(utf16.Decode(units))
}
