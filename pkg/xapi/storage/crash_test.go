package storage_test

import (
	"errors"
	"testing"

	"xapid/pkg/saga"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// operation is something that takes several steps, on a host that prepare has
// made ready.
type operation struct {
	name    string
	prepare func(b *bench) (run func() error)
}

func operations() []operation { return append(volumeOperations(), deviceOperations()...) }

// volumeOperations make, change and remove volumes.
func volumeOperations() []operation {
	return []operation{
		{"VDI.create", func(b *bench) func() error {
			return func() error { _, err := b.createVDI(nil); return err }
		}},
		{"VDI.destroy", func(b *bench) func() error {
			disk := b.disk(nil)
			return func() error { return b.destroyVDI(disk) }
		}},
		{"VDI.clone", func(b *bench) func() error {
			disk := b.disk(nil)
			return func() error {
				_, err := b.calls.VDI.Clone(b.Context(), xapitest.Call(), service.VDICloneParams{VDI: disk})
				return err
			}
		}},
		{"VDI.copy of differences", func(b *bench) func() error {
			disk, base := b.disk(nil), b.disk(nil)
			return func() error {
				_, err := b.calls.VDI.Copy(b.Context(), xapitest.Call(), service.VDICopyParams{VDI: disk, SR: b.local(), BaseVDI: base, IntoVDI: xenapi.Null})
				return err
			}
		}},
		{"VDI.resize", func(b *bench) func() error {
			disk := b.disk(nil)
			return func() error {
				return b.calls.VDI.Resize(b.Context(), xapitest.Call(), service.VDIResizeParams{VDI: disk, Size: 32 * mib})
			}
		}},
	}
}

// deviceOperations attach and detach what is there, and make and remove SRs.
func deviceOperations() []operation {
	return []operation{
		{"VBD.plug", func(b *bench) func() error {
			drive := b.drive(b.vm(xenapi.VMPowerStateRunning, nil), b.disk(nil), xenapi.VBDModeRW)
			return func() error { return b.plug(drive) }
		}},
		{"VBD.unplug", func(b *bench) func() error {
			drive := b.drive(b.vm(xenapi.VMPowerStateRunning, nil), b.disk(nil), xenapi.VBDModeRW)
			b.ok(b.plug(drive))
			return func() error { return b.unplug(drive) }
		}},
		{"VBD.insert", func(b *bench) func() error {
			cd := b.cd(b.vm(xenapi.VMPowerStateRunning, nil))
			b.ok(b.plug(cd))
			return func() error {
				return b.calls.VBD.Insert(b.Context(), xapitest.Call(), service.VBDInsertParams{VBD: cd, VDI: b.toolsISO()})
			}
		}},
		{"VBD.eject", func(b *bench) func() error {
			cd := b.fullCD(b.vm(xenapi.VMPowerStateRunning, nil))
			b.ok(b.plug(cd))
			return func() error {
				return b.calls.VBD.Eject(b.Context(), xapitest.Call(), service.VBDEjectParams{VBD: cd})
			}
		}},
		{"SR.create", func(b *bench) func() error {
			return func() error { _, err := b.createSR(nil); return err }
		}},
		{"SR.destroy", func(b *bench) func() error {
			ref, err := b.createSR(nil)
			b.ok(err)
			b.ok(b.unplugPBD(b.pbdOf(ref)))
			return func() error {
				return b.calls.SR.Destroy(b.Context(), xapitest.Call(), service.SRDestroyParams{SR: ref})
			}
		}},
		{"PBD.unplug", func(b *bench) func() error {
			pbd := b.pbdOf(b.local())
			return func() error { return b.unplugPBD(pbd) }
		}},
	}
}

// at makes the n-th point of a saga fail with err; hit tells whether there was
// one.
func (b *bench) at(n int, err error) (hit *bool) {
	hit = new(bool)
	points := 0
	b.hook = func(p saga.Point) error {
		if p.Undo {
			return nil
		}
		points++
		if points == n {
			*hit = true
			return err
		}
		return nil
	}
	return hit
}

// eachPoint runs every operation with each point of its saga hit by cause, a
// host for each, and check afterwards.
func eachPoint(t *testing.T, cause error, check func(b *bench, op string)) {
	for _, op := range operations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				b := open(t)
				run := op.prepare(b)
				hit := b.at(n, cause)
				err := run()
				b.hook = nil
				if !*hit {
					b.ok(err)
					b.agrees()
					return
				}
				if !errors.Is(err, cause) {
					t.Errorf("point %d: %v", n, err)
				}
				check(b, op.name)
				if t.Failed() {
					t.Fatalf("at point %d", n)
				}
			}
		})
	}
}

// TestFailureAtEveryStep lets each step of each operation fail, before and
// after its work: all is as it was. What can't be taken back is finished at
// the next start.
func TestFailureAtEveryStep(t *testing.T) {
	eachPoint(t, errors.New("broken"), func(b *bench, op string) {
		if op == "VDI.destroy" || op == "VDI.resize" || op == "SR.destroy" {
			b.restart()
		}
		b.agrees()
	})
}

// TestCrashAtEveryStep ends the process at each point of each operation: after
// the next start there is the state before or the one after.
func TestCrashAtEveryStep(t *testing.T) {
	eachPoint(t, saga.ErrCrash, func(b *bench, _ string) {
		b.restart()
		b.agrees()
	})
}

// TestStorageFailsAtEveryCall lets each system call on an SR fail: what was to
// be made isn't there, and what was to go can still go.
func TestStorageFailsAtEveryCall(t *testing.T) {
	for _, op := range volumeOperations() {
		t.Run(op.name, func(t *testing.T) {
			t.Parallel()
			for n := 1; ; n++ {
				b := open(t)
				run := op.prepare(b)
				calls, hit := 0, false
				b.faults.set(func(string, string) bool {
					calls++
					hit = hit || calls == n
					return calls == n
				})
				err := run()
				b.faults.set(nil)
				if hit && err != nil && xenapi.Code(err)[:3] != "SR_" {
					t.Errorf("call %d: %v", n, err)
				}
				if err != nil && (op.name == "VDI.destroy" || op.name == "VDI.resize") {
					b.ok(run())
				}
				b.agrees()
				if !hit {
					b.ok(err)
					return
				}
			}
		})
	}
}
