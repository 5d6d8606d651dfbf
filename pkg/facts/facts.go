// Package facts reads what the machine is: its names, processors, memory, firmware and network links, as an agent
// needs them when it starts on a host that it has never seen.
//
// The invariant: one unreadable fact never hides another. Every reader leaves what it can't tell empty, and says why
// in an error that is returned beside the facts, not instead of them.
//
// Under Xen the kernel sees dom0, not the host: processors, memory and IOMMU are then dom0's, and the hypervisor's own
// answer goes before them. Start with Read and Links.
package facts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"time"
)

// Source is where facts come from. The zero value is this machine.
type Source struct {
	// FS is the root file system, with proc, sys and etc in it; nil means /.
	FS fs.FS
	// Netlink lists links; nil means the network namespace of the calling thread.
	Netlink Netlink
}

// Facts are what Read found. A zero value is a fact that is unknown.
type Facts struct {
	Hostname      string
	KernelRelease string // 6.12.9
	KernelVersion string // #1 SMP …
	Hypervisor    string // under which this kernel runs as a Xen guest or dom0: xen; else empty
	Timezone      string // Europe/Berlin
	BootTime      time.Time
	BootID        string     // the kernel's own name for this boot, which no other has
	Load          [3]float64 // over 1, 5 and 15 minutes
	CPU           CPU
	Memory        Memory
	DMI           DMI
	IOMMU         bool // the kernel has one in use
	DNS           []string
	SearchDomains []string
}

// Memory is in bytes.
type Memory struct {
	TotalBytes     int64
	FreeBytes      int64 // idle
	AvailableBytes int64 // idle or reclaimable without swapping
}

// Read gathers all facts but the links. The error joins what could not be read; the facts are valid beside it.
func Read(ctx context.Context, src Source) (Facts, error) {
	t := src.tree()
	var f Facts
	readers := []func(tree, *Facts) error{
		readNames, readClock, readLoad, readMemory, readCPU, readDMI, readIOMMU, readResolver,
	}
	var errs []error
	for _, read := range readers {
		if err := ctx.Err(); err != nil {
			return f, errors.Join(append(errs, err)...)
		}
		errs = append(errs, read(t, &f))
	}
	return f, errors.Join(errs...)
}

func readNames(t tree, f *Facts) error {
	var errs [3]error
	f.Hostname, errs[0] = t.text("proc/sys/kernel/hostname")
	f.KernelRelease, errs[1] = t.text("proc/sys/kernel/osrelease")
	f.KernelVersion, errs[2] = t.text("proc/sys/kernel/version")
	f.Hypervisor = t.optional("sys/hypervisor/type")
	f.BootID = t.optional("proc/sys/kernel/random/boot_id")
	f.Timezone = timezone(t)
	return errors.Join(errs[:]...)
}

// timezone prefers the link that the C library follows over Debian's note of it.
func timezone(t tree) string {
	if target, err := fs.ReadLink(t.fs, "etc/localtime"); err == nil {
		if _, zone, ok := strings.Cut(target, "zoneinfo/"); ok {
			return zone
		}
	}
	return t.optional("etc/timezone")
}

func readClock(t tree, f *Facts) error {
	stat, err := t.text("proc/stat")
	if err != nil {
		return err
	}
	for line := range strings.Lines(stat) {
		if v, ok := strings.CutPrefix(line, "btime "); ok {
			sec, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
			if err != nil {
				return fmt.Errorf("proc/stat: btime: %w", err)
			}
			f.BootTime = time.Unix(sec, 0).UTC()
			return nil
		}
	}
	return errors.New("proc/stat: no btime")
}

func readLoad(t tree, f *Facts) error {
	text, err := t.text("proc/loadavg")
	if err != nil {
		return err
	}
	fields := strings.Fields(text)
	if len(fields) < len(f.Load) {
		return fmt.Errorf("proc/loadavg: %q", text)
	}
	var load [3]float64
	for i := range load {
		if load[i], err = strconv.ParseFloat(fields[i], 64); err != nil {
			return fmt.Errorf("proc/loadavg: %w", err)
		}
	}
	f.Load = load
	return nil
}

func readMemory(t tree, f *Facts) error {
	text, err := t.text("proc/meminfo")
	if err != nil {
		return err
	}
	wanted := map[string]*int64{
		"MemTotal": &f.Memory.TotalBytes, "MemFree": &f.Memory.FreeBytes, "MemAvailable": &f.Memory.AvailableBytes,
	}
	var errs []error
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, ":")
		dst := wanted[key]
		if dst == nil {
			continue
		}
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
		if err != nil {
			errs = append(errs, fmt.Errorf("proc/meminfo: %s: %w", key, err))
			continue
		}
		*dst = kib << 10
	}
	return errors.Join(errs...)
}

// readIOMMU takes a group as the proof: the class directory also lists IOMMUs that are switched off.
func readIOMMU(t tree, f *Facts) error {
	groups, err := fs.ReadDir(t.fs, "sys/kernel/iommu_groups")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	f.IOMMU = len(groups) > 0
	return err
}

// readResolver reads resolv.conf (resolv.conf(5)); a machine without one is none of an error.
func readResolver(t tree, f *Facts) error {
	text, err := t.text("etc/resolv.conf")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			f.DNS = append(f.DNS, words[1])
		case "search", "domain": // the last one holds
			f.SearchDomains = words[1:]
		}
	}
	return err
}

// tree is a root file system with the few ways in which facts are read from it.
type tree struct{ fs fs.FS }

func (s Source) tree() tree {
	if s.FS == nil {
		return tree{os.DirFS("/")}
	}
	return tree{s.FS}
}

// text is a file's content without the white space around it.
func (t tree) text(name string) (string, error) {
	b, err := fs.ReadFile(t.fs, name)
	return strings.TrimSpace(string(b)), err
}

// optional is the text of a file whose absence means nothing.
func (t tree) optional(name string) string {
	s, err := t.text(name)
	if err != nil {
		return ""
	}
	return s
}

// number is the optional file's integer, or -1.
func (t tree) number(name string) int {
	n, err := strconv.Atoi(t.optional(name))
	if err != nil {
		return -1
	}
	return n
}

// linkBase is the last element of a symbolic link's target: sysfs names drivers and subsystems that way.
func (t tree) linkBase(name string) string {
	target, err := fs.ReadLink(t.fs, name)
	if err != nil {
		return ""
	}
	return path.Base(target)
}

func (t tree) exists(name string) bool {
	_, err := fs.Stat(t.fs, name)
	return err == nil
}
