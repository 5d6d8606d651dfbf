package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/xenapi"
)

// cut is what is under way when the plug is pulled.
type cut struct {
	name string
	from xenapi.VMPowerState // where the VM is before
	// call is what is cut; a pull comes at a random moment within its first seconds.
	call   func(ctx context.Context, w *world, p *pulled) error
	within time.Duration
	// left are the states that are true after the pull: when the call had been answered, and when it had not.
	answered, unanswered []xenapi.VMPowerState
}

var cuts = []cut{
	{name: "at rest", from: xenapi.VMPowerStateRunning, within: 2 * time.Second, answered: off, unanswered: off},
	{name: "in VM.start", from: xenapi.VMPowerStateHalted, within: 4 * time.Second, answered: off, unanswered: off,
		call: func(ctx context.Context, w *world, p *pulled) error { return w.VM().Start(ctx, p.vm.ref, false, false) }},
	{name: "in VM.suspend", from: xenapi.VMPowerStateRunning, within: 6 * time.Second, answered: asleep, unanswered: offOrAsleep,
		call: func(ctx context.Context, w *world, p *pulled) error { return w.VM().Suspend(ctx, p.vm.ref) }},
	{name: "in VDI.create", from: xenapi.VMPowerStateHalted, within: 2 * time.Second, answered: off, unanswered: off, call: manyDisks},
	{name: "in VM.resume", from: xenapi.VMPowerStateSuspended, within: 6 * time.Second, answered: off, unanswered: offOrAsleep,
		call: func(ctx context.Context, w *world, p *pulled) error {
			return w.VM().Resume(ctx, p.vm.ref, false, false)
		}},
	{name: "in VM.clean_shutdown", from: xenapi.VMPowerStateRunning, within: 4 * time.Second, answered: off, unanswered: off,
		call: func(ctx context.Context, w *world, p *pulled) error { return w.VM().CleanShutdown(ctx, p.vm.ref) }},
}

var (
	off         = []xenapi.VMPowerState{xenapi.VMPowerStateHalted}
	asleep      = []xenapi.VMPowerState{xenapi.VMPowerStateSuspended}
	offOrAsleep = []xenapi.VMPowerState{xenapi.VMPowerStateHalted, xenapi.VMPowerStateSuspended}
)

// pulled is what was acknowledged before the plug was pulled.
type pulled struct {
	vm *guest
	// counted is the last number that VM.set_name_description acknowledged.
	counted int
	// made and destroyed are the disks of which that was acknowledged, by uuid.
	made, destroyed []string
	// answered says that the call of the cut was.
	answered bool
}

// powerPulls pulls the plug again and again, at random moments of what the cuts do in turn.
func powerPulls(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	var boots []time.Duration
	unanswered := 0
	for n := range w.pulls {
		c := &cuts[n%len(cuts)]
		began := time.Now()
		p, boot, err := w.pull(ctx, c, g)
		if err != nil {
			return "", fmt.Errorf("pull %d %s: %w", n+1, c.name, err)
		}
		if c.call != nil && !p.answered {
			unanswered++
		}
		boots = append(boots, boot)
		fmt.Printf("     %6.1f s  pull %d of %d %s: %d changes acknowledged and there, API after %.1f s\n",
			time.Since(began).Seconds(), n+1, w.pulls, c.name, p.counted+len(p.made)+len(p.destroyed), boot.Seconds())
	}
	slices.Sort(boots)
	return fmt.Sprintf("%d pulls, %d of them in the middle of a call; the API was back after %.1f s (median)",
		w.pulls, unanswered, boots[len(boots)/2].Seconds()), nil
}

// pull pulls the plug once, boots again and looks at everything.
func (w *world) pull(ctx context.Context, c *cut, g *guest) (p *pulled, boot time.Duration, err error) {
	if err := w.bring(ctx, g, c.from); err != nil {
		return nil, 0, fmt.Errorf("before: %w", err)
	}
	if p, err = w.unplugged(ctx, c, g); err != nil {
		return nil, 0, err
	}
	if boot, err = w.boot(ctx); err != nil {
		return nil, 0, err
	}
	if err := w.survived(ctx, c, p); err != nil {
		return nil, 0, err
	}
	if err := w.dropDisks(ctx); err != nil {
		return nil, 0, err
	}
	return p, boot, w.bring(ctx, g, xenapi.VMPowerStateRunning)
}

