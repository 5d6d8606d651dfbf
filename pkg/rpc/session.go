package rpc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// The limits on sessions.
const (
	sessionsPerGroup = 500
	sessionIdle      = 24 * time.Hour
	// activeWritten is how often last_active is brought up to date.
	activeWritten = 10 * time.Minute
)

// session is one client's session as every call checks it. The object that
// clients see is a row of the graph.
type session struct {
	identity service.Identity
	grant    atomic.Pointer[grant] // of an external user
	group    string
	ended    chan struct{}
	sub      atomic.Pointer[subscription] // of the classic event calls

	lastActive  atomic.Int64 // Unix nanoseconds
	lastWritten atomic.Int64
	lastAnswer  atomic.Int64 // of event.from, since the hub began
	pending     atomic.Int32 // tasks under way
}

// grant is what an external user's session rests on: a version of the
// subject, and the roles that it has.
type grant struct {
	subject *db.Row
	roles   roleSet
}

func (sess *session) roles() roleSet {
	if g := sess.grant.Load(); g != nil {
		return g.roles
	}
	return 0
}

// sessionKey stands for a reference where it is looked up: comparing hashes
// tells a guesser nothing about how near a guess was.
type sessionKey [sha256.Size]byte

func keyOf(ref xenapi.SessionRef) sessionKey { return sha256.Sum256([]byte(ref)) }

// sessionStore holds the sessions and serves class session.
type sessionStore struct {
	service.UnimplementedSession
	s *Server

	mu     sync.RWMutex
	byRef  map[sessionKey]*session
	groups map[string]map[*session]struct{}
}

func newSessionStore(s *Server) *sessionStore {
	return &sessionStore{s: s, byRef: map[sessionKey]*session{}, groups: map[string]map[*session]struct{}{}}
}

// checkSession finds the call's session and notes that it is in use.
func (s *Server) checkSession(c *call, ref string) error {
	st := s.sessions
	sess := st.find(xenapi.SessionRef(ref))
	if sess == nil {
		return xenapi.ErrSessionInvalid(wire.Clip(ref))
	}
	now := s.now().UnixNano()
	sess.lastActive.Store(now)
	if written := sess.lastWritten.Load(); now-written > int64(activeWritten) && sess.lastWritten.CompareAndSwap(written, now) {
		at := time.Unix(0, now).UTC().Truncate(time.Second)
		st.edit(sess, func(rec *xenapi.Session) { rec.LastActive = at })
	}
	if err := st.revalidate(sess); err != nil {
		return err
	}
	c.session, c.Session = sess, sess.identity
	return nil
}

// find looks a session up; nil if it is not open.
func (st *sessionStore) find(ref xenapi.SessionRef) *session {
	key := keyOf(ref)
	st.mu.RLock()
	defer st.mu.RUnlock()
	return st.byRef[key]
}

// edit changes a session's object; one that has ended has none.
func (st *sessionStore) edit(sess *session, fn func(rec *xenapi.Session)) {
	err := st.s.db.Update(st.s.base, func(tx *db.Tx) error {
		if db.Find(tx, sess.identity.Ref) == nil {
			return nil
		}
		rec, err := db.Edit(tx, sess.identity.Ref)
		if err == nil {
			fn(rec)
		}
		return err
	})
	if err != nil && st.s.base.Err() == nil {
		st.s.log.Warn("a session is not brought up to date", "session", sess.identity.UUID, "error", err)
	}
}

// revalidate follows changes to the subject that an external session rests
// on: fewer roles take effect at once, also on the session's tasks, and a
// subject that has gone ends both.
func (st *sessionStore) revalidate(sess *session) error {
	was := sess.grant.Load()
	if was == nil {
		return nil
	}
	row := st.s.db.View().Find(was.subject.Class(), was.subject.Ref)
	if row == was.subject {
		return nil
	}
	if row == nil {
		st.s.tasks.cancelOf(sess, func(*call) bool { return true })
		st.end(sess)
		return xenapi.ErrSessionInvalid(string(sess.identity.Ref))
	}
	next := &grant{row, st.s.rolesOf(row.Rec.(*xenapi.Subject).Roles)}
	sess.grant.Store(next)
	if next.roles == was.roles {
		return nil
	}
	st.s.tasks.cancelOf(sess, func(c *call) bool { return st.s.authorize(c) != nil })
	permissions := st.s.permissions(next.roles)
	st.edit(sess, func(rec *xenapi.Session) { rec.RBACPermissions = permissions })
	return nil
}

// byUUID finds a session for those who may know its reference, which is a
// credential: superusers, and the user whose session it is. Uuids of sessions
// stand in the audit file for everybody.
func (st *sessionStore) byUUID(_ context.Context, s *Server, c *call) (any, error) {
	uuid := c.args[0].(string)
	for _, sess := range st.all() {
		if sess.identity.UUID != uuid {
			continue
		}
		if c.root || c.session.identity.Root || !sess.identity.Root && sess.identity.UserSID == c.session.identity.UserSID {
			return string(sess.identity.Ref), nil
		}
	}
	return nil, xenapi.ErrUUIDInvalid("session", wire.Clip(uuid))
}

