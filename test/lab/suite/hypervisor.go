package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"xapid/pkg/xenapi"
)

// silence is what an error says whose cause is a hypervisor that doesn't answer.
const silence = "the hypervisor does not answer"

// libvirtdRestarts lets a client pause and unpause a guest while libvirtd is restarted.
func libvirtdRestarts(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	before, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	end, err := w.logEnd(ctx)
	if err != nil {
		return "", err
	}
	calling, stop := context.WithCancel(ctx)
	defer stop()
	var client sync.WaitGroup
	var tally struct {
		done, failed int
		odd          error
	}
	client.Go(func() { tally.done, tally.failed, tally.odd = w.pausesAndUnpauses(calling, g) })
	_, err = w.dom0.Run(ctx, "systemctl restart libvirtd && virsh -q -c xen:///system list >/dev/null")
	if err == nil {
		err = w.logs(ctx, end, "msg=connected")
	}
	stop()
	client.Wait()
	if err = errors.Join(err, tally.odd); err != nil {
		return "", err
	}
	tries, err := w.logged(ctx, end, "no connection for events")
	if err != nil || tries == 0 || tries > 20 {
		return "", errors.Join(fmt.Errorf("%d tries to connect", tries), err)
	}
	if err := w.goesOn(ctx, g, before); err != nil {
		return "", err
	}
	if err := w.VM().CleanShutdown(ctx, g.ref); err != nil {
		return "", fmt.Errorf("VM.clean_shutdown: %w", err)
	}
	return fmt.Sprintf("connected after %d tries; meanwhile %d calls succeeded, %d failed and said why", tries, tally.done, tally.failed), w.gone(ctx, g)
}

// pausesAndUnpauses calls until ctx ends. A failure has to name the hypervisor, or the state that a call which
// failed has brought about all the same; odd is one that does not.
func (w *world) pausesAndUnpauses(ctx context.Context, g *guest) (done, failed int, odd error) {
	for n := 0; ctx.Err() == nil; n++ {
		call := w.VM().Pause
		if n%2 == 1 {
			call = w.VM().Unpause
		}
		err := call(context.WithoutCancel(ctx), g.ref)
		switch {
		case err == nil:
			done++
		case strings.Contains(err.Error(), silence), xenapi.Code(err) == "VM_BAD_POWER_STATE":
			failed++
		default:
			odd = errors.Join(odd, fmt.Errorf("meanwhile: %w", err))
		}
	}
	return done, failed, odd
}

// goesOn makes sure that a guest runs on as the domain that it was, also when it was left paused.
func (w *world) goesOn(ctx context.Context, g *guest, domid int64) error {
	err := eventually(ctx, g.name+" is in the state that xl tells", 30*time.Second, func() (bool, error) {
		state, err := w.VM().GetPowerState(ctx, g.ref)
		if err != nil {
			return false, err
		}
		paused := "0"
		if state == xenapi.VMPowerStatePaused {
			paused = "1"
		}
		said, err := w.dom0.Run(ctx, "xl list %d | awk 'NR == 2 {print substr($5, 3, 1) == \"p\" ? 1 : 0}'", domid)
		return said == paused, err
	})
	if err != nil {
		return err
	}
	state, err := w.VM().GetPowerState(ctx, g.ref)
	if err == nil && state == xenapi.VMPowerStatePaused {
		err = w.VM().Unpause(ctx, g.ref)
	}
	if err != nil {
		return err
	}
	if err := w.state(ctx, g, xenapi.VMPowerStateRunning); err != nil {
		return err
	}
	if now, err := w.VM().GetDomid(ctx, g.ref); err != nil || now != domid {
		return errors.Join(fmt.Errorf("the domain was %d and is %d", domid, now), err)
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return err
	}
	return w.says(ctx, g, from, "MARK tick")
}

// silentLists is of how many lists the median is compared.
const silentLists = 40

// libvirtdSilent stops libvirtd as a hang does: its socket takes calls and nobody reads them.
func libvirtdSilent(ctx context.Context, w *world) (note string, err error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	before, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	usual, err := w.listing(ctx, silentLists)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "kill -STOP $(pidof libvirtd)"); err != nil {
		return "", err
	}
	failure, took, silent, err := w.pausingUnheard(ctx, g)
	_, cont := w.dom0.Run(context.WithoutCancel(ctx), "kill -CONT $(pidof libvirtd)")
	if err = errors.Join(err, cont); err != nil {
		return "", err
	}
	note = fmt.Sprintf("%d lists took %v each, %v with libvirtd silent; VM.pause failed after %.1f s", silentLists, usual, silent, took.Seconds())
	if failure == nil || !strings.Contains(failure.Error(), silence) {
		return "", fmt.Errorf("%s: its error does not name the cause: %w", note, failure)
	}
	if silent > 3*usual {
		return "", errors.New(note)
	}
	return note, w.goesOn(ctx, g, before)
}

// pausingUnheard calls VM.pause, and lists all VMs while it is under way.
func (w *world) pausingUnheard(ctx context.Context, g *guest) (failure error, took, list time.Duration, err error) {
	began := time.Now()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		failure = w.VM().Pause(ctx, g.ref)
		took = time.Since(began)
	}()
	list, err = w.listing(ctx, silentLists)
	select {
	case <-ended:
	case <-ctx.Done():
		return nil, 0, 0, context.Cause(ctx)
	}
	return failure, took, list, err
}

// listing is the median time of n lists of all VMs.
func (w *world) listing(ctx context.Context, n int) (time.Duration, error) {
	times := make([]time.Duration, n)
	for i := range times {
		began := time.Now()
		if _, err := w.VM().GetAllRecords(ctx); err != nil {
			return 0, err
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return times[n/2].Round(100 * time.Microsecond), nil
}

// strangerConfig is a domain for xl.
const strangerConfig = `name = "stranger"
kernel = "/lab/guest/vmlinux"
ramdisk = "/lab/guest/initrd"
extra = "console=hvc0 quiet mitigations=off pci=noearly"
memory = 128
vcpus = 1
`

// stranger makes a domain with Xen's own tool.
func stranger(ctx context.Context, w *world) (note string, err error) {
	end, err := w.logEnd(ctx)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "printf '%%b' %q >/root/stranger.cfg && xl -f create -q /root/stranger.cfg", strangerConfig); err != nil {
		return "", err
	}
	defer func() {
		_, gone := w.dom0.Run(context.WithoutCancel(ctx), "xl destroy stranger")
		err = errors.Join(err, gone)
	}()
	id, err := w.dom0.Run(ctx, "xl domid stranger")
	if err != nil {
		return "", err
	}
	// A restart reconciles, and so does each connection to libvirtd.
	if _, err := w.dom0.Run(ctx, "systemctl restart xapid"); err != nil {
		return "", err
	}
	if err := w.loginAgain(ctx); err != nil {
		return "", err
	}
	if err := w.logs(ctx, end, "name=stranger"); err != nil {
		return "", err
	}
	_, err = w.dom0.Run(ctx, "[ $(xl domid stranger) = %s ] && xl list %s | awk 'NR == 2 {exit $5 ~ /[rb]/ ? 0 : 1}' && "+
		"before=$(xl list %s | awk 'NR == 2 {print $6}') && for n in $(seq 50); do [ $(xl list %s | awk 'NR == 2 {print $6}') != $before ] && exit 0; sleep 0.2; done; exit 1", id, id, id, id)
	return "", err
}
