package libvirt

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// libvirt says of a domain that libxl could not make only that it could not. Why is in a log of its own, which tells
// of all domains together: what came into it in the time of a call that failed is added to the call's error.

// libxlLog is where libvirtd lets libxl write.
const libxlLog = "/var/log/libvirt/libxl/libxl-driver.log"

// How much of the log is read, and how much of it goes into an error.
const (
	causeRead  = 64 << 10
	causeLines = 4
	causeBytes = 200 // of a line
)

// cause gives a failure of which libvirt does not know more the lines that have come into the log at path since it was
// from bytes long. A failure that has a name keeps to it: those lines may be another domain's.
func cause(failure error, path string, from int64) error {
	if !internal(failure) {
		return failure
	}
	if lines := logged(path, from); len(lines) > 0 {
		return fmt.Errorf("%w (libxl: %s)", failure, strings.Join(lines, "; "))
	}
	return failure
}

// size is a file's, 0 of one that is not there.
func size(path string) int64 {
	info, err := os.Stat(path)
	if err != nil {
		return 0
	}
	return info.Size()
}

// logged are the first lines of a log from a place on, without their times; of one that was rotated meanwhile, from its
// beginning on. The first one names the cause, and the later ones what it led to.
func logged(path string, from int64) []string {
	f, err := os.Open(path)
	if err != nil {
		return nil // the failure has been told of without
	}
	defer f.Close()
	if size(path) < from {
		from = 0
	}
	text, err := io.ReadAll(io.NewSectionReader(f, from, causeRead))
	if err != nil {
		return nil
	}
	var lines []string
	for line := range strings.Lines(string(text)) {
		if _, after, dated := strings.Cut(line, "+0000: "); dated {
			line = after
		}
		line = strings.TrimSpace(line)
		line = strings.ToValidUTF8(line[:min(len(line), causeBytes)], "?")
		if line != "" && len(lines) < causeLines {
			lines = append(lines, line)
		}
	}
	return lines
}