// LoginWithPassword makes a session for a name and a password.
func (st *sessionStore) LoginWithPassword(ctx context.Context, c *service.Call, p service.SessionLoginWithPasswordParams) (xenapi.SessionRef, error) {
	user := wire.Clip(p.Uname)
	c.Session.User = user
	sess := &session{ended: make(chan struct{})}
	if callOf(ctx).root {
		sess.identity = service.Identity{User: user, Root: true}
	} else if err := st.login(ctx, sess, c.RemoteAddr, p.Uname, p.Pwd); err != nil {
		return "", err
	}
	ref, err := st.open(ctx, sess, p.Originator)
	c.Session = sess.identity // for the audit line
	return ref, err
}

// login checks who a session is for.
func (st *sessionStore) login(ctx context.Context, sess *session, address, user, password string) error {
	id, err := st.s.opts.Login(ctx, address, user, password)
	switch {
	case errors.Is(err, ErrNotAuthorized):
		return xenapi.ErrSessionAuthorizationFailed(wire.Clip(user), "the user may not manage this host")
	case err != nil:
		st.s.log.Info("a login failed", "user", wire.Clip(user), "address", address, "error", err)
		return xenapi.ErrSessionAuthenticationFailed(wire.Clip(user), "Authentication failure")
	}
	sess.identity = service.Identity{User: id.Name, Root: id.Root}
	if id.Root {
		return nil
	}
	sess.identity.UserSID = id.Name
	return st.authorize(sess)
}

// authorize gives an external user the roles of the subject with its name.
func (st *sessionStore) authorize(sess *session) error {
	snap := st.s.db.View()
	for row := range snap.Rows(st.s.model.Class("subject")) {
		subject := row.Rec.(*xenapi.Subject)
		if subject.SubjectIdentifier == sess.identity.User {
			sess.grant.Store(&grant{row, st.s.rolesOf(subject.Roles)})
			return nil
		}
	}
	return xenapi.ErrSessionAuthorizationFailed(sess.identity.User, "no subject of that name")
}

// open makes the session known, and the least recently used one of its group
// go when there are too many.
func (st *sessionStore) open(ctx context.Context, sess *session, originator string) (xenapi.SessionRef, error) {
	ref := xenapi.NewRef[xenapi.SessionRef]()
	now := st.s.now()
	sess.identity.Ref, sess.identity.UUID = ref, xenapi.NewUUID()
	sess.lastActive.Store(now.UnixNano())
	sess.lastWritten.Store(now.UnixNano())
	sess.group = "user " + sess.identity.User
	if sess.identity.Root {
		sess.group = "root " + originator
	}
	rec := xenapi.NewSession()
	rec.UUID, rec.Originator = sess.identity.UUID, originator
	rec.ThisHost = st.s.opts.ThisHost()
	rec.LastActive = now.UTC().Truncate(time.Second)
	rec.ValidationTime = rec.LastActive
	rec.IsLocalSuperuser = sess.identity.Root
	rec.AuthUserName, rec.AuthUserSid = sess.identity.User, sess.identity.UserSID
	if g := sess.grant.Load(); g != nil {
		rec.Subject = xenapi.SubjectRef(g.subject.Ref)
		rec.RBACPermissions = st.s.permissions(g.roles)
	}
	if err := st.s.db.Update(ctx, func(tx *db.Tx) error { tx.Insert(string(ref), rec); return nil }); err != nil {
		return "", err
	}
	st.mu.Lock()
	st.byRef[keyOf(ref)] = sess
	group := st.groups[sess.group]
	if group == nil {
		group = map[*session]struct{}{}
		st.groups[sess.group] = group
	}
	group[sess] = struct{}{}
	evicted := st.oldest(group)
	st.mu.Unlock()
	st.end(evicted...)
	return ref, nil
}

// oldest picks the least recently used sessions of a group beyond its limit;
// those with tasks under way stay.
func (st *sessionStore) oldest(group map[*session]struct{}) []*session {
	if len(group) <= sessionsPerGroup {
		return nil
	}
	var idle []*session
	for sess := range group {
		if sess.pending.Load() == 0 {
			idle = append(idle, sess)
		}
	}
	slices.SortFunc(idle, func(a, b *session) int { return cmp.Compare(a.lastActive.Load(), b.lastActive.Load()) })
	return idle[:min(len(idle), len(group)-sessionsPerGroup)]
}

