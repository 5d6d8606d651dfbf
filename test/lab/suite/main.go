// Command suite drives xapid on real Xen from outside, over HTTPS, as a client does, and looks into the dom0
// to see that what the API claims is so. It reads root's password from standard input, prints a line a
// scenario with its time, and ends with 1 when one fails.
//
// The one invariant: a scenario makes the state that it needs itself, so one that fails does not fail the
// next. Start reading at scenarios.
package main

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"xapid/pkg/rpc/client"
)

func main() {
	url := flag.String("url", "", "where the API is")
	exec := flag.String("exec", "", "the command that runs a shell line in the dom0, given as its last argument")
	only := flag.String("run", "", "run only the scenarios whose names match this regular expression")
	machine := flag.String("machine", "", "the command that pulls the machine's plug, waits for its end or boots it again, given as its last argument")
	pulls := flag.Int("pulls", 1, "how often to pull the plug")
	skip := flag.String("skip", "^$", "leave out the scenarios whose names match this, and say so")
	half := flag.String("half", "", "run only the scenarios of one half: guests, or dom0")
	flag.Parse()
	password, err := bufio.NewReader(os.Stdin).ReadString('\n')
	if err != nil {
		fmt.Fprintln(os.Stderr, "suite: no password on standard input:", err)
		os.Exit(1)
	}
	w := &world{password: strings.TrimSpace(password), dom0: strings.Fields(*exec), machine: strings.Fields(*machine), pulls: *pulls, vms: map[string]*guest{}}
	w.Client = client.New(*url, client.Options{TLS: &tls.Config{InsecureSkipVerify: true}}) // self-signed
	if !w.run(context.Background(), chosen(*half, regexp.MustCompile(*only)), regexp.MustCompile(*skip)) {
		os.Exit(1)
	}
}

// patience is how long a scenario may take unless it says otherwise.
const patience = 5 * time.Minute

// within is how long a scenario may take.
func (s scenario) within(w *world) time.Duration {
	if s.patience != nil {
		return s.patience(w)
	}
	return patience
}

// chosen are the scenarios of a half, or of both for "", that match.
func chosen(half string, only *regexp.Regexp) []scenario {
	return slices.DeleteFunc(slices.Clone(scenarios), func(s scenario) bool {
		wrong := half == "guests" && s.dom0 || half == "dom0" && !s.dom0
		return !s.always && (wrong || !only.MatchString(s.name) || s.asked && only.String() == "")
	})
}

// run goes through scenarios. One that fails is tried a second time, from a state that it makes itself, since the
// emulated machine now and then loses a guest or a second; the first failure is told all the same, and counted.
func (w *world) run(ctx context.Context, chosen []scenario, skip *regexp.Regexp) bool {
	passed, again, failed, skipped, began := 0, 0, 0, 0, time.Now()
	for _, s := range chosen {
		if skip.MatchString(s.name) {
			fmt.Printf("NOT RUN         %s\n", s.name)
			skipped++
			continue
		}
		err := w.try(ctx, &s, "AGAIN")
		if err != nil {
			again++
			err = w.try(ctx, &s, "FAIL ")
		}
		if err != nil {
			failed++
		} else {
			passed++
		}
	}
	fmt.Printf("%d scenarios passed, %d failed, %d not run, %d tried twice, in %.0f s\n", passed, failed, skipped, again, time.Since(began).Seconds())
	return failed == 0
}

// try does a scenario and prints its line; bad begins that of a failure.
func (w *world) try(ctx context.Context, s *scenario, bad string) error {
	start := time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, s.within(w), errors.New("the scenario takes too long"))
	defer cancel()
	note, err := s.do(limited, w)
	verdict := "ok   "
	if err != nil {
		verdict, note = bad, err.Error()
	}
	if note != "" {
		note = ": " + note
	}
	fmt.Printf("%s %6.1f s  %s%s\n", verdict, time.Since(start).Seconds(), s.name, note)
	return err
}
