// Command db measures the object graph beside its peer, SQLite alone, in the
// same run: commits, resident memory, start-up. It prints one row a figure
// with its target, and fails if one is missed.
//
// Its one invariant: both sides of a ratio run in turn, in the same process or
// in children started alike, on the same disk. Start reading at main.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
)

type config struct {
	dir    string
	pairs  int
	only   string
	child  string
	writes int
}

func main() {
	var c config
	flag.StringVar(&c.dir, "dir", "", "directory on the disk to measure (a temporary one by default)")
	flag.IntVar(&c.pairs, "pairs", 9, "interleaved pairs of each comparison")
	flag.IntVar(&c.writes, "writes", 0, "commits of one measurement (1000 for one writer, 20000 for 64)")
	flag.StringVar(&c.only, "only", "", "commits, memory or start: only these")
	flag.StringVar(&c.child, "child", "", "used by the program itself")
	flag.Parse()
	if err := run(context.Background(), c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, c config) error {
	if c.child != "" {
		return child(ctx, c)
	}
	if c.dir == "" {
		dir, err := os.MkdirTemp("", "xapid-bench-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		c.dir = dir
	}
	fmt.Printf("%-34s %14s %14s %8s %15s %8s\n", "", "ours", "peer", "ratio", "spread", "target")
	var missed []string
	for _, part := range []struct {
		name string
		run  func(context.Context, config) ([]figure, error)
	}{{"commits", commits}, {"memory", memory}, {"start", start}} {
		if c.only != "" && c.only != part.name {
			continue
		}
		figures, err := part.run(ctx, c)
		if err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
		for _, f := range figures {
			fmt.Println(f)
			if !f.holds() {
				missed = append(missed, f.name)
			}
		}
	}
	if len(missed) > 0 {
		return fmt.Errorf("missed: %s", strings.Join(missed, ", "))
	}
	return nil
}

// figure is one row of the table: pairs of ours and the peer's, judged by the
// median of their ratios; without a peer, by the median of ours.
type figure struct {
	name       string
	unit       string
	ours, peer []float64
	target     float64
	atMost     bool
}

func (f figure) ratios() []float64 {
	out := slices.Clone(f.ours)
	for i := range f.peer {
		out[i] /= f.peer[i]
	}
	slices.Sort(out)
	return out
}

func median(in []float64) float64 {
	in = slices.Sorted(slices.Values(in))
	return in[len(in)/2]
}

func (f figure) holds() bool {
	if m := median(f.ratios()); f.atMost {
		return m <= f.target
	} else {
		return m >= f.target
	}
}

// String is the row.
func (f figure) String() string {
	sign, peer, ratio := "≥", "", ""
	if f.atMost {
		sign = "≤"
	}
	r := f.ratios()
	spread := fmt.Sprintf("%.2f–%.2f", r[0], r[len(r)-1])
	if len(f.peer) > 0 {
		peer, ratio = fmt.Sprintf("%.0f %s", median(f.peer), f.unit), fmt.Sprintf("%.2f", median(r))
	}
	verdict := ""
	if !f.holds() {
		verdict = "  MISSED"
	}
	return fmt.Sprintf("%-34s %14s %14s %8s %15s %8s%s", f.name, fmt.Sprintf("%.5g %s", median(f.ours), f.unit), peer, ratio, spread,
		fmt.Sprintf("%s %g", sign, f.target), verdict)
}
