package vhd

// Geometry is the CHS triple of a footer. It is computed from the size, and never the other way round.
type Geometry struct {
	Cylinders uint16
	Heads     uint8
	Sectors   uint8 // per track
}

// maxGeometry is the largest that there is. QEMU writes it to images of any size, to say that the size counts.
var maxGeometry = Geometry{Cylinders: 65535, Heads: 16, Sectors: 255}

// GeometryOf computes the geometry of a disk, by the appendix of the specification.
func GeometryOf(sizeBytes int64) Geometry {
	s := min(blocksOf(sizeBytes, sector), 65535*16*255)
	var perTrack, heads, tracks int64
	if s >= 65535*16*63 {
		perTrack, heads = 255, 16
		tracks = s / perTrack
	} else {
		perTrack = 17
		tracks = s / perTrack
		heads = max(4, (tracks+1023)/1024)
		if tracks >= heads*1024 || heads > 16 {
			perTrack, heads = 31, 16
			tracks = s / perTrack
		}
		if tracks >= heads*1024 {
			perTrack, heads = 63, 16
			tracks = s / perTrack
		}
	}
	return Geometry{Cylinders: uint16(tracks / heads), Heads: uint8(heads), Sectors: uint8(perTrack)}
}

// sectors is the number of sectors that the geometry spans.
func (g Geometry) sectors() int64 {
	return int64(g.Cylinders) * int64(g.Heads) * int64(g.Sectors)
}
