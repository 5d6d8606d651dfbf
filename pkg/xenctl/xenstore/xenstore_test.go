package xenstore

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"xapid/pkg/xenctl"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func open(t *testing.T, socket string) *Client {
	c := New(socket)
	t.Cleanup(c.Close)
	return c
}

func soon(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// realSocket is the variable that names the socket of a real xenstored to run the contract against as well.
const realSocket = "XAPID_XENSTORE"

// TestContract holds for the fake and for xenstored itself.
func TestContract(t *testing.T) {
	t.Run("fake", func(t *testing.T) { contract(t, startFake(t).socket) })
	if socket := os.Getenv(realSocket); socket != "" {
		t.Run("real", func(t *testing.T) { contract(t, socket) })
	}
}

func contract(t *testing.T, socket string) {
	c, ctx := open(t, socket), soon(t)
	const root = "/tool/xapid-test"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(c.Write(ctx, root+"/a", "1"))
	t.Cleanup(func() {
		if err := New(socket).drop(root); err != nil {
			t.Error(err)
		}
	})
	binary := "a\x00b\xff\n"
	must(c.Write(ctx, root+"/b/c", binary))
	must(c.Mkdir(ctx, root+"/d"))
	if v, err := c.Read(ctx, root+"/b/c"); err != nil || v != binary {
		t.Errorf("%q, %v", v, err)
	}
	if v, err := c.Read(ctx, root+"/d"); err != nil || v != "" {
		t.Errorf("%q, %v", v, err)
	}
	names, err := c.List(ctx, root)
	if slices.Sort(names); err != nil || !slices.Equal(names, []string{"a", "b", "d"}) {
		t.Errorf("%q, %v", names, err)
	}
	if names, err := c.List(ctx, root+"/d"); err != nil || len(names) != 0 {
		t.Errorf("an empty one: %q, %v", names, err)
	}
	must(c.Remove(ctx, root+"/b"))
	if _, err := c.Read(ctx, root+"/b/c"); !errors.Is(err, ErrNotFound) {
		t.Errorf("after its removal: %v", err)
	}
	for name, err := range map[string]error{
		"no path": c.Write(ctx, "", "x"), "a NUL": c.Write(ctx, root+"/a\x00b", "x"),
		"too long": c.Write(ctx, root+"/long", strings.Repeat("x", payloadLimit)),
	} {
		if e, ok := errors.AsType[*Error](err); !ok || errors.Unwrap(e) == nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	contractTx(ctx, t, c, root)
	contractWatch(ctx, t, c, root)
}

// drop cleans up after a test, whose own client may have gone.
func (c *Client) drop(path string) error {
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.Remove(ctx, path)
}

// contractTx lets transactions of several writers meet: none is lost.
func contractTx(ctx context.Context, t *testing.T, c *Client, root string) {
	if err := c.Write(ctx, root+"/n", ""); err != nil {
		t.Fatal(err)
	}
	const writers, each = 4, 5
	var wg sync.WaitGroup
	for range writers {
		wg.Go(func() {
			for range each {
				err := c.Update(ctx, func(tx Tx) error {
					v, err := tx.Read(ctx, root+"/n")
					if err != nil {
						return err
					}
					return tx.Write(ctx, root+"/n", v+"x")
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if v, err := c.Read(ctx, root+"/n"); err != nil || len(v) != writers*each {
		t.Errorf("%d of %d updates are there, %v", len(v), writers*each, err)
	}
	broken := errors.New("no")
	err := c.Update(ctx, func(tx Tx) error { return errors.Join(tx.Write(ctx, root+"/n", "half"), broken) })
	if v, _ := c.Read(ctx, root+"/n"); !errors.Is(err, broken) || v == "half" {
		t.Errorf("an update that failed left %q, %v", v, err)
	}
}

func contractWatch(ctx context.Context, t *testing.T, c *Client, root string) {
	w, err := c.Watch(ctx, root+"/w")
	if err != nil {
		t.Fatal(err)
	}
	awaitChange := func(path string) {
		t.Helper()
		for {
			paths, whole := w.Take()
			if whole || slices.Contains(paths, path) {
				return
			}
			select {
			case <-w.C:
			case <-ctx.Done():
				t.Fatalf("no event for %s", path)
			}
		}
	}
	awaitChange(root + "/w") // by itself
	if err := c.Write(ctx, root+"/w/x", "1"); err != nil {
		t.Fatal(err)
	}
	awaitChange(root + "/w/x")
	if err := w.Stop(ctx); err != nil {
		t.Error(err)
	}
}

func TestLongListsComeInParts(t *testing.T) {
	f := startFake(t)
	c, ctx := open(t, f.socket), soon(t)
	var want []string
	f.listMax = 200
	for n := range 300 {
		want = append(want, fmt.Sprintf("key-%03d", n))
		f.set("/big/"+want[n], "")
	}
	if got, err := c.List(ctx, "/big"); err != nil || !slices.Equal(got, want) {
		t.Errorf("%d names, %v", len(got), err)
	}
	f.set("/small", "")
	f.errors["list /small"] = "E2BIG" // both ways
	if _, err := c.List(ctx, "/small"); !errors.Is(err, ErrQuota) {
		t.Errorf("a list that can't be had: %v", err)
	}
}

func TestNoesHaveKinds(t *testing.T) {
	f := startFake(t)
	c, ctx := open(t, f.socket), soon(t)
	for code, kind := range kinds {
		if code == "EAGAIN" {
			continue
		}
		f.mu.Lock()
		f.errors["write /k"] = code
		f.mu.Unlock()
		if err := c.Write(ctx, "/k", "v"); !errors.Is(err, kind) || !strings.Contains(err.Error(), code) {
			t.Errorf("%s: %v", code, err)
		}
	}
}

func TestDeadlines(t *testing.T) {
	f := startFake(t)
	c := open(t, f.socket)
	if err := c.Write(soon(t), "/a", "1"); err != nil {
		t.Fatal(err)
	}
	f.mu.Lock()
	f.silent[opRead], f.silent[opTransactionStart] = true, true
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
	defer cancel()
	if _, err := c.Read(ctx, "/a"); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("a silent xenstored: %v", err)
	}
	waiting, cancel := context.WithCancel(soon(t))
	began := make(chan error)
	go func() {
		began <- c.Update(waiting, func(Tx) error { return nil })
	}()
	waitFor(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.held) == 2 })
	cancel()
	if err := <-began; !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled update: %v", err)
	}
	f.mu.Lock()
	f.silent = map[op]bool{}
	held := f.held
	f.mu.Unlock()
	for _, send := range held {
		send()
	}
	// The late answers harm nobody, and the transaction that nobody wanted any more is ended.
	if v, err := c.Read(soon(t), "/a"); err != nil || v != "1" {
		t.Errorf("%q, %v", v, err)
	}
	waitFor(t, func() bool { f.mu.Lock(); defer f.mu.Unlock(); return f.open == 0 })
}

func waitFor(t *testing.T, ok func() bool) {
	t.Helper()
	ctx := soon(t)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("it never came to be")
		}
	}
}

func TestConnectionsBreakAndComeBack(t *testing.T) {
	f := startFake(t)
	c, ctx := open(t, f.socket), soon(t)
	w, err := c.Watch(ctx, "/a")
	if err != nil {
		t.Fatal(err)
	}
	f.cut()
	<-w.Done()
	if err := w.Stop(ctx); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("stop: %v", err)
	}
	if err := c.Write(ctx, "/a", "1"); err != nil {
		t.Errorf("on a new connection: %v", err)
	}
	if err := New(f.socket+"-none").Write(ctx, "/a", "1"); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("without a xenstored: %v", err)
	}
	c.Close()
	if err := c.Write(ctx, "/a", "1"); !errors.Is(err, xenctl.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
}

func TestChangesThatNobodyTakesAreBounded(t *testing.T) {
	w := &Watch{wake: make(chan struct{}, 1), paths: map[string]struct{}{}}
	for n := range 10 * changesLimit {
		w.changed(fmt.Sprint("/", n))
	}
	if paths, whole := w.Take(); len(paths) != 0 || !whole {
		t.Errorf("%d paths, %v", len(paths), whole)
	}
	w.changed("/a")
	w.changed("/a")
	if paths, whole := w.Take(); len(paths) != 1 || whole {
		t.Errorf("%q, %v", paths, whole)
	}
}
