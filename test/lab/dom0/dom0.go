// Package dom0 runs commands in a lab's dom0, for the programs that look from outside at what is true in there.
//
// Start reading at Shell.
package dom0

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Shell is the command that runs a shell line in a dom0, given as its last argument: exec.sh and a machine's name.
type Shell []string

// Run runs a line, made as by fmt.Sprintf, and returns what it printed. Its error says what the line complained of.
func (s Shell) Run(ctx context.Context, format string, args ...any) (string, error) {
	line := fmt.Sprintf(format, args...)
	cmd := exec.CommandContext(ctx, s[0], append(s[1:len(s):len(s)], line)...)
	cmd.WaitDelay = time.Second // the shared ssh connection may hold its pipes
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("in dom0: %s: %w: %s", line, err, strings.TrimSpace(stderr.String()))
	}
	return strings.TrimSpace(string(out)), nil
}
