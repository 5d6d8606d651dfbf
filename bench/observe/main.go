// Command observe measures what xapid and libvirtd take of a core while 1,000 guests of libvirt's test driver run and
// nothing happens: the price of knowing that nothing does. It starts both, fills them by the API, and prints a
// Markdown table.
//
// Its one invariant: between the two readings of the clocks nobody calls. Start reading at observe.
package main

import (
	"bufio"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"xapid/internal/testenv"
	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl/xenctltest/libvirtd"
)

const (
	guests = 1000
	// bound is what observing them may cost, in percent of a core.
	bound = 5
	// window is how long nothing happens.
	window = time.Minute
	// calm is how long nothing is to be committed before it.
	calm = 4 * time.Second
)

func main() {
	if os.Getenv("XAPID_BIN") == "" {
		bin, err := filepath.Abs("bin/xapid")
		check(err)
		check(os.Setenv("XAPID_BIN", bin))
	}
	testing.Init()
	// The pieces that tests are made of need a testing.TB; this is one.
	done := false
	testing.Benchmark(func(b *testing.B) {
		if !done {
			observe(b)
		}
		done = true
	})
	if !done {
		check(fmt.Errorf("observe: a part failed or is missing"))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func observe(b *testing.B) {
	lv := libvirtd.Start(b)
	d := testenv.Start(b, "--hypervisor", "libvirt", "--libvirt-uri", libvirtd.URI+"?socket="+lv.Socket)
	fill(b, d.Client(b))
	awaitCalm(d)
	pid, err := os.ReadFile(filepath.Join(filepath.Dir(lv.Socket), "pid"))
	check(err)
	theirs, err := strconv.Atoi(strings.TrimSpace(string(pid)))
	check(err)
	commits, ours, libvirts := commitsOf(d), cpu(d.PID()), cpu(theirs)
	begun := time.Now()
	<-time.After(window)
	took := time.Since(begun)
	ours, libvirts = cpu(d.PID())-ours, cpu(theirs)-libvirts
	percent := func(used time.Duration) float64 { return 100 * float64(used) / float64(took) }
	fmt.Printf("| %d guests, nothing happens for %.0f s | of one core | bound |\n| --- | --- | --- |\n", guests, took.Seconds())
	fmt.Printf("| xapid | %.2f %% | |\n| libvirtd | %.2f %% | |\n", percent(ours), percent(libvirts))
	fmt.Printf("| both | %.2f %% | %d %% |\n", percent(ours+libvirts), bound)
	fmt.Printf("| commits, for the host's time stamp | %d | %d |\n", commitsOf(d)-commits, int(took/(30*time.Second))+1)
}

// fill makes the guests and starts them.
func fill(b *testing.B, c *client.Client) {
	var wg sync.WaitGroup
	next := make(chan int)
	for range 8 {
		wg.Go(func() {
			for i := range next {
				r := xenapi.NewVM()
				// The test driver's host has 3 GiB.
				const size = 1 << 20
				r.NameLabel, r.DomainType, r.PVKernel = fmt.Sprint("guest ", i), xenapi.DomainTypePV, "/boot/vmlinuz"
				r.MemoryStaticMin, r.MemoryDynamicMin, r.MemoryDynamicMax, r.MemoryStaticMax = size, size, size, size
				r.VCPUsMax, r.VCPUsAtStartup, r.HVMShadowMultiplier = 1, 1, 1
				vm, err := c.VM().Create(b.Context(), r)
				check(err)
				check(c.VM().Start(b.Context(), vm, false, false))
			}
		})
	}
	for i := range guests {
		next <- i
	}
	close(next)
	wg.Wait()
}

// awaitCalm waits until what the guests' starts have left to do is done.
func awaitCalm(d *testenv.Daemon) {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := commitsOf(d), time.Now()
	for now := range tick.C {
		if n := commitsOf(d); n != last {
			last, since = n, now
		} else if now.Sub(since) >= calm {
			return
		}
	}
}

// commitsOf reads how many transactions the daemon has committed.
func commitsOf(d *testenv.Daemon) int {
	resp, err := http.Get(d.HTTPURL + "/metrics")
	check(err)
	defer resp.Body.Close()
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "xapid_commits_total "); ok {
			f, err := strconv.ParseFloat(v, 64)
			check(err)
			return int(f)
		}
	}
	check(fmt.Errorf("observe: no count of commits in the metrics"))
	return 0
}

// cpu is the time that a process has computed, in itself and in the kernel.
func cpu(pid int) time.Duration {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	check(err)
	fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
	var ticks int
	for _, f := range fields[11:13] { // utime and stime, the 14th and 15th of proc(5)
		n, err := strconv.Atoi(f)
		check(err)
		ticks += n
	}
	return time.Duration(ticks) * (time.Second / 100) // USER_HZ is 100 wherever Linux runs
}
