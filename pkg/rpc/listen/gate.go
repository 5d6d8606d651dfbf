package listen

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
)

// gate counts TCP connections, in all and by address. When there is no slot
// left, the oldest connection that has not asked anything yet makes room:
// silent strangers can't keep others out.
type gate struct {
	mu       sync.Mutex
	max, per int
	total    int
	silent   *list.List // of *slot, oldest first
	by       map[netip.Prefix]*addressSlots
}

type addressSlots struct {
	count  int
	silent *list.List
}

// slot is one connection's place; its fields belong to the gate.
type slot struct {
	gate     *gate
	prefix   netip.Prefix
	conn     net.Conn
	inAll    *list.Element // nil once the connection has asked something
	inPrefix *list.Element
	released bool
}

func newGate(max, per int) *gate {
	return &gate{max: max, per: per, silent: list.New(), by: map[netip.Prefix]*addressSlots{}}
}

// admit gives a connection a slot; nil if there is none to be had.
func (g *gate) admit(c net.Conn) *slot {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := &slot{gate: g, prefix: prefixOf(c.RemoteAddr()), conn: c}
	a := g.by[s.prefix]
	if a != nil && a.count >= g.per && !g.evict(a.silent) {
		return nil
	}
	if g.total >= g.max && !g.evict(g.silent) {
		return nil
	}
	if a = g.by[s.prefix]; a == nil {
		a = &addressSlots{silent: list.New()}
		g.by[s.prefix] = a
	}
	a.count++
	g.total++
	s.inAll, s.inPrefix = g.silent.PushBack(s), a.silent.PushBack(s)
	return s
}

// evict closes the oldest of a list of silent connections.
func (g *gate) evict(silent *list.List) bool {
	oldest := silent.Front()
	if oldest == nil {
		return false
	}
	s := oldest.Value.(*slot)
	g.release(s)
	s.conn.Close()
	return true
}

func (g *gate) release(s *slot) {
	if s.released {
		return
	}
	s.released = true
	g.spoke(s)
	g.total--
	a := g.by[s.prefix]
	if a.count--; a.count == 0 {
		delete(g.by, s.prefix)
	}
}

func (g *gate) spoke(s *slot) {
	if s.inAll == nil {
		return
	}
	g.silent.Remove(s.inAll)
	g.by[s.prefix].silent.Remove(s.inPrefix)
	s.inAll, s.inPrefix = nil, nil
}

// Release gives the slot back; more than once is fine.
func (s *slot) Release() {
	if s != nil {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
		s.gate.release(s)
	}
}

// Spoke says that the connection has sent a whole request header.
func (s *slot) Spoke() {
	if s != nil {
		s.gate.mu.Lock()
		defer s.gate.mu.Unlock()
		s.gate.spoke(s)
	}
}

// prefixOf is what counts as one address: an IPv4 address or an IPv6 /64.
func prefixOf(addr net.Addr) netip.Prefix {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.Prefix{}
	}
	ip := tcp.AddrPort().Addr().Unmap().WithZone("")
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	return netip.PrefixFrom(ip, bits).Masked()
}
