package auth

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPasswordFile(t *testing.T) {
	ctx := context.Background()
	path := filepath.Join(t.TempDir(), "passwd")
	f, drawn, err := OpenPasswordFile(path)
	if err != nil || len(drawn) != drawnChars {
		t.Fatalf("%q, %v", drawn, err)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if text, _ := os.ReadFile(path); strings.Contains(string(text), drawn) {
		t.Error("the password is in the file")
	}
	if id, err := f.Authenticate(ctx, "root", drawn); err != nil || id != (Identity{User: "root", IsRoot: true}) {
		t.Errorf("%+v, %v", id, err)
	}
	again, second, err := OpenPasswordFile(path)
	if err != nil || second != "" {
		t.Fatalf("second start: %q, %v", second, err)
	}
	if err := again.SetPassword("admin", "pass word é"); err != nil {
		t.Fatal(err)
	}
	for _, c := range [][2]string{{"root", drawn}, {"admin", "pass word é"}} {
		if _, err := f.Authenticate(ctx, c[0], c[1]); err != nil {
			t.Errorf("%s, set by another: %v", c[0], err)
		}
	}
	reset, err := again.ResetPassword("root")
	if err != nil || reset == drawn {
		t.Fatal(reset, err)
	}
	if _, err := f.Authenticate(ctx, "root", drawn); !errors.Is(err, ErrBadCredentials) {
		t.Errorf("the old password: %v", err)
	}
	if names, _ := filepath.Glob(path + "*"); len(names) != 1 {
		t.Errorf("left behind: %v", names)
	}
}

// implausible are the passwords of A2 that need no looking up.
var implausible = map[string]string{"1 MiB": strings.Repeat("a", 1<<20), "empty": "", "NUL": "a\x00b", "newline": "a\nb", "NUL at the end": "a\x00"}

func TestA2Passwords(t *testing.T) {
	f, drawn, err := OpenPasswordFile(filepath.Join(t.TempDir(), "passwd"))
	if err != nil {
		t.Fatal(err)
	}
	for name, a := range map[string]Authenticator{"file": f, "PAM": NewPAM(PAMConfig{Helper: "/nonexistent"})} {
		for what, password := range implausible {
			if _, err := a.Authenticate(context.Background(), "root", password); !errors.Is(err, ErrBadCredentials) {
				t.Errorf("%s, %s: %v", name, what, err)
			}
		}
		for _, user := range []string{"", "a\x00b", "a\nb", "root:", "../root", strings.Repeat("a", 1<<20)} {
			if _, err := a.Authenticate(context.Background(), user, drawn); !errors.Is(err, ErrBadCredentials) {
				t.Errorf("%s, user %.20q: %v", name, user, err)
			}
		}
	}
	for what, password := range implausible {
		if f.SetPassword("root", password) == nil {
			t.Errorf("%s could be set", what)
		}
	}
	for _, user := range []string{"nobody", "Root", "root "} {
		if _, err := f.Authenticate(context.Background(), user, drawn); !errors.Is(err, ErrBadCredentials) {
			t.Errorf("%q: %v", user, err)
		}
	}
}

func TestPasswordFileThatIsBroken(t *testing.T) {
	path := filepath.Join(t.TempDir(), "passwd")
	for _, text := range []string{"root:x:1:00:00\n", "root\n", "root:pbkdf2-sha256:0:00:" + strings.Repeat("00", 32) + "\n",
		"root:pbkdf2-sha256:1:zz:" + strings.Repeat("00", 32) + "\n", "root:pbkdf2-sha256:1:00:00\n", strings.Repeat("x", 1<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		f, _, err := OpenPasswordFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.Authenticate(context.Background(), "root", "x"); err == nil || errors.Is(err, ErrBadCredentials) {
			t.Errorf("%.30q: %v", text, err)
		}
		if f.SetPassword("root", "x") == nil {
			t.Errorf("%.30q: overwritten", text)
		}
	}
}

func TestWaitingForAHashEndsWithTheContext(t *testing.T) {
	f, drawn, err := OpenPasswordFile(filepath.Join(t.TempDir(), "passwd"))
	if err != nil {
		t.Fatal(err)
	}
	for range cap(f.hashes) {
		f.hashes <- struct{}{}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := f.Authenticate(ctx, "root", drawn); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
