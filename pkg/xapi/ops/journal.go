package ops

import (
	"cmp"
	"context"
	"encoding/json"
	"slices"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/saga"
)

// Journal keeps the entries of sagas in the graph. Families share the graph,
// so each has a prefix for the kinds of its own entries.
type Journal struct {
	DB *db.DB
	// Prefix begins the kinds that Unfinished lists, such as "storage.".
	Prefix string
}

var _ saga.Journal = Journal{}

// journaled is an entry as the graph holds it.
type journaled struct {
	Kind string
	Data []byte
	// Gen orders the entries by age.
	Gen uint64
}

// Begin implements saga.Journal.
func (j Journal) Begin(ctx context.Context, e saga.Entry) error {
	data, err := json.Marshal(journaled{e.Kind, e.Data, j.DB.View().Gen()})
	if err != nil {
		return err
	}
	return j.DB.Update(ctx, func(tx *db.Tx) error {
		tx.SetJournal(e.ID, data)
		return nil
	})
}

// End implements saga.Journal. An entry that the saga's last transaction has
// ended already costs nothing.
func (j Journal) End(ctx context.Context, id string) error {
	for open := range j.DB.View().Journal() {
		if open == id {
			return j.DB.Update(ctx, func(tx *db.Tx) error {
				tx.SetJournal(id, nil)
				return nil
			})
		}
	}
	return nil
}

// Unfinished implements saga.Journal for the kinds that have the prefix.
func (j Journal) Unfinished(context.Context) ([]saga.Entry, error) {
	type aged struct {
		saga.Entry
		gen uint64
	}
	var found []aged
	for id, data := range j.DB.View().Journal() {
		var e journaled
		if json.Unmarshal(data, &e) == nil && strings.HasPrefix(e.Kind, j.Prefix) {
			found = append(found, aged{saga.Entry{ID: id, Kind: e.Kind, Data: e.Data}, e.Gen})
		}
	}
	slices.SortFunc(found, func(a, b aged) int { return cmp.Compare(a.gen, b.gen) })
	out := make([]saga.Entry, len(found))
	for i, e := range found {
		out[i] = e.Entry
	}
	return out, nil
}
