package auth

import (
	"bufio"
	"bytes"
	"context"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Rounds of PBKDF2-HMAC-SHA256. A password that we drew has 125 random bits,
// which nobody guesses however fast: it needs no slowing down.
const (
	chosenRounds = 600_000
	drawnRounds  = 1_000
	drawnChars   = 25
	hashBytes    = 32
)

// PasswordFile checks passwords against a private file of ours, a line a user:
//
//	user:pbkdf2-sha256:rounds:salt:hash
//
// It is read at each login, so that a password set by another process counts
// at once. Everybody in it is a local superuser.
type PasswordFile struct {
	path   string
	hashes chan struct{} // how many hashes are computed at once
}

// OpenPasswordFile opens the file, or makes it with a random password for
// root, which it returns; otherwise drawn is empty.
func OpenPasswordFile(path string) (f *PasswordFile, drawn string, err error) {
	f = &PasswordFile{path: path, hashes: make(chan struct{}, 2)}
	if _, err = os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		return f, "", wrap(err)
	}
	drawn = rand.Text()[:drawnChars]
	return f, drawn, f.set("root", drawn, drawnRounds)
}

func wrap(err error) error {
	if err != nil {
		err = fmt.Errorf("auth: password file: %w", err)
	}
	return err
}

// Authenticate implements Authenticator. A name that is not in the file costs
// as much as one that is.
func (f *PasswordFile) Authenticate(ctx context.Context, user, password string) (Identity, error) {
	if !plausible(user, password) {
		return Identity{}, ErrBadCredentials
	}
	entries, err := f.read()
	if err != nil {
		return Identity{}, err
	}
	select {
	case f.hashes <- struct{}{}:
		defer func() { <-f.hashes }()
	case <-ctx.Done():
		return Identity{}, context.Cause(ctx)
	}
	want := entry{user: user, rounds: chosenRounds, salt: make([]byte, 16), hash: make([]byte, hashBytes)}
	known := false
	for _, e := range entries {
		if e.user == user {
			want, known = e, true
		}
	}
	got, err := stretch(password, want.salt, want.rounds)
	if err != nil {
		return Identity{}, err
	}
	if subtle.ConstantTimeCompare(got, want.hash) != 1 || !known {
		return Identity{}, ErrBadCredentials
	}
	return Identity{User: user, IsRoot: true}, nil
}

// SetPassword gives a user a password, and makes the user if need be. The old
// file stays until the new one is on disk.
func (f *PasswordFile) SetPassword(user, password string) error {
	if !plausible(user, password) {
		return fmt.Errorf("auth: a password has 1 to %d bytes on one line", maxPassword)
	}
	return f.set(user, password, chosenRounds)
}

// ResetPassword gives a user a random password and returns it.
func (f *PasswordFile) ResetPassword(user string) (string, error) {
	drawn := rand.Text()[:drawnChars]
	if !plausible(user, drawn) {
		return "", errors.New("auth: no such user name")
	}
	return drawn, f.set(user, drawn, drawnRounds)
}

func (f *PasswordFile) set(user, password string, rounds int) error {
	salt := make([]byte, 16)
	rand.Read(salt)
	hash, err := stretch(password, salt, rounds)
	if err != nil {
		return wrap(err)
	}
	entries, err := f.read()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var text bytes.Buffer
	for _, e := range entries {
		if e.user != user {
			e.write(&text)
		}
	}
	entry{user, rounds, salt, hash}.write(&text)
	return wrap(replaceFile(f.path, text.Bytes()))
}

func stretch(password string, salt []byte, rounds int) ([]byte, error) {
	return pbkdf2.Key(sha256.New, password, salt, rounds, hashBytes)
}

// entry is one line of the file.
type entry struct {
	user   string
	rounds int
	salt   []byte
	hash   []byte
}

const scheme = "pbkdf2-sha256"

func (e entry) write(b *bytes.Buffer) {
	fmt.Fprintf(b, "%s:%s:%d:%x:%x\n", e.user, scheme, e.rounds, e.salt, e.hash)
}

func (f *PasswordFile) read() ([]entry, error) {
	text, err := os.ReadFile(f.path)
	if err != nil {
		return nil, wrap(err)
	}
	var out []entry
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 1; lines.Scan(); n++ {
		if lines.Text() == "" {
			continue
		}
		e, err := parseEntry(lines.Text())
		if err != nil {
			return nil, fmt.Errorf("auth: password file: line %d: %w", n, err)
		}
		out = append(out, e)
	}
	return out, wrap(lines.Err())
}

var errBadLine = errors.New("not user:" + scheme + ":rounds:salt:hash")

func parseEntry(line string) (entry, error) {
	p := strings.Split(line, ":")
	if len(p) != 5 || p[1] != scheme {
		return entry{}, errBadLine
	}
	rounds, err1 := strconv.Atoi(p[2])
	salt, err2 := hex.DecodeString(p[3])
	hash, err3 := hex.DecodeString(p[4])
	if errors.Join(err1, err2, err3) != nil || rounds < 1 || rounds > 100_000_000 || len(hash) != hashBytes {
		return entry{}, errBadLine
	}
	return entry{p[0], rounds, salt, hash}, nil
}

// replaceFile writes a private file so that a crash leaves the old or the new
// one, never half.
func replaceFile(path string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(text)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
