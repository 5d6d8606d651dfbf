package ops

import (
	"slices"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
)

// Affected lists the objects that a transaction's edits affect, each once, in
// the order in which affected names them.
func Affected[R ~string](tx *db.Tx, edited []db.Key, affected func(tx *db.Tx, key db.Key) []R) []R {
	var out []R
	seen := map[R]bool{}
	for _, key := range edited {
		for _, ref := range affected(tx, key) {
			if !seen[ref] {
				seen[ref] = true
				out = append(out, ref)
			}
		}
	}
	return out
}

// Allow sets allowed_operations, if they differ; an object that is gone by now
// has none.
func Allow[R, O ~string](tx *db.Tx, class string, ref R, allowed []O) {
	c := datamodel.Get().Class(class)
	field := c.FieldByName("allowed_operations").Index
	rec, ok := tx.Row(c, string(ref))
	if !ok || slices.EqualFunc(allowed, *rec.Ptr(field).(*[]string), func(op O, was string) bool { return string(op) == was }) {
		return
	}
	if edit, err := tx.Edit(c, string(ref)); err == nil {
		next := make([]string, len(allowed))
		for i, op := range allowed {
			next[i] = string(op)
		}
		*edit.Ptr(field).(*[]string) = next
	}
}
