package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"reflect"
	"sync"
	"sync/atomic"
	"testing"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// flakyLog is a log in memory that fails in every way that a log may: before
// an entry is in it, after, with the entry applied or yet to be, and with
// others' entries coming in between.
type flakyLog struct {
	db *DB

	mu      sync.Mutex
	rng     *rand.Rand
	entries [][]byte
	applied int
	faults  bool
	strange atomic.Int64 // changes by others
}

var errFlaky = errors.New("the log is flaky")

// Append implements Log.
func (l *flakyLog) Append(entry []byte) func() error {
	return func() error { return l.store(entry) }
}

func (l *flakyLog) store(entry []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	fault := l.rng.IntN(40)
	if !l.faults {
		fault = -1
	}
	switch fault {
	case 0:
		return errFlaky
	case 1: // in the log, but not applied before the next Settle
		l.entries = append(l.entries, entry)
		return errFlaky
	case 2: // in the log and applied
		l.entries = append(l.entries, entry)
		return errors.Join(errFlaky, l.apply())
	case 3:
		l.entries = append(l.entries, l.stranger())
	}
	l.entries = append(l.entries, entry)
	return l.apply()
}

func (l *flakyLog) apply() error {
	for ; l.applied < len(l.entries); l.applied++ {
		if err := l.db.Apply(uint64(l.applied+1), l.entries[l.applied]); err != nil {
			return err
		}
	}
	return nil
}

// Settle implements Log.
func (l *flakyLog) Settle(context.Context) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rng.IntN(10) == 0 {
		return errFlaky
	}
	return l.apply()
}

// stranger is an entry of another proposer, which counts on an object of its
// own.
func (l *flakyLog) stranger() []byte {
	rec := xenapi.NewVM()
	rec.Version = l.strange.Add(1)
	class := xenapi.Class(rec)
	change := Change{Op: OpCreate, Class: class, Ref: "OpaqueRef:stranger", Rec: rec, Fields: []int{class.FieldByName("version").Index}}
	return encodeEntry("stranger", []entryTx{{changes: []Change{change}}})
}

// counter is what one writer of TestPipeline did.
type counter struct {
	vm                  xenapi.VMRef
	acked, maybe, tasks int64
}

// count raises the version of the writer's VM again and again, each time from
// what it reads, and now and then changes what needs no log.
func (c *counter) count(t *testing.T, d *DB, until int64) {
	for i := 0; c.acked < until; i++ {
		err := d.Update(t.Context(), func(tx *Tx) error {
			vm, err := Edit(tx, c.vm)
			if err == nil {
				vm.Version++
			}
			return err
		})
		switch {
		case err == nil:
			c.acked++
		case errors.Is(err, errFlaky):
			c.maybe++
		}
		if i%3 == 0 && c.tasks < 1000 {
			if err := d.Update(t.Context(), func(tx *Tx) error { Insert[xenapi.TaskRef](tx, xenapi.NewTask()); return nil }); err != nil {
				t.Errorf("a change that needs no log: %v", err)
			}
			c.tasks++
		}
	}
}

