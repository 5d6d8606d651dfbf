package db_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// model is what the graph should hold, as simply as it can be said.
type model struct {
	vms    map[xenapi.VMRef]modelVM
	vbds   map[xenapi.VBDRef]modelVBD
	vdis   map[xenapi.VDIRef]bool
	hosts  map[xenapi.HostRef]bool
	groups map[xenapi.VMGroupRef]bool
}

type modelVM struct {
	name     string
	affinity xenapi.HostRef
	group    xenapi.VMGroupRef
	parent   xenapi.VMRef
	changed  time.Time
}

type modelVBD struct {
	vm  xenapi.VMRef
	vdi xenapi.VDIRef
}

func (m model) clone() model {
	return model{maps.Clone(m.vms), maps.Clone(m.vbds), maps.Clone(m.vdis), maps.Clone(m.hosts), maps.Clone(m.groups)}
}

// draw takes a key, or the null reference.
func draw[K ~string, V bool | modelVM | modelVBD](rng *rand.Rand, in map[K]V) K {
	keys := slices.Sorted(maps.Keys(in))
	if len(keys) == 0 || rng.IntN(8) == 0 {
		return xenapi.Null
	}
	return keys[rng.IntN(len(keys))]
}

// TestModel runs random transactions against the graph and a simple model, and
// restarts the graph anywhere, with and without its SQLite file and snapshots:
// it must always hold what the model holds.
func TestModel(t *testing.T) {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	rng := rand.New(rand.NewPCG(s, s))
	m := model{map[xenapi.VMRef]modelVM{}, map[xenapi.VBDRef]modelVBD{}, map[xenapi.VDIRef]bool{}, map[xenapi.HostRef]bool{}, map[xenapi.VMGroupRef]bool{}}
	dir := t.TempDir()
	g := open(t, dir)
	for step := range 400 {
		next := m.clone()
		err := g.Update(t.Context(), func(tx *db.Tx) error {
			next = m.clone()
			for range 1 + rng.IntN(4) {
				if err := next.step(tx, rng, step); err != nil {
					return err
				}
			}
			return nil
		})
		if err == nil {
			m = next
		} else if code := xenapi.Code(err); code != "HANDLE_INVALID" && code != "VALUE_NOT_SUPPORTED" {
			t.Fatal(err)
		}
		if rng.IntN(50) == 0 {
			if err := g.replica.Snapshot(); err != nil {
				t.Log(err)
			}
		}
		if rng.IntN(40) == 0 {
			g.stop()
			if rng.IntN(2) == 0 {
				if err := os.Remove(filepath.Join(dir, "state.db")); err != nil {
					t.Fatal(err)
				}
			}
			g = open(t, dir)
		}
		if m.compare(t, g.View()); t.Failed() {
			t.Fatalf("after step %d", step)
		}
	}
}

// step makes one random change in the graph and the model.
func (m model) step(tx *db.Tx, rng *rand.Rand, n int) error {
	ref := fmt.Sprintf("OpaqueRef:%d-%d", n, rng.Uint32())
	switch rng.IntN(12) {
	case 0, 1, 2:
		m.vms[xenapi.VMRef(ref)] = modelVM{affinity: xenapi.Null, group: xenapi.Null, parent: xenapi.Null, changed: xenapi.Epoch}
		tx.Insert(ref, xenapi.NewVM())
	case 3:
		m.vdis[xenapi.VDIRef(ref)] = true
		tx.Insert(ref, xenapi.NewVDI())
	case 4:
		m.hosts[xenapi.HostRef(ref)] = true
		tx.Insert(ref, xenapi.NewHost())
		m.groups[xenapi.VMGroupRef(ref+"g")] = true
		tx.Insert(ref+"g", xenapi.NewVMGroup())
	case 5, 6:
		vbd := xenapi.NewVBD()
		vbd.VM, vbd.VDI = draw(rng, m.vms), draw(rng, m.vdis)
		m.vbds[xenapi.VBDRef(ref)] = modelVBD{vbd.VM, vbd.VDI}
		tx.Insert(ref, vbd)
	case 7:
		return m.delete(tx, rng)
	case 8:
		if at := draw(rng, m.vbds); at != xenapi.Null {
			vbd, err := db.Edit(tx, at)
			if err != nil {
				return err
			}
			vbd.VM, vbd.VDI = draw(rng, m.vms), draw(rng, m.vdis)
			m.vbds[at] = modelVBD{vbd.VM, vbd.VDI}
		}
	default:
		return m.edit(tx, rng, ref)
	}
	return nil
}

