// Package saga runs operations of several steps that must happen wholly or not at all, on things that know no
// common transaction: a disk, a link, a domain. An operation is a list of steps, each with its undo.
//
// The invariant: when Run returns, either every step is done, or every step that was done has been undone, or the
// error says what could not be; and after a crash, Resume hands whoever can clean up what was recorded before the
// first step.
//
// Start with Step and Run; journal.go is about crashes.
package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"
)

// Deadlines that hold where neither the step nor the options say otherwise.
const (
	DefaultStepTimeout = 2 * time.Minute
	DefaultUndoTimeout = time.Minute
)

var (
	// ErrStepTimeout is in the error of a step that failed after its deadline.
	ErrStepTimeout = errors.New("step took too long")
	// ErrCrash is what a hook returns to play a crash: Run stops where it is, undoes nothing and leaves the
	// journal as it is.
	ErrCrash = errors.New("simulated crash")
)

// Step is one step of a saga. Do and Undo run in the caller's goroutine, one at a time; they must return soon after
// their context ends.
type Step struct {
	Name string
	// Do does the step. When it fails it leaves nothing behind, unless Partial is set.
	Do func(ctx context.Context) error
	// Undo takes back what Do did; nil means that there is nothing to take back. It must bear being called for
	// what is gone already.
	Undo func(ctx context.Context) error
	// Partial says that a Do that fails may have done its work, or half of it, so that Undo runs for it too.
	Partial bool
	// Timeout bounds Do; 0 means Options.StepTimeout.
	Timeout time.Duration
	// Weight is the step's share of the progress; 0 counts as 1.
	Weight int
}

// Options shape a run. The zero value is usable.
type Options struct {
	StepTimeout time.Duration // for each Do; 0 means DefaultStepTimeout
	UndoTimeout time.Duration // for each Undo; 0 means DefaultUndoTimeout
	// Progress is called with the part done, from 0 to 1, never falling.
	Progress func(done float64)
	// Journal, if set, holds Entry from before the first step until the saga is done or wholly undone.
	Journal Journal
	Entry   Entry
	Log     *slog.Logger // nil means none
	// Hook, for tests, is called at every point of the run. ErrCrash plays a crash there; another error fails the
	// step there.
	Hook func(Point) error
}

// Point is a moment of a run at which a test can interfere. Before step 0 the journal has its entry; after the last
// step, it still has.
type Point struct {
	Step  int
	Name  string
	After bool // the step's Do has succeeded
	Undo  bool // the saga is being undone, so that this is about the step's Undo
}

// Run does the steps in order. If one fails or panics, or ctx ends before the last one is done, it undoes the
// finished ones in reverse under contexts that ctx no longer cancels, and returns the first error joined with
// those of undoing. If ctx was cancelled, the error is its cause as well as what the step said. Once the last step
// is done the saga has succeeded, whatever ctx says.
func Run(ctx context.Context, opts Options, name string, steps []Step) error {
	r := &run{Options: opts, name: name, steps: steps, shown: -1}
	if r.Log == nil {
		r.Log = slog.New(slog.DiscardHandler)
	}
	if r.Journal != nil {
		if err := r.Journal.Begin(ctx, r.Entry); err != nil {
			return fmt.Errorf("%s: journal: %w", name, err)
		}
	}
	err := r.forward(ctx)
	if errors.Is(err, ErrCrash) {
		return err
	}
	if err != nil {
		undo := r.back(ctx)
		if errors.Is(undo, ErrCrash) {
			return undo
		}
		err = errors.Join(err, undo)
		if undo != nil {
			// The entry stays: Resume tries again what could not be undone now.
			r.Log.ErrorContext(ctx, "saga not undone", "saga", name, "err", err)
			return err
		}
	}
	r.end(ctx)
	return err
}

// run is the state of one Run.
type run struct {
	Options
	name     string
	steps    []Step
	reached  int     // steps whose Undo is due when the saga fails now
	finished int     // weight of the finished steps
	shown    float64 // the progress last reported
}

