package vhd

// What lies where in a dynamic image that Create makes:
//
//	        0  footer, the copy (the truth while the image is open)
//	      512  header
//	    1,536  BAT: 4 bytes a block, the sector where the block's bitmap is; padded to a sector
//	           batmap header, a sector right after the BAT, and the batmap
//	           a hole, so that BAT and batmap can grow to MaxSize without moving a block
//	4,329,472  blocks: a sector of bitmap, 2 MiB of data; data on 4 KiB boundaries
//	      end  footer
const (
	sector     = 512
	footerSize = sector
	headerSize = 1024
	tableStart = footerSize + headerSize
	align      = 4096

	// BlockSize is the number of bytes in a block of the images that this package writes.
	BlockSize = 2 << 20
	// MinSize and MaxSize bound the virtual size of images that Create and Resize make, in bytes; 2040 GiB is
	// where XenServer stops, since the metadata must fit in 2 TiB too.
	MinSize = BlockSize
	MaxSize = 2040 << 30

	// reserve is where blocks start: the end of the metadata that a 2 TiB image has, three sectors for parent
	// locators included.
	reserve = 4329472

	maxVirtual  = int64(1) << 41
	maxEntries  = 1<<20 + 1
	minBlock    = 4 << 10
	maxBlock    = 256 << 20
	unallocated = uint32(0xFFFFFFFF)
)

// RoundSize rounds a virtual size up to a whole number of blocks, as XenServer does. ok is false when it is out of
// range; sizes below MinSize are raised to it from 1 MiB on.
func RoundSize(sizeBytes int64) (rounded int64, ok bool) {
	if sizeBytes < 1<<20 || sizeBytes > MaxSize {
		return 0, false
	}
	return roundUp(sizeBytes, BlockSize), true
}

func roundUp(n, to int64) int64 { return (n + to - 1) / to * to }

func blocksOf(size, block int64) int64 { return (size + block - 1) / block }

// span is a range of bytes in the file.
type span struct{ start, end int64 }

func (s span) overlaps(o span) bool { return s.start < o.end && o.start < s.end }

// bitmapBytes is the room of a block's bitmap: a bit a sector, padded to a sector.
func bitmapBytes(block int64) int64 { return roundUp(block/sector/8, sector) }

// batEnd is where a table of n entries ends, padding included.
func batEnd(table int64, n uint32) int64 { return table + roundUp(4*int64(n), sector) }

// batmapBytes is the room of a batmap for n blocks.
func batmapBytes(n uint32) int64 { return roundUp((int64(n)+7)/8, sector) }
