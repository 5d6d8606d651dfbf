// Package loopdev makes files block devices of the host (loop(4)).
//
// The one invariant: a device goes by itself when nobody has it open any more, so that none outlives a crash. Start
// reading at Open.
package loopdev

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// tries bounds how often somebody else may take the device that was free.
const tries = 32

// Open gives the device of a file, which may be closed then. The kernel reads and writes the file directly where its
// file system can.
func Open(file *os.File, readOnly bool) (*os.File, error) {
	mode, flags := os.O_RDWR, uint32(unix.LO_FLAGS_AUTOCLEAR|unix.LO_FLAGS_DIRECT_IO)
	if readOnly {
		mode, flags = os.O_RDONLY, flags|unix.LO_FLAGS_READ_ONLY
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{Flags: flags}}
	copy(config.Info.File_name[:len(config.Info.File_name)-1], file.Name())
	for range tries {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, fmt.Errorf("a free loop device: %w", err)
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), mode, 0)
		if err != nil {
			return nil, err
		}
		if err = unix.IoctlLoopConfigure(int(loop.Fd()), &config); err == nil {
			return loop, nil
		}
		if e := loop.Close(); !errors.Is(err, unix.EBUSY) {
			return nil, errors.Join(fmt.Errorf("%s for %s: %w", loop.Name(), file.Name(), err), e)
		}
	}
	return nil, errors.New("no loop device stays free")
}
