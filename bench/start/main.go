// Command start measures VM.start on the simulated hypervisor, which takes no
// time of its own: what is left is ours.
//
// It starts the daemon (bin/xapid, after make build) in a directory of its
// own, and prints a table with the counted log syncs, the median alone, with
// 1,000 other VMs, beside 80 clients that read, and beside 80 that list; the
// last has a bare net/http handler with the same syncs and the same load
// beside it.
package main

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"xapid/pkg/rpc/client"
	"xapid/pkg/xenapi"
)

const (
	rounds  = 41
	others  = 1000
	clients = 80
)

func main() {
	if len(os.Args) == 3 && os.Args[1] == "-peer" {
		peer(os.Args[2])
		return
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "start:", err)
		os.Exit(1)
	}
}

// bench is a daemon and a client of it.
type bench struct {
	c   *client.Client
	url string
}

func run() error {
	dir, err := os.MkdirTemp("", "xapid-bench")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	b, stop, err := launch(dir)
	if err != nil {
		return err
	}
	defer stop()
	ctx := context.Background()
	vm, err := b.vm(ctx, "measured")
	if err != nil {
		return err
	}
	before := b.syncs()
	alone, err := b.starts(ctx, vm)
	if err != nil {
		return err
	}
	perCycle := float64(b.syncs()-before) / rounds
	syncs, err := b.syncsOfOne(ctx, vm)
	if err != nil {
		return err
	}
	for i := range others {
		if _, err := b.vm(ctx, fmt.Sprint("other ", i)); err != nil {
			return err
		}
	}
	crowd, err := b.starts(ctx, vm)
	if err != nil {
		return err
	}
	reading, err := b.beside(ctx, vm, b.reader(vm))
	if err != nil {
		return err
	}
	listing, err := b.beside(ctx, vm, b.lister())
	if err != nil {
		return err
	}
	bare, err := b.peerStarts(ctx, dir, syncs)
	if err != nil {
		return err
	}
	fmt.Println("| VM.start on sim | measured | bound |")
	fmt.Println("| --- | --- | --- |")
	fmt.Printf("| log syncs of one start (start and hard_shutdown: %.1f) | %d | 6 |\n", perCycle, syncs)
	fmt.Printf("| median, alone | %s | 15 ms |\n", alone)
	fmt.Printf("| with %d other VMs | %s = %.2f× | 1.2× |\n", others, crowd, ratio(crowd, alone))
	fmt.Printf("| beside %d clients that read ten times a second | %s = %.2f× | 2× |\n", clients, reading, ratio(reading, crowd))
	fmt.Printf("| beside %d clients that list everything | %s; bare handler %s = %.2f× | 1× |\n", clients, listing, bare, ratio(listing, bare))
	return nil
}

func ratio(a, b time.Duration) float64 { return float64(a) / float64(b) }

// launch starts the daemon and logs in.
func launch(dir string) (*bench, func(), error) {
	ready := filepath.Join(dir, "ready")
	cmd := exec.Command("bin/xapid", "--hypervisor", "sim", "--auth", "file", "--state-dir", filepath.Join(dir, "state"),
		"--log-dir", filepath.Join(dir, "log"), "--https", "", "--http", "127.0.0.1:0", "--socket", filepath.Join(dir, "sock"),
		"--ready-file", ready, "--sim-memory", "1048576", "--reserve", "16", "--log-level", "error")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	stop := func() { _ = cmd.Process.Signal(os.Interrupt); _ = cmd.Wait() }
	for range 2000 {
		text, err := os.ReadFile(ready)
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		values := map[string]string{}
		for line := range strings.Lines(string(text)) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), "=")
			values[k] = v
		}
		c := client.New(values["HTTP_URL"], client.Options{})
		return &bench{c, values["HTTP_URL"]}, stop, c.Login(context.Background(), values["USER"], values["PASSWORD"])
	}
	stop()
	return nil, nil, fmt.Errorf("the daemon does not serve")
}

// vm makes a VM without devices.
func (b *bench) vm(ctx context.Context, name string) (xenapi.VMRef, error) {
	r := xenapi.NewVM()
	const mib = 1 << 20
	r.NameLabel = name
	r.MemoryStaticMax, r.MemoryDynamicMax, r.MemoryDynamicMin, r.MemoryStaticMin = 64*mib, 64*mib, 64*mib, 64*mib
	r.VCPUsMax, r.VCPUsAtStartup, r.HVMShadowMultiplier, r.HVMBootPolicy = 1, 1, 1, "BIOS order"
	return b.c.VM().Create(ctx, r)
}

// starts gives the median of the starts of a VM, each followed by a stop.
func (b *bench) starts(ctx context.Context, vm xenapi.VMRef) (time.Duration, error) {
	var took []time.Duration
	for range rounds {
		t := time.Now()
		if err := b.c.VM().Start(ctx, vm, false, false); err != nil {
			return 0, err
		}
		took = append(took, time.Since(t))
		if err := b.c.VM().HardShutdown(ctx, vm); err != nil {
			return 0, err
		}
	}
	return median(took), nil
}

func median(d []time.Duration) time.Duration {
	slices.Sort(d)
	return d[len(d)/2].Round(10 * time.Microsecond)
}

// syncsOfOne counts the log syncs of a single start.
func (b *bench) syncsOfOne(ctx context.Context, vm xenapi.VMRef) (int64, error) {
	before := b.syncs()
	if err := b.c.VM().Start(ctx, vm, false, false); err != nil {
		return 0, err
	}
	n := b.syncs() - before
	return n, b.c.VM().HardShutdown(ctx, vm)
}

// syncs reads the counter of log syncs.
func (b *bench) syncs() int64 {
	resp, err := http.Get(b.url + "/metrics")
	if err != nil {
		return -1
	}
	defer resp.Body.Close()
	for sc := bufio.NewScanner(resp.Body); sc.Scan(); {
		if v, ok := strings.CutPrefix(sc.Text(), "xapid_log_syncs_total "); ok {
			f, _ := strconv.ParseFloat(v, 64)
			return int64(f)
		}
	}
	return -1
}

// beside measures starts while many clients do work.
func (b *bench) beside(ctx context.Context, vm xenapi.VMRef, work func(ctx context.Context)) (time.Duration, error) {
	load, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() { work(load) })
	}
	defer wg.Wait()
	defer stop()
	return b.starts(ctx, vm)
}

// reader reads one VM ten times a second.
func (b *bench) reader(vm xenapi.VMRef) func(ctx context.Context) {
	return func(ctx context.Context) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				_, _ = b.c.VM().GetRecord(ctx, vm)
			case <-ctx.Done():
				return
			}
		}
	}
}

// lister lists all VMs in a loop, and throws the answer away.
func (b *bench) lister() func(ctx context.Context) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"VM.get_all_records","params":[%q]}`, b.c.SessionRef())
	return func(ctx context.Context) { loop(ctx, b.url+"/jsonrpc", body) }
}
