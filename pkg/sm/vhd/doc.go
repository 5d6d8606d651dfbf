// Package vhd reads and writes disk images in Microsoft's Virtual Hard Disk format ("Virtual Hard Disk Image Format
// Specification", 1.0) with the extensions of XenServer's storage manager: the batmap, the hidden flag, and data
// aligned to 4 KiB. It reads and writes fixed and dynamic images; differencing images are told apart and refused.
// All numbers on disk are big-endian.
//
// The invariant: at every moment, killed or cut from power, the file is an image that opens, holds all bytes that
// were written before the last successful Sync, and shows zeros, the old or the new bytes where writes came later.
//
// Nothing read from a file is trusted: sizes are bounded before memory is allocated or an offset is followed.
//
// Start with Image in image.go; layout.go says what lies where, and write.go in which order things are written.
package vhd
