package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// world is what steps change: the names of things that exist.
type world struct {
	things  map[string]bool
	history []string
}

func newWorld() *world { return &world{things: map[string]bool{}} }

func (w *world) step(name string) Step {
	return Step{
		Name: name,
		Do: func(context.Context) error {
			w.things[name] = true
			w.history = append(w.history, "+"+name)
			return nil
		},
		Undo: func(context.Context) error {
			delete(w.things, name)
			w.history = append(w.history, "-"+name)
			return nil
		},
	}
}

func (w *world) steps(n int) []Step {
	var out []Step
	for i := range n {
		out = append(out, w.step(fmt.Sprint("s", i)))
	}
	return out
}

// memJournal is a journal in memory that counts its writes.
type memJournal struct {
	entries            []Entry
	begins, ends       int
	failBegin, failEnd error
}

func (j *memJournal) Begin(_ context.Context, e Entry) error {
	if j.failBegin != nil {
		return j.failBegin
	}
	j.begins++
	j.entries = append(j.entries, e)
	return nil
}

func (j *memJournal) End(_ context.Context, id string) error {
	if j.failEnd != nil {
		return j.failEnd
	}
	j.ends++
	j.entries = slices.DeleteFunc(j.entries, func(e Entry) bool { return e.ID == id })
	return nil
}

func (j *memJournal) Unfinished(context.Context) ([]Entry, error) {
	return slices.Clone(j.entries), nil
}

var errBroken = errors.New("broken")

const steps = 5

func TestDoneWhole(t *testing.T) {
	w, j := newWorld(), &memJournal{}
	var progress []float64
	list := w.steps(steps)
	list[1].Weight = 6
	err := Run(t.Context(), Options{
		Journal: j, Entry: Entry{ID: "1", Kind: "k"},
		Progress: func(f float64) { progress = append(progress, f) },
	}, "op", list)
	if err != nil || len(w.things) != steps {
		t.Fatalf("err %v, things %v", err, w.things)
	}
	if want := []float64{0, .1, .7, .8, .9, 1}; !slices.Equal(progress, want) {
		t.Errorf("progress %v, want %v", progress, want)
	}
	if j.begins != 1 || j.ends != 1 || len(j.entries) != 0 {
		t.Errorf("journal: %d begins, %d ends, %d left", j.begins, j.ends, len(j.entries))
	}
}

func TestNoSteps(t *testing.T) {
	var last float64
	if err := Run(t.Context(), Options{Progress: func(f float64) { last = f }}, "op", nil); err != nil || last != 1 {
		t.Fatalf("err %v, progress %v", err, last)
	}
}

// TestFailAtEveryStep fails a step by its Do, its hook before and after, and a panic: nothing stays.
func TestFailAtEveryStep(t *testing.T) {
	ways := map[string]func(list []Step, n int) func(Point) error{
		"do fails": func(list []Step, n int) func(Point) error {
			list[n].Do = func(context.Context) error { return errBroken }
			return nil
		},
		"do panics": func(list []Step, n int) func(Point) error {
			list[n].Do = func(context.Context) error { panic(errBroken) }
			return nil
		},
		"before": func(_ []Step, n int) func(Point) error {
			return func(p Point) error { return failIf(p == Point{Step: n, Name: p.Name}) }
		},
		"after": func(_ []Step, n int) func(Point) error {
			return func(p Point) error { return failIf(p == Point{Step: n, Name: p.Name, After: true}) }
		},
	}
	for name, way := range ways {
		for n := range steps {
			t.Run(fmt.Sprint(name, " at ", n), func(t *testing.T) {
				w, j := newWorld(), &memJournal{}
				list := w.steps(steps)
				hook := way(list, n)
				err := Run(t.Context(), Options{Hook: hook, Journal: j, Entry: Entry{ID: "1"}}, "op", list)
				var p *PanicError
				if !errors.Is(err, errBroken) && !errors.As(err, &p) {
					t.Errorf("error %v", err)
				}
				if len(w.things) != 0 || len(j.entries) != 0 {
					t.Errorf("left %v, journal %v", w.things, j.entries)
				}
				assertReversed(t, w.history)
			})
		}
	}
}

