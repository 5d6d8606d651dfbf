package rpc

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/rpc/listen"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

var timeType = &datamodel.Type{Kind: datamodel.DateTime}

// Shared header values: setting a header costs no allocation with them.
var (
	xmlContent  = []string{"text/xml"}
	jsonContent = []string{"application/json"} // bare: Xen Orchestra compares it
	anyOrigin   = []string{"*"}
	corsHeaders = []string{"X-Requested-With"}
)

// ServeHTTP serves the API and the other handlers. root says that the caller
// is the superuser, as the Unix socket's credentials show.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.handle(w, r, false) }

// RootHandler serves callers who are the superuser.
func (s *Server) RootHandler() http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.handle(w, r, true) })
}

func (s *Server) handle(w http.ResponseWriter, r *http.Request, root bool) {
	switch r.Method {
	case http.MethodPost:
		switch {
		case strings.HasPrefix(r.URL.Path, "/jsonrpc"):
			s.serveJSON(w, r, root)
		case s.isAction(r.Method, r.URL.Path):
			refuse(w, http.StatusForbidden)
		default: // "/" is the longest prefix of all that is left: Xen Orchestra posts to /xmlrpc
			s.serveXML(w, r, root)
		}
		return
	case http.MethodOptions:
		serveOptions(w, r)
		return
	case http.MethodGet, http.MethodHead, http.MethodPut, http.MethodConnect:
	default:
		refuse(w, http.StatusNotImplemented)
		return
	}
	s.serveOther(w, r, root)
}

// isAction reports whether a path belongs to an HTTP action of the datamodel,
// the RPC endpoints aside.
func (s *Server) isAction(verb, path string) bool {
	for _, h := range s.model.HTTP {
		if strings.EqualFold(h.Method, verb) && h.URI != "/" && h.URI != "/RPC2" && strings.HasPrefix(path, h.URI) {
			return true
		}
	}
	return false
}

// refuse answers with a status and closes the connection.
func refuse(w http.ResponseWriter, status int) {
	w.Header().Set("Connection", "close")
	http.Error(w, http.StatusText(status), status)
}

// serveOptions lets pages of any origin call the API: it takes a session, not
// a cookie that a browser would add by itself.
func serveOptions(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != "/" && r.URL.Path != "/jsonrpc" && r.URL.Path != "/json" {
		refuse(w, http.StatusForbidden)
		return
	}
	h := w.Header()
	h["Access-Control-Allow-Origin"] = anyOrigin
	h.Set("Access-Control-Allow-Methods", "PUT")
	headers := "X-Requested-With"
	if asked := r.Header.Get("Access-Control-Request-Headers"); asked != "" {
		headers = asked + ", " + headers
	}
	h.Set("Access-Control-Allow-Headers", headers)
}

// smallBody is read without asking for a share of the memory for bodies.
const smallBody = 64 << 10

var errTooLarge = errors.New("rpc: the body is too large")

// readBody reads a whole body within the limits: one body's, and that of all
// bodies together. release gives the memory's share back.
func (s *Server) readBody(r *http.Request) (body []byte, release func(), err error) {
	limit := s.opts.MaxBody
	if r.ContentLength > limit {
		return nil, nil, errTooLarge
	}
	release = func() {}
	if r.ContentLength < 0 || r.ContentLength > smallBody {
		share := max(r.ContentLength, 0)
		if share == 0 {
			share = limit
		}
		if err := s.bodies.Acquire(r.Context(), share); err != nil {
			return nil, nil, err
		}
		release = func() { s.bodies.Release(share) }
	}
	timed := &timedReader{r.Body, s.now, s.now().Add(bodyTime)}
	if r.ContentLength >= 0 {
		body = make([]byte, r.ContentLength)
		_, err = io.ReadFull(timed, body)
	} else {
		body, err = io.ReadAll(io.LimitReader(timed, limit+1))
		if int64(len(body)) > limit {
			err = errTooLarge
		}
	}
	if err != nil {
		release()
		return nil, nil, err
	}
	return body, release, nil
}

