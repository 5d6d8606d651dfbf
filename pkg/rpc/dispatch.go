package rpc

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"

	"xapid/pkg/datamodel"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// encoding is one of the two that an answer can have.
type encoding int

const (
	encodeXML encoding = iota
	encodeJSON
)

// request is one decoded call and what is known of who sent it.
type request struct {
	name   string
	params []wire.Value
	enc    encoding
	http   *http.Request
	// root marks the Unix socket of a superuser: no password, no RBAC.
	root bool
}

// method is what dispatch knows of a message.
type method struct {
	msg        *datamodel.Message
	run        func(ctx context.Context, s *Server, c *call) (any, error)
	required   int
	permission string
	allowed    roleSet
	sideEffect bool
	family     string
}

// call is a request on its way: arguments typed, session found.
type call struct {
	service.Call
	*method
	args    []any
	enc     encoding
	session *session
	http    *http.Request
	root    bool
	async   bool
	job     *job
}

// answer is what a call ends in: a value of a type, or an error.
type answer struct {
	typ  *datamodel.Type
	val  any
	bare bool // without the envelope's status
	err  error
}

var (
	stringType    = &datamodel.Type{Kind: datamodel.String}
	stringSetType = &datamodel.Type{Kind: datamodel.Set, Elem: stringType}
	taskRefType   = &datamodel.Type{Kind: datamodel.Ref, Name: "task"}
)

// buildMethods lists every message under its two spellings.
func buildMethods(s *Server) map[string]*method {
	explicit := service.All()
	out := make(map[string]*method, 5000)
	for _, class := range s.model.Classes {
		for _, msg := range class.Messages {
			m := &method{msg: msg, required: msg.Required(), permission: msg.Permission(),
				allowed: s.roleSets[msg.Role], sideEffect: sideEffect(msg), family: family(msg)}
			switch {
			case msg.Lifecycle == datamodel.Removed:
				m.run = func(context.Context, *Server, *call) (any, error) { return nil, xenapi.ErrMessageRemoved() }
			case msg.Kind == datamodel.Explicit:
				h := explicit[msg.WireName()]
				m.run = func(ctx context.Context, s *Server, c *call) (any, error) {
					return h(context.WithValue(ctx, callKey{}, c), s.opts.Services, &c.Call, c.args)
				}
			default:
				m.run = implicitHandler(s, msg)
			}
			out[msg.WireName()] = m
			out[class.Name+"_"+msg.Name] = m
		}
	}
	return out
}

// callKey finds the call in the context of the three services that live here.
type callKey struct{}

func callOf(ctx context.Context) *call { return ctx.Value(callKey{}).(*call) }

// sideEffect reports whether a message changes something: such calls leave a
// line in the audit file.
func sideEffect(m *datamodel.Message) bool {
	switch m.Kind {
	case datamodel.FieldSet, datamodel.FieldAdd, datamodel.FieldRemove, datamodel.Create, datamodel.Destroy:
		return true
	case datamodel.Explicit:
		if m.Class.Name == "event" {
			return false
		}
		for _, prefix := range []string{"get_", "assert_", "query_", "list_", "is_", "compute_", "retrieve_", "has_", "probe", "tickle_"} {
			if strings.HasPrefix(m.Name, prefix) || m.Name == "get" {
				return false
			}
		}
		return true
	}
	return false
}

// family groups messages for the latency metric.
func family(m *datamodel.Message) string {
	switch m.Kind {
	case datamodel.FieldGet, datamodel.GetByUUID, datamodel.GetByNameLabel, datamodel.GetRecord:
		return "read"
	case datamodel.GetAll, datamodel.GetAllRecords, datamodel.GetAllWhere, datamodel.GetAllRecordsWhere:
		return "list"
	case datamodel.FieldSet, datamodel.FieldAdd, datamodel.FieldRemove:
		return "write"
	}
	return m.Class.Name
}

