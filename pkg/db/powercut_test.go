package db_test

import (
	"testing"

	"xapid/internal/faultfs"
)

// TestPowerCut kills a process under 16 writers and then takes back, at random,
// what it had not synced of its whole state directory.
func TestPowerCut(t *testing.T) {
	if missing := faultfs.Missing(); missing != "" {
		t.Skip("needs ", missing)
	}
	fs := faultfs.New(t.TempDir())
	defer fs.Close()
	c := newCrash(t, t.TempDir())
	var lost faultfs.Loss
	for counted := 0; counted < *cuts && !t.Failed(); {
		if err := fs.Mount(c.dir); err != nil {
			t.Fatal(err)
		}
		if c.rng.IntN(8) == 0 {
			c.loseSQLite()
		}
		// Now and then a process is only killed, and the next one loses what
		// both had not synced.
		for range 1 + c.rng.IntN(3)/2 {
			if c.round(c.life()) {
				counted++
			}
		}
		if err := fs.Unmount(); err != nil {
			t.Fatal(err)
		}
		loss, err := fs.Cut(c.rng.Uint64())
		if err != nil {
			t.Fatal(err)
		}
		lost.Names, lost.Writes, lost.Taken = lost.Names+loss.Names, lost.Writes+loss.Writes, lost.Taken+loss.Taken
		if c.void > 10+*cuts {
			t.Fatalf("%d rounds with less than %d acknowledged changes a second", c.void, leastRate)
		}
	}
	t.Logf("%d cuts; unsynced at them: %+v; %d void rounds; %d changes", *cuts, lost, c.void, c.sum())
}
