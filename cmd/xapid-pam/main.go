// Command xapid-pam asks PAM about one login and ends.
//
// It reads a name and a password from standard input, each ended by a NUL, and
// asks the service "xapid". When PAM accepts both the password and the account
// it prints the uid, 1 or 0 for a member of group xapid-admin, and the
// canonical name, and ends with 0. It ends with 3 when PAM refuses, and with 1
// when PAM can't be asked. Its one invariant: the password is never in an
// argument, a variable of the environment, or what it prints. Whoever starts
// it kills it at a deadline.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/user"
	"runtime"
	"slices"
	"syscall"

	"github.com/msteinert/pam/v2"
)

const (
	service     = "xapid"
	group       = "xapid-admin"
	maxInput    = 4096
	exitTrouble = 1
	exitRefused = 3
)

func main() {
	confDir := flag.String("confdir", "", "directory of the PAM service files")
	flag.Parse()
	runtime.LockOSThread() // PAM modules keep state by thread
	out, err := takeStdout()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitTrouble)
	}
	answer, err := ask(os.Stdin, *confDir)
	switch {
	case err == nil:
		fmt.Fprintln(out, answer)
	case isRefusal(err):
		os.Exit(exitRefused)
	default:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(exitTrouble)
	}
}

// takeStdout keeps standard output for the answer; what a module prints there
// goes to standard error.
func takeStdout() (*os.File, error) {
	fd, err := syscall.Dup(1)
	if err != nil {
		return nil, err
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "answer"), syscall.Dup3(2, 1, 0)
}

// ask reads a login and gives the line to print.
func ask(in io.Reader, confDir string) (string, error) {
	text, err := io.ReadAll(io.LimitReader(in, maxInput))
	if err != nil {
		return "", err
	}
	fields := bytes.Split(text, []byte{0})
	if len(fields) != 3 || len(fields[2]) != 0 {
		return "", errors.New("a name and a password are expected, each ended by NUL")
	}
	name, err := authenticate(string(fields[0]), string(fields[1]), confDir)
	if err != nil {
		return "", err
	}
	return describe(name)
}

// authenticate gives the name that PAM ends up with.
func authenticate(name, password, confDir string) (string, error) {
	converse := pam.ConversationFunc(func(style pam.Style, _ string) (string, error) {
		switch style {
		case pam.PromptEchoOff:
			return password, nil
		case pam.PromptEchoOn:
			return name, nil
		}
		return "", nil
	})
	var t *pam.Transaction
	var err error
	if confDir == "" {
		t, err = pam.Start(service, name, converse)
	} else {
		t, err = pam.StartConfDir(service, name, converse, confDir)
	}
	if err != nil {
		return "", err
	}
	defer t.End()
	if err := t.Authenticate(pam.Silent | pam.DisallowNullAuthtok); err != nil {
		return "", err
	}
	if err := t.AcctMgmt(pam.Silent); err != nil {
		return "", err
	}
	return t.GetItem(pam.User)
}

// isRefusal tells a no from trouble.
func isRefusal(err error) bool {
	e, ok := errors.AsType[pam.Error](err)
	return ok && !slices.Contains([]pam.Error{pam.ErrSystem, pam.ErrOpen, pam.ErrSymbol, pam.ErrService,
		pam.ErrBuf, pam.ErrAbort, pam.ErrBadItem, pam.ErrAuthinfoUnavail}, e)
}

// describe looks the account up, here too, since a directory can hang.
func describe(name string) (string, error) {
	u, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	member := 0
	if g, err := user.LookupGroup(group); err == nil {
		ids, err := u.GroupIds()
		if err != nil {
			return "", err
		}
		if slices.Contains(ids, g.Gid) {
			member = 1
		}
	}
	return fmt.Sprintf("%s %d %s", u.Uid, member, u.Username), nil
}