// serve carries a request out, from its name to its result.
func (s *Server) serve(req *request) answer {
	name, async := strings.CutPrefix(req.name, "Async.")
	m := s.methods[name]
	if m == nil || async && !strings.Contains(name, ".") { // the underscore form has no Async
		return s.serveSpecial(req)
	}
	if async && !m.msg.Async {
		return answer{err: &xenapi.Error{Code: "Fault", Params: []string{"No async mode for this operation (rpc: " + req.name + ")"}}}
	}
	c := s.newCall(m, req)
	c.async = async
	sessionRef, err := s.decodeArgs(c, req)
	if err == nil && m.msg.Session() {
		err = s.checkSession(c, sessionRef)
	}
	if err == nil && m.msg.Lifecycle != datamodel.Removed {
		err = s.authorize(c)
	}
	if err != nil {
		s.refused(c, err)
		return answer{err: err}
	}
	if async {
		ref, err := s.tasks.start(c)
		return answer{typ: taskRefType, val: string(ref), err: err}
	}
	val, err := s.execute(s.contextOf(c), c)
	return answer{typ: m.msg.Result, val: val, err: err}
}

// decodeArgs types the parameters. They come before the session check, so a
// badly shaped parameter is reported before a bad session.
func (s *Server) decodeArgs(c *call, req *request) (sessionRef string, err error) {
	params := req.params
	received := len(params)
	if c.msg.Session() {
		if len(params) == 0 {
			return "", countMismatch(c, 0)
		}
		ref, err := wire.Decode(stringType, params[0], "session_id")
		if err != nil {
			return "", err
		}
		sessionRef, params = ref.(string), params[1:]
		received--
	}
	if received < c.required || received > len(c.msg.Params) && c.required == len(c.msg.Params) {
		return "", countMismatch(c, received)
	}
	c.args = make([]any, len(c.msg.Params))
	for i := range c.msg.Params {
		p := &c.msg.Params[i]
		if i >= len(params) {
			c.args[i] = defaultArg(p)
			continue
		}
		if c.args[i], err = wire.Decode(p.Type, params[i], p.Name); err != nil {
			return "", err
		}
	}
	return sessionRef, nil
}

func countMismatch(c *call, received int) error {
	return xenapi.ErrMessageParameterCountMismatch(c.msg.WireName(), fmt.Sprint(c.required), fmt.Sprint(received))
}

// defaultArg gives a parameter's default as a canonical value.
func defaultArg(p *datamodel.Param) any {
	v, err := wire.Decode(p.Type, jsonValue(p.Default), p.Name)
	if err != nil {
		panic(fmt.Sprintf("rpc: the default of %s: %v", p.Name, err)) // TestDefaults holds them
	}
	return v
}

// jsonValue makes a wire value of what the schema's JSON gave.
func jsonValue(v any) wire.Value {
	switch v := v.(type) {
	case string:
		return wire.Value{Kind: wire.String, Text: v}
	case float64:
		return wire.Value{Kind: wire.Number, Text: fmt.Sprint(v)}
	case bool:
		if v {
			return wire.Value{Kind: wire.Bool, Text: "1"}
		}
		return wire.Value{Kind: wire.Bool, Text: "0"}
	case []any:
		out := wire.Value{Kind: wire.Array}
		for _, e := range v {
			out.Items = append(out.Items, jsonValue(e))
		}
		return out
	case map[string]any:
		out := wire.Value{Kind: wire.Struct}
		for k, e := range v {
			item := jsonValue(e)
			item.Name = k
			out.Items = append(out.Items, item)
		}
		return out
	}
	return wire.Value{Kind: wire.Nil}
}

// serveSpecial answers what is no message of a class.
func (s *Server) serveSpecial(req *request) answer {
	switch {
	case req.name == "system.listMethods":
		var names []string
		for _, c := range s.model.Classes {
			for _, m := range c.Messages {
				names = append(names, m.WireName())
			}
		}
		return answer{typ: stringSetType, val: names, bare: true}
	case strings.HasPrefix(req.name, "system.isAlive:") && len(req.params) > 0:
		v, err := wire.Decode(stringType, req.params[0], "value")
		return answer{typ: stringType, val: v, err: err}
	}
	unknown := answer{err: xenapi.ErrMessageMethodUnknown(wire.Clip(req.name))}
	if len(req.params) == 0 {
		return unknown
	}
	ref, err := wire.Decode(stringType, req.params[0], "session_id")
	if err != nil { // no session, such as the array that system.multicall takes
		return unknown
	}
	c := s.newCall(s.methods["host.call_extension"], req)
	if err = s.checkSession(c, ref.(string)); err == nil {
		err = s.authorize(c)
	}
	if err != nil {
		s.refused(c, err)
		return answer{err: err}
	}
	return unknown
}

