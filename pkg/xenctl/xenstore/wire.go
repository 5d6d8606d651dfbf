package xenstore

import (
	"encoding/binary"
	"fmt"
	"io"
	"strings"
)

// op is the type of a message (xsd_sockmsg_type).
type op uint32

const (
	opDirectory        op = 1
	opRead             op = 2
	opWatch            op = 4
	opUnwatch          op = 5
	opTransactionStart op = 6
	opTransactionEnd   op = 7
	opWrite            op = 11
	opMkdir            op = 12
	opRemove           op = 13
	opWatchEvent       op = 15
	opError            op = 16
	opDirectoryPart    op = 22
)

var opNames = map[op]string{
	opDirectory: "list", opRead: "read", opWatch: "watch", opUnwatch: "unwatch", opTransactionStart: "begin",
	opTransactionEnd: "commit", opWrite: "write", opMkdir: "mkdir", opRemove: "remove", opDirectoryPart: "list",
}

// String names it in errors.
func (o op) String() string { return opNames[o] }

const (
	headerBytes = 16
	// payloadLimit is the protocol's; a daemon that sends more doesn't speak it.
	payloadLimit = 4096
)

// frame is a message: struct xsd_sockmsg, in the machine's byte order, and its payload.
type frame struct {
	op      op
	id, tx  uint32
	payload []byte
}

func (f *frame) encode() []byte {
	b := make([]byte, 0, headerBytes+len(f.payload))
	for _, word := range []uint32{uint32(f.op), f.id, f.tx, uint32(len(f.payload))} {
		b = binary.NativeEndian.AppendUint32(b, word)
	}
	return append(b, f.payload...)
}

func readFrame(r io.Reader) (f frame, err error) {
	var head [headerBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return f, err
	}
	word := func(n int) uint32 { return binary.NativeEndian.Uint32(head[4*n:]) }
	f = frame{op: op(word(0)), id: word(1), tx: word(2)}
	if word(3) > payloadLimit {
		return f, fmt.Errorf("a message of %d bytes", word(3))
	}
	f.payload = make([]byte, word(3))
	_, err = io.ReadFull(r, f.payload)
	return f, err
}

// terminated joins strings as the protocol does, each ended by a NUL.
func terminated(texts ...string) []byte {
	return []byte(strings.Join(texts, "\x00") + "\x00")
}

// split takes strings apart of which each is ended by a NUL.
func split(payload []byte) []string {
	text := strings.TrimSuffix(string(payload), "\x00")
	if len(payload) == 0 {
		return nil
	}
	return strings.Split(text, "\x00")
}
