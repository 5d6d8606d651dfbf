package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"xapid/pkg/xenapi"
)

// metricsOf lets a guest write a key, as its agent would, and waits until VM_guest_metrics has it.
func (w *world) metricsOf(ctx context.Context, g *guest, key, value string, ok func(m *xenapi.VMGuestMetrics) bool) error {
	if err := w.tell(ctx, g, fmt.Sprintf("xenstore-write %s '%s'", key, value)); err != nil {
		return err
	}
	return eventually(ctx, "guest metrics have "+key, 20*time.Second, func() (bool, error) {
		m, err := w.guestMetrics(ctx, g)
		return err == nil && ok(m), err
	})
}

func (w *world) guestMetrics(ctx context.Context, g *guest) (*xenapi.VMGuestMetrics, error) {
	ref, err := w.VM().GetGuestMetrics(ctx, g.ref)
	if err != nil {
		return nil, err
	}
	return w.VMGuestMetrics().GetRecord(ctx, ref)
}

// guestMetrics sees what a guest's agent and drivers say of themselves arrive in the API.
func guestMetrics(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	err = eventually(ctx, "the guest's drivers are seen at work", 20*time.Second, func() (bool, error) {
		m, err := w.guestMetrics(ctx, g)
		return err == nil && m.PVDriversDetected && m.Other["feature-suspend"] == "1", err
	})
	if err != nil {
		return "", err
	}
	began := time.Now()
	if err := w.metricsOf(ctx, g, "data/os_name", "Debian 12", func(m *xenapi.VMGuestMetrics) bool { return m.OSVersion["name"] == "Debian 12" }); err != nil {
		return "", err
	}
	took := time.Since(began)
	if err := w.metricsOf(ctx, g, "attr/PVAddons/MajorVersion", "8", func(m *xenapi.VMGuestMetrics) bool { return m.PVDriversVersion["major"] == "8" }); err != nil {
		return "", err
	}
	if err := w.metricsOf(ctx, g, "data/meminfo_free", "4242", func(m *xenapi.VMGuestMetrics) bool { return m.Memory["free"] == "4242" }); err != nil {
		return "", err
	}
	return fmt.Sprintf("a key was seen %.1f s after it was asked for", took.Seconds()), nil
}

// xenstoreData sees that what the API puts there reaches the guest.
func xenstoreData(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	if err := w.VM().SetXenstoreData(ctx, g.ref, map[string]string{"vm-data/lab": "to the guest"}); err != nil {
		return "", err
	}
	return "", w.tell(ctx, g, "xenstore-read vm-data/lab | grep -qx 'to the guest'")
}

// hostile lets a guest write to xenstore without end and without sense: others, and the API, go on.
func hostile(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	const flood = "for i in $(seq 200); do xenstore-write data/flood$i \"$(printf 'x\\377\\033[2J%0900d' $i)\" attr/$i/a/b/c/d/e/f/g x data/os_name \"</value>$i\" 2>/dev/null; done; true"
	if err := w.typed(ctx, g, "( while :; do "+flood+"; done ) & echo MARK flooding"); err != nil {
		return "", err
	}
	defer func() { _ = w.typed(ctx, g, "kill %1") }()
	var slowest time.Duration
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		asked := time.Now()
		if _, err := w.VM().GetAllRecords(ctx); err != nil {
			return "", err
		}
		slowest = max(slowest, time.Since(asked))
	}
	m, err := w.guestMetrics(ctx, g)
	if err != nil {
		return "", err
	}
	if len(m.Other) > 200 {
		return "", fmt.Errorf("%d keys were taken", len(m.Other))
	}
	cpu, err := w.dom0.Run(ctx, "ps -o %%cpu= -p $(systemctl show -P MainPID xapid)")
	if err != nil {
		return "", err
	}
	if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
		return "", err
	}
	return fmt.Sprintf("the slowest list took %v, xapid has used %s %% of a processor so far", slowest.Round(time.Millisecond), cpu), w.gone(ctx, g)
}

// ownReboot lets the guest reboot by itself.
func ownReboot(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	return w.comesAgain(ctx, g, "reboot -f")
}

// comesAgain lets the guest end itself, and waits for its next life.
func (w *world) comesAgain(ctx context.Context, g *guest, line string) (string, error) {
	before, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	if err := w.typed(ctx, g, line); err != nil {
		return "", err
	}
	began := time.Now()
	err = eventually(ctx, "it runs again", 2*time.Minute, func() (bool, error) {
		after, err := w.VM().GetDomid(ctx, g.ref)
		if err != nil || after <= before {
			return false, err
		}
		state, err := w.VM().GetPowerState(ctx, g.ref)
		return state == xenapi.VMPowerStateRunning, err
	})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("again after %.1f s", time.Since(began).Seconds()), w.says(ctx, g, from, "MARK up")
}

const crashLine = "echo c >/proc/sysrq-trigger"

