package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"

	"xapid/pkg/sm"
	"xapid/pkg/sm/vhd"
)

// maxDepth bounds the walk up a chain of differencing images.
const maxDepth = 64

// Scan lists the directory. The parent of a differencing image is looked up by the base name that it gives, among
// the volumes of this SR alone.
func (s *sr) Scan(ctx context.Context) ([]sm.Volume, error) {
	if err := s.enter(ctx); err != nil {
		return nil, err
	}
	defer s.leave()
	return s.scan(ctx)
}

func (s *sr) scan(ctx context.Context) ([]sm.Volume, error) {
	names, err := s.dir.names()
	if err != nil {
		return nil, sm.Failure(sm.CodeScanFailed, "", err)
	}
	index := map[string]int{}
	var out []sm.Volume
	for _, name := range names {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		id, format, ok := parseName(name)
		if !ok {
			continue
		}
		if i, twice := index[id]; twice {
			out[i].Err = sm.Failure(sm.CodeVolumeGone, "two files have its uuid", nil)
			continue
		}
		v, err := s.look(id, format)
		if errors.Is(err, sm.ErrMissing) {
			continue // removed since the listing
		}
		v.Err = err
		index[id] = len(out)
		out = append(out, v)
	}
	for i := range out {
		if out[i].Err == nil {
			out[i].Err = checkChain(out, index, i)
		}
	}
	return out, nil
}

// checkChain follows a volume's parents to the end.
func checkChain(volumes []sm.Volume, index map[string]int, i int) error {
	for depth := 0; volumes[i].Parent != ""; depth++ {
		up, ok := index[volumes[i].Parent]
		if !ok {
			return sm.Failure(sm.CodeVolumeGone, fmt.Sprintf("parent %s is missing", volumes[i].Parent), nil)
		}
		if depth == maxDepth {
			return sm.Failure(sm.CodeVolumeGone, "its parents have no end", nil)
		}
		i = up
	}
	return nil
}

// find tells the format of a volume by its file, or ErrMissing.
func (s *sr) find(id string) (sm.Format, error) {
	if !sm.IsUUID(id) {
		return "", fmt.Errorf("%w: %q", sm.ErrMissing, id)
	}
	for _, format := range []sm.Format{sm.FormatVHD, sm.FormatRaw} {
		_, err := s.dir.stat(fileName(id, format))
		switch {
		case err == nil, errors.Is(err, errNotRegular):
			return format, nil
		case !errors.Is(err, fs.ErrNotExist):
			return "", sm.Failure(sm.CodeVolumeGone, "", err)
		}
	}
	return "", fmt.Errorf("%w: %s", sm.ErrMissing, id)
}

// look describes one volume. With an error that is not ErrMissing the description is what is known.
func (s *sr) look(id string, format sm.Format) (sm.Volume, error) {
	v := sm.Volume{ID: id, UUID: id, Format: format, SMConfig: map[string]string{"vdi_type": diskType(format)}}
	name := fileName(id, format)
	info, err := s.dir.stat(name)
	if errors.Is(err, fs.ErrNotExist) {
		return v, fmt.Errorf("%w: %s", sm.ErrMissing, id)
	}
	if err != nil {
		return v, sm.Failure(sm.CodeVolumeGone, reason(err), err)
	}
	v.PhysicalBytes = info.Sys().(*syscall.Stat_t).Blocks * 512
	if format == sm.FormatRaw {
		v.VirtualBytes = info.Size()
		return v, nil
	}
	f, err := s.dir.open(name, os.O_RDONLY)
	if err != nil {
		return v, sm.Failure(sm.CodeVolumeGone, reason(err), err)
	}
	defer f.Close() // only read
	head, err := vhd.ReadInfo(f, info.Size())
	if err != nil {
		return v, sm.Failure(sm.CodeVolumeGone, reason(err), err)
	}
	v.VirtualBytes, v.Hidden = head.SizeBytes, head.Hidden
	if head.Type == vhd.Differencing {
		return v, addParent(&v, head.ParentName)
	}
	return v, nil
}

// addParent notes the parent that an image names. Whatever path is before the base name is the image's maker's
// affair and not followed.
func addParent(v *sm.Volume, name string) error {
	base := name[strings.LastIndexAny(name, `/\`)+1:]
	id, _, ok := parseName(base)
	if !ok {
		return sm.Failure(sm.CodeVolumeGone, "header.parent_name is no volume's name", nil)
	}
	v.Parent = id
	v.SMConfig["vhd-parent"] = id
	return nil
}

// diskType is what sm_config calls a format.
func diskType(f sm.Format) string {
	if f == sm.FormatRaw {
		return "aio"
	}
	return string(f)
}

// reason is the part of an error that a client may see.
func reason(err error) string {
	var fe *vhd.FormatError
	switch {
	case errors.As(err, &fe):
		return fe.Field + ": " + fe.Problem
	case errors.Is(err, errNotRegular):
		return errNotRegular.Error()
	}
	return ""
}
