package rpc

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// roleSet is a set of roles, by rank: bit 0 is the strongest.
type roleSet uint16

// rolesWith lists the roles that have a permission whose weakest role is
// given as the datamodel writes it: "vm-admin", "pool-operator+client-cert",
// "local-root" (nobody's).
func rolesWith(model *datamodel.Model, weakest string) roleSet {
	name, _, withCert := strings.Cut(weakest, "+client-cert")
	limit := -1
	for _, r := range model.Roles {
		if r.Name == name {
			limit = r.Rank
		}
	}
	var set roleSet
	for _, r := range model.Roles {
		if r.Rank <= limit && (!r.Internal || withCert || name == "read-only") {
			set |= 1 << r.Rank
		}
		if withCert && r.Name == "client-cert" {
			set |= 1 << r.Rank
		}
	}
	return set
}

// roleSetsOf resolves every way in which the datamodel names a weakest role.
func roleSetsOf(model *datamodel.Model) map[string]roleSet {
	out := map[string]roleSet{}
	for _, p := range allPermissions(model) {
		if _, known := out[p.role]; !known {
			out[p.role] = rolesWith(model, p.role)
		}
	}
	return out
}

// guardedClass is a class whose records not every session may read.
type guardedClass struct {
	id      int
	allowed roleSet
}

// guardedClasses lists them: what get_record refuses, events must not tell.
func guardedClasses(model *datamodel.Model) []guardedClass {
	var out []guardedClass
	everybody := rolesWith(model, "read-only")
	for _, c := range model.Classes {
		m := model.Message(c.Name + ".get_record")
		if m == nil {
			continue
		}
		if allowed := rolesWith(model, m.Role); allowed != everybody {
			out = append(out, guardedClass{c.ID, allowed})
		}
	}
	return out
}

// hidden are the classes whose records the call's session may not read.
func (s *Server) hidden(c *call) db.Classes {
	var out db.Classes
	if c.root || c.session == nil || c.session.identity.Root {
		return out
	}
	roles := c.session.roles()
	for _, g := range s.guarded {
		if roles&g.allowed == 0 {
			out.Add(g.id)
		}
	}
	return out
}

// authorize checks that one of the caller's roles has the permissions that
// the call needs.
func (s *Server) authorize(c *call) error {
	if c.root || !c.msg.Session() || c.session.identity.Root {
		if c.msg.PoolInternal && !c.root && !c.Session.Pool {
			return xenapi.ErrInternalError("Internal API \"" + c.msg.WireName() + "\" call attempted with non-pool (external) session")
		}
		return nil
	}
	needs := s.keyPermissions(c)
	if needs == nil {
		if c.session.roles()&c.allowed != 0 {
			return nil
		}
		return s.permit(c.session, c.permission, c.msg.Role)
	}
	for _, permission := range slices.Sorted(maps.Keys(needs)) {
		if err := s.permit(c.session, permission, needs[permission]); err != nil {
			return err
		}
	}
	return nil
}

// permit checks one permission against the session's roles.
func (s *Server) permit(sess *session, permission, weakest string) error {
	allowed := s.roleSets[weakest]
	if sess.roles()&allowed != 0 {
		return nil
	}
	var names []string
	for _, r := range s.model.Roles {
		if allowed&(1<<r.Rank) != 0 && !r.Internal {
			names = append(names, r.Name)
		}
	}
	return xenapi.ErrRBACPermissionDenied(permission,
		fmt.Sprintf("No permission in user session. (Roles with this permission: %s)", strings.Join(names, ", ")))
}

// keyPermissions gives the permissions that a call needs, with their weakest
// roles, where they depend on map keys: for one key (add_to, remove_from), for
// the keys that a whole map changes (explicit setters), and for those that a
// new object's maps hold. It is nil where only the plain one is needed.
func (s *Server) keyPermissions(c *call) map[string]string {
	if len(c.args) > 1 && len(c.msg.MapKeysRoles) > 0 {
		if key, ok := c.args[1].(string); ok {
			if pattern, role := keyRole(c.msg.MapKeysRoles, key); pattern != "" {
				return map[string]string{keyed(c.permission, pattern): role}
			}
			return nil
		}
	}
	if c.msg.Kind == datamodel.Create {
		return s.createdKeys(c)
	}
	return s.changedKeys(c)
}