func failIf(b bool) error {
	if b {
		return errBroken
	}
	return nil
}

// assertReversed checks that a history is some steps and then the same steps undone, last first.
func assertReversed(t *testing.T, history []string) {
	t.Helper()
	half := len(history) / 2
	for i := range half {
		if history[i][1:] != history[len(history)-1-i][1:] || history[i][0] != '+' {
			t.Fatalf("history %v", history)
		}
	}
}

// TestCrashAtEveryPoint stops at each point, forward and back, and lets a resolver put the world right.
func TestCrashAtEveryPoint(t *testing.T) {
	for _, failing := range []bool{false, true} {
		for n := 0; ; n++ {
			w, j := newWorld(), &memJournal{}
			list := w.steps(steps)
			if failing {
				list[steps-1].Do = func(context.Context) error { return errBroken }
			}
			seen := -1
			hook := func(Point) error {
				if seen++; seen == n {
					return ErrCrash
				}
				return nil
			}
			err := Run(t.Context(), Options{Hook: hook, Journal: j, Entry: Entry{ID: "1", Kind: "k"}}, "op", list)
			if seen < n {
				break // one more than there are points: the run was clean
			}
			if !errors.Is(err, ErrCrash) || len(j.entries) != 1 {
				t.Fatalf("point %d: err %v, journal %v", n, err, j.entries)
			}
			undo := func(ctx context.Context, e Entry) error { clear(w.things); return nil }
			if err := Resume(t.Context(), j, map[string]Resolver{"k": undo}, 0, quiet); err != nil {
				t.Fatal(err)
			}
			if len(w.things) != 0 || len(j.entries) != 0 {
				t.Fatalf("point %d: left %v, journal %v", n, w.things, j.entries)
			}
		}
	}
}

var quiet = slog.New(slog.DiscardHandler)

func TestCancelAtEveryStep(t *testing.T) {
	because := errors.New("user asked")
	for n := range steps {
		w := newWorld()
		ctx, cancel := context.WithCancelCause(t.Context())
		list := w.steps(steps)
		list[n].Do = func(ctx context.Context) error {
			cancel(because)
			<-ctx.Done()
			return errBroken
		}
		undone := list[0].Undo
		list[0].Undo = func(ctx context.Context) error {
			if ctx.Err() != nil {
				t.Error("undo runs under the cancelled context")
			}
			return undone(ctx)
		}
		err := Run(ctx, Options{}, "op", list)
		if !errors.Is(err, because) || !errors.Is(err, errBroken) || len(w.things) != 0 {
			t.Errorf("cancelled in %d: err %v, left %v", n, err, w.things)
		}
	}
}

func TestCancelBetweenSteps(t *testing.T) {
	for n := range steps {
		w := newWorld()
		ctx, cancel := context.WithCancel(t.Context())
		hook := func(p Point) error {
			if p.Step == n && p.After {
				cancel()
			}
			return nil
		}
		err := Run(ctx, Options{Hook: hook}, "op", w.steps(steps))
		if last := n == steps-1; last && (err != nil || len(w.things) != steps) {
			t.Errorf("cancelled when done: err %v, things %v", err, w.things)
		} else if !last && (!errors.Is(err, context.Canceled) || len(w.things) != 0) {
			t.Errorf("cancelled after %d: err %v, left %v", n, err, w.things)
		}
	}
}

func TestUndoFailing(t *testing.T) {
	other := errors.New("stuck")
	for name, undo := range map[string]func(context.Context) error{
		"error": func(context.Context) error { return other },
		"panic": func(context.Context) error { panic("stuck") },
	} {
		t.Run(name, func(t *testing.T) {
			w, j := newWorld(), &memJournal{}
			list := w.steps(3)
			list[1].Undo = undo
			list[2].Do = func(context.Context) error { return errBroken }
			err := Run(t.Context(), Options{Journal: j, Entry: Entry{ID: "1"}}, "op", list)
			if !errors.Is(err, errBroken) || !strings.Contains(err.Error(), "undo s1: ") {
				t.Errorf("err %v", err)
			}
			if !strings.HasPrefix(err.Error(), "op: s2: broken\n") {
				t.Errorf("the first error is not first: %v", err)
			}
			if w.things["s0"] || !w.things["s1"] {
				t.Errorf("left %v", w.things)
			}
			if len(j.entries) != 1 {
				t.Error("the journal forgot what was not undone")
			}
		})
	}
}

