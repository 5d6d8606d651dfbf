// Package config is the daemon's configuration: one table of keys, each a
// flag and a key of the TOML file alike.
//
// Its one invariant: a flag beats the file, the file beats the default, and a
// key that nobody knows is an error. Start reading at Config.
package config

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Config is everything that can be set.
type Config struct {
	StateDir        string
	LogDir          string
	HTTPS           string
	HTTP            string
	Socket          string
	Hypervisor      string
	LibvirtURI      string
	Auth            string
	PasswordFile    string
	PAMHelper       string
	ReadyFile       string
	BootDir         string
	PluginDir       string
	LogLevel        string
	RowCacheMiB     int64
	MaxBodyMiB      int64
	ReserveMiB      int64
	ShutdownTimeout time.Duration
	LoginFailure    time.Duration
	SimMemoryMiB    int64
}

// DefaultFile is read if it exists and --config names no other.
const DefaultFile = "/etc/xapid/xapid.toml"

// flags is the table: a line a key, with its default and what it is for.
func (c *Config) flags(fs *flag.FlagSet) {
	fs.StringVar(&c.StateDir, "state-dir", "/var/lib/xapid", "directory of the database, the log and the certificate")
	fs.StringVar(&c.LogDir, "log-dir", "/var/log/xapid", "directory of the audit file")
	fs.StringVar(&c.HTTPS, "https", ":443", "address to serve HTTPS on; port 0 picks a free one, empty turns it off")
	fs.StringVar(&c.HTTP, "http", "", "address to serve plain HTTP on; off unless given")
	fs.StringVar(&c.Socket, "socket", "/var/lib/xcp/xapi", "path of the Unix socket, on which root needs no password")
	fs.StringVar(&c.Hypervisor, "hypervisor", "libvirt", "libvirt, or sim: a hypervisor that is simulated in this process")
	fs.StringVar(&c.LibvirtURI, "libvirt-uri", "xen:///system", "what libvirt connects to; ?socket=PATH names its socket")
	fs.StringVar(&c.Auth, "auth", "pam", "pam, or file: a password file of our own")
	fs.StringVar(&c.PasswordFile, "password-file", "", "the password file; state-dir/passwords if empty")
	fs.StringVar(&c.PAMHelper, "pam-helper", "/usr/libexec/xapid/xapid-pam", "the program that asks PAM")
	fs.StringVar(&c.ReadyFile, "ready-file", "", "file to write the URL and user to once the daemon serves")
	fs.StringVar(&c.BootDir, "boot-dir", "/var/cache/xapid/boot", "directory for the kernels of guests that are starting, taken out of their disks")
	fs.StringVar(&c.PluginDir, "plugin-dir", "/etc/xapi.d/plugins", "directory of the plugins that host.call_plugin may run")
	fs.StringVar(&c.LogLevel, "log-level", "info", "debug, info, warn or error")
	fs.Int64Var(&c.RowCacheMiB, "row-cache", 64, "MiB of encoded records that are kept")
	fs.Int64Var(&c.MaxBodyMiB, "max-body", 4, "MiB that the body of one call may have")
	fs.Int64Var(&c.ReserveMiB, "reserve", 192, "MiB of free disk below which changes are refused")
	fs.DurationVar(&c.ShutdownTimeout, "shutdown-timeout", 20*time.Minute, "how long a guest may take to shut down cleanly")
	fs.DurationVar(&c.LoginFailure, "login-failure", 3*time.Second, "how long after its begin a failed login is answered")
	fs.Int64Var(&c.SimMemoryMiB, "sim-memory", 0, "MiB of memory of the simulated host; this machine's if 0")
}

// usage is what help says before the flags.
const usage = `xapid is a host agent that speaks the XenServer Management API.

  xapid [flags]                serve
  xapid passwd [flags] [user]  draw a new password for a user of the password file
  xapid check [flags] [--json] say whether this dom0 is fit, and what to do where it isn't: ends with 1 on a
                               failure (a warning is none), with 2 when the flags are wrong
  xapid version                say which version this is

Flags, each also a key of the file that --config names:
`

// Parse reads the arguments and the file. flag.ErrHelp means that the usage
// was asked for, and written to w.
func Parse(args []string, w io.Writer) (*Config, error) {
	c := &Config{}
	fs := flag.NewFlagSet("xapid", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	c.flags(fs)
	file := fs.String("config", DefaultFile, "file with the same keys, in TOML")
	switch err := fs.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		fs.SetOutput(w)
		if _, e := io.WriteString(w, usage); e != nil {
			return nil, e
		}
		fs.PrintDefaults()
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w (xapid --help lists the flags)", err)
	}
	if fs.NArg() > 0 {
		return nil, fmt.Errorf("config: what is %q?", fs.Arg(0))
	}
	given := map[string]bool{}
	fs.Visit(func(f *flag.Flag) { given[f.Name] = true })
	if err := readFile(fs, *file, given); err != nil {
		return nil, err
	}
	if c.PasswordFile == "" {
		c.PasswordFile = c.StateDir + "/passwords"
	}
	return c, c.validate()
}

func readFile(fs *flag.FlagSet, path string, given map[string]bool) error {
	keys := map[string]any{}
	if _, err := toml.DecodeFile(path, &keys); errors.Is(err, os.ErrNotExist) && !given["config"] {
		return nil
	} else if err != nil {
		return fmt.Errorf("config: %s: %w", path, err)
	}
	for name, value := range keys {
		if fs.Lookup(name) == nil || name == "config" {
			return fmt.Errorf("config: %s: no key is called %q", path, name)
		}
		if given[name] {
			continue
		}
		if err := fs.Set(name, fmt.Sprint(value)); err != nil {
			return fmt.Errorf("config: %s: %s: %w", path, name, err)
		}
	}
	return nil
}

func (c *Config) validate() error {
	switch {
	case c.Hypervisor != "sim" && c.Hypervisor != "libvirt":
		return fmt.Errorf("config: hypervisor %q: it is sim or libvirt", c.Hypervisor)
	case c.Auth != "pam" && c.Auth != "file":
		return fmt.Errorf("config: auth %q: it is pam or file", c.Auth)
	case c.HTTPS == "" && c.HTTP == "" && c.Socket == "":
		return errors.New("config: nothing to listen on")
	}
	return nil
}

// Sample is a configuration file that documents every key, each at its
// default and commented out.
func Sample() string {
	fs := flag.NewFlagSet("xapid", flag.ContinueOnError)
	new(Config).flags(fs)
	var b strings.Builder
	b.WriteString("# xapid's configuration: every key with its default. A flag of the same name beats it.\n")
	fs.VisitAll(func(f *flag.Flag) {
		value := strconv.Quote(f.DefValue)
		if _, err := strconv.ParseInt(f.DefValue, 10, 64); err == nil {
			value = f.DefValue
		}
		fmt.Fprintf(&b, "\n# %s\n#%s = %s\n", f.Usage, f.Name, value)
	})
	return b.String()
}
