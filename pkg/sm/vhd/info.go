package vhd

import (
	"io"
)

// Info is what an image's footer and header say, parents not looked at.
type Info struct {
	Type       Type
	SizeBytes  int64 // virtual
	Hidden     bool
	UUID       [16]byte // of the footer, which is not the volume's
	ParentUUID [16]byte // footer uuid of the parent of a differencing image; zeros when that is raw
	// ParentName is the parent's file name as the image has it. It is a stranger's text: the base name is worth
	// looking up among the images of the same directory, and nothing else.
	ParentName string
}

// ReadInfo reads the heads of an image of fileSize bytes, of any type. It reads less than 4 KiB. The error is a
// *FormatError or comes from r.
func ReadInfo(r io.ReaderAt, fileSize int64) (Info, error) {
	h, err := readHeads(r, fileSize)
	if err != nil {
		return Info{}, err
	}
	return Info{
		Type: h.foot.kind, SizeBytes: int64(h.foot.size), Hidden: h.foot.hidden == 1, UUID: h.foot.uuid,
		ParentUUID: h.head.parentUUID, ParentName: h.head.parentName,
	}, nil
}

// heads are the structures that describe an image.
type heads struct {
	foot  footer
	head  header // zero for a fixed image
	stale bool   // one of the footers is damaged, lost or old
}

func readHeads(r io.ReaderAt, size int64) (heads, error) {
	if size < 4*sector {
		return heads{}, bad("file", "%d bytes are too few", size)
	}
	h, err := readFooters(r, size)
	if err != nil {
		return heads{}, err
	}
	f := &h.foot
	if f.kind == Fixed {
		if int64(f.size) > size-footerSize+1 {
			return heads{}, bad("footer.size", "%d in a file of %d bytes", f.size, size)
		}
		return h, nil
	}
	if f.dataOffset < footerSize || f.dataOffset%sector != 0 || f.dataOffset > uint64(size-headerSize) {
		return heads{}, bad("footer.data_offset", "%d", f.dataOffset)
	}
	b := make([]byte, headerSize)
	if err := readFull(r, b, int64(f.dataOffset)); err != nil {
		return heads{}, err
	}
	h.head, err = parseHeader(b, f, size)
	return h, err
}

// readFooters reads both footers and decides between them. A fixed image has only the one at the end. Otherwise the
// copy at 0 is the truth, as the end may be overwritten by a writer that was killed; the end counts when the copy
// is damaged. That one says "fixed" and the other not is refused: in a fixed image the guest writes sector 0.
func readFooters(r io.ReaderAt, size int64) (heads, error) {
	b := make([]byte, footerSize)
	if err := readFull(r, b, 0); err != nil {
		return heads{}, err
	}
	first, firstErr := parseFooter(b)

	n := int64(footerSize)
	if size%sector == sector-1 {
		n-- // an old writer's short footer
	}
	clear(b)
	if err := readFull(r, b[:n], size-n); err != nil {
		return heads{}, err
	}
	last, lastErr := parseFooter(b)

	switch {
	case firstErr != nil && lastErr != nil:
		if string(b[:8]) == footerCookie {
			return heads{}, lastErr
		}
		return heads{}, firstErr
	case firstErr != nil:
		return heads{foot: last, stale: last.kind != Fixed}, nil
	case first.kind == Fixed && lastErr != nil:
		return heads{}, lastErr
	case lastErr == nil && (first.kind == Fixed) != (last.kind == Fixed):
		return heads{}, bad("footer.type", "%d at the start, %d at the end", first.kind, last.kind)
	}
	return heads{foot: first, stale: lastErr != nil || first != last}, nil
}

// readFull is ReadAt that takes io.EOF with all bytes read as success.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