// TestPipeline has 8 writers count over a log that fails in every way. No
// acknowledged change is lost, none counts twice, and a restart from the log
// alone gives the same state.
func TestPipeline(t *testing.T) {
	d := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	log := &flakyLog{db: d, rng: rand.New(rand.NewPCG(1, 2))}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx, log) }()
	counters := make([]counter, 8)
	for i := range counters {
		counters[i].vm = xenapi.VMRef(fmt.Sprint("OpaqueRef:", i))
		if err := d.Update(t.Context(), func(tx *Tx) error { tx.Insert(string(counters[i].vm), xenapi.NewVM()); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	log.mu.Lock()
	log.faults = true
	log.mu.Unlock()
	var wg sync.WaitGroup
	for i := range counters {
		wg.Go(func() { counters[i].count(t, d, 200) })
	}
	wg.Wait()
	for err := errFlaky; err != nil; { // what is in the log and not applied
		err = log.Settle(t.Context())
	}
	cancel()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	var tasks, maybe int64
	for _, c := range counters {
		if v := Find(d.View(), c.vm).Version; v < c.acked || v > c.acked+c.maybe {
			t.Errorf("%d changes were acknowledged and %d may have happened, but %d did", c.acked, c.maybe, v)
		}
		tasks, maybe = tasks+c.tasks, maybe+c.maybe
	}
	if got := d.View().Count(datamodel.Get().Class("task")); int64(got) != tasks {
		t.Errorf("%d tasks, not %d", got, tasks)
	}
	if vm := Find(d.View(), xenapi.VMRef("OpaqueRef:stranger")); vm == nil || vm.Version != log.strange.Load() {
		t.Errorf("the changes of others: %+v of %d", vm, log.strange.Load())
	}
	t.Logf("%d entries, %d changes may have happened, %d by others", len(log.entries), maybe, log.strange.Load())
	sameAfterReplay(t, d, log)
}

// sameAfterReplay applies the whole log to an empty graph and compares.
func sameAfterReplay(t *testing.T, d *DB, log *flakyLog) {
	again := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	for i, entry := range log.entries {
		if err := again.Apply(uint64(i+1), entry); err != nil {
			t.Fatal(err)
		}
	}
	vms := func(d *DB) map[xenapi.VMRef]xenapi.VM {
		out := map[xenapi.VMRef]xenapi.VM{}
		for ref, vm := range All[xenapi.VMRef](d.View()) {
			out[ref] = *vm
		}
		return out
	}
	if was, is := vms(d), vms(again); !reflect.DeepEqual(was, is) {
		t.Errorf("after a replay: %v, before: %v", is, was)
	}
	if was, is := d.View().Index(), again.View().Index(); was != is {
		t.Errorf("after a replay the index is %d, before %d", is, was)
	}
}

// TestErrorsWaitForWhatTheySaw: an Update that fails because of a change that
// is not in the log yet is not answered before that is.
func TestErrorsWaitForWhatTheySaw(t *testing.T) {
	d := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	vm := xenapi.NewVM()
	class := xenapi.Class(vm)
	create := Change{Op: OpCreate, Class: class, Ref: "OpaqueRef:vm", Rec: vm}
	if err := d.Apply(1, encodeEntry("first", []entryTx{{changes: []Change{create}}})); err != nil {
		t.Fatal(err)
	}
	log := &gate{appended: make(chan struct{}), answer: make(chan error)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx, log) }()
	deleted, renamed := make(chan error, 1), make(chan error, 1)
	go func() {
		deleted <- d.Update(t.Context(), func(tx *Tx) error { tx.Delete(class, "OpaqueRef:vm"); return nil })
	}()
	<-log.appended
	seen := make(chan struct{}, 10)
	go func() {
		renamed <- d.Update(t.Context(), func(tx *Tx) error {
			seen <- struct{}{}
			_, err := tx.Edit(class, "OpaqueRef:vm")
			return err
		})
	}()
	<-seen
	select {
	case err := <-renamed:
		t.Errorf("answered before the deletion: %v", err)
	default:
	}
	log.answer <- errFlaky
	if err := <-deleted; err == nil {
		t.Error("the deletion was acknowledged")
	}
	if err := <-renamed; err != nil {
		t.Errorf("the object is there after all, but: %v", err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// gate is a log that answers when it is told to.
type gate struct {
	appended chan struct{}
	answer   chan error
}

// Append implements Log.
func (g *gate) Append([]byte) func() error {
	return func() error {
		g.appended <- struct{}{}
		return <-g.answer
	}
}

// Settle implements Log.
func (g *gate) Settle(context.Context) error { return nil }

// TestRefusedValues: what neither the log nor SQLite could give back is
// refused.
func TestRefusedValues(t *testing.T) {
	d := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	nan := 0.0
	nan /= nan
	for name, rec := range map[string]xenapi.Record{
		"a number that is none":        &xenapi.VM{HVMShadowMultiplier: nan},
		"a number that is none in map": &xenapi.VMMetrics{VCPUsUtilisation: map[int64]float64{0: nan}},
	} {
		err := d.Update(t.Context(), func(tx *Tx) error { tx.Insert("OpaqueRef:x", rec); return nil })
		if xenapi.Code(err) != "INVALID_VALUE" {
			t.Errorf("%s: %v", name, err)
		}
	}
	long := fmt.Sprintf("%2000000d", 1)
	err := d.Update(t.Context(), func(tx *Tx) error {
		for i := range 10 {
			vm := xenapi.NewVM()
			vm.NameDescription = long
			tx.Insert(fmt.Sprint("OpaqueRef:", i), vm)
		}
		return nil
	})
	if xenapi.Code(err) != "INVALID_VALUE" {
		t.Errorf("20 MB at once: %v", err)
	}
}

// TestUnreadableEntry: an entry that can't be read is an error, and the
// changes below it stay as they were.
func TestUnreadableEntry(t *testing.T) {
	d := openBare(t, filepath.Join(t.TempDir(), "state.db"))
	newer := encodeEntry("batch", []entryTx{sample()})
	newer[0] = entryVersion + 1
	if err := d.Apply(1, newer); !errors.Is(err, errEntry) || d.View().Index() != 0 {
		t.Errorf("an entry of a later version: %v, index %d", err, d.View().Index())
	}
}
