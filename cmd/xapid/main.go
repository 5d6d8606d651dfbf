// Command xapid is the host agent. `xapid passwd` gives root of the password
// file a new password, `xapid check` says whether the machine is fit for it,
// `xapid version` says which version it is.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"xapid/pkg/agent"
	"xapid/pkg/auth"
	"xapid/pkg/config"
)

func main() {
	err := run(os.Args[1:])
	var code exitCode
	if errors.As(err, &code) {
		os.Exit(int(code))
	}
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "xapid:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) > 0 && args[0] == "passwd" {
		return passwd(args[1:])
	}
	if len(args) > 0 && args[0] == "check" {
		return check(args[1:], os.Stdout, os.Stderr)
	}
	if len(args) == 1 && args[0] == "version" {
		fmt.Println("xapid", agent.Version(), runtime.Version())
		return nil
	}
	cfg, err := config.Parse(args, os.Stdout)
	if err != nil {
		return err
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	a := agent.Agent{Config: cfg, Out: os.Stdout, Notify: notify,
		Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))}
	return a.Run(ctx)
}

// passwd draws a new password for a user of the password file, root unless
// the arguments end in another name.
func passwd(args []string) error {
	user := "root"
	if n := len(args); n > 0 && args[n-1] != "" && args[n-1][0] != '-' && (n == 1 || args[n-2] != "--password-file" && args[n-2] != "--state-dir") {
		user, args = args[n-1], args[:n-1]
	}
	cfg, err := config.Parse(args, os.Stdout)
	if err != nil {
		return err
	}
	file, _, err := auth.OpenPasswordFile(cfg.PasswordFile)
	if err != nil {
		return err
	}
	password, err := file.ResetPassword(user)
	if err == nil {
		fmt.Printf("USER=%s\nPASSWORD=%s\n", user, password)
	}
	return err
}

// notify tells systemd of the daemon's state, where it asked for that.
func notify(state string) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" {
		return nil
	}
	c, err := net.Dial("unixgram", path)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte(state))
	return err
}