// keyed is the name of the permission to write one key.
func keyed(permission, pattern string) string { return permission + "/key:" + strings.ToLower(pattern) }

// keyRole finds the pattern that a key matches: itself, or the longest prefix
// with *.
func keyRole(roles map[string]string, key string) (pattern, role string) {
	if role, ok := roles[key]; ok {
		return key, role
	}
	for p := range roles {
		if prefix, ok := strings.CutSuffix(p, "*"); ok && strings.HasPrefix(key, prefix) && len(p) > len(pattern) {
			pattern = p
		}
	}
	return pattern, roles[pattern]
}

// mapRoles are the roles by key of a field, from the field itself or from
// the explicit add_to message that stands in for the generated one.
func (s *Server) mapRoles(class *datamodel.Class, field string) map[string]string {
	if m := s.model.Message(class.Name + ".add_to_" + field); m != nil {
		return m.MapKeysRoles
	}
	return nil
}

// changedKeys treats a whole-map setter as the adds and removes of the keys
// that differ. The plain permission is needed unless every one has its own.
func (s *Server) changedKeys(c *call) map[string]string {
	field, isSetter := strings.CutPrefix(c.msg.Name, "set_")
	if !isSetter || len(c.args) != 2 {
		return nil
	}
	next, isMap := c.args[1].(map[string]string)
	roles := s.mapRoles(c.msg.Class, field)
	f := c.msg.Class.FieldByName(field)
	if !isMap || f == nil || len(roles) == 0 {
		return nil
	}
	row := s.db.View().Find(c.msg.Class, fmt.Sprint(c.args[0]))
	if row == nil {
		return nil
	}
	was := *row.Rec.Ptr(f.Index).(*map[string]string)
	needs, plain := map[string]string{}, false
	for key := range union(was, next) {
		old, had := was[key]
		now, has := next[key]
		if had == has && old == now {
			continue
		}
		pattern, role := keyRole(roles, key)
		if pattern == "" {
			plain = true
			continue
		}
		verb := "add_to_"
		if !has {
			verb = "remove_from_"
		}
		needs[keyed(strings.ToLower(c.msg.Class.Name+"."+verb+field), pattern)] = role
	}
	if plain || len(needs) == 0 || c.msg.Kind != datamodel.Explicit {
		needs[c.permission] = c.msg.Role
	}
	return needs
}

func union(a, b map[string]string) map[string]bool {
	out := make(map[string]bool, len(a)+len(b))
	for k := range a {
		out[k] = true
	}
	for k := range b {
		out[k] = true
	}
	return out
}

// createdKeys asks for the permissions of the special keys in the maps of a
// constructor: a record must not carry what add_to would refuse.
func (s *Server) createdKeys(c *call) map[string]string {
	fields, ok := c.args[0].(*wire.Fields)
	if !ok {
		return nil
	}
	needs := map[string]string{c.permission: c.msg.Role}
	for _, f := range c.msg.Class.Fields {
		v, given := fields.Get(f)
		m, isMap := v.(map[string]string)
		if !given || !isMap {
			continue
		}
		roles := s.mapRoles(c.msg.Class, f.Name)
		for key := range m {
			if pattern, role := keyRole(roles, key); pattern != "" {
				needs[keyed(strings.ToLower(c.msg.Class.Name+".add_to_"+f.Name), pattern)] = role
			}
		}
	}
	return needs
}

// rolesOf resolves role references to a set of ranks.
func (s *Server) rolesOf(refs []xenapi.RoleRef) roleSet {
	var set roleSet
	for _, ref := range refs {
		for _, r := range s.model.Roles {
			if string(ref) == xenapi.RefPrefix+r.UUID {
				set |= 1 << r.Rank
			}
		}
	}
	return set
}
