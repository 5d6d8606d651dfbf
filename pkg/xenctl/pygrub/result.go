package pygrub

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"xapid/pkg/xenctl"
)

// maxCmdline is the most that a Linux kernel takes for its command line (COMMAND_LINE_SIZE of x86).
const maxCmdline = 2047

var (
	// harmless are the options that a user may give: they choose among what is in the disk. Others name files of dom0
	// or turn off what we rely on.
	harmless = regexp.MustCompile(`^(--entry=[0-9]{1,3}|--(kernel|ramdisk)=/[A-Za-z0-9@._+/-]{1,250})$`)
	// leftNames are those that pygrub gives to what it writes.
	leftNames = regexp.MustCompile(`^boot_(kernel|ramdisk)\.[A-Za-z0-9_]{1,32}$`)
)

// parseArgs reads PV_bootloader_args: words with blanks between.
func parseArgs(text string) (options []string, err error) {
	for _, word := range strings.Fields(text) {
		switch {
		case word == "-q" || word == "--quiet": // it always is
		case harmless.MatchString(word):
			options = append(options, word)
		default:
			return nil, fmt.Errorf("%w: bootloader argument %q: --entry=N, --kernel=PATH and --ramdisk=PATH are allowed", xenctl.ErrInvalid, word)
		}
	}
	return options, nil
}

// answer is what pygrub says that it did.
type answer struct{ kernel, ramdisk, args string }

// parse reads the format simple0: "kernel PATH\0ramdisk PATH\0args TEXT\0\0", of which the last two may be missing.
func parse(text string) (a answer, err error) {
	body, whole := strings.CutSuffix(text, "\x00\x00")
	if !whole || !utf8.ValidString(body) {
		return a, errors.New("pygrub's answer is not whole")
	}
	values := []struct {
		key string
		to  *string
	}{{"kernel", &a.kernel}, {"ramdisk", &a.ramdisk}, {"args", &a.args}}
	next := 0
	for part := range strings.SplitSeq(body, "\x00") {
		key, value, _ := strings.Cut(part, " ")
		for next < len(values) && values[next].key != key {
			next++
		}
		if next == len(values) {
			return a, fmt.Errorf("pygrub's answer has %q in it", shorten(part))
		}
		*values[next].to = value
		next++
	}
	if a.kernel == "" {
		return a, errors.New("pygrub's answer names no kernel")
	}
	a.args = strings.TrimSpace(a.args)
	if len(a.args) > maxCmdline {
		return a, fmt.Errorf("the kernel's command line has %d characters", len(a.args))
	}
	if i := strings.IndexFunc(a.args, func(r rune) bool { return !unicode.IsPrint(r) }); i >= 0 {
		return a, fmt.Errorf("the kernel's command line has %q in it", a.args[i:i+1])
	}
	return a, nil
}

func shorten(s string) string { return s[:min(len(s), 40)] }

// believe takes what pygrub left in out over into work, as root's. pygrub has ended: nobody changes it any more.
func believe(text, out, work string, uid int) (boot xenctl.Boot, err error) {
	a, err := parse(text)
	if err != nil {
		return boot, failed("%w", err)
	}
	boot.Cmdline = a.args
	if boot.Kernel, err = take(a.kernel, out, filepath.Join(work, "kernel"), uid); err == nil && a.ramdisk != "" {
		boot.Ramdisk, err = take(a.ramdisk, out, filepath.Join(work, "ramdisk"), uid)
	}
	if err == nil {
		err = os.RemoveAll(out)
	}
	if err != nil {
		return xenctl.Boot{}, failed("%w", err)
	}
	return boot, nil
}

// take makes a file that pygrub left in dir the daemon's own, at a new path.
func take(path, dir, to string, uid int) (string, error) {
	if path != filepath.Join(dir, filepath.Base(path)) || !leftNames.MatchString(filepath.Base(path)) {
		return "", fmt.Errorf("pygrub names %q, which is not where it writes", shorten(path))
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("what pygrub left: %w", err)
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink != 1 || st.Uid != uint32(uid):
		return "", fmt.Errorf("%s, which pygrub left, is no file of its own", filepath.Base(path))
	case st.Size == 0 || st.Size > maxFile:
		return "", fmt.Errorf("%s, which pygrub left, has %d bytes", filepath.Base(path), st.Size)
	}
	if err := errors.Join(f.Chown(os.Getuid(), os.Getgid()), f.Chmod(0o600), os.Rename(path, to)); err != nil {
		return "", err
	}
	return to, nil
}
