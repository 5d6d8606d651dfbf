package vm_test

import (
	"bytes"
	"log/slog"
	"regexp"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi/service"
)

// TestOperationsTellTheirTime wants a line of the log for a power operation, with its parts, and the same as metrics.
func TestOperationsTellTheirTime(t *testing.T) {
	w := newWorld(t)
	ref := w.halted()
	var b bytes.Buffer
	c := xapitest.Call()
	c.Log = slog.New(slog.NewTextHandler(&b, nil))
	w.ok(w.vms.Start(w.ctx, c, service.VMStartParams{VM: ref}))
	if err := w.vms.Start(w.ctx, c, service.VMStartParams{VM: ref}); err == nil {
		t.Error("a running VM was started")
	}
	const parts = ` total=[1-9]\S+ hypervisor=[1-9]\S+ disks=[1-9]\S+ networks=0s guest=0s own=[1-9]\S+\n`
	want := regexp.MustCompile(`^\S+ level=INFO msg="operation ended" op=start vm=` + string(ref) + ` task=\S+ succeeded=true` + parts +
		`\S+ level=INFO msg="operation ended" op=start vm=` + string(ref) + ` task=\S+ succeeded=false total=.*\n$`)
	if !want.Match(b.Bytes()) {
		t.Errorf("the log says\n%s", b.Bytes())
	}
	registry := prometheus.NewRegistry()
	registry.MustRegister(w.vms.Collectors()...)
	families, err := registry.Gather()
	w.ok(err)
	if len(families) != 1 || len(families[0].Metric) != 6 || families[0].Metric[0].Histogram.GetSampleCount() != 1 {
		t.Errorf("metrics: %v", families)
	}
}
