package sim

import "sync"

// moment is when in an operation a fault strikes.
type moment int

const (
	before moment = iota
	after
)

// faults are errors to come. The zero value has none.
type faults struct {
	mu    sync.Mutex
	plan  []fault
	calls map[string]int
}

type fault struct {
	op   string
	when moment
	left int // calls until it strikes
	err  error
}

// Fail makes the n-th call of op from now on (1 is the next) fail with err before it does anything. The
// operations are named as in xenctl.OpError: "create", "destroy", "pause", "unpause", "save", "restore",
// "request shutdown", "lookup", "list", "host", "set memory", "set vcpus", "set scheduling", "attach disk",
// "detach disk", "attach nic", "detach nic", "insert media", "open console", "stats", "guest info",
// "write xenstore"; "*" is any of them.
func (h *Hypervisor) Fail(op string, n int, err error) { h.faults.add(fault{op, before, n, err}) }

// FailAfter is Fail for a call that takes effect all the same: its answer was lost.
func (h *Hypervisor) FailAfter(op string, n int, err error) { h.faults.add(fault{op, after, n, err}) }

// Calls counts the calls of op so far, the failed ones included.
func (h *Hypervisor) Calls(op string) int {
	h.faults.mu.Lock()
	defer h.faults.mu.Unlock()
	return h.faults.calls[op]
}

func (f *faults) add(x fault) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.plan = append(f.plan, x)
}

// due counts a call and returns the error that strikes it now.
func (f *faults) due(op string, when moment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if when == before {
		if f.calls == nil {
			f.calls = make(map[string]int)
		}
		f.calls[op]++
	}
	var err error
	kept := f.plan[:0]
	for _, x := range f.plan {
		if x.when == when && (x.op == op || x.op == "*") {
			if x.left--; x.left <= 0 && err == nil {
				err = x.err
				continue
			}
		}
		kept = append(kept, x)
	}
	f.plan = kept
	return err
}
