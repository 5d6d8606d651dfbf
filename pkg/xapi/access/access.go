// Package access is the behaviour of roles, subjects and the directory: who
// may do what.
//
// Its one invariant: permissions follow from the datamodel alone; a role holds
// a permission when it is at least as strong as the permission's weakest role.
// Start reading at permissions.go.
package access

import (
	"context"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Access serves the classes role, subject and auth.
type Access struct{ env *xapi.Env }

// New makes the services.
func New(env *xapi.Env) *Access { return &Access{env: env} }

// Register puts the messages where the server finds them.
func (a *Access) Register(h xapi.Hooks, s *service.Services) {
	s.Role, s.Subject, s.Auth = roles{a: a}, subjects{a: a}, directory{}
	h.Create["subject.create"] = a.createSubject
}

// roles serves class role.
type roles struct {
	service.UnimplementedRole
	a *Access
}

// held lists the permissions in a role; a permission is a role of its own,
// which holds itself.
func (s roles) held(ref xenapi.RoleRef) ([]permission, error) {
	if i := slices.IndexFunc(all(), func(p permission) bool { return p.ref == ref }); i >= 0 {
		return all()[i : i+1], nil
	}
	role, err := db.Get(s.a.env.DB.View(), ref)
	if err != nil {
		return nil, err
	}
	return of(role.NameLabel), nil
}

// GetPermissions implements service.Role.
func (s roles) GetPermissions(_ context.Context, _ *service.Call, p service.RoleGetPermissionsParams) ([]xenapi.RoleRef, error) {
	held, err := s.held(p.Self)
	refs := make([]xenapi.RoleRef, len(held))
	for i, permission := range held {
		refs[i] = permission.ref
	}
	return refs, err
}

// GetPermissionsNameLabel implements service.Role.
func (s roles) GetPermissionsNameLabel(_ context.Context, _ *service.Call, p service.RoleGetPermissionsNameLabelParams) ([]string, error) {
	held, err := s.held(p.Self)
	return names(held), err
}

// GetByPermission implements service.Role.
func (s roles) GetByPermission(_ context.Context, _ *service.Call, p service.RoleGetByPermissionParams) ([]xenapi.RoleRef, error) {
	i := slices.IndexFunc(all(), func(q permission) bool { return q.ref == p.Permission })
	if i < 0 {
		return nil, xenapi.ErrHandleInvalid("role", string(p.Permission))
	}
	return holders(all()[i]), nil
}

// GetByPermissionNameLabel implements service.Role.
func (s roles) GetByPermissionNameLabel(_ context.Context, _ *service.Call, p service.RoleGetByPermissionNameLabelParams) ([]xenapi.RoleRef, error) {
	i := slices.IndexFunc(all(), func(q permission) bool { return q.name == p.Label })
	if i < 0 {
		return []xenapi.RoleRef{}, nil
	}
	return holders(all()[i]), nil
}

// subjects serves class subject.
type subjects struct {
	service.UnimplementedSubject
	a *Access
}

// maxIdentifier bounds a subject's identifier: no directory has longer ones.
const maxIdentifier = 1024

// createSubject makes a subject without any role: who may do what is decided
// afterwards, by add_to_roles.
func (a *Access) createSubject(ctx context.Context, _ *service.Call, r xenapi.Record, _ func(string) bool) (string, error) {
	rec := r.(*xenapi.Subject)
	if rec.SubjectIdentifier == "" || len(rec.SubjectIdentifier) > maxIdentifier {
		return "", xenapi.ErrInvalidValue("subject_identifier", rec.SubjectIdentifier[:min(len(rec.SubjectIdentifier), 64)])
	}
	rec.UUID, rec.Roles = xenapi.NewUUID(), nil
	ref := xenapi.NewRef[string]()
	return ref, a.env.Update(ctx, func(tx *db.Tx) error {
		for _, other := range db.All[xenapi.SubjectRef](tx) {
			if other.SubjectIdentifier == rec.SubjectIdentifier {
				return xenapi.ErrSubjectAlreadyExists()
			}
		}
		tx.Insert(ref, rec.Clone())
		return nil
	})
}

// AddToRoles implements service.Subject.
func (s subjects) AddToRoles(ctx context.Context, _ *service.Call, p service.SubjectAddToRolesParams) error {
	return s.a.env.Update(ctx, func(tx *db.Tx) error {
		subject, err := db.Edit(tx, p.Self)
		if err != nil {
			return err
		}
		role := db.Find(tx, p.Role)
		switch {
		case role == nil || role.IsInternal:
			return xenapi.ErrRoleNotFound()
		case slices.Contains(subject.Roles, p.Role):
			return xenapi.ErrRoleAlreadyExists()
		}
		subject.Roles = append(slices.Clip(subject.Roles), p.Role)
		return nil
	})
}

// RemoveFromRoles implements service.Subject.
func (s subjects) RemoveFromRoles(ctx context.Context, _ *service.Call, p service.SubjectRemoveFromRolesParams) error {
	return s.a.env.Update(ctx, func(tx *db.Tx) error {
		subject, err := db.Edit(tx, p.Self)
		if err != nil {
			return err
		}
		if !slices.Contains(subject.Roles, p.Role) {
			return xenapi.ErrRoleNotFound()
		}
		subject.Roles = slices.DeleteFunc(slices.Clone(subject.Roles), func(r xenapi.RoleRef) bool { return r == p.Role })
		return nil
	})
}

// GetPermissionsNameLabel implements service.Subject.
func (s subjects) GetPermissionsNameLabel(_ context.Context, _ *service.Call, p service.SubjectGetPermissionsNameLabelParams) ([]string, error) {
	rd := s.a.env.DB.View()
	subject, err := db.Get(rd, p.Self)
	if err != nil {
		return nil, err
	}
	out := []string{}
	for _, ref := range subject.Roles {
		if role := db.Find(rd, ref); role != nil {
			out = append(out, names(of(role.NameLabel))...)
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// directory serves class auth. No directory can be joined yet, so it says
// what a host without one says.
type directory struct{ service.UnimplementedAuth }

// GetSubjectIdentifier implements service.Auth.
func (directory) GetSubjectIdentifier(context.Context, *service.Call, service.AuthGetSubjectIdentifierParams) (string, error) {
	return "", xenapi.ErrAuthIsDisabled()
}

// GetSubjectInformationFromIdentifier implements service.Auth.
func (directory) GetSubjectInformationFromIdentifier(context.Context, *service.Call, service.AuthGetSubjectInformationFromIdentifierParams) (map[string]string, error) {
	return nil, xenapi.ErrAuthIsDisabled()
}

// GetGroupMembership implements service.Auth.
func (directory) GetGroupMembership(context.Context, *service.Call, service.AuthGetGroupMembershipParams) ([]string, error) {
	return nil, xenapi.ErrAuthIsDisabled()
}