func (m model) edit(tx *db.Tx, rng *rand.Rand, name string) error {
	at := draw(rng, m.vms)
	if at == xenapi.Null {
		return nil
	}
	vm, err := db.Edit(tx, at)
	if err != nil {
		return err
	}
	vm.NameLabel, vm.Affinity, vm.Parent = name, draw(rng, m.hosts), draw(rng, m.vms)
	vm.SnapshotTime = time.Unix(rng.Int64N(1<<32), 5).In(time.FixedZone("elsewhere", 3600))
	group, groups := draw(rng, m.groups), []xenapi.VMGroupRef(nil)
	if group != xenapi.Null {
		groups = append(groups, group)
	}
	vm.Groups = groups
	m.vms[at] = modelVM{name, vm.Affinity, group, vm.Parent, vm.SnapshotTime.UTC().Truncate(time.Second)}
	return nil
}

func (m model) delete(tx *db.Tx, rng *rand.Rand) error {
	vm, vdi, host, group, vbd := draw(rng, m.vms), draw(rng, m.vdis), draw(rng, m.hosts), draw(rng, m.groups), draw(rng, m.vbds)
	switch rng.IntN(5) {
	case 0:
		db.Delete(tx, vm)
		delete(m.vms, vm)
	case 1:
		db.Delete(tx, vdi)
		delete(m.vdis, vdi)
	case 2:
		db.Delete(tx, host)
		delete(m.hosts, host)
	case 3:
		db.Delete(tx, group)
		delete(m.groups, group)
	case 4:
		db.Delete(tx, vbd)
		delete(m.vbds, vbd)
	}
	for ref, v := range m.vms {
		if _, there := m.vms[v.parent]; !there {
			v.parent = xenapi.Null
		}
		if !m.hosts[v.affinity] {
			v.affinity = xenapi.Null
		}
		if !m.groups[v.group] {
			v.group = xenapi.Null
		}
		m.vms[ref] = v
	}
	for ref, v := range m.vbds {
		if _, there := m.vms[v.vm]; !there {
			v.vm = xenapi.Null
		}
		if !m.vdis[v.vdi] {
			v.vdi = xenapi.Null
		}
		m.vbds[ref] = v
	}
	return nil
}

// compare finds every object and both ends of every relation.
func (m model) compare(t *testing.T, s *db.Snapshot) {
	t.Helper()
	children, disks := map[xenapi.VMRef][]xenapi.VMRef{}, map[xenapi.VMRef][]xenapi.VBDRef{}
	uses, members := map[xenapi.VDIRef][]xenapi.VBDRef{}, map[xenapi.VMGroupRef][]xenapi.VMRef{}
	for ref, want := range m.vms {
		vm := db.Find(s, ref)
		if vm == nil {
			t.Errorf("VM %s is missing", ref)
			continue
		}
		got := modelVM{vm.NameLabel, vm.Affinity, xenapi.Null, vm.Parent, vm.SnapshotTime}
		if len(vm.Groups) > 0 {
			got.group = vm.Groups[0]
		}
		if got != want || len(vm.Groups) > 1 {
			t.Errorf("VM %s is %+v, not %+v", ref, got, want)
		}
		children[want.parent] = append(children[want.parent], ref)
		members[want.group] = append(members[want.group], ref)
	}
	for ref, want := range m.vbds {
		if vbd := db.Find(s, ref); vbd == nil || (modelVBD{vbd.VM, vbd.VDI}) != want {
			t.Errorf("VBD %s is %+v, not %+v", ref, vbd, want)
		}
		disks[want.vm], uses[want.vdi] = append(disks[want.vm], ref), append(uses[want.vdi], ref)
	}
	for ref, vm := range db.All[xenapi.VMRef](s) {
		sameSet(t, "children", vm.Children, children[ref])
		sameSet(t, "VBDs of a VM", vm.VBDs, disks[ref])
	}
	for ref, vdi := range db.All[xenapi.VDIRef](s) {
		sameSet(t, "VBDs of a VDI", vdi.VBDs, uses[ref])
	}
	for ref, group := range db.All[xenapi.VMGroupRef](s) {
		sameSet(t, "members", group.VMs, members[ref])
	}
	counts := []int{s.Count(xenapi.Class(xenapi.NewVM())), s.Count(xenapi.Class(xenapi.NewVBD())), s.Count(xenapi.Class(xenapi.NewVDI())),
		s.Count(xenapi.Class(xenapi.NewHost())), s.Count(xenapi.Class(xenapi.NewVMGroup()))}
	if want := []int{len(m.vms), len(m.vbds), len(m.vdis), len(m.hosts), len(m.groups)}; !slices.Equal(counts, want) {
		t.Errorf("there are %v objects, not %v", counts, want)
	}
}

func sameSet[R ~string](t *testing.T, what string, got, want []R) {
	t.Helper()
	if !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(want))) {
		t.Errorf("%s: %v, not %v", what, got, want)
	}
}