// end makes sessions unknown and wakes whoever waits for events in them.
func (st *sessionStore) end(gone ...*session) {
	if len(gone) == 0 {
		return
	}
	st.mu.Lock()
	gone = slices.DeleteFunc(gone, func(sess *session) bool { return st.byRef[keyOf(sess.identity.Ref)] != sess })
	for _, sess := range gone {
		delete(st.byRef, keyOf(sess.identity.Ref))
		delete(st.groups[sess.group], sess)
		if len(st.groups[sess.group]) == 0 {
			delete(st.groups, sess.group)
		}
	}
	st.mu.Unlock()
	for _, sess := range gone {
		close(sess.ended)
		st.s.events.drop(sess)
	}
	if st.s.base.Err() != nil {
		return // the objects go with the process
	}
	err := st.s.db.Update(st.s.base, func(tx *db.Tx) error {
		for _, sess := range gone {
			db.Delete(tx, sess.identity.Ref)
		}
		return nil
	})
	if err != nil && st.s.base.Err() == nil {
		st.s.log.Warn("ended sessions stay listed", "error", err)
	}
}

// collect ends the sessions that have been idle for a day, and those whose
// subject has gone.
func (st *sessionStore) collect() {
	limit := st.s.now().Add(-sessionIdle).UnixNano()
	var gone []*session
	for _, sess := range st.all() {
		if sess.lastActive.Load() < limit && sess.pending.Load() == 0 {
			gone = append(gone, sess)
		} else if err := st.revalidate(sess); err != nil {
			st.s.log.Info("a session ended with its subject", "session", sess.identity.UUID, "user", sess.identity.User)
		}
	}
	st.end(gone...)
}

// close wakes all waiters when the server stops.
func (st *sessionStore) close() { st.end(st.all()...) }

func (st *sessionStore) all() []*session {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return slices.Collect(maps.Values(st.byRef))
}

func (st *sessionStore) count() int {
	st.mu.RLock()
	defer st.mu.RUnlock()
	return len(st.byRef)
}

// Logout ends the caller's session.
func (st *sessionStore) Logout(ctx context.Context, _ *service.Call) error {
	st.end(callOf(ctx).session)
	return nil
}

// LocalLogout ends the caller's session.
func (st *sessionStore) LocalLogout(ctx context.Context, c *service.Call) error {
	return st.Logout(ctx, c)
}

// ChangePassword sets the root password of the password file. The old one is
// not asked for: the caller is a superuser already.
func (st *sessionStore) ChangePassword(_ context.Context, c *service.Call, p service.SessionChangePasswordParams) error {
	if !c.Session.Root {
		return xenapi.ErrUserIsNotLocalSuperuser("Only a local superuser may change the password")
	}
	if st.s.opts.SetPassword == nil {
		return xenapi.ErrChangePasswordRejected("passwords are kept by PAM on this host: use passwd")
	}
	if err := st.s.opts.SetPassword(c.Session.User, p.NewPwd); err != nil {
		return xenapi.ErrChangePasswordRejected(err.Error())
	}
	return nil
}

// GetAllSubjectIdentifiers lists the external users who are logged in.
func (st *sessionStore) GetAllSubjectIdentifiers(context.Context, *service.Call) ([]string, error) {
	users := []string{}
	for _, sess := range st.all() {
		if sess.grant.Load() != nil && !slices.Contains(users, sess.identity.UserSID) {
			users = append(users, sess.identity.UserSID)
		}
	}
	slices.Sort(users)
	return users, nil
}

// LogoutSubjectIdentifier ends the sessions of an external user, but for the
// caller's own.
func (st *sessionStore) LogoutSubjectIdentifier(ctx context.Context, _ *service.Call, p service.SessionLogoutSubjectIdentifierParams) error {
	mine := callOf(ctx).session
	var gone []*session
	for _, sess := range st.all() {
		if sess.grant.Load() != nil && sess.identity.UserSID == p.SubjectIdentifier && sess != mine {
			gone = append(gone, sess)
		}
	}
	st.end(gone...)
	return nil
}

// permissions lists what a set of roles may do, for session.rbac_permissions.
func (s *Server) permissions(roles roleSet) []string {
	var out []string
	for _, p := range allPermissions(s.model) {
		if roles&s.roleSets[p.role] != 0 {
			out = append(out, p.name)
		}
	}
	return out
}

// permission is one RBAC permission and the weakest role that has it.
type permission struct{ name, role string }

// allPermissions lists every permission: calls, keyed ones, HTTP actions.
func allPermissions(model *datamodel.Model) []permission {
	var out []permission
	for _, c := range model.Classes {
		for _, m := range c.Messages {
			out = append(out, permission{m.Permission(), m.Role})
			for key, role := range m.MapKeysRoles {
				out = append(out, permission{keyed(m.Permission(), key), role})
			}
		}
	}
	for _, h := range model.HTTP {
		if h.RBAC {
			out = append(out, permission{"http/" + h.Name, h.Role})
		}
	}
	for name, role := range model.ExtraPermissions {
		out = append(out, permission{name, role})
	}
	slices.SortFunc(out, func(a, b permission) int { return strings.Compare(a.name, b.name) })
	return out
}
