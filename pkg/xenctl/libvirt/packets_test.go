package libvirt

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

// packet is one of libvirt's.
func packet(kind uint32, serial int32, body string) string {
	b := binary.BigEndian.AppendUint32(nil, uint32(packetHead+len(body)))
	for _, field := range []uint32{0x20008086, 1, 201, kind, uint32(serial), 0} {
		b = binary.BigEndian.AppendUint32(b, field)
	}
	return string(b) + body
}

func TestStreamsFollowTheirReply(t *testing.T) {
	reply, first, second := packet(packetReply, 4, ""), packet(packetStream, 4, "a"), packet(packetStream, 4, strings.Repeat("b", 9000))
	before, event := packet(packetReply, 3, "x"), packet(2, 0, "event")
	want := before + reply + first + second
	for name, sent := range map[string]string{
		"in order":    want,
		"one sooner":  before + first + reply + second,
		"both sooner": before + first + second + reply,
	} {
		for _, slow := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader, iotest.HalfReader} {
			got, err := io.ReadAll(newInOrder(slow(strings.NewReader(sent))))
			if err != nil || string(got) != want {
				t.Errorf("%s: %d bytes, %v, not the %d in order", name, len(got), err, len(want))
			}
		}
	}
	got, err := io.ReadAll(newInOrder(strings.NewReader(before + first + event + reply)))
	if err != nil || string(got) != before+event+reply+first {
		t.Errorf("an event in between: %q, %v", got, err)
	}
}

func TestPacketsThatAreNone(t *testing.T) {
	whole := packet(packetReply, 1, "body")
	for name, sent := range map[string]string{
		"cut in its head": whole[:packetHead-1],
		"cut in its body": whole[:len(whole)-1],
		"too short":       "\x00\x00\x00\x1b" + whole[4:],
		"too long":        "\x02\x00\x00\x01" + whole[4:],
	} {
		got, err := io.ReadAll(newInOrder(bytes.NewReader([]byte(sent))))
		if cut := strings.HasPrefix(name, "cut"); len(got) > 0 || err == nil || errors.Is(err, io.ErrUnexpectedEOF) != cut {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}