// bodyTime is how long a call's body may take in all: a large one keeps
// others waiting for its share of the memory.
const bodyTime = time.Minute

var errTooSlow = errors.New("rpc: the body came too slowly")

// timedReader fails once its time is over. The listener sees to it that reads
// return.
type timedReader struct {
	r     io.Reader
	now   func() time.Time
	until time.Time
}

// Read implements io.Reader.
func (t *timedReader) Read(p []byte) (int, error) {
	n, err := t.r.Read(p)
	if err == nil && t.now().After(t.until) {
		err = errTooSlow
	}
	return n, err
}

// take reads a request's body, or answers why not.
func (s *Server) take(w http.ResponseWriter, r *http.Request) (body []byte, release func(), ok bool) {
	body, release, err := s.readBody(r)
	switch {
	case errors.Is(err, errTooLarge):
		refuse(w, http.StatusRequestEntityTooLarge)
	case errors.Is(err, errTooSlow):
		refuse(w, http.StatusRequestTimeout)
	case err != nil:
		refuse(w, listen.BodyStatus(err))
	}
	return body, release, err == nil
}

func (s *Server) serveXML(w http.ResponseWriter, r *http.Request, root bool) {
	body, release, ok := s.take(w, r)
	if !ok {
		return
	}
	defer release()
	name, params, err := wire.DecodeXMLCall(body)
	if err != nil {
		refuse(w, http.StatusInternalServerError)
		return
	}
	a := s.serve(&request{name: name, params: params, enc: encodeXML, http: r, root: root})
	var reply *wire.Reply
	switch {
	case a.err != nil:
		reply = wire.XMLFailure(a.err)
	case a.bare:
		reply = wire.XMLBare(a.typ, a.val)
	default:
		reply = wire.XMLSuccess(a.typ, a.val)
	}
	s.send(w, r, xmlContent, reply)
}

func (s *Server) serveJSON(w http.ResponseWriter, r *http.Request, root bool) {
	body, release, ok := s.take(w, r)
	if !ok {
		return
	}
	defer release()
	c, err := wire.DecodeJSONCall(body)
	if err != nil {
		refuse(w, http.StatusInternalServerError)
		return
	}
	a := s.serve(&request{name: c.Method, params: c.Params, enc: encodeJSON, http: r, root: root})
	var reply *wire.Reply
	if a.err != nil {
		reply = wire.JSONFailure(&c, a.err)
	} else {
		reply = wire.JSONSuccess(&c, a.typ, a.val)
	}
	s.send(w, r, jsonContent, reply)
}

func (s *Server) send(w http.ResponseWriter, r *http.Request, content []string, reply *wire.Reply) {
	h := w.Header()
	h["Content-Type"] = content
	h["Access-Control-Allow-Origin"] = anyOrigin
	h["Access-Control-Allow-Headers"] = corsHeaders
	h["Content-Length"] = []string{strconv.FormatInt(reply.Len(), 10)}
	var out io.Writer = w
	if reply.Len() > largeAnswer {
		out = s.turns.writer(w)
	}
	if _, err := reply.WriteTo(out); err != nil {
		s.log.Debug("the client went away", "address", r.RemoteAddr, "error", err)
	}
}

// serveOther serves what is neither RPC: the start page, metrics, and the
// HTTP actions of the datamodel.
func (s *Server) serveOther(w http.ResponseWriter, r *http.Request, root bool) {
	switch {
	case r.URL.Path == "/" && (r.Method == http.MethodGet || r.Method == http.MethodHead):
		serveHome(w)
	case r.URL.Path == "/metrics" && r.Method == http.MethodGet && s.opts.Metrics != nil:
		s.opts.Metrics.ServeHTTP(w, r)
	case r.URL.Path == "/audit_log" && r.Method == http.MethodGet:
		s.action(w, r, root, "get_audit_log", s.serveAudit)
	case r.Method == http.MethodGet:
		refuse(w, http.StatusNotFound)
	default:
		refuse(w, http.StatusForbidden)
	}
}

