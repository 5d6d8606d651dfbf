package guests

import (
	"context"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	"xapid/pkg/xenctl/xenstore"
)

// keys are what is known of a guest's part of xenstore: values by their path below the domain's.
type keys map[string]string

// Bounds on what is kept of one guest. What comes beyond is left out.
const (
	maxKeys  = 256
	maxOther = 32
	maxValue = 512 // bytes
)

// counts says which keys are read at all, and so which ones a guest can make us read.
var counts = regexp.MustCompile(`^(control/(platform-)?feature-[a-z0-9_-]{1,40}` +
	`|data/[A-Za-z0-9_-]{1,40}` +
	`|attr/PVAddons/(Major|Minor|Micro|Build)Version` +
	`|attr/PVAddons/Installed` +
	`|attr/vif/[0-9]{1,3}/ipv[46]/[0-9]{1,2}` +
	`|attr/eth[0-9]{1,3}/ip` +
	`|attr/eth[0-9]{1,3}/ipv6/[0-9]{1,2}/addr` +
	`|device/(vbd|vif)/[0-9]{1,10}/state` +
	`|device/vif/[0-9]{1,3}/mac)$`)

// places are where a first look finds keys: folders, each part either a name or a pattern for all there are.
var places = [][]string{
	{"control"}, {"data"}, {"attr", "PVAddons"},
	{"attr", "vif", "*", "ipv4"}, {"attr", "vif", "*", "ipv6"},
	{"attr", "eth*"}, {"attr", "eth*", "ipv6", "*"},
	{"device", "vbd", "*"}, {"device", "vif", "*"},
}

// survey lists the keys that count, for a guest of which nothing is known yet. Those with a meaning of their own come
// first, be they there or not: no crowd of others hides them.
func survey(ctx context.Context, store Store, base string) (found []string, err error) {
	found = slices.Clone(meaningful)
	for _, place := range places {
		folders := []string{""}
		for _, part := range place {
			if folders, err = descend(ctx, store, base, folders, part); err != nil {
				return nil, err
			}
		}
		for _, folder := range folders {
			names, err := list(ctx, store, base+folder)
			if err != nil {
				return nil, err
			}
			for _, name := range names {
				if key := strings.TrimPrefix(folder+"/"+name, "/"); counts.MatchString(key) && len(found) < 4*maxKeys {
					found = append(found, key)
				}
			}
		}
	}
	return found, nil
}

// descend goes one part deeper: into the folder of that name, or into all that match.
func descend(ctx context.Context, store Store, base string, folders []string, part string) ([]string, error) {
	prefix, wild := strings.CutSuffix(part, "*")
	var deeper []string
	for _, folder := range folders {
		if !wild {
			deeper = append(deeper, folder+"/"+part)
			continue
		}
		names, err := list(ctx, store, base+folder)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if strings.HasPrefix(name, prefix) && len(deeper) < maxKeys {
				deeper = append(deeper, folder+"/"+name)
			}
		}
	}
	return deeper, nil
}

// list is List for folders that need not be there.
func list(ctx context.Context, store Store, path string) ([]string, error) {
	names, err := store.List(ctx, path)
	if errors.Is(err, xenstore.ErrNotFound) || errors.Is(err, xenstore.ErrInvalid) {
		return nil, nil
	}
	return names, err
}

// relative picks the changed keys that count.
func relative(base string, paths []string) []string {
	var names []string
	for _, p := range paths {
		if name, ok := strings.CutPrefix(p, base+"/"); ok && counts.MatchString(name) {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// read brings the named keys up to date. Of keys that are new, no more are taken than the bounds allow.
func (k keys) read(ctx context.Context, store Store, base string, names []string) error {
	for _, name := range names {
		if _, known := k[name]; !known && !k.room(name) {
			continue
		}
		value, err := store.Read(ctx, base+"/"+name)
		switch {
		case errors.Is(err, xenstore.ErrNotFound):
			delete(k, name)
		case err != nil:
			return err
		default:
			k[name] = clean(value)
		}
	}
	return nil
}

// room says whether a new key of that name is taken: those that mean something come before others.
func (k keys) room(name string) bool {
	if len(k) >= maxKeys {
		return false
	}
	if !other(name) {
		return true
	}
	n := 0
	for key := range k {
		if other(key) {
			n++
		}
	}
	return n < maxOther
}

func (k keys) clone() keys { return maps.Clone(k) }

func (k keys) equal(o keys) bool { return maps.Equal(k, o) }

func (k keys) names() []string { return slices.Sorted(maps.Keys(k)) }

// clean makes a guest's bytes a short text of printable characters.
func clean(value string) string {
	if len(value) > maxValue {
		value = value[:maxValue]
	}
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == utf8.RuneError || r == '\ufffe' || r == '\uffff' || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, value))
}
