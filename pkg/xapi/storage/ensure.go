package storage

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"xapid/pkg/db"
	"xapid/pkg/sm"
	"xapid/pkg/sm/iso"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
)

// toolsReadme is what the image of the guest tools says.
const toolsReadme = "Guests need no drivers from this image: current kernels have their own.\n" +
	"Install the guest agent of your distribution, for example the package xe-guest-utilities.\n"

// LocalUUID and ToolsUUID name the SRs of a host's first start: fixed for the
// host, so that they are found again.
func LocalUUID(hostUUID string) string { return derivedUUID("local storage of " + hostUUID) }

// ToolsUUID names the SR of the guest tools.
func ToolsUUID(hostUUID string) string { return derivedUUID("guest tools of " + hostUUID) }

// Ensure makes the objects of the drivers, and at the first start the local
// SRs; it marks this host's SRs as not attached, which Run attaches. It reads
// what sagas of an earlier process left, so it comes before any other call.
func (s *Storage) Ensure(ctx context.Context) error {
	err := s.recall(ctx)
	if err != nil {
		return err
	}
	if s.Dir, err = filepath.Abs(s.Dir); err != nil {
		return err
	}
	first := true
	for range db.All[xenapi.SMRef](s.Env.DB.View()) {
		first = false
		break
	}
	seeds, err := s.seeds(ctx, first)
	if err != nil {
		return fmt.Errorf("storage: the local SRs: %w", err)
	}
	host := s.Env.Host()
	return s.Env.Update(ctx, func(tx *db.Tx) error {
		if err := s.ensureDrivers(tx); err != nil {
			return err
		}
		for _, seed := range seeds {
			if err := seed.ensure(tx, host); err != nil {
				return err
			}
		}
		return unplugged(tx, host)
	})
}

// seed is an SR that the host makes for itself.
type seed struct {
	sr     *xenapi.SR
	config map[string]string
	// isDefault makes it the pool's and the host's SR for what names none.
	isDefault bool
}

// seeds lays out the storage of the SRs that the host makes for itself.
func (s *Storage) seeds(ctx context.Context, first bool) ([]seed, error) {
	var out []seed
	if local := s.localSR(); first || srByUUID(s.Env.DB.View(), local.sr.UUID) != "" {
		if err := s.layOutLocal(ctx, local, first); err != nil {
			return nil, err
		}
		local.isDefault = first
		out = append(out, local)
	}
	tools := s.toolsSR()
	dir := tools.config["location"]
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	image := filepath.Join(dir, "guest-tools.iso")
	if _, err := os.Stat(image); errors.Is(err, os.ErrNotExist) {
		if err := iso.WriteImage(image, "GUEST_TOOLS", toolsReadme, s.Env.Now()); err != nil {
			return nil, err
		}
	}
	return append(out, tools), nil
}

func (s *Storage) localSR() seed {
	sr := xenapi.NewSR()
	sr.UUID, sr.Type, sr.ContentType = LocalUUID(s.Env.HostUUID), "file", "user"
	sr.NameLabel, sr.DefaultVDIVisibility = "Local storage", true
	sr.OtherConfig = map[string]string{"i18n-key": "local-storage", "i18n-original-value-name_label": "Local storage"}
	return seed{sr: sr, config: map[string]string{"location": filepath.Join(s.Dir, "local")}}
}

func (s *Storage) toolsSR() seed {
	sr := xenapi.NewSR()
	sr.UUID, sr.Type, sr.ContentType = ToolsUUID(s.Env.HostUUID), "iso", "iso"
	sr.NameLabel, sr.NameDescription = "XCP-ng Tools", "XCP-ng Tools ISOs"
	sr.Shared, sr.IsToolsSR, sr.DefaultVDIVisibility = true, true, true
	sr.OtherConfig = map[string]string{"xenserver_tools_sr": "true", "xensource_internal": "true",
		"i18n-key": "xenserver-tools", "i18n-original-value-name_label": sr.NameLabel,
		"i18n-original-value-name_description": sr.NameDescription}
	return seed{sr: sr, config: map[string]string{"location": filepath.Join(s.Dir, "tools"), "legacy_mode": "true"}}
}

