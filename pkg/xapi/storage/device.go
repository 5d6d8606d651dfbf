package storage

import (
	"strconv"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// Positions of drives in a VM; a control domain has one more.
const (
	maxPosition        = 254
	maxControlPosition = 255
	letters            = 26
)

// Position reads a userdevice: a number from 0, or a Linux name, of which hda,
// sda and xvda are the same position. INVALID_DEVICE for anything else.
func Position(userdevice string) (int, error) {
	if n, ok := decimal(userdevice); ok && n <= maxControlPosition {
		return n, nil
	}
	for _, prefix := range []string{"xvd", "hd", "sd", "fd"} {
		if rest, ok := strings.CutPrefix(userdevice, prefix); ok {
			if n, ok := lettered(rest); ok && n <= maxControlPosition {
				return n, nil
			}
		}
	}
	return 0, xenapi.ErrInvalidDevice(userdevice)
}

// decimal reads a number as it is usually written: without sign or zeros
// before it.
func decimal(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == s
}

// lettered reads a, b, … z, aa, ab, ….
func lettered(s string) (int, bool) {
	if len(s) < 1 || len(s) > 2 {
		return 0, false
	}
	n := 0
	for _, r := range s {
		if r < 'a' || r > 'z' {
			return 0, false
		}
		n = n*letters + int(r-'a') + 1
	}
	return n - 1, true
}

// DeviceName is what a guest sees at a userdevice: 0 is xvda, 25 xvdz, 26
// xvdaa.
func DeviceName(userdevice string) (string, error) {
	n, err := Position(userdevice)
	if err != nil {
		return "", err
	}
	name := ""
	for n++; n > 0; n = (n - 1) / letters {
		name = string(rune('a'+(n-1)%letters)) + name
	}
	return "xvd" + name, nil
}

// FreePositions lists the positions of a VM that no drive but self has, in
// order.
func FreePositions(rd db.Reader, vm *xenapi.VM, self xenapi.VBDRef) []int {
	taken := map[int]bool{}
	for _, ref := range vm.VBDs {
		if vbd := db.Find(rd, ref); vbd != nil && ref != self {
			if n, err := Position(vbd.Userdevice); err == nil {
				taken[n] = true
			}
		}
	}
	last := maxPosition
	if vm.IsControlDomain {
		last = maxControlPosition
	}
	var free []int
	for n := range last + 1 {
		if !taken[n] {
			free = append(free, n)
		}
	}
	return free
}
