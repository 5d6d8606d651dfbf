package access

import (
	"cmp"
	"crypto/md5"
	"slices"
	"strings"
	"sync"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// permission is one thing that a session may do.
type permission struct {
	name string
	ref  xenapi.RoleRef
	// weakest is the weakest role that holds it, as the datamodel has it.
	weakest string
}

// all lists every permission by name: messages, messages on certain keys of a
// map, HTTP actions, and a few that are neither.
var all = sync.OnceValue(func() []permission {
	model := datamodel.Get()
	var out []permission
	add := func(name, weakest string) {
		ref := xenapi.RoleRef(xenapi.RefPrefix + xenapi.FormatUUID(md5.Sum([]byte(name))))
		out = append(out, permission{name, ref, weakest})
	}
	for _, class := range model.Classes {
		for _, m := range class.Messages {
			add(m.Permission(), m.Role)
			for key, role := range m.MapKeysRoles {
				add(m.Permission()+"/key:"+strings.ToLower(key), role)
			}
		}
	}
	for _, action := range model.HTTP {
		if action.RBAC {
			add("http/"+action.Name, action.Role)
		}
	}
	for name, role := range model.ExtraPermissions {
		add(name, role)
	}
	slices.SortFunc(out, func(a, b permission) int { return cmp.Compare(a.name, b.name) })
	return slices.CompactFunc(out, func(a, b permission) bool { return a.name == b.name })
})

// holds reports whether a role has a permission whose weakest role is given:
// "vm-admin", "pool-operator+client-cert", "local-root" (nobody's).
func holds(r datamodel.Role, weakest string) bool {
	name, _, withCert := strings.Cut(weakest, "+client-cert")
	if withCert && r.Name == "client-cert" {
		return true
	}
	for _, limit := range datamodel.Get().Roles {
		if limit.Name == name {
			return r.Rank <= limit.Rank && (!r.Internal || withCert || name == "read-only")
		}
	}
	return false
}

// of lists the permissions of a role by its name.
func of(role string) []permission {
	out := []permission{}
	for _, r := range datamodel.Get().Roles {
		if r.Name != role {
			continue
		}
		for _, p := range all() {
			if holds(r, p.weakest) {
				out = append(out, p)
			}
		}
	}
	return out
}

// holders lists the roles that have a permission.
func holders(p permission) []xenapi.RoleRef {
	refs := []xenapi.RoleRef{}
	for _, r := range datamodel.Get().Roles {
		if holds(r, p.weakest) {
			refs = append(refs, xenapi.RoleRef(xenapi.RefPrefix+r.UUID))
		}
	}
	return refs
}

func names(list []permission) []string {
	out := make([]string, len(list))
	for i, p := range list {
		out[i] = p.name
	}
	return out
}
