package xenstore

import (
	"errors"
	"testing"
	"time"

	"xapid/pkg/xenctl"
)

var disk = Device{ID: 51712, Backend: "/local/domain/0/backend/vbd/7/51712", Frontend: "/local/domain/7/device/vbd/51712"}

// withDisk is a fake with a disk whose guest does something about a change of the back end's state.
func withDisk(t *testing.T, front XenbusState, hears func(f *fake)) (*fake, *Client) {
	f := startFake(t)
	f.set(disk.Backend+"/state", string(XenbusConnected))
	f.set(disk.Backend+"/online", "1")
	f.set(disk.Frontend+"/state", string(front))
	f.changed = func(path string) {
		if v, _ := f.get(disk.Backend + "/state"); path == disk.Backend+"/state" && XenbusState(v) == XenbusClosing {
			hears(f)
		}
	}
	return f, open(t, f.socket)
}

func TestAGuestLetsGo(t *testing.T) {
	f, c := withDisk(t, XenbusConnected, func(f *fake) { f.set(disk.Backend+"/state", string(XenbusClosed)) })
	if err := c.Release(soon(t), disk, time.Minute); err != nil {
		t.Error(err)
	}
	if v, _ := f.get(disk.Backend + "/online"); v != "0" {
		t.Errorf("online is %q: the kernel would keep the back end", v)
	}
}

func TestAGuestHoldsOn(t *testing.T) {
	f, c := withDisk(t, XenbusConnected, func(*fake) {})
	if err := c.Release(soon(t), disk, 20*time.Millisecond); !errors.Is(err, xenctl.ErrRefused) {
		t.Errorf("got %v", err)
	}
	for key, want := range map[string]string{"state": string(XenbusConnected), "online": "1"} {
		if v, _ := f.get(disk.Backend + "/" + key); v != want {
			t.Errorf("%s is %q afterwards, want %q", key, v, want)
		}
	}
}

func TestADeviceThatNobodyUses(t *testing.T) {
	f, c := withDisk(t, "1", func(*fake) { t.Error("it was asked") })
	if err := c.Release(soon(t), disk, time.Minute); err != nil {
		t.Error(err)
	}
	f.mu.Lock()
	delete(f.keys, disk.Backend+"/state")
	f.mu.Unlock()
	if err := c.Release(soon(t), disk, time.Minute); err != nil {
		t.Errorf("one that has gone: %v", err)
	}
}

func TestDevicesAreTheToolstacks(t *testing.T) {
	f := startFake(t)
	for _, key := range []string{"51728", "51712"} {
		f.set("/libxl/7/device/vbd/"+key+"/backend", "/local/domain/0/backend/vbd/7/"+key)
		f.set("/libxl/7/device/vbd/"+key+"/frontend", "/local/domain/7/device/vbd/"+key)
	}
	f.set("/libxl/7/device/vbd/half", "")
	f.set("/libxl/7/device/vbd/1", "")
	c := open(t, f.socket)
	got, err := c.Devices(soon(t), 7, "vbd")
	if err != nil || len(got) != 2 || got[0] != disk || got[1].ID != 51728 {
		t.Errorf("%+v, %v", got, err)
	}
	if got, err := c.Devices(soon(t), 7, "vif"); err != nil || got != nil {
		t.Errorf("of a class that it has none of: %+v, %v", got, err)
	}
}
