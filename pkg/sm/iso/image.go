package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// The sectors of the image that WriteImage makes, in the order of ECMA-119 (ISO 9660). The first 16 are the system
// area, which is left empty.
const (
	isoSector      = 2048
	primarySector  = 16
	endSector      = 17
	pathSectorL    = 18 // path table, little-endian
	pathSectorM    = 19 // path table, big-endian
	rootSector     = 20
	readmeSector   = 21
	pathTableBytes = 10
	// minSectors is where images end at the earliest; some readers want more than such a small one would have.
	minSectors = 32
)

// WriteImage writes a CD image that holds one file, README.TXT, in place of path. It is written under another name,
// synced and renamed. The label is cut to 32 characters of A–Z, 0–9 and "_"; others become "_".
func WriteImage(path, label, readme string, now time.Time) error {
	b := buildImage(label, []byte(readme), now)
	f, err := os.CreateTemp(filepath.Dir(path), ".xapid-*")
	if err != nil {
		return fmt.Errorf("iso image: %w", err)
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("iso image: %w", errors.Join(err, os.Remove(f.Name())))
	}
	return nil
}

func buildImage(label string, readme []byte, now time.Time) []byte {
	now = now.UTC()
	sectors := max(minSectors, readmeSector+(len(readme)+isoSector-1)/isoSector)
	b := make([]byte, sectors*isoSector)
	at := func(sector int) []byte { return b[sector*isoSector:] }

	root := directoryRecord("\x00", rootSector, isoSector, true, now)
	writePrimary(at(primarySector), label, sectors, root, now)
	copy(at(endSector), "\xffCD001\x01")
	binary.LittleEndian.PutUint32(pathEntry(at(pathSectorL), binary.LittleEndian)[2:], rootSector)
	binary.BigEndian.PutUint32(pathEntry(at(pathSectorM), binary.BigEndian)[2:], rootSector)
	dir := append(root, directoryRecord("\x01", rootSector, isoSector, true, now)...)
	dir = append(dir, directoryRecord("README.TXT;1", readmeSector, len(readme), false, now)...)
	copy(at(rootSector), dir)
	copy(at(readmeSector), readme)
	return b
}

// pathEntry writes the path table's only entry, the root, but for its sector.
func pathEntry(b []byte, order binary.ByteOrder) []byte {
	b[0] = 1                  // length of the name
	order.PutUint16(b[6:], 1) // number of the parent
	return b
}

// writePrimary writes the primary volume descriptor (ECMA-119, 8.4).
func writePrimary(b []byte, label string, sectors int, root []byte, now time.Time) {
	copy(b, "\x01CD001\x01")
	copy(b[8:190], strings.Repeat(" ", 182)) // texts are padded with spaces
	clear(b[72:190])
	copy(b[40:72], fmt.Sprintf("%-32s", identifier(label)))
	both32(b[80:], sectors)
	both16(b[120:], 1) // volumes in the set
	both16(b[124:], 1) // this one's number
	both16(b[128:], isoSector)
	both32(b[132:], pathTableBytes)
	binary.LittleEndian.PutUint32(b[140:], pathSectorL)
	binary.BigEndian.PutUint32(b[148:], pathSectorM)
	copy(b[156:190], root)
	copy(b[190:813], strings.Repeat(" ", 623))
	stamp := now.Format("20060102150405") + "00\x00"
	never := strings.Repeat("0", 16) + "\x00"
	copy(b[813:], stamp+stamp+never+never)
	b[881] = 1 // version of the file structure
}

// directoryRecord makes an entry of a directory (ECMA-119, 9.1).
func directoryRecord(name string, sector, size int, isDir bool, now time.Time) []byte {
	n := 33 + len(name)
	b := make([]byte, n+n%2)
	b[0] = byte(len(b))
	both32(b[2:], sector)
	both32(b[10:], size)
	copy(b[18:], []byte{
		byte(now.Year() - 1900), byte(now.Month()), byte(now.Day()), byte(now.Hour()), byte(now.Minute()), byte(now.Second()), 0,
	})
	if isDir {
		b[25] = 2
	}
	both16(b[28:], 1)
	b[32] = byte(len(name))
	copy(b[33:], name)
	return b
}

// identifier makes a text fit for a volume's label.
func identifier(label string) string {
	out := strings.Map(func(r rune) rune {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, strings.ToUpper(label))
	return out[:min(len(out), 32)]
}

// both32 and both16 write a number in both byte orders, as the format has most of them.
func both32(b []byte, v int) {
	binary.LittleEndian.PutUint32(b, uint32(v))
	binary.BigEndian.PutUint32(b[4:], uint32(v))
}

func both16(b []byte, v int) {
	binary.LittleEndian.PutUint16(b, uint16(v))
	binary.BigEndian.PutUint16(b[2:], uint16(v))
}
