package auth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// buildHelper compiles xapid-pam once.
var buildHelper = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "xapid-pam")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "xapid-pam")
	out, err := exec.Command("go", "build", "-o", path, "xapid/cmd/xapid-pam").CombinedOutput()
	if err != nil {
		return dir, fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

func TestMain(m *testing.M) {
	code := m.Run()
	if path, _ := buildHelper(); path != "" {
		os.RemoveAll(filepath.Dir(path))
	}
	os.Exit(code)
}

// realPAM asks real PAM, with service as its service file.
func realPAM(t *testing.T, cfg PAMConfig, service string) *PAM {
	t.Helper()
	if _, err := os.Stat("/usr/include/security/pam_appl.h"); err != nil {
		t.Skipf("missing: libpam0g-dev: %v", err)
	}
	helper, err := buildHelper()
	if err != nil {
		t.Fatal(err)
	}
	cfg.Helper, cfg.ConfDir = helper, t.TempDir()
	if err := os.WriteFile(filepath.Join(cfg.ConfDir, "xapid"), []byte(service), 0o644); err != nil {
		t.Fatal(err)
	}
	return NewPAM(cfg)
}

const permit = "auth required pam_permit.so\naccount required pam_permit.so\n"

func TestPAMAccepts(t *testing.T) {
	p := realPAM(t, PAMConfig{}, permit)
	id, err := p.Authenticate(context.Background(), "root", "secret")
	if err != nil || id != (Identity{User: "root", IsRoot: true}) {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestPAMKnownUserWithoutRights(t *testing.T) {
	p := realPAM(t, PAMConfig{}, permit)
	if id, err := p.Authenticate(context.Background(), "nobody", "secret"); !errors.Is(err, ErrNotAuthorized) || id.UID == 0 {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestPAMUserThatPAMAloneKnows(t *testing.T) {
	p := realPAM(t, PAMConfig{}, permit)
	if id, err := p.Authenticate(context.Background(), "no-such-user", "secret"); !errors.Is(err, errHelper) {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestPAMRefuses(t *testing.T) {
	for name, service := range map[string]string{
		"password": "auth required pam_deny.so\naccount required pam_permit.so\n",
		"account":  "auth required pam_permit.so\naccount required pam_deny.so\n",
	} {
		p := realPAM(t, PAMConfig{}, service)
		if _, err := p.Authenticate(context.Background(), "root", "secret"); !errors.Is(err, ErrBadCredentials) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestPAMWithoutItsService(t *testing.T) {
	p := realPAM(t, PAMConfig{}, "")
	os.Remove(filepath.Join(p.cfg.ConfDir, "xapid"))
	if _, err := p.Authenticate(context.Background(), "root", "secret"); err == nil {
		t.Error("no service, yet accepted")
	}
}

func TestPAMHandsOverThePassword(t *testing.T) {
	script := filepath.Join(t.TempDir(), "check")
	// pam_exec gives the password on standard input, ended by NUL.
	text := "#!/bin/sh\ntest \"$(tr -d '\\000')\" = 's3cret \"é'\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	p := realPAM(t, PAMConfig{}, "auth required pam_exec.so quiet expose_authtok "+script+"\naccount required pam_permit.so\n")
	if _, err := p.Authenticate(context.Background(), "root", `s3cret "é`); err != nil {
		t.Error(err)
	}
	// pam_exec calls a script that says no a system error.
	if _, err := p.Authenticate(context.Background(), "root", "other"); err == nil {
		t.Error("another password was accepted")
	}
}

func TestPAMModuleThatTalks(t *testing.T) {
	p := realPAM(t, PAMConfig{}, "auth required pam_exec.so quiet stdout /bin/echo 0 1 mallory\n"+permit)
	if id, err := p.Authenticate(context.Background(), "nobody", "secret"); !errors.Is(err, ErrNotAuthorized) || id.User != "nobody" {
		t.Errorf("%+v, %v", id, err)
	}
}

func TestA2PAMStackThatHangs(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	// The module waits for a writer of the fifo, who comes when we say so.
	p := realPAM(t, PAMConfig{Deadline: 300 * time.Millisecond}, "auth required pam_exec.so quiet /bin/cat "+fifo+"\naccount required pam_permit.so\n")
	begin := time.Now()
	if _, err := p.Authenticate(context.Background(), "root", "secret"); err == nil || !strings.Contains(err.Error(), "no answer") {
		t.Error(err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("answered after %v", took)
	}
	if len(p.slots) != 0 {
		t.Error("the slot is still taken")
	}
	if w, err := os.OpenFile(fifo, os.O_RDWR, 0); err == nil {
		w.Close() // ends what the module left behind, if it did
	}
}

// fakeHelper is a shell script in the helper's place.
func fakeHelper(t *testing.T, script string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "helper")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestPAMHelperThatMisbehaves(t *testing.T) {
	for name, script := range map[string]string{
		"crash": "kill -SEGV $$", "trouble": "echo why >&2; exit 1", "nothing": "exit 0", "nonsense": "echo hello", "half": "echo 0 1",
	} {
		p := NewPAM(PAMConfig{Helper: fakeHelper(t, script)})
		if id, err := p.Authenticate(context.Background(), "root", "x"); !errors.Is(err, errHelper) {
			t.Errorf("%s: %+v, %v", name, id, err)
		}
	}
	p := NewPAM(PAMConfig{Helper: "/nonexistent"})
	if _, err := p.Authenticate(context.Background(), "root", "x"); !errors.Is(err, errHelper) {
		t.Errorf("no helper: %v", err)
	}
}

func TestPAMAnswers(t *testing.T) {
	for line, want := range map[string]Identity{
		"0 0 root":             {User: "root", IsRoot: true},
		"1000 1 ann":           {User: "ann", UID: 1000, IsRoot: true},
		"1000 0 bob":           {User: "bob", UID: 1000},
		`70001 1 CORP\ann lee`: {User: `CORP\ann lee`, UID: 70001, IsRoot: true},
	} {
		p := NewPAM(PAMConfig{Helper: fakeHelper(t, "cat <<'end'\n"+line+"\nend")})
		id, err := p.Authenticate(context.Background(), "x", "x")
		if id != want || errors.Is(err, ErrNotAuthorized) == want.IsRoot {
			t.Errorf("%s: %+v, %v", line, id, err)
		}
	}
}

func TestPAMPasswordIsInNoArgumentOrVariable(t *testing.T) {
	dir := t.TempDir()
	p := NewPAM(PAMConfig{Helper: fakeHelper(t, `tr '\0' '\n' < /proc/$$/cmdline > `+dir+`/args; env > `+dir+`/env; cat > `+dir+`/in; echo 0 0 root`)})
	if _, err := p.Authenticate(context.Background(), "someone", "s3cret"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"args", "env"} {
		if text, err := os.ReadFile(filepath.Join(dir, name)); err != nil || strings.Contains(string(text), "s3cret") || strings.Contains(string(text), "someone") {
			t.Errorf("%s: %s, %v", name, text, err)
		}
	}
	if text, _ := os.ReadFile(filepath.Join(dir, "in")); string(text) != "someone\x00s3cret\x00" {
		t.Errorf("standard input: %q", text)
	}
}

// fifo makes one and opens both of its ends.
func fifo(t *testing.T, path string) *os.File {
	t.Helper()
	if err := syscall.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func TestPAMFewAtOnce(t *testing.T) {
	dir := t.TempDir()
	// Each helper says in a line that it began, then waits for a line that lets it go on.
	began, goOn := fifo(t, dir+"/began"), fifo(t, dir+"/go")
	p := NewPAM(PAMConfig{Limit: 2, Helper: fakeHelper(t, "echo >"+dir+"/began\nread line <"+dir+"/go\necho 0 0 root")})
	ctx, cancel := context.WithCancel(context.Background())
	results := make(chan error, 5)
	for range 2 {
		go func() { _, err := p.Authenticate(context.Background(), "root", "x"); results <- err }()
	}
	if _, err := io.ReadFull(began, make([]byte, len("\n\n"))); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		go func() { _, err := p.Authenticate(ctx, "root", "x"); results <- err }()
	}
	if err := began.SetReadDeadline(time.Now().Add(200 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if _, err := began.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a third began beside the two: %v", err)
	}
	cancel()
	for range 3 {
		if err := <-results; !errors.Is(err, context.Canceled) {
			t.Errorf("one that waited: %v", err)
		}
	}
	if _, err := goOn.WriteString("\n\n"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
