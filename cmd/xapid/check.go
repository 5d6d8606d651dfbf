package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"

	"xapid/pkg/agent"
	"xapid/pkg/config"
	"xapid/pkg/doctor"
)

// exitCode ends the command with a status of its own; all has been said.
type exitCode int

// What check ends with, beside 0.
const (
	exitUnfit exitCode = 1
	exitUsage exitCode = 2
)

// Error implements error.
func (e exitCode) Error() string { return fmt.Sprintf("exit status %d", int(e)) }

// check looks at this machine with the daemon's configuration.
func check(args []string, out, complaints io.Writer) error {
	isJSON := func(arg string) bool { return arg == "--json" || arg == "-json" }
	asJSON := slices.ContainsFunc(args, isJSON)
	cfg, err := config.Parse(slices.DeleteFunc(slices.Clone(args), isJSON), out)
	switch {
	case errors.Is(err, flag.ErrHelp):
		return err
	case err != nil:
		fmt.Fprintln(complaints, "xapid:", err)
		return exitUsage
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	host, err := agent.Doctor(cfg)
	if err != nil {
		fmt.Fprintln(complaints, "xapid:", err)
		return exitUsage
	}
	results := host.Check(ctx)
	if asJSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(results)
	} else {
		err = doctor.Print(out, results)
	}
	if err == nil && !doctor.Fit(results) {
		err = exitUnfit
	}
	return err
}