// newCall begins a call, with what behaviour may know of the caller but for
// the session.
func (s *Server) newCall(m *method, req *request) *call {
	c := &call{method: m, enc: req.enc, http: req.http, root: req.root}
	c.Message, c.Log = m.msg, s.log
	if req.http != nil {
		c.RemoteAddr, c.UserAgent = req.http.RemoteAddr, req.http.UserAgent()
	}
	c.job = &job{server: s, call: c}
	c.Task = c.job
	return c
}

// contextOf is the context of a synchronous call. A client that goes away does
// not stop what it has asked for, except for waiting.
func (s *Server) contextOf(c *call) context.Context {
	if c.http != nil && (c.msg.Class.Name == "event" || !c.sideEffect) {
		return c.http.Context()
	}
	return s.base
}

// execute runs a call that has passed all checks, and accounts for it. The
// value of an asynchronous one is encoded here, as its task gives it.
func (s *Server) execute(ctx context.Context, c *call) (val any, err error) {
	start := s.now()
	var result any
	defer func() {
		if p := recover(); p != nil {
			err = s.panicked(c, p)
		}
		err = s.faultOf(ctx, c, err)
		took := s.now().Sub(start)
		s.metrics.observe(c.family, took, err)
		s.log.Debug("call", "message", c.msg.WireName(), "session", c.Session.UUID, "took", took, "code", xenapi.Code(err))
		if c.sideEffect {
			s.audit(c, result, err)
		}
	}()
	val, err = c.run(ctx, s, c)
	result = val
	if c.async && err == nil {
		val = string(wire.AppendXML(nil, c.msg.Result, val))
	}
	return val, err
}

func (s *Server) panicked(c *call, p any) error {
	id := xenapi.NewUUID()
	s.log.Error("a call panicked", "message", c.msg.WireName(), "session", c.Session.UUID, "id", id, "panic", p, "stack", string(debug.Stack()))
	return xenapi.ErrInternalError("internal fault " + id)
}

// faultOf makes any error one that the API can answer with. What it does not
// know becomes INTERNAL_ERROR with an id, under which the log has the text.
func (s *Server) faultOf(ctx context.Context, c *call, err error) error {
	var known *xenapi.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(context.Cause(ctx), errCancelled):
		return xenapi.ErrTaskCancelled(string(c.job.Ref()))
	case errors.As(err, &known):
		return bounded(known)
	case ctx.Err() != nil: // the client went away, or the daemon stops
		return xenapi.ErrInternalError("the call was given up: " + context.Cause(ctx).Error())
	}
	id := xenapi.NewUUID()
	s.log.Error("a call failed", "message", c.msg.WireName(), "session", c.Session.UUID, "id", id, "error", err)
	return xenapi.ErrInternalError("internal fault " + id)
}

// maxErrorParam bounds one parameter of an error: a call must not be answered
// with all that it sent.
const maxErrorParam = 4096

// bounded cuts an error's parameters.
func bounded(e *xenapi.Error) *xenapi.Error {
	for i, p := range e.Params {
		if len(p) > maxErrorParam {
			cut := &xenapi.Error{Code: e.Code, Params: slices.Clone(e.Params)}
			cut.Params[i] = strings.ToValidUTF8(p[:maxErrorParam-4], "") + "…"
			return bounded(cut)
		}
	}
	return e
}

// refused accounts for a call that did not get as far as to run.
func (s *Server) refused(c *call, err error) {
	s.metrics.observe(c.family, 0, err)
	switch xenapi.Code(err) {
	case "RBAC_PERMISSION_DENIED", "SESSION_INVALID":
		s.audit(c, nil, err)
	}
}
