package xenctl

import (
	"context"
	"sync"
)

// Await runs f, which can't be cancelled (a system call on storage that may have stalled, say), and stops
// waiting for it when ctx ends. Then f goes on by itself; owner counts it, so that a Close can wait.
func Await(ctx context.Context, owner *sync.WaitGroup, f func() error) error {
	result := make(chan error, 1)
	owner.Go(func() { result <- f() })
	select {
	case err := <-result:
		return err
	case <-ctx.Done():
		return ContextError(ctx)
	}
}
