package auth

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// PAMConfig says how PAM is asked. Zero fields take the defaults.
type PAMConfig struct {
	Helper   string        // path of xapid-pam
	ConfDir  string        // directory of service files; the system's by default
	Limit    int           // helpers at once: 4
	Deadline time.Duration // of one login: 10 s
}

// PAM asks the PAM service "xapid" through a helper process, one a login. A
// module that hangs or crashes takes only that process with it.
type PAM struct {
	cfg   PAMConfig
	slots chan struct{}
}

// NewPAM makes an authenticator on PAM.
func NewPAM(cfg PAMConfig) *PAM {
	if cfg.Limit == 0 {
		cfg.Limit = 4
	}
	if cfg.Deadline == 0 {
		cfg.Deadline = 10 * time.Second
	}
	return &PAM{cfg, make(chan struct{}, cfg.Limit)}
}

// exitRefused is how the helper ends when PAM says no. When it says yes, the
// helper prints uid, 1 or 0 for a member of Group, and the canonical name, with
// a blank between, and ends with 0.
const exitRefused = 3

// errHelper says that PAM could not be asked.
var errHelper = errors.New("auth: PAM helper")

// Authenticate implements Authenticator.
func (p *PAM) Authenticate(ctx context.Context, user, password string) (Identity, error) {
	if !plausible(user, password) {
		return Identity{}, ErrBadCredentials
	}
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return Identity{}, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, p.cfg.Deadline, fmt.Errorf("%w: no answer in %v", errHelper, p.cfg.Deadline))
	defer cancel()
	var args []string
	if p.cfg.ConfDir != "" {
		args = []string{"-confdir", p.cfg.ConfDir}
	}
	cmd := exec.CommandContext(ctx, p.cfg.Helper, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C"}
	cmd.Stdin = strings.NewReader(user + "\x00" + password + "\x00")
	// What a module started goes with the helper, unless it left the group;
	// then at least nobody waits for it.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 100 * time.Millisecond
	out, err := cmd.Output()
	return identityOf(ctx, out, err)
}

// identityOf reads how the helper ended.
func identityOf(ctx context.Context, out []byte, err error) (Identity, error) {
	if ctx.Err() != nil {
		return Identity{}, context.Cause(ctx)
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if exit.ExitCode() == exitRefused {
			return Identity{}, ErrBadCredentials
		}
		return Identity{}, fmt.Errorf("%w: %v: %s", errHelper, err, bytes.TrimSpace(exit.Stderr))
	}
	if err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return Identity{}, fmt.Errorf("%w: %w", errHelper, err)
	}
	uid, rest, _ := strings.Cut(strings.TrimSuffix(string(out), "\n"), " ")
	member, name, _ := strings.Cut(rest, " ")
	id := Identity{User: name}
	if id.UID, err = strconv.Atoi(uid); err != nil || name == "" {
		return Identity{}, fmt.Errorf("%w: unreadable answer", errHelper)
	}
	if id.IsRoot = id.UID == 0 || member == "1"; !id.IsRoot {
		return id, ErrNotAuthorized
	}
	return id, nil
}
