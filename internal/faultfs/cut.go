package faultfs

import (
	"maps"
	"math/rand/v2"
)

// Loss is what a power cut found unsynced.
type Loss struct {
	// Names and Writes count what a cut could take back, Taken what of the
	// names it took.
	Names, Writes, Taken int
}

// Cut plays a power cut with the chances of seed: of everything that was not
// synced it keeps all, nothing, or any part in any order. The file system must
// not be mounted.
func (f *FS) Cut(seed uint64) (Loss, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	rng := rand.New(rand.NewPCG(seed, seed))
	keep := []float64{0, 1, rng.Float64()}[rng.IntN(3)]
	ordered := rng.IntN(2) == 0 // as a journal keeps names: up to some point
	loss := Loss{Names: len(f.pending)}
	point := rng.IntN(len(f.pending) + 1)
	for i, c := range f.pending {
		kept := rng.Float64() < keep
		if ordered {
			kept = i < point
		}
		if kept {
			c.keep()
		} else {
			loss.Taken++
		}
	}
	f.pending = nil
	f.root.forget()
	for _, n := range f.files {
		loss.Writes += len(n.pending)
		if err := n.cut(rng, keep); err != nil {
			return loss, err
		}
	}
	return loss, nil
}

// forget makes the names what is durable, all the way down.
func (d *dir) forget() {
	d.live = maps.Clone(d.durable)
	for _, e := range d.live {
		if e.dir != nil {
			e.dir.forget()
		}
	}
}
