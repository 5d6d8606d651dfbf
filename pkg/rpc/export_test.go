package rpc

import "xapid/pkg/xenapi"

// Collect is one pass of what Run does every half minute.
func Collect(s *Server) {
	s.sessions.collect()
	s.tasks.collect()
	s.events.heartbeat()
}

// Subscribed reports whether a session is registered for classic events.
func Subscribed(s *Server, ref string) bool {
	sess := s.sessions.find(xenapi.SessionRef(ref))
	return sess != nil && sess.sub.Load() != nil
}

// CacheBytes is what the row cache holds.
func CacheBytes(s *Server) int64 { return s.rows.bytes() }

// Sessions is how many are open.
func Sessions(s *Server) int { return s.sessions.count() }
