package vhd

import (
	"encoding/binary"
	"time"
)

// Type is the kind of an image.
type Type uint32

// The types that exist; others are refused.
const (
	Fixed        Type = 2
	Dynamic      Type = 3
	Differencing Type = 4
)

// Values that XenServer's storage manager writes.
const (
	footerCookie   = "conectix"
	headerCookie   = "cxsparse"
	creatorTap     = "tap\x00"
	creatorVersion = 0x00010003
	batmapSince    = 0x00010002 // creator version from which a batmap is there for sure
	formatVersion  = 0x00010000
	featureAlways  = 2 // "reserved, must be set"
	featureTemp    = 1
	noOffset       = ^uint64(0)
)

// epoch is what VHD timestamps count from, in Unix seconds: 2000-01-01 UTC.
const epoch = 946684800

// footer is the 512-byte structure at both ends of an image.
type footer struct {
	features   uint32
	dataOffset uint64
	timestamp  uint32
	creator    [4]byte
	creatorVer uint32
	creatorOS  uint32
	origSize   uint64
	size       uint64
	geometry   Geometry
	kind       Type
	uuid       [16]byte
	saved      byte
	hidden     byte
}

func newFooter(size int64, uuid [16]byte, now time.Time) footer {
	f := footer{
		features: featureAlways, dataOffset: footerSize, timestamp: stamp(now), creatorVer: creatorVersion,
		origSize: uint64(size), size: uint64(size), geometry: GeometryOf(size), kind: Dynamic, uuid: uuid,
	}
	copy(f.creator[:], creatorTap)
	return f
}

func stamp(t time.Time) uint32 { return uint32(t.Unix() - epoch) }

func (f *footer) marshal() []byte {
	b := make([]byte, footerSize)
	copy(b, footerCookie)
	be := binary.BigEndian
	be.PutUint32(b[8:], f.features)
	be.PutUint32(b[12:], formatVersion)
	be.PutUint64(b[16:], f.dataOffset)
	be.PutUint32(b[24:], f.timestamp)
	copy(b[28:], f.creator[:])
	be.PutUint32(b[32:], f.creatorVer)
	be.PutUint32(b[36:], f.creatorOS)
	be.PutUint64(b[40:], f.origSize)
	be.PutUint64(b[48:], f.size)
	be.PutUint16(b[56:], f.geometry.Cylinders)
	b[58], b[59] = f.geometry.Heads, f.geometry.Sectors
	be.PutUint32(b[60:], uint32(f.kind))
	copy(b[68:], f.uuid[:])
	b[84], b[85] = f.saved, f.hidden
	be.PutUint32(b[64:], checksum(b, 64))
	return b
}

// parseFooter decodes and checks what stands in the footer alone. b has 511 bytes in images of an old writer.
func parseFooter(b []byte) (footer, error) {
	var f footer
	be := binary.BigEndian
	if string(b[:8]) != footerCookie {
		return f, bad("footer.cookie", "%q", b[:8])
	}
	if got, want := be.Uint32(b[64:]), checksum(b, 64); got != want {
		return f, bad("footer.checksum", "%#08x, computed %#08x", got, want)
	}
	if v := be.Uint32(b[12:]); v != formatVersion {
		return f, bad("footer.version", "%#08x", v)
	}
	f = footer{
		features: be.Uint32(b[8:]), dataOffset: be.Uint64(b[16:]), timestamp: be.Uint32(b[24:]),
		creator: [4]byte(b[28:32]), creatorVer: be.Uint32(b[32:]), creatorOS: be.Uint32(b[36:]),
		origSize: be.Uint64(b[40:]), size: be.Uint64(b[48:]),
		geometry: Geometry{Cylinders: be.Uint16(b[56:]), Heads: b[58], Sectors: b[59]},
		kind:     Type(be.Uint32(b[60:])), uuid: [16]byte(b[68:84]), saved: b[84], hidden: b[85],
	}
	return f, f.check()
}

func (f *footer) check() error {
	switch {
	case f.features&^(featureAlways|featureTemp) != 0:
		return bad("footer.features", "%#x", f.features)
	case f.kind != Fixed && f.kind != Dynamic && f.kind != Differencing:
		return bad("footer.type", "%d", f.kind)
	case f.size == 0 || f.size > uint64(maxVirtual) || f.size%sector != 0:
		return bad("footer.size", "%d", f.size)
	case f.geometry != maxGeometry && f.geometry.sectors() > int64(f.size/sector):
		return bad("footer.geometry", "%+v is more than %d bytes", f.geometry, f.size)
	case f.saved > 1:
		return bad("footer.saved", "%d", f.saved)
	case f.hidden > 1:
		return bad("footer.hidden", "%d", f.hidden)
	}
	return nil
}

// hasBatmap tells whether the creator writes a batmap.
func (f *footer) hasBatmap() bool {
	return f.kind != Fixed && string(f.creator[:]) == creatorTap && f.creatorVer >= batmapSince
}

// checksum is the one's complement of the sum of all bytes, the four at the given offset counted as 0.
func checksum(b []byte, at int) uint32 {
	var sum uint32
	for i, c := range b {
		if i < at || i >= at+4 {
			sum += uint32(c)
		}
	}
	return ^sum
}