// bring brings a VM to a state, and its guest up when that is Running.
func (w *world) bring(ctx context.Context, g *guest, want xenapi.VMPowerState) error {
	state, err := w.VM().GetPowerState(ctx, g.ref)
	if err != nil {
		return err
	}
	if state == xenapi.VMPowerStateSuspended && want != state {
		if err := w.VM().Resume(ctx, g.ref, false, false); err != nil {
			return fmt.Errorf("VM.resume: %w", err)
		}
		if err := w.tell(ctx, g, "true"); err != nil {
			return fmt.Errorf("a resumed guest: %w", err)
		}
		state = xenapi.VMPowerStateRunning
	}
	switch {
	case state == want:
		return nil
	case want == xenapi.VMPowerStateHalted:
		return w.VM().HardShutdown(ctx, g.ref)
	}
	if _, err := w.running(ctx, xenapi.DomainTypePV); err != nil || want == xenapi.VMPowerStateRunning {
		return err
	}
	return w.VM().Suspend(ctx, g.ref)
}

// unplugged makes the call of a cut while a client counts, and pulls the plug under both.
func (w *world) unplugged(ctx context.Context, c *cut, g *guest) (*pulled, error) {
	if len(w.machine) == 0 {
		return nil, errors.New("the suite was started without -machine")
	}
	p := &pulled{vm: g}
	counted, called := make(chan int), make(chan bool, 1)
	calling, stop := context.WithCancel(ctx)
	defer stop()
	go func() { counted <- w.count(calling, g) }()
	if c.call != nil {
		go func() { called <- c.call(calling, w, p) == nil }()
	}
	moment := time.NewTimer(rand.N(c.within))
	defer moment.Stop()
	select {
	case <-moment.C:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if err := w.over(ctx, "pull"); err != nil {
		return nil, err
	}
	stop() // what the network has not broken
	p.counted = <-counted
	if c.call != nil {
		p.answered = <-called
	}
	return p, nil
}

// count writes numbers into a VM's description until it is cut, and returns the last that was acknowledged.
func (w *world) count(ctx context.Context, g *guest) int {
	for n := 1; ; n++ {
		if err := w.VM().SetNameDescription(ctx, g.ref, strconv.Itoa(n)); err != nil {
			return n - 1
		}
	}
}

// pullDisk begins the names of the disks of manyDisks.
const pullDisk = "pull-"

// manyDisks makes disks, and destroys every second, until it is cut.
func manyDisks(ctx context.Context, w *world, p *pulled) error {
	for n := 0; ; n++ {
		ref, err := w.rawDisk(ctx, fmt.Sprintf("%s%d disk", pullDisk, n), diskBytes)
		if err != nil {
			return err
		}
		uuid, err := w.VDI().GetUUID(ctx, ref)
		if err != nil {
			return err // it is there, and nobody has been told its name
		}
		if n%2 == 0 {
			p.made = append(p.made, uuid)
			continue
		}
		if err := w.VDI().Destroy(ctx, ref); err != nil {
			return err
		}
		p.destroyed = append(p.destroyed, uuid)
	}
}

// survived waits until the daemon has put right what the pull has cut, and compares.
func (w *world) survived(ctx context.Context, c *cut, p *pulled) error {
	return eventually(ctx, "everything is right after the pull", time.Minute, func() (bool, error) {
		for _, look := range []func(context.Context, *cut, *pulled) error{w.acknowledged, w.powerIsTrue, w.nothingUnderWay, w.disksAreTrue} {
			if err := look(ctx, c, p); err != nil {
				return false, err
			}
		}
		return true, nil
	})
}

// acknowledged compares what was acknowledged with what is there.
func (w *world) acknowledged(ctx context.Context, _ *cut, p *pulled) error {
	text, err := w.VM().GetNameDescription(ctx, p.vm.ref)
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(text)
	if p.counted > 0 && (err != nil || n < p.counted || n > p.counted+1) {
		return fmt.Errorf("%d was acknowledged, %q is there", p.counted, text)
	}
	for _, uuid := range p.made {
		if _, err := w.VDI().GetByUUID(ctx, uuid); err != nil {
			return fmt.Errorf("a disk that was made: %w", err)
		}
	}
	for _, uuid := range p.destroyed {
		if _, err := w.VDI().GetByUUID(ctx, uuid); xenapi.Code(err) != "UUID_INVALID" {
			return fmt.Errorf("a disk that was destroyed is there: %s: %w", uuid, err)
		}
	}
	return nil
}

// powerIsTrue compares power states and devices with the machine, which has just booted: no guest runs.
func (w *world) powerIsTrue(ctx context.Context, c *cut, p *pulled) error {
	vms, err := all[*xenapi.VM](w.VM().GetAllRecords(ctx))
	if err != nil {
		return err
	}
	for ref, vm := range vms {
		if vm.IsATemplate || vm.IsControlDomain {
			continue
		}
		may := offOrAsleep
		if ref == string(p.vm.ref) {
			if may = c.unanswered; p.answered {
				may = c.answered
			}
		}
		if !slices.Contains(may, vm.PowerState) {
			return fmt.Errorf("%s is %s", vm.NameLabel, vm.PowerState)
		}
	}
	vbds, err := all[*xenapi.VBD](w.VBD().GetAllRecords(ctx))
	if err != nil {
		return err
	}
	for _, vbd := range vbds {
		if vm := vms[string(vbd.VM)]; vbd.CurrentlyAttached && vm.PowerState == xenapi.VMPowerStateHalted {
			return fmt.Errorf("a disk of %s, which is Halted, is attached", vm.NameLabel)
		}
	}
	_, err = w.dom0.Run(ctx, "[ $(xl list | wc -l) = 2 ]")
	return err
}

// nothingUnderWay looks for operations that nobody is at.
func (w *world) nothingUnderWay(ctx context.Context, _ *cut, _ *pulled) error {
	busy := func(class, name string, ops map[string]string) error {
		if len(ops) > 0 {
			return fmt.Errorf("%s %s has the operations %v", class, name, ops)
		}
		return nil
	}
	vms, err := all[*xenapi.VM](w.VM().GetAllRecords(ctx))
	for _, r := range vms {
		err = errors.Join(err, busy("VM", r.NameLabel, r.CurrentOperations))
	}
	vbds, e := all[*xenapi.VBD](w.VBD().GetAllRecords(ctx))
	err = errors.Join(err, e)
	for _, r := range vbds {
		err = errors.Join(err, busy("VBD", r.UUID, r.CurrentOperations))
	}
	vdis, e := all[*xenapi.VDI](w.VDI().GetAllRecords(ctx))
	err = errors.Join(err, e)
	for _, r := range vdis {
		err = errors.Join(err, busy("VDI", r.NameLabel, r.CurrentOperations))
	}
	srs, e := all[*xenapi.SR](w.SR().GetAllRecords(ctx))
	err = errors.Join(err, e)
	for _, r := range srs {
		err = errors.Join(err, busy("SR", r.NameLabel, r.CurrentOperations))
	}
	return err
}

// disksAreTrue compares the disks' records with the files, each way.
func (w *world) disksAreTrue(ctx context.Context, _ *cut, p *pulled) error {
	out, err := w.dom0.Run(ctx, `find /var/lib/xapid/sr -type f \( -name '*.raw' -o -name '*.vhd' \) -printf '%%f\n'`)
	if err != nil {
		return err
	}
	vdis, err := all[*xenapi.VDI](w.VDI().GetAllRecords(ctx))
	if err != nil {
		return err
	}
	model, err := w.VDI().GetSR(ctx, p.vm.vdi)
	if err != nil {
		return err
	}
	known := map[string]bool{}
	for _, r := range vdis {
		known[r.UUID] = true
		if r.SR == model && !strings.Contains(out, r.UUID) {
			return fmt.Errorf("the disk %q (%s) has no file", r.NameLabel, r.UUID)
		}
	}
	for _, file := range strings.Fields(out) {
		if uuid, _, _ := strings.Cut(strings.TrimPrefix(file, "."), "."); !known[uuid] {
			return fmt.Errorf("no disk is of the file %s", file)
		}
	}
	return nil
}

// all gives the records of a class their type.
func all[T xenapi.Record](records map[string]xenapi.Record, err error) (map[string]T, error) {
	typed := make(map[string]T, len(records))
	for ref, r := range records {
		typed[ref] = r.(T)
	}
	return typed, err
}

// dropDisks removes the disks that manyDisks has made.
func (w *world) dropDisks(ctx context.Context) error {
	vdis, err := all[*xenapi.VDI](w.VDI().GetAllRecords(ctx))
	for ref, r := range vdis {
		if strings.HasPrefix(r.NameLabel, pullDisk) {
			err = errors.Join(err, w.VDI().Destroy(ctx, xenapi.VDIRef(ref)))
		}
	}
	return err
}
