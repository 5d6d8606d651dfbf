package agent

import (
	"context"
	"path/filepath"

	"github.com/prometheus/client_golang/prometheus"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/facts"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/rpc/wire/query"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/access"
	"xapid/pkg/xapi/alert"
	"xapid/pkg/xapi/blob"
	"xapid/pkg/xapi/diagnostics"
	"xapid/pkg/xapi/host"
	"xapid/pkg/xapi/network"
	"xapid/pkg/xapi/pool"
	"xapid/pkg/xapi/secret"
	"xapid/pkg/xapi/storage"
	"xapid/pkg/xapi/vm"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// behaviour is everything that the API can do beyond generic code.
type behaviour struct {
	services   *service.Services
	hooks      xapi.Hooks
	storage    *storage.Storage
	components []component
	metrics    *metrics
}

// behaviour makes the families of messages and wires them to each other.
func (a *Agent) behaviour(env *xapi.Env, freshBoot bool, bootID string) *behaviour {
	b := &behaviour{services: service.New(), hooks: xapi.NewHooks(), metrics: newMetrics()}
	b.storage = storage.New(storage.Options{Env: env, Dir: filepath.Join(a.Config.StateDir, "sr"), Post: post(env)})
	vms := vm.New(vm.Options{Env: env, Disks: b.storage, Device: storage.DeviceName, Attachable: attachable, NIC: network.NICConfig,
		MAC: network.MACFor, Post: post(env), ShutdownTimeout: a.Config.ShutdownTimeout, FreshBoot: freshBoot, BootID: bootID})
	networks := network.New(env, func(ctx context.Context) ([]facts.Link, error) { return facts.Links(ctx, facts.Source{}) })
	b.storage.Register(b.hooks, b.services)
	vms.Register(b.hooks, b.services)
	networks.Register(b.hooks, b.services)
	hosts := host.New(host.Options{Env: env, PluginDir: a.Config.PluginDir, Certificate: func() string { return string(a.certificate.PEM()) }})
	for _, class := range []registrar{alert.New(env, where), access.New(env), blob.New(env), secret.New(env),
		diagnostics.New(env), pool.New(env), hosts} {
		class.Register(b.hooks, b.services)
	}
	b.components = append(b.components, b.storage, vms, host.NewFigures(env))
	b.metrics.register(vms.Collectors()...)
	b.metrics.register(objectCounts{env}, prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "xapid_log_syncs_total",
		Help: "Entries appended to the log, a sync each."}, func() float64 { return float64(a.syncs()) }))
	return b
}

// attachable asks storage whether a start may attach a disk.
func attachable(rd db.Reader, ref xenapi.VBDRef) error {
	return storage.CheckVBD(rd, ref, xenapi.VBDOperationsAttach)
}

// registrar puts its messages into the tables that calls are dispatched by.
type registrar interface {
	Register(h xapi.Hooks, services *service.Services)
}

// derive sets the fields that follow from others at the end of every commit.
func derive(tx *db.Tx) {
	edited := tx.Edited()
	vm.Derive(tx, edited)
	storage.Derive(tx, edited)
	network.Derive(tx, edited)
	host.Derive(tx, edited)
}

// objectCounts are the metrics of how many objects there are, read from the
// newest snapshot.
type objectCounts struct{ env *xapi.Env }

var (
	vmsDesc   = prometheus.NewDesc("xapid_vms", "VMs by power state, templates aside.", []string{"state"}, nil)
	hostsDesc = prometheus.NewDesc("xapid_hosts", "Hosts by whether they are enabled.", []string{"state"}, nil)
	srsDesc   = prometheus.NewDesc("xapid_srs", "Storage repositories by whether any host has them plugged.", []string{"state"}, nil)
	tasksDesc = prometheus.NewDesc("xapid_tasks", "Tasks by status.", []string{"status"}, nil)
)

// Describe implements prometheus.Collector.
func (objectCounts) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{vmsDesc, hostsDesc, srsDesc, tasksDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (o objectCounts) Collect(ch chan<- prometheus.Metric) {
	rd := o.env.DB.View()
	vms := byMember("vm_power_state")
	for _, v := range db.All[xenapi.VMRef](rd) {
		if !v.IsATemplate {
			vms[string(v.PowerState)]++
		}
	}
	hosts := map[string]int{"enabled": 0, "disabled": 0}
	for _, h := range db.All[xenapi.HostRef](rd) {
		hosts[pick(h.Enabled, "enabled", "disabled")]++
	}
	srs := map[string]int{"plugged": 0, "unplugged": 0}
	for _, sr := range db.All[xenapi.SRRef](rd) {
		plugged := false
		for _, p := range sr.PBDs {
			pbd := db.Find(rd, p)
			plugged = plugged || pbd != nil && pbd.CurrentlyAttached
		}
		srs[pick(plugged, "plugged", "unplugged")]++
	}
	tasks := byMember("task_status_type")
	for _, t := range db.All[xenapi.TaskRef](rd) {
		tasks[string(t.Status)]++
	}
	for desc, values := range map[*prometheus.Desc]map[string]int{vmsDesc: vms, hostsDesc: hosts, srsDesc: srs, tasksDesc: tasks} {
		for label, n := range values {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(n), label)
		}
	}
}

// byMember is a count of nothing for every member of an enum.
func byMember(enum string) map[string]int {
	out := map[string]int{}
	for _, m := range datamodel.Get().Enum(enum).Members {
		out[m] = 0
	}
	return out
}

func pick(yes bool, a, b string) string {
	if yes {
		return a
	}
	return b
}

// where tests records by an expression of the query language.
func where(class *datamodel.Class, expr string) (func(rec xenapi.Record) bool, error) {
	q, err := query.Parse(expr)
	if err != nil {
		return nil, err
	}
	for _, name := range q.Fields() {
		if f := class.FieldByName(name); f == nil || f.InternalOnly {
			return nil, xenapi.ErrInvalidValue("expr", "class "+class.Name+" has no field "+wire.Clip(name))
		}
	}
	return func(rec xenapi.Record) bool {
		return q.Eval(func(name string) (string, bool) {
			f := class.FieldByName(name)
			return wire.DBText(f.Type, rec.Ptr(f.Index)), true
		})
	}, nil
}
