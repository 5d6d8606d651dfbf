package ops

import (
	"context"

	"xapid/pkg/db"
)

type commitKey struct{}

// OnCommit gives a context in which whoever makes an object calls fn in the
// very transaction that does: so a saga above can note what it owns without
// a moment in which nobody does. fn may run more than once.
func OnCommit(ctx context.Context, fn func(tx *db.Tx, ref string)) context.Context {
	return context.WithValue(ctx, commitKey{}, fn)
}

// Committing tells whoever asked by OnCommit of the object that a transaction
// makes.
func Committing(ctx context.Context, tx *db.Tx, ref string) {
	if fn, ok := ctx.Value(commitKey{}).(func(tx *db.Tx, ref string)); ok {
		fn(tx, ref)
	}
}
