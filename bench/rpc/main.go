// Command rpc measures the API beside a bare net/http handler that does the
// same with nothing behind it, and beside libvirtd, in one run: pairs in turn,
// medians, as a Markdown table.
//
// Its one invariant: both sides of a row answer the same bytes to the same
// client. Start reading at main.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"
)

// row is a line of the table: how many times the peer's figure ours is.
type row struct {
	name, ours, peer string
	ratio            float64
	spread           string
	target           string
	met              bool
}

func main() {
	only := flag.String("only", "", "run one part: list, small, fanout, latency or libvirt")
	testing.Init()
	flag.Parse()
	// The pieces that tests are made of need a testing.TB; this is one.
	check(flag.Set("test.benchtime", "1x"))
	done := false
	testing.Benchmark(func(b *testing.B) {
		w := newWorld(b)
		fmt.Println("| what | ours | peer | ratio | spread | target | met |")
		fmt.Println("|---|---|---|---|---|---|---|")
		for _, part := range []struct {
			name string
			run  func(w *world) []row
		}{{"list", list}, {"small", small}, {"fanout", fanOut}, {"latency", latency}, {"libvirt", againstLibvirt}} {
			if *only != "" && *only != part.name {
				continue
			}
			for _, r := range part.run(w) {
				fmt.Printf("| %s | %s | %s | %.2f | %s | %s | %v |\n", r.name, r.ours, r.peer, r.ratio, r.spread, r.target, r.met)
			}
		}
		done = true
	})
	if !done {
		check(fmt.Errorf("bench: a part failed"))
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// pairs runs ours and the peer's in turn and gives both medians, the median of
// the pairs' ratios and their quartiles.
func pairs(n int, ours, peer func() time.Duration) (a, b time.Duration, ratio float64, spread string) {
	var as, bs []time.Duration
	var ratios []float64
	for i := range n {
		var x, y time.Duration
		if i%2 == 0 {
			x, y = ours(), peer()
		} else {
			y, x = peer(), ours()
		}
		as, bs, ratios = append(as, x), append(bs, y), append(ratios, float64(x)/float64(y))
	}
	slices.Sort(ratios)
	return median(as), median(bs), median(ratios), fmt.Sprintf("%.2f–%.2f", ratios[n/4], ratios[n-1-n/4])
}

func median[T cmp.Ordered](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}

// atMost makes a row whose ratio of times must not be above a limit.
func atMost(name string, n int, limit float64, ours, peer func() time.Duration) row {
	a, b, ratio, spread := pairs(n, ours, peer)
	return row{name, a.Round(time.Microsecond).String(), b.Round(time.Microsecond).String(), ratio, spread,
		fmt.Sprintf("≤ %.2f", limit), ratio <= limit}
}

// atLeast makes a row whose rate must be at least that part, or that many
// times, of the peer's; calls is how many one run makes.
func atLeast(name string, n, calls int, limit float64, ours, peer func() time.Duration) row {
	a, b, ratio, spread := pairs(n, peer, ours)
	rate := func(d time.Duration) string { return fmt.Sprintf("%.0f/s", float64(calls)/d.Seconds()) }
	return row{name, rate(b), rate(a), ratio, spread, fmt.Sprintf("≥ %.2f", limit), ratio >= limit}
}