func TestPartialStepIsUndone(t *testing.T) {
	w := newWorld()
	list := w.steps(2)
	list[1].Partial = true
	list[1].Do = func(context.Context) error { w.things["s1"] = true; return errBroken }
	if err := Run(t.Context(), Options{}, "op", list); !errors.Is(err, errBroken) || len(w.things) != 0 {
		t.Errorf("err %v, left %v", err, w.things)
	}
}

func TestDeadlines(t *testing.T) {
	hang := func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
	for name, c := range map[string]struct {
		opts  Options
		step  Step
		takes time.Duration
	}{
		"default":  {Options{}, Step{}, DefaultStepTimeout},
		"options":  {Options{StepTimeout: 5 * time.Second}, Step{}, 5 * time.Second},
		"step":     {Options{StepTimeout: 5 * time.Second}, Step{Timeout: time.Hour}, time.Hour},
		"undo too": {Options{UndoTimeout: time.Second}, Step{Partial: true, Undo: hang}, DefaultStepTimeout + time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c.step.Name, c.step.Do = "slow", hang
				w, start := newWorld(), time.Now()
				err := Run(t.Context(), c.opts, "op", []Step{w.step("a"), c.step, w.step("b")})
				if !errors.Is(err, ErrStepTimeout) || len(w.things) != 0 {
					t.Errorf("err %v, left %v", err, w.things)
				}
				if took := time.Since(start); took != c.takes {
					t.Errorf("took %v, want %v", took, c.takes)
				}
			})
		})
	}
}

func TestReport(t *testing.T) {
	var progress []float64
	list := []Step{{Name: "copy", Weight: 4, Do: func(ctx context.Context) error {
		for _, part := range []float64{0.5, 0.25, 7, -1} {
			Report(ctx, part)
		}
		return nil
	}}}
	if err := Run(t.Context(), Options{Progress: func(f float64) { progress = append(progress, f) }}, "op", list); err != nil {
		t.Fatal(err)
	}
	if want := []float64{0, .5, 1}; !slices.Equal(progress, want) {
		t.Errorf("progress %v, want %v", progress, want)
	}
	Report(t.Context(), 1)
}

func TestJournalFailing(t *testing.T) {
	w := newWorld()
	err := Run(t.Context(), Options{Journal: &memJournal{failBegin: errBroken}}, "op", w.steps(2))
	if !errors.Is(err, errBroken) || len(w.history) != 0 {
		t.Errorf("begin failed: err %v, history %v", err, w.history)
	}
	j := &memJournal{failEnd: errBroken}
	if err := Run(t.Context(), Options{Journal: j}, "op", w.steps(2)); err != nil || len(w.things) != 2 {
		t.Errorf("end failed: err %v, things %v", err, w.things)
	}
}

func TestResume(t *testing.T) {
	j := &memJournal{entries: []Entry{{"1", "bad", nil}, {"2", "unknown", nil}, {"3", "panics", nil}, {"4", "good", []byte("x")}}}
	var got string
	resolvers := map[string]Resolver{
		"bad":    func(context.Context, Entry) error { return errBroken },
		"panics": func(context.Context, Entry) error { panic("no") },
		"good":   func(_ context.Context, e Entry) error { got = e.ID + string(e.Data); return nil },
	}
	err := Resume(t.Context(), j, resolvers, 0, quiet)
	if !errors.Is(err, errBroken) || !errors.Is(err, ErrNoResolver) || got != "4x" {
		t.Errorf("err %v, got %q", err, got)
	}
	if len(j.entries) != 3 {
		t.Errorf("journal %v", j.entries)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Resume(ctx, j, resolvers, 0, quiet); !errors.Is(err, context.Canceled) || len(j.entries) != 3 {
		t.Errorf("cancelled: err %v, journal %v", err, j.entries)
	}
}
