package guests

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"

	"xapid/pkg/xenctl"
	"xapid/pkg/xenctl/xenstore"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const base = "/local/domain/7"

// tree is a Store of what one guest has written, by the path below its domain. It counts reads.
type tree struct {
	keys  map[string]string
	reads int
}

func (s *tree) Read(_ context.Context, path string) (string, error) {
	s.reads++
	if v, ok := s.keys[strings.TrimPrefix(path, base+"/")]; ok {
		return v, nil
	}
	return "", xenstore.ErrNotFound
}

func (s *tree) List(_ context.Context, path string) ([]string, error) {
	var names []string
	for key := range s.keys {
		if rest, ok := strings.CutPrefix(base+"/"+key, path+"/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			names = append(names, name)
		}
	}
	slices.Sort(names)
	if names = slices.Compact(names); names == nil {
		return nil, xenstore.ErrNotFound
	}
	return names, nil
}

func (s *tree) Watch(context.Context, string) (*xenstore.Watch, error) {
	return nil, xenctl.ErrUnavailable
}

// known reads a tree as a first look does.
func known(t *testing.T, s *tree) keys {
	t.Helper()
	names, err := survey(t.Context(), s, base)
	if err != nil {
		t.Fatal(err)
	}
	k := keys{}
	if err := k.read(t.Context(), s, base, names); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestWhatALinuxGuestSays(t *testing.T) {
	info := known(t, &tree{keys: map[string]string{
		"data/os_name": "Debian GNU/Linux 12", "data/os_majorver": "12", "data/os_distro": "debian", "data/updated": "1",
		"data/meminfo_total": "160000", "data/meminfo_free": "90000",
		"attr/PVAddons/MajorVersion": "8", "attr/PVAddons/Installed": "1",
		"attr/vif/0/ipv4/0": "192.0.2.7", "attr/vif/0/ipv6/1": "2001:DB8::7", "attr/eth1/ip": "192.0.2.8",
		"control/feature-poweroff": "1", "control/feature-balloon": "0", "control/shutdown": "",
		"device/vbd/51712/state": "4", "device/vif/0/mac": "02:00:00:00:00:01",
	}}).info()
	for name, ok := range map[string]bool{
		"os":       info.OS["name"] == "Debian GNU/Linux 12" && info.OS["major"] == "12" && len(info.OS) == 3,
		"memory":   info.Memory["total"] == "160000" && info.Memory["free"] == "90000",
		"drivers":  info.PVDrivers["major"] == "8" && len(info.PVDrivers) == 1 && info.PVDetected,
		"networks": info.Networks["0/ip"] == "192.0.2.7" && info.Networks["0/ipv6/1"] == "2001:db8::7" && info.Networks["1/ipv4/0"] == "192.0.2.8",
		"features": info.Features["feature-shutdown"] && !info.Features["feature-balloon"] && len(info.Features) == 3,
		"other":    info.Other["data-updated"] == "1" && len(info.Other) == 1,
	} {
		if !ok {
			t.Errorf("%s: %+v", name, info)
		}
	}
}

func TestAHostileGuestIsBounded(t *testing.T) {
	s := &tree{keys: map[string]string{"data/os_name": "</value>\x1b[2J\xff" + strings.Repeat("x", 1<<20),
		"attr/vif/0/ipv4/0": "192.0.2.7; rm -rf /", "data/../../../0": "x", "device/vbd/1/2/3/state": "4"}}
	for i := range 10_000 {
		s.keys[fmt.Sprintf("data/k%d", i)] = "v"
		s.keys[fmt.Sprintf("attr/vif/%d/ipv4/0", i)] = "192.0.2.1"
	}
	k := known(t, s)
	info := k.info()
	if len(k) > maxKeys || len(info.Other) > maxOther {
		t.Errorf("%d keys, %d others", len(k), len(info.Other))
	}
	if name := info.OS["name"]; len(name) > maxValue || strings.ContainsAny(name, "\x1b\ufffd") || !utf8.ValidString(name) || !strings.HasPrefix(name, "</value>[2Jx") {
		t.Errorf("the name is %.40q, %d bytes", name, len(name))
	}
	if ip, ok := info.Networks["0/ip"]; ok {
		t.Errorf("address %q", ip)
	}
	// From then on, what it writes costs what counts of it.
	var changed []string
	for i := range 1000 {
		changed = append(changed, fmt.Sprintf("%s/data/new%d", base, i), fmt.Sprintf("%s/attr/%d/a/b/c", base, i))
	}
	s.reads = 0
	if err := k.read(t.Context(), s, base, relative(base, changed)); err != nil || s.reads > maxKeys {
		t.Errorf("%d reads, %v", s.reads, err)
	}
}

func TestWhatIsRemovedIsForgotten(t *testing.T) {
	s := &tree{keys: map[string]string{"data/os_name": "BeOS"}}
	k := known(t, s)
	delete(s.keys, "data/os_name")
	if err := k.read(t.Context(), s, base, relative(base, []string{base + "/data/os_name"})); err != nil || len(k) != 0 {
		t.Errorf("%v, %v", k, err)
	}
}

func TestInfoHonoursItsContext(t *testing.T) {
	f := New(Options{Store: &tree{}, Changed: func(string, int) {}})
	defer f.Close()
	if _, err := f.Info(t.Context(), "nobody"); !errors.Is(err, xenctl.ErrNotFound) {
		t.Errorf("nobody: %v", err)
	}
	f.Follow("somebody", 7) // whose xenstored is away
	ctx, cancel := context.WithDeadline(t.Context(), time.Unix(1, 0))
	defer cancel()
	if _, err := f.Info(ctx, "somebody"); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("somebody: %v", err)
	}
	f.Forget("somebody", 6)
	if _, err := f.Info(ctx, "somebody"); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("an earlier incarnation's end ended this one: %v", err)
	}
	f.Forget("somebody", 7)
	if _, err := f.Info(t.Context(), "somebody"); !errors.Is(err, xenctl.ErrNotFound) {
		t.Errorf("gone: %v", err)
	}
}
