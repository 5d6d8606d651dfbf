package sim

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"

	"xapid/pkg/xenctl"
)

// An image is imageMagic, the length of the state (8 bytes, big endian), the state as JSON, and the SHA-256
// of all that. What follows is ignored: the image may lie on a block device.
const (
	imageMagic = "xapid-sim-image1"
	imageLimit = 16 << 20
)

// Save implements xenctl.Hypervisor.
func (h *Hypervisor) Save(ctx context.Context, uuid, path string) error {
	err := h.enter(ctx, "save")
	if err == nil {
		err = h.save(ctx, uuid, path)
	}
	return h.leave("save", uuid, err)
}

func (h *Hypervisor) save(ctx context.Context, uuid, path string) error {
	h.mu.Lock()
	d := h.domains[uuid]
	var err error
	switch {
	case h.closed:
		err = xenctl.ErrClosed
	case d == nil:
		err = xenctl.ErrNotFound
	case d.saving || d.State == xenctl.StateCrashed:
		err = xenctl.ErrBadState
	}
	if err != nil {
		h.mu.Unlock()
		return err
	}
	h.work.Add(1)
	defer h.work.Done()
	h.suspend(d)
	d.saving = true
	state := d.copy()
	state.Guest.Console = d.console.text()
	h.mu.Unlock()

	err = xenctl.Await(ctx, &h.work, func() error {
		err := writeImage(path, state)
		if ctx.Err() != nil { // nobody waits for it any more
			removeFile(path)
		}
		return err
	})

	h.mu.Lock()
	d.saving = false
	switch {
	case d.gone: // destroyed meanwhile
		err = xenctl.ErrNotFound
	case err == nil:
		h.remove(d, xenctl.StopSaved)
	default:
		h.resume(d)
	}
	h.mu.Unlock()
	if err != nil {
		removeFile(path)
	}
	h.record(d)
	return err
}

// Restore implements xenctl.Hypervisor.
func (h *Hypervisor) Restore(ctx context.Context, path string, cfg *xenctl.DomainConfig) (xenctl.Domain, error) {
	d, err := h.prepareRestore(ctx, path, cfg)
	if err != nil {
		return xenctl.Domain{}, h.leave("restore", cfg.UUID, err)
	}
	return h.start(ctx, "restore", d)
}

func (h *Hypervisor) prepareRestore(ctx context.Context, path string, cfg *xenctl.DomainConfig) (*domain, error) {
	d, err := h.prepare(cfg)
	if err != nil {
		return nil, err
	}
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil, xenctl.ErrClosed
	}
	h.work.Add(1)
	defer h.work.Done()
	h.mu.Unlock()
	var saved snapshot
	err = xenctl.Await(ctx, &h.work, func() error {
		var err error
		if saved, err = readImage(path); err != nil {
			return fmt.Errorf("%w: %w", xenctl.ErrBadImage, err)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	if saved.Config.UUID != cfg.UUID {
		return nil, fmt.Errorf("%w: it is of domain %s", xenctl.ErrBadImage, saved.Config.UUID)
	}
	if saved.Config.Type != cfg.Type || saved.Config.Memory.StaticMaxBytes != cfg.Memory.StaticMaxBytes || saved.VCPUs > cfg.VCPUs.Max {
		return nil, fmt.Errorf("%w: type, memory or VCPUs differ from those at the save", xenctl.ErrInvalid)
	}
	d.Memory, d.Target, d.VCPUs, d.Guest = saved.Memory, saved.Target, saved.VCPUs, saved.Guest
	d.console.write(saved.Guest.Console)
	d.Guest.Console = ""
	return d, d.Guest.Behaviour.setAll(cfg.Xenstore)
}

// copy is a snapshot that shares nothing with the domain that changes.
func (d *domain) copy() snapshot {
	s := d.snapshot
	s.Config = cloneConfig(&d.Config)
	s.Guest.Pending = slices.Clone(d.Guest.Pending)
	return s
}

func writeImage(path string, state snapshot) error {
	body, err := json.Marshal(state)
	if err != nil {
		return err
	}
	image := append([]byte(imageMagic), binary.BigEndian.AppendUint64(nil, uint64(len(body)))...)
	image = append(image, body...)
	sum := sha256.Sum256(image)
	image = append(image, sum[:]...)

	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(image)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

func readImage(path string) (snapshot, error) {
	var s snapshot
	f, err := os.Open(path)
	if err != nil {
		return s, err
	}
	defer f.Close()
	head := make([]byte, len(imageMagic)+8)
	if _, err := io.ReadFull(f, head); err != nil || !bytes.HasPrefix(head, []byte(imageMagic)) {
		return s, fmt.Errorf("it doesn't begin as one")
	}
	length := binary.BigEndian.Uint64(head[len(imageMagic):])
	if length > imageLimit {
		return s, fmt.Errorf("it says that it is %d bytes long", length)
	}
	rest := make([]byte, length+sha256.Size)
	if _, err := io.ReadFull(f, rest); err != nil {
		return s, fmt.Errorf("it is cut short")
	}
	body, sum := rest[:length], rest[length:]
	if want := sha256.Sum256(append(head, body...)); !bytes.Equal(sum, want[:]) {
		return s, fmt.Errorf("its checksum is wrong")
	}
	if err := json.Unmarshal(body, &s); err != nil {
		return s, fmt.Errorf("its state is not readable: %w", err)
	}
	return s, nil
}

// removeFile removes what is left of an image, unless it is a device.
func removeFile(path string) {
	if info, err := os.Lstat(path); err == nil && info.Mode().IsRegular() {
		os.Remove(path)
	}
}
