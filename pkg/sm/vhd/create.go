package vhd

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"time"
)

// Create writes an empty dynamic image of sizeBytes into f, which must have no bytes yet, and syncs it. The size must
// be as RoundSize gives it (ErrSize). The image takes some 16 KiB more than 2 bytes a MiB of its size; between
// its metadata and its first block the file has a hole.
func Create(f File, sizeBytes int64, now time.Time) error {
	if rounded, ok := RoundSize(sizeBytes); !ok || rounded != sizeBytes {
		return fmt.Errorf("%w: %d", ErrSize, sizeBytes)
	}
	var uuid [16]byte
	rand.Read(uuid[:])
	uuid[6], uuid[8] = uuid[6]&0x0f|0x40, uuid[8]&0x3f|0x80 // version 4
	return create(f, newFooter(sizeBytes, uuid, now))
}

func create(f File, foot footer) error {
	entries := uint32(blocksOf(int64(foot.size), BlockSize))
	head := newHeader(entries)
	batmap := make([]byte, batmapBytes(entries))
	at := head.batmapAt()
	if err := f.Truncate(reserve + footerSize); err != nil {
		return fmt.Errorf("vhd: create: %w", err)
	}
	for _, part := range []struct {
		at int64
		b  []byte
	}{
		{reserve, foot.marshal()},
		{head.table, bytes.Repeat([]byte{0xFF}, int(at-head.table))},
		{at, append(marshalBatmapHeader(batmap, at+sector, int64(foot.size)), batmap...)},
		{int64(foot.dataOffset), head.marshal()},
		{0, foot.marshal()},
	} {
		if _, err := f.WriteAt(part.b, part.at); err != nil {
			return fmt.Errorf("vhd: create: %w", err)
		}
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("vhd: create: %w", err)
	}
	return nil
}

// MetadataBytes is the room that a new image of a virtual size takes on a medium that has holes, at most.
func MetadataBytes(sizeBytes int64) int64 {
	n := uint32(blocksOf(sizeBytes, BlockSize))
	return roundUp(batEnd(tableStart, n)+sector+batmapBytes(n), align) + 2*align
}
