// Package doctor looks at a dom0 and says whether xapid can do its work there, and what to do where it can't.
//
// The invariant: a check changes nothing on the machine, and one that hangs (on a libvirtd that doesn't answer, on
// storage that has stalled) holds up none of the others and not the answer.
//
// Start reading at checks, the table, and Host.Check.
package doctor

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// Status is a check's verdict.
type Status string

// The verdicts.
const (
	OK      Status = "ok"
	Warning Status = "warning" // it works, but not as well or as safely as it should
	Failure Status = "failure" // xapid can't do its work
)

// Result is what a check found.
type Result struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`
	// Remedy says what to do; it is empty when the status is OK.
	Remedy string `json:"remedy"`
}

// Host is the machine that is looked at. Everything outside comes in through it.
type Host struct {
	Root string // where the file system begins: "/"
	// Xen says that guests run on Xen through libvirt: the checks of both are made.
	Xen              bool
	StateDir, LogDir string
	ReserveBytes     uint64   // of free disk below which the daemon refuses changes
	Listen           []string // the addresses that the daemon serves on

	// Xenstore asks xenstored for anything.
	Xenstore func(ctx context.Context) error
	// Libvirt asks libvirtd's driver for what it runs on: "Xen 4.17".
	Libvirt func(ctx context.Context) (string, error)
	// Bootloader finds pygrub and the user that it runs as.
	Bootloader func() (string, error)
	// Command runs a program and returns what it printed.
	Command func(ctx context.Context, argv ...string) (string, error)
	// FreeBytes tells the room below a directory.
	FreeBytes func(dir string) (uint64, error)
	// Synchronised says whether something keeps the kernel's clock right.
	Synchronised func() (bool, error)
	Now          func() time.Time

	// Timeout bounds each check: 5 s if 0.
	Timeout time.Duration
}

// verdict is a Result before it has a name.
type verdict struct {
	status         Status
	detail, remedy string
}

func ok(format string, args ...any) verdict {
	return verdict{status: OK, detail: fmt.Sprintf(format, args...)}
}

func warn(remedy, format string, args ...any) verdict {
	return verdict{Warning, fmt.Sprintf(format, args...), remedy}
}

func fail(remedy, format string, args ...any) verdict {
	return verdict{Failure, fmt.Sprintf(format, args...), remedy}
}

// check is a line of the table.
type check struct {
	name string
	do   func(*Host, context.Context) verdict
	// hung is the remedy when it gives no answer in time.
	hung string
	// xen says that only a host that runs guests on Xen needs it.
	xen bool
}

var checks = []check{
	{"xen", (*Host).checkXen, "read the kernel's log: dmesg", true},
	{"dom0 memory", (*Host).checkMemory, "see whether xenstored and xl answer: xl info", true},
	{"xenstore", (*Host).checkXenstore, "restart the machine: a xenstored that hangs can't be restarted", true},
	{"libvirt", (*Host).checkLibvirt, "systemctl restart libvirtd; its guests run on", true},
	{"pygrub", (*Host).checkBootloader, "see whether the file system of /usr answers", true},
	{"lvm", (*Host).checkLVM, "see whether a device of dom0 hangs: dmesg, dmsetup info", true},
	{"bridges", (*Host).checkBridges, "read the kernel's log: dmesg", true},
	{"state directory", (*Host).checkState, "see whether its file system answers: dmesg", false},
	{"log directory", (*Host).checkLog, "see whether its file system answers: dmesg", false},
	{"clock", (*Host).checkClock, "read the kernel's log: dmesg", false},
	{"ports", (*Host).checkPorts, "read the kernel's log: dmesg", false},
}

// Check makes all checks at once and returns their results in the table's order.
func (h *Host) Check(ctx context.Context) []Result {
	var results []Result
	var all sync.WaitGroup
	var wanted []check
	for _, c := range checks {
		if h.Xen || !c.xen {
			wanted = append(wanted, c)
		}
	}
	results = make([]Result, len(wanted))
	for i, c := range wanted {
		all.Go(func() { results[i] = h.one(ctx, c) })
	}
	all.Wait()
	return results
}

// one makes a check. One that doesn't heed its deadline is left behind.
func (h *Host) one(ctx context.Context, c check) Result {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = 5 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	answer := make(chan verdict, 1)
	go func() { answer <- c.do(h, ctx) }()
	var v verdict
	select {
	case v = <-answer:
	case <-ctx.Done():
		v = fail(c.hung, "no answer within %v", timeout)
	}
	return Result{c.name, v.status, v.detail, v.remedy}
}

// Fit says whether there is no failure.
func Fit(results []Result) bool {
	for _, r := range results {
		if r.Status == Failure {
			return false
		}
	}
	return true
}

// Print writes the results for people: a line each, and a second one that says what to do.
func Print(w io.Writer, results []Result) error {
	width := 0
	for _, r := range results {
		width = max(width, len(r.Name))
	}
	var b strings.Builder
	for _, r := range results {
		fmt.Fprintf(&b, "%-7s  %-*s  %s\n", r.Status, width, r.Name, r.Detail)
		if r.Remedy != "" {
			fmt.Fprintf(&b, "%-7s  %-*s  -> %s\n", "", width, "", r.Remedy)
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
