package saga

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Entry is what a saga leaves in the journal before its first step: enough to put right what a crash at any point
// leaves behind.
type Entry struct {
	ID   string // unique among the unfinished
	Kind string // names the Resolver
	Data []byte // the Resolver's own encoding
}

// Journal remembers entries across a crash. A saga writes to it twice: Begin and End. It is safe for concurrent use.
type Journal interface {
	// Begin records an entry. It is on stable storage when Begin returns without error; when Begin fails, no step
	// is done.
	Begin(ctx context.Context, e Entry) error
	// End forgets an entry. Ending what is not there is no error. It need not be on stable storage when End
	// returns, since resolving an ended saga once more does no harm.
	End(ctx context.Context, id string) error
	// Unfinished lists the entries that were begun and not ended, oldest first.
	Unfinished(ctx context.Context) ([]Entry, error)
}

// Resolver puts right what a saga left when it was cut. The saga may have got anywhere: it may not have begun its
// first step, may be half undone, and may have finished wholly, so that a resolver looks at what is there before it
// removes anything. It must bear being called again for the same entry.
type Resolver func(ctx context.Context, e Entry) error

// Resume resolves what the last process left unfinished, oldest first, each within timeout (0 means
// DefaultStepTimeout). It is called once at start, before any saga of these kinds runs. An entry that cannot be
// resolved, or whose kind nobody knows, stays in the journal and is in the error; the others are resolved all the
// same. If ctx ends, the rest stays.
func Resume(ctx context.Context, j Journal, resolvers map[string]Resolver, timeout time.Duration, log *slog.Logger) error {
	entries, err := j.Unfinished(ctx)
	if err != nil {
		return fmt.Errorf("resume: %w", err)
	}
	var errs []error
	for _, e := range entries {
		if ctx.Err() != nil {
			errs = append(errs, context.Cause(ctx))
			break
		}
		if err := resolve(ctx, j, resolvers[e.Kind], timeout, e); err != nil {
			errs = append(errs, fmt.Errorf("resume %s %s: %w", e.Kind, e.ID, err))
			continue
		}
		log.InfoContext(ctx, "unfinished operation resolved", "kind", e.Kind, "id", e.ID)
	}
	return errors.Join(errs...)
}

// ErrNoResolver says that the journal has an entry of a kind that nobody knows.
var ErrNoResolver = errors.New("no resolver of that kind")

func resolve(ctx context.Context, j Journal, f Resolver, timeout time.Duration, e Entry) error {
	if f == nil {
		return ErrNoResolver
	}
	ctx, cancel := context.WithTimeoutCause(ctx, firstPositive(timeout, DefaultStepTimeout), ErrStepTimeout)
	defer cancel()
	err := guard(ctx, func(ctx context.Context) error { return f(ctx, e) })
	if err != nil {
		return withCause(ctx, err)
	}
	return j.End(ctx, e.ID)
}
