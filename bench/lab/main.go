// Command lab measures what VM.start takes on real Xen, and what of it is xapid's own, beside `virsh create` of the
// same domain: in turn, on one boot of a lab, medians as a Markdown table. It reads root's password from standard
// input; scripts/bench-lab runs it.
//
// Its one invariant: both sides begin with no domain there. Start reading at measure.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"xapid/pkg/rpc/client"
)

// bound is what xapid's own part may be of the hypervisor's.
const bound = 0.10

func main() {
	url := flag.String("url", "", "where the API is")
	exec := flag.String("exec", "", "the command that runs a shell line in the dom0, given as its last argument")
	n := flag.Int("n", 10, "how many starts of each kind")
	flag.Parse()
	if err := run(*url, strings.Fields(*exec), *n); err != nil {
		fmt.Fprintln(os.Stderr, "lab:", err)
		os.Exit(1)
	}
}

func run(url string, exec []string, n int) error {
	password, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		return fmt.Errorf("no password on standard input: %w", err)
	}
	l := &lab{dom0: exec, c: client.New(url, client.Options{TLS: &tls.Config{InsecureSkipVerify: true}})} // self-signed
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	if err := l.c.Login(ctx, "root", strings.TrimSpace(password)); err != nil {
		return err
	}
	starts, creates, err := l.measure(ctx, n)
	if err != nil {
		return err
	}
	report(starts, creates)
	return nil
}

// measure starts a VM by the API and by virsh, in turn.
func (l *lab) measure(ctx context.Context, n int) (starts []split, creates []time.Duration, err error) {
	if err := l.prepare(ctx); err != nil {
		return nil, nil, err
	}
	for i := range 2 * n {
		if i%2 == i/2%2 { // each is first as often
			s, err := l.start(ctx)
			if err != nil {
				return nil, nil, err
			}
			starts = append(starts, s)
			continue
		}
		took, err := l.create(ctx)
		if err != nil {
			return nil, nil, err
		}
		creates = append(creates, took)
	}
	return starts, creates, nil
}

func report(starts []split, creates []time.Duration) {
	part := func(of func(split) time.Duration) time.Duration {
		var all []time.Duration
		for _, s := range starts {
			all = append(all, of(s))
		}
		return median(all)
	}
	var ratios []float64
	for _, s := range starts {
		ratios = append(ratios, float64(s.own)/float64(s.hypervisor))
	}
	fmt.Printf("| VM.start on Xen, medians of %d | time |\n| --- | --- |\n", len(starts))
	for _, row := range []struct {
		name string
		took time.Duration
	}{
		{"VM.start", part(func(s split) time.Duration { return s.total })},
		{"of it in the hypervisor", part(func(s split) time.Duration { return s.hypervisor })},
		{"of it in storage", part(func(s split) time.Duration { return s.disks })},
		{"of it in networks", part(func(s split) time.Duration { return s.networks })},
		{"of it xapid's own", part(func(s split) time.Duration { return s.own })},
		{"`virsh create` of the same domain, with the start of virsh itself", median(creates)},
	} {
		fmt.Printf("| %s | %.1f ms |\n", row.name, float64(row.took)/float64(time.Millisecond))
	}
	ratio := median(ratios)
	fmt.Printf("| own ÷ hypervisor | %.3f (%.3f–%.3f), bound %.2f: %s |\n", ratio, ratios[0], ratios[len(ratios)-1], bound,
		map[bool]string{true: "met", false: "NOT met"}[ratio <= bound])
}

// median sorts what it is given.
func median[T float64 | time.Duration](v []T) T {
	slices.Sort(v)
	return v[len(v)/2]
}
