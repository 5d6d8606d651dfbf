package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"xapid/pkg/xenctl"
)

// Save implements xenctl.Hypervisor. libvirt can't cancel it: after the deadline it goes on.
func (d *Driver) Save(ctx context.Context, uuid, path string) error {
	const op = "save"
	ctx, cancel := withDefault(ctx, d.opts.SlowTimeout)
	defer cancel()
	err := d.slowly(ctx, op, uuid, func(l *libvirt.Libvirt, dom libvirt.Domain) error {
		return l.DomainSave(dom, path)
	})
	if err != nil {
		return err
	}
	return opError(op, uuid, d.onFile(ctx, func() error { return syncFile(path) }))
}

// onFile does something on storage that may have stalled.
func (d *Driver) onFile(ctx context.Context, f func() error) error {
	if !d.slow.begin() {
		return xenctl.ErrClosed
	}
	defer d.slow.busy.Done()
	return xenctl.Await(ctx, &d.slow.busy, f)
}

func syncFile(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	err = f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// Restore implements xenctl.Hypervisor. libvirt restores what is described in the image: that cfg says the
// same but for StartPaused is the caller's duty.
func (d *Driver) Restore(ctx context.Context, path string, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	const op = "restore"
	if err := cfg.Validate(); err != nil {
		return xenctl.Domain{}, opError(op, cfg.UUID, err)
	}
	ctx, cancel := withDefault(ctx, d.opts.SlowTimeout)
	defer cancel()
	err := d.onFile(ctx, func() error { return checkImage(path, cfg.UUID) })
	if err != nil {
		return xenctl.Domain{}, opError(op, cfg.UUID, err)
	}
	return d.make(ctx, op, cfg, func(l *libvirt.Libvirt, _ *xenctl.DomainConfig) error {
		if d.kind == KindXen { // finish lets it run
			return l.DomainRestoreFlags(path, nil, uint32(libvirt.DomainSavePaused))
		}
		return l.DomainRestore(path)
	})
}

// checkImage says whether the file is an image of that domain, as far as its description goes.
func checkImage(path, uuid string) error {
	saved, err := readImage(path)
	if err != nil {
		return fmt.Errorf("%w: %w", xenctl.ErrBadImage, err)
	}
	if saved.UUID != uuid {
		return fmt.Errorf("%w: it is of domain %q", xenctl.ErrBadImage, saved.UUID)
	}
	return nil
}

// An image is a magic string, numbers in the machine's byte order of which one is the length of the XML, the
// XML, and the guest's memory.
var imageFormats = []struct {
	magic          string
	header, length int // bytes before the XML; where in them its length is
}{
	{"libvirt-xml\n \x00 \r", 16 + 4 + 4 + 40, 16 + 4}, // struct _libxlSavefileHeader in libvirt's libxl_conf.h
	{"TestGuestMagic\x00", 15 + 4, 15},                 // testDomainSaveImageWrite in test_driver.c
}

// imageXMLLimit is more than any domain's description takes.
const imageXMLLimit = 4 << 20

// readImage returns the description of the domain in an image.
func readImage(path string) (*libvirtxml.Domain, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	head := make([]byte, 64)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.ErrUnexpectedEOF {
		return nil, fmt.Errorf("read: %w", err)
	}
	for _, format := range imageFormats {
		if !bytes.HasPrefix(head[:n], []byte(format.magic)) || n < format.header {
			continue
		}
		length := int64(binary.NativeEndian.Uint32(head[format.length:]))
		if length > imageXMLLimit {
			return nil, fmt.Errorf("its description is %d bytes long", length)
		}
		text := make([]byte, length)
		if _, err := f.ReadAt(text, int64(format.header)); err != nil {
			return nil, fmt.Errorf("it is cut short")
		}
		domain := new(libvirtxml.Domain)
		if err := domain.Unmarshal(string(bytes.TrimRight(text, "\x00"))); err != nil {
			return nil, fmt.Errorf("its description is not readable: %w", err)
		}
		return domain, nil
	}
	return nil, fmt.Errorf("it doesn't begin as one")
}
