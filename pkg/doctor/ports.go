package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// daemon is the name of the program that may hold the ports.
const daemon = "xapid"

// checkPorts wants the addresses of the configuration to be free, or the daemon's already.
func (h *Host) checkPorts(ctx context.Context) verdict {
	var found []string
	for _, address := range h.Listen {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", address)
		switch {
		case err == nil:
			found = append(found, address+" is free")
			err = l.Close()
		case errors.Is(err, unix.EADDRINUSE):
			name, pid := h.holder(address)
			if name != daemon {
				return fail("stop it, or give xapid another address (https in /etc/xapid/xapid.toml)",
					"%s is taken by %s", address, describe(name, pid))
			}
			found, err = append(found, fmt.Sprintf("%s serves on %s", describe(name, pid), address)), nil
		case errors.Is(err, unix.EACCES):
			return fail("run this as root", "%s: %v", address, err)
		}
		if err != nil {
			return fail("see the keys https and http in /etc/xapid/xapid.toml", "%s: %v", address, err)
		}
	}
	if found == nil {
		return ok("the configuration names none")
	}
	return ok("%s", strings.Join(found, ", "))
}

func describe(name string, pid int) string {
	if pid == 0 {
		return "another program"
	}
	return fmt.Sprintf("%s (process %d)", name, pid)
}

// holder finds the program that listens on an address's port: the name of its file and its process id, 0 if the
// kernel doesn't tell.
func (h *Host) holder(address string) (name string, pid int) {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0
	}
	number, err := net.LookupPort("tcp", port)
	if err != nil {
		return "", 0
	}
	sockets := h.listeners(number)
	fds, err := filepath.Glob(filepath.Join(h.Root, "proc/[0-9]*/fd/*"))
	if err != nil {
		return "", 0
	}
	for _, fd := range fds {
		target, err := os.Readlink(fd)
		if err != nil || !slices.Contains(sockets, target) {
			continue
		}
		process := filepath.Dir(filepath.Dir(fd))
		if pid, err = strconv.Atoi(filepath.Base(process)); err != nil {
			continue
		}
		exe, err := os.Readlink(filepath.Join(process, "exe"))
		if err != nil {
			exe = h.text(filepath.Join("proc", filepath.Base(process), "comm"))
		}
		return filepath.Base(strings.TrimSuffix(exe, " (deleted)")), pid // deleted: an upgrade is under way
	}
	return "", 0
}

// listeners are the sockets that listen on a port, as /proc/PID/fd names them (proc(5), /proc/net/tcp).
func (h *Host) listeners(port int) (sockets []string) {
	const local, state, inode, listening = 1, 3, 9, "0A"
	for _, table := range []string{"proc/net/tcp", "proc/net/tcp6"} {
		for line := range strings.Lines(h.text(table)) {
			words := strings.Fields(line)
			if len(words) > inode && words[state] == listening && strings.HasSuffix(words[local], fmt.Sprintf(":%04X", port)) {
				sockets = append(sockets, "socket:["+words[inode]+"]")
			}
		}
	}
	return sockets
}