func (r *run) forward(ctx context.Context) error {
	r.show(0)
	for i, s := range r.steps {
		if ctx.Err() != nil {
			return fmt.Errorf("%s: before %s: %w", r.name, s.Name, context.Cause(ctx))
		}
		if err := r.do(ctx, i, s); err != nil {
			return fmt.Errorf("%s: %s: %w", r.name, s.Name, err)
		}
		r.finished += s.weight()
		r.show(0)
	}
	return nil
}

func (r *run) do(ctx context.Context, i int, s Step) error {
	if err := r.hook(Point{Step: i, Name: s.Name}); err != nil {
		return err
	}
	if s.Partial {
		r.reached = i + 1
	}
	timeout := firstPositive(s.Timeout, r.StepTimeout, DefaultStepTimeout)
	stepCtx, cancel := context.WithTimeoutCause(ctx, timeout, ErrStepTimeout)
	defer cancel()
	reportCtx := context.WithValue(stepCtx, reporterKey{}, func(part float64) {
		r.show(part * float64(s.weight()))
	})
	if err := guard(reportCtx, s.Do); err != nil {
		return withCause(stepCtx, err)
	}
	r.reached = i + 1
	return r.hook(Point{Step: i, Name: s.Name, After: true})
}

// back undoes what was reached, last first. An undo that fails does not keep the others from running.
func (r *run) back(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	timeout := firstPositive(r.UndoTimeout, DefaultUndoTimeout)
	var errs []error
	for i := r.reached - 1; i >= 0; i-- {
		s := r.steps[i]
		err := r.hook(Point{Step: i, Name: s.Name, Undo: true})
		if errors.Is(err, ErrCrash) {
			return err
		}
		if err == nil && s.Undo != nil {
			err = undo(ctx, timeout, s)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: undo %s: %w", r.name, s.Name, err))
		}
	}
	return errors.Join(errs...)
}

func undo(ctx context.Context, timeout time.Duration, s Step) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, ErrStepTimeout)
	defer cancel()
	if err := guard(ctx, s.Undo); err != nil {
		return withCause(ctx, err)
	}
	return nil
}

// end takes the entry out of the journal. If that fails the saga has ended all the same: the resolver finds at the
// next start that nothing is left to do.
func (r *run) end(ctx context.Context) {
	if r.Journal == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), DefaultUndoTimeout)
	defer cancel()
	if err := r.Journal.End(ctx, r.Entry.ID); err != nil {
		r.Log.WarnContext(ctx, "journal entry not ended", "saga", r.name, "id", r.Entry.ID, "err", err)
	}
}

func (r *run) hook(p Point) error {
	if r.Hook == nil {
		return nil
	}
	return r.Hook(p)
}

// show reports progress: the finished steps and extra, in weights.
func (r *run) show(extra float64) {
	if r.Progress == nil {
		return
	}
	total := 0
	for _, s := range r.steps {
		total += s.weight()
	}
	done := 1.0
	if total > 0 {
		done = (float64(r.finished) + extra) / float64(total)
	}
	if done > r.shown {
		r.shown = done
		r.Progress(done)
	}
}

func (s Step) weight() int { return max(s.Weight, 1) }

type reporterKey struct{}

// Report tells, from within a Do, which part of the step is done, from 0 to 1. It must be called from the
// goroutine that runs Do; outside a saga it does nothing.
func Report(ctx context.Context, part float64) {
	if f, ok := ctx.Value(reporterKey{}).(func(float64)); ok {
		f(min(max(part, 0), 1))
	}
}

// PanicError is a panic in a step, as an error.
type PanicError struct {
	Value any
	Stack []byte
}

// Error gives the value alone; the stack is for the log.
func (e *PanicError) Error() string { return fmt.Sprintf("panic: %v", e.Value) }

// guard calls f and turns a panic into an error.
func guard(ctx context.Context, f func(context.Context) error) (err error) {
	defer func() {
		if v := recover(); v != nil {
			err = &PanicError{Value: v, Stack: debug.Stack()}
		}
	}()
	return f(ctx)
}

// withCause adds to a step's error why its context ended, if it did and the error does not say so.
func withCause(ctx context.Context, err error) error {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

func firstPositive(ds ...time.Duration) time.Duration {
	for _, d := range ds {
		if d > 0 {
			return d
		}
	}
	return 0
}