// crashes lets the guest crash under each of the actions.
func crashes(ctx context.Context, w *world) (note string, err error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, w.VM().SetActionsAfterCrash(ctx, g.ref, xenapi.OnCrashBehaviourDestroy))
	}()
	if err := w.VM().SetActionsAfterCrash(ctx, g.ref, xenapi.OnCrashBehaviourRestart); err != nil {
		return "", err
	}
	if note, err = w.comesAgain(ctx, g, crashLine); err != nil {
		return "", fmt.Errorf("restart: %w", err)
	}
	if err := w.VM().SetActionsAfterCrash(ctx, g.ref, xenapi.OnCrashBehaviourDestroy); err != nil {
		return "", err
	}
	if err := w.typed(ctx, g, crashLine); err != nil {
		return "", err
	}
	if err := w.becomes(ctx, g, xenapi.VMPowerStateHalted, time.Minute); err != nil {
		return "", fmt.Errorf("destroy: %w", err)
	}
	return note, w.gone(ctx, g)
}

// preserved keeps a domain whose guest crashed for whoever wants to look at it.
func preserved(ctx context.Context, w *world) (note string, err error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	if err := w.VM().SetActionsAfterCrash(ctx, g.ref, xenapi.OnCrashBehaviourPreserve); err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, w.VM().SetActionsAfterCrash(ctx, g.ref, xenapi.OnCrashBehaviourDestroy))
	}()
	if _, err := w.running(ctx, xenapi.DomainTypePV); err != nil {
		return "", err
	}
	if err := w.typed(ctx, g, crashLine); err != nil {
		return "", err
	}
	if err := w.becomes(ctx, g, xenapi.VMPowerStatePaused, time.Minute); err != nil {
		return "", err
	}
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "xl list %d | awk 'NR == 2 {print $5}' | grep -q c", id); err != nil {
		return "", err
	}
	if err := w.VM().HardShutdown(ctx, g.ref); err != nil {
		return "", err
	}
	return "", w.gone(ctx, g)
}

// balloon changes a running guest's memory.
func balloon(ctx context.Context, w *world) (string, error) {
	g, err := w.running(ctx, xenapi.DomainTypePV)
	if err != nil {
		return "", err
	}
	began := time.Now()
	for _, target := range []int64{128 * mib, 160 * mib} {
		if err := w.VM().SetMemoryDynamicRange(ctx, g.ref, target, target); err != nil {
			return "", fmt.Errorf("VM.set_memory_dynamic_range: %w", err)
		}
		if err := w.VM().WaitMemoryTargetLive(ctx, g.ref); err != nil {
			return "", fmt.Errorf("VM.wait_memory_target_live: %w", err)
		}
		id, err := w.VM().GetDomid(ctx, g.ref)
		if err != nil {
			return "", err
		}
		out, err := w.dom0.Run(ctx, "xl list %d | awk 'NR == 2 {print $3}'", id)
		if err != nil || out != strconv.FormatInt(target/mib, 10) {
			return "", errors.Join(fmt.Errorf("xl says %s MiB, not %d", out, target/mib), err)
		}
	}
	return fmt.Sprintf("down and up in %.1f s", time.Since(began).Seconds()), nil
}

// processors sees that VCPUs_params reach the scheduler, and plugs in a processor.
func processors(ctx context.Context, w *world) (note string, err error) {
	g, err := w.halted(ctx)
	if err != nil {
		return "", err
	}
	set := func(max, start int64, params map[string]string) error {
		return errors.Join(w.VM().SetVCPUsMax(ctx, g.ref, max), w.VM().SetVCPUsAtStartup(ctx, g.ref, start), w.VM().SetVCPUsParams(ctx, g.ref, params))
	}
	if err := set(2, 1, map[string]string{"weight": "512", "cap": "80", "mask": "0,1"}); err != nil {
		return "", err
	}
	defer func() {
		err = errors.Join(err, w.VM().HardShutdown(ctx, g.ref), w.VM().SetVCPUsAtStartup(ctx, g.ref, 1), w.VM().SetVCPUsMax(ctx, g.ref, 1),
			w.VM().SetVCPUsParams(ctx, g.ref, nil))
	}()
	if _, err := w.running(ctx, xenapi.DomainTypePV); err != nil {
		return "", err
	}
	id, err := w.VM().GetDomid(ctx, g.ref)
	if err != nil {
		return "", err
	}
	if _, err := w.dom0.Run(ctx, "xl sched-credit2 -d %d | tail -n 1 | grep -Eq '512 +80$'", id); err != nil {
		return "", err
	}
	from, err := w.mark(ctx, g)
	if err != nil {
		return "", err
	}
	if err := w.VM().SetVCPUsNumberLive(ctx, g.ref, 2); err != nil {
		return "", fmt.Errorf("VM.set_VCPUs_number_live: %w", err)
	}
	return "", w.says(ctx, g, from, "MARK cpus 2")
}