// action authenticates and authorizes an HTTP handler, and completes the task
// that the request names, if any.
func (s *Server) action(w http.ResponseWriter, r *http.Request, root bool, name string, fn func(w http.ResponseWriter, r *http.Request) error) {
	sess, temporary, err := s.httpSession(r, root)
	if err != nil {
		s.auditAction(r, name, nil, err)
		w.Header().Set("WWW-Authenticate", `Basic realm="`+name+`"`)
		refuse(w, http.StatusUnauthorized)
		s.finishHTTP(r, nil, root, &xenapi.Error{Code: "SESSION_AUTHENTICATION_FAILED"})
		return
	}
	if temporary {
		defer s.sessions.end(sess)
	}
	if !root && !sess.identity.Root {
		if err := s.permit(sess, "http/"+name, s.actionRole(name)); err != nil {
			s.auditAction(r, name, sess, err)
			refuse(w, http.StatusForbidden)
			s.finishHTTP(r, sess, root, err)
			return
		}
	}
	err = fn(w, r)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
	s.auditAction(r, name, sess, err)
	s.finishHTTP(r, sess, root, err)
}

// auditAction writes the audit line of an HTTP handler.
func (s *Server) auditAction(r *http.Request, name string, sess *session, err error) {
	attrs := []slog.Attr{slog.String("call", "http/"+name)}
	if sess != nil {
		attrs = append(attrs, slog.String("user", sess.identity.User), slog.String("session", sess.identity.UUID))
	} else if user, _, ok := r.BasicAuth(); ok {
		attrs = append(attrs, slog.String("user", wire.Clip(user)))
	}
	s.auditLine(append(attrs, slog.String("address", r.RemoteAddr), slog.String("result", resultText(err)))...)
}

func (s *Server) actionRole(name string) string {
	for _, h := range s.model.HTTP {
		if h.Name == name {
			return h.Role
		}
	}
	return "local-root"
}

// requestValue finds what a transfer's request says of a session or a task:
// in a cookie, else in the query.
func requestValue(r *http.Request, name string) string {
	if cookie, err := r.Cookie(name); err == nil {
		return cookie.Value
	}
	return r.URL.Query().Get(name)
}

// httpSession finds who calls an HTTP handler: by cookie, by query, or by a
// login that lasts as long as the request.
func (s *Server) httpSession(r *http.Request, root bool) (sess *session, temporary bool, err error) {
	if ref := requestValue(r, "session_id"); ref != "" {
		c := &call{}
		err := s.checkSession(c, ref)
		return c.session, false, err
	}
	sess = &session{ended: make(chan struct{})}
	if root {
		sess.identity.User, sess.identity.Root = "root", true
	} else {
		user, password, ok := r.BasicAuth()
		if !ok {
			return nil, false, xenapi.ErrSessionInvalid("")
		}
		if err := s.sessions.login(r.Context(), sess, r.RemoteAddr, user, password); err != nil {
			return nil, false, err
		}
	}
	_, err = s.sessions.open(r.Context(), sess, wire.Clip(r.UserAgent())+" using Basic auth")
	return sess, true, err
}

// finishHTTP completes the task that a transfer names: one that a client made
// for it, and that the transfer's user may touch.
func (s *Server) finishHTTP(r *http.Request, sess *session, root bool, err error) {
	ref := xenapi.TaskRef(r.Header.Get("task-id"))
	if ref == "" {
		ref = xenapi.TaskRef(requestValue(r, "task_id"))
	}
	if ref == "" {
		return
	}
	j, denied := s.tasks.mine(&call{session: sess, root: root || sess == nil}, ref)
	if denied == nil && !s.tasks.running(j) {
		s.tasks.finish(ref, "", err)
	}
}

const homePage = `<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>xapid</title></head>
<body><h1>xapid</h1>
<p>This is the host agent of a Xen host. It speaks the XenAPI: XML-RPC by POST to
<code>/</code>, JSON-RPC by POST to <code>/jsonrpc</code>, metrics at <a href="/metrics">/metrics</a>.</p>
</body></html>
`

func serveHome(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Length", strconv.Itoa(len(homePage)))
	_, _ = io.Copy(w, strings.NewReader(homePage))
}