// layOutLocal makes the directory of the local SR; one that is there with
// something in it is taken as it is.
func (s *Storage) layOutLocal(ctx context.Context, local seed, first bool) error {
	if !first {
		return nil
	}
	driver, err := s.driver(local.sr.Type)
	if err != nil {
		return err
	}
	err = driver.Create(ctx, sm.Spec{UUID: local.sr.UUID, Config: local.config}, 0)
	var failure *sm.Error
	if errors.As(err, &failure) && failure.Code == sm.CodeSRExists {
		return nil
	}
	return err
}

// ensure makes the records of a seed that are not there; its place is where
// the host says now.
func (d seed) ensure(tx *db.Tx, host xenapi.HostRef) error {
	ref := srByUUID(tx, d.sr.UUID)
	if ref == "" {
		ref = db.Insert[xenapi.SRRef](tx, d.sr.Clone().(*xenapi.SR))
	}
	if err := d.connect(tx, ref, host); err != nil || !d.isDefault {
		return err
	}
	poolRef, _ := xapi.Pool(tx)
	pool, err := db.Edit(tx, poolRef)
	if err != nil {
		return err
	}
	h, err := db.Edit(tx, host)
	if err != nil {
		return err
	}
	pool.DefaultSR, pool.SuspendImageSR, pool.CrashDumpSR = ref, ref, ref
	h.SuspendImageSR, h.CrashDumpSR = ref, ref
	return nil
}

func (d seed) connect(tx *db.Tx, ref xenapi.SRRef, host xenapi.HostRef) error {
	if sr := db.Find(tx, ref); sr != nil {
		for _, r := range sr.PBDs {
			if pbd := db.Find(tx, r); pbd != nil && pbd.Host == host {
				edit, err := db.Edit(tx, r)
				if err == nil {
					edit.DeviceConfig = d.config
				}
				return err
			}
		}
	}
	pbd := xenapi.NewPBD()
	pbd.UUID, pbd.Host, pbd.SR, pbd.DeviceConfig = xenapi.NewUUID(), host, ref, d.config
	db.Insert[xenapi.PBDRef](tx, pbd)
	return nil
}

// ensureDrivers keeps one SM object for each driver.
func (s *Storage) ensureDrivers(tx *db.Tx) error {
	here := map[xenapi.SMRef]bool{}
	for _, d := range s.Env.Node.Storage.Drivers() {
		info := d.Info()
		ref := driverRef(info.Type)
		here[ref] = true
		if db.Find(tx, ref) == nil {
			fresh := xenapi.NewSM()
			fresh.UUID, fresh.Type = derivedUUID("driver "+info.Type), info.Type
			tx.Insert(string(ref), fresh)
		}
		rec, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		rec.NameLabel, rec.NameDescription, rec.Vendor, rec.Copyright = info.Label, info.Description, info.Vendor, info.Copyright
		rec.Version, rec.RequiredAPIVersion = info.Version, info.RequiredAPIVersion
		rec.Configuration = map[string]string{}
		for _, key := range info.Config {
			rec.Configuration[key.Name] = key.Description
		}
		rec.Features, rec.Capabilities = sm.Features(d), sm.FeatureNames(d)
		rec.SupportedImageFormats = formats(rec.Features)
	}
	for ref := range db.All[xenapi.SMRef](tx) {
		if !here[ref] {
			db.Delete(tx, ref)
		}
	}
	return nil
}

// formats are those of the disks that a driver with such features makes.
func formats(features map[string]int64) []xenapi.ImageFormatType {
	if features["VDI_CREATE"] == 0 {
		return nil
	}
	return []xenapi.ImageFormatType{xenapi.ImageFormatTypeVhd, xenapi.ImageFormatTypeRaw}
}

// unplugged marks a host's SRs as not attached.
func unplugged(tx *db.Tx, host xenapi.HostRef) error {
	h, err := db.Get(tx, host)
	if err != nil {
		return err
	}
	for _, r := range h.PBDs {
		pbd, err := db.Edit(tx, r)
		if err != nil {
			return err
		}
		pbd.CurrentlyAttached = false
	}
	return nil
}
