package xenstore

import (
	"context"
	"errors"
	"testing"
	"time"

	"xapid/pkg/xenctl"
)

const (
	guestUUID = "0f4a3c52-9b1e-4d0a-8f55-3c2f5a6b7c8d"
	request   = "/local/domain/7/control/shutdown"
)

var guest = xenctl.Domain{ID: 7, UUID: guestUUID}

// withGuest is a fake with a domain whose guest does something about a request.
func withGuest(t *testing.T, hears func(f *fake)) (*fake, *Client) {
	f := startFake(t)
	f.set("/local/domain/7/vm", "/vm/"+guestUUID)
	f.set(request, "")
	f.changed = func(path string) {
		if v, _ := f.get(request); path == request && v != "" {
			hears(f)
		}
	}
	return f, open(t, f.socket)
}

func TestGuestAcknowledges(t *testing.T) {
	_, c := withGuest(t, func(f *fake) { f.set(request, "") })
	s := &Shutdown{Store: c}
	for _, kind := range []xenctl.ShutdownKind{xenctl.ShutdownPoweroff, xenctl.ShutdownReboot} {
		if err := s.RequestShutdown(soon(t), guest, kind); err != nil {
			t.Errorf("%s: %v", kind, err)
		}
	}
}

func TestGuestIsGone(t *testing.T) {
	f, c := withGuest(t, func(f *fake) {
		f.mu.Lock()
		delete(f.keys, request)
		f.mu.Unlock()
		f.tell(request)
	})
	s := &Shutdown{Store: c}
	if err := s.RequestShutdown(soon(t), guest, xenctl.ShutdownPoweroff); err != nil {
		t.Errorf("one that goes at once: %v", err)
	}
	for name, domain := range map[string]xenctl.Domain{"no such domain": {ID: 8, UUID: guestUUID}, "another's number": {ID: 7, UUID: "other"}} {
		if err := s.RequestShutdown(soon(t), domain, xenctl.ShutdownPoweroff); !errors.Is(err, xenctl.ErrNotFound) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, there := f.get("/local/domain/8/control/shutdown"); there {
		t.Error("a key was made for a domain that isn't there")
	}
}

func TestFrozenGuest(t *testing.T) {
	f, c := withGuest(t, func(*fake) {})
	s := &Shutdown{Store: c, Patience: 20 * time.Millisecond}
	if err := s.RequestShutdown(soon(t), guest, xenctl.ShutdownPoweroff); !errors.Is(err, xenctl.ErrRefused) {
		t.Errorf("without patience: %v", err)
	}
	if v, _ := f.get(request); v != "" {
		t.Errorf("the request is still %q", v)
	}
	s.Patience = time.Hour
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := s.RequestShutdown(ctx, guest, xenctl.ShutdownPoweroff); !errors.Is(err, xenctl.ErrTimeout) {
		t.Errorf("at the caller's deadline: %v", err)
	}
	if v, _ := f.get(request); v != "" {
		t.Errorf("the request is still %q", v)
	}
}

func TestXenstoredGoesAwayMeanwhile(t *testing.T) {
	_, c := withGuest(t, func(f *fake) { f.cut() })
	s := &Shutdown{Store: c}
	if err := s.RequestShutdown(soon(t), guest, xenctl.ShutdownPoweroff); !errors.Is(err, xenctl.ErrUnavailable) {
		t.Errorf("it said %v", err)
	}
}
