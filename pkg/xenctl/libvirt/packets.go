package libvirt

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"slices"
)

// What is needed here of libvirt's packets, https://libvirt.org/kbase/internals/rpc.html: a length that counts itself,
// then program, version, procedure, type, serial and status, of 4 bytes each, big-endian.
const (
	packetHead = 28
	packetMost = 32 << 20

	packetReply  = 1
	packetStream = 3
)

// inOrder reads packets so that none of a stream comes before the reply to the call that opened the stream. libvirtd
// sends what a console says from another thread than the reply, now and then sooner, and go-libvirt takes the first
// packet of a call for its reply, and the reply for the stream's end. The calls of a connection that opens a stream
// are made one after the other.
type inOrder struct {
	from        *bufio.Reader
	packet      []byte
	ready, held []byte
	replied     int32 // serial of the last call that was answered
}

func newInOrder(from io.Reader) *inOrder { return &inOrder{from: bufio.NewReader(from)} }

// Read implements io.Reader.
func (o *inOrder) Read(p []byte) (int, error) {
	for len(o.ready) == 0 {
		if err := o.next(); err != nil {
			return 0, err
		}
	}
	n := copy(p, o.ready)
	o.ready = o.ready[n:]
	return n, nil
}

// next makes the next packet ready, or holds it back.
func (o *inOrder) next() error {
	head, err := o.from.Peek(packetHead)
	if err == io.EOF && len(head) > 0 {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	size := binary.BigEndian.Uint32(head)
	kind, serial := binary.BigEndian.Uint32(head[16:]), int32(binary.BigEndian.Uint32(head[20:]))
	if size < packetHead || size > packetMost || len(o.held) > packetMost {
		return fmt.Errorf("a packet of %d bytes after %d held back", size, len(o.held))
	}
	o.packet = slices.Grow(o.packet[:0], int(size))[:size]
	if _, err := io.ReadFull(o.from, o.packet); err != nil {
		return err
	}
	switch {
	case kind == packetStream && serial > o.replied:
		o.held = append(o.held, o.packet...)
		return nil
	case kind == packetReply:
		o.replied = serial
		o.packet, o.held = append(o.packet, o.held...), nil
	}
	o.ready = o.packet
	return nil
}
