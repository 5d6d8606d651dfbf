package db

import (
	"hash/maphash"
	"iter"
	"math/bits"
)

// pmap is a persistent map: put and delete return a new map that shares all
// but the touched path with the old one, which stays as it was. It is a hash
// trie of 32-way nodes; values carry their own key.
//
// The zero pmap is not usable: newMap gives it its key function.
type pmap[V any] struct {
	key  func(V) string
	root *node[V]
	size int
}

// node holds, by five bits of the hash, either a value or a deeper node.
type node[V any] struct {
	values, nodes uint32 // bitmaps
	data          []V
	kids          []*node[V]
}

const (
	bitsPerLevel = 5
	maxShift     = 60 // below it, equal hashes share a node's data as a list
)

var hashSeed = maphash.MakeSeed()

func newMap[V any](key func(V) string) pmap[V] { return pmap[V]{key: key} }

func hashOf(key string) uint64 { return maphash.String(hashSeed, key) }

func position(bitmap, bit uint32) int { return bits.OnesCount32(bitmap & (bit - 1)) }

func bitAt(hash uint64, shift uint) uint32 { return 1 << (hash >> shift & 31) }

// get finds the value with the key.
func (m pmap[V]) get(key string) (v V, ok bool) {
	hash, n := hashOf(key), m.root
	for shift := uint(0); n != nil; shift += bitsPerLevel {
		if shift > maxShift {
			i := m.listed(n, key)
			if i < 0 {
				return v, false
			}
			return n.data[i], true
		}
		bit := bitAt(hash, shift)
		if n.values&bit != 0 {
			if found := n.data[position(n.values, bit)]; m.key(found) == key {
				return found, true
			}
			return v, false
		}
		if n.nodes&bit == 0 {
			return v, false
		}
		n = n.kids[position(n.nodes, bit)]
	}
	return v, false
}

func (m pmap[V]) listed(n *node[V], key string) int {
	for i, v := range n.data {
		if m.key(v) == key {
			return i
		}
	}
	return -1
}

// put adds v, or replaces the value with its key.
func (m pmap[V]) put(v V) pmap[V] {
	key := m.key(v)
	root, added := m.insert(m.root, v, key, hashOf(key), 0)
	m.root = root
	if added {
		m.size++
	}
	return m
}

func (m pmap[V]) insert(n *node[V], v V, key string, hash uint64, shift uint) (*node[V], bool) {
	if n == nil {
		n = &node[V]{}
	}
	if shift > maxShift {
		if i := m.listed(n, key); i >= 0 {
			return &node[V]{data: replaced(n.data, i, v)}, false
		}
		return &node[V]{data: inserted(n.data, len(n.data), v)}, true
	}
	bit := bitAt(hash, shift)
	out := *n
	switch {
	case n.nodes&bit != 0:
		i := position(n.nodes, bit)
		kid, added := m.insert(n.kids[i], v, key, hash, shift+bitsPerLevel)
		out.kids = replaced(n.kids, i, kid)
		return &out, added
	case n.values&bit == 0:
		out.values |= bit
		out.data = inserted(n.data, position(n.values, bit), v)
		return &out, true
	}
	i := position(n.values, bit)
	old := n.data[i]
	oldKey := m.key(old)
	if oldKey == key {
		out.data = replaced(n.data, i, v)
		return &out, false
	}
	kid, _ := m.insert(nil, old, oldKey, hashOf(oldKey), shift+bitsPerLevel)
	kid, _ = m.insert(kid, v, key, hash, shift+bitsPerLevel)
	out.values &^= bit
	out.data = removed(n.data, i)
	out.nodes |= bit
	out.kids = inserted(n.kids, position(n.nodes, bit), kid)
	return &out, true
}

// delete takes the key's value out, if there is one.
func (m pmap[V]) delete(key string) pmap[V] {
	if m.root == nil {
		return m
	}
	root, gone := m.remove(m.root, key, hashOf(key), 0)
	if gone {
		m.root = root
		m.size--
	}
	return m
}

func (m pmap[V]) remove(n *node[V], key string, hash uint64, shift uint) (*node[V], bool) {
	if shift > maxShift {
		i := m.listed(n, key)
		if i < 0 {
			return n, false
		}
		return &node[V]{data: removed(n.data, i)}, true
	}
	bit := bitAt(hash, shift)
	out := *n
	switch {
	case n.values&bit != 0:
		i := position(n.values, bit)
		if m.key(n.data[i]) != key {
			return n, false
		}
		out.values &^= bit
		out.data = removed(n.data, i)
		return &out, true
	case n.nodes&bit == 0:
		return n, false
	}
	i := position(n.nodes, bit)
	kid, gone := m.remove(n.kids[i], key, hash, shift+bitsPerLevel)
	if !gone {
		return n, false
	}
	if len(kid.data) == 0 && len(kid.kids) == 0 {
		out.nodes &^= bit
		out.kids = removed(n.kids, i)
	} else {
		out.kids = replaced(n.kids, i, kid)
	}
	return &out, true
}

// item is a value on its way into a map, with the hash of its key.
type item[V any] struct {
	hash uint64
	v    V
}

// filled makes a map of values with distinct keys at once: a put for each
// would copy the upper nodes every time.
func (m pmap[V]) filled(values []V) pmap[V] {
	items := make([]item[V], len(values))
	for i, v := range values {
		items[i] = item[V]{hashOf(m.key(v)), v}
	}
	m.root, m.size = build(items, make([]item[V], len(items)), 0), len(items)
	return m
}

// build sorts items by their five bits at shift, by way of scratch, and makes
// the node of them.
func build[V any](items, scratch []item[V], shift uint) *node[V] {
	if len(items) == 0 {
		return nil
	}
	n := &node[V]{}
	if shift > maxShift {
		for _, it := range items {
			n.data = append(n.data, it.v)
		}
		return n
	}
	var ends [32]int
	for _, it := range items {
		ends[it.hash>>shift&31]++
	}
	single, several, sum := 0, 0, 0
	for i, count := range ends {
		switch {
		case count == 1:
			n.values |= 1 << i
			single++
		case count > 1:
			n.nodes |= 1 << i
			several++
		}
		ends[i], sum = sum, sum+count
	}
	for _, it := range items {
		at := &ends[it.hash>>shift&31]
		scratch[*at] = it
		*at++
	}
	n.data, n.kids = make([]V, 0, single), make([]*node[V], 0, several)
	begin := 0
	for _, end := range ends {
		switch end - begin {
		case 0:
		case 1:
			n.data = append(n.data, scratch[begin].v)
		default:
			n.kids = append(n.kids, build(scratch[begin:end], items[begin:end], shift+bitsPerLevel))
		}
		begin = end
	}
	return n
}

// all walks the values in no order that means anything.
func (m pmap[V]) all() iter.Seq[V] {
	return func(yield func(V) bool) {
		if m.root != nil {
			m.root.walk(yield)
		}
	}
}

func (n *node[V]) walk(yield func(V) bool) bool {
	for _, v := range n.data {
		if !yield(v) {
			return false
		}
	}
	for _, kid := range n.kids {
		if !kid.walk(yield) {
			return false
		}
	}
	return true
}

func replaced[T any](in []T, i int, v T) []T {
	out := make([]T, len(in))
	copy(out, in)
	out[i] = v
	return out
}

func inserted[T any](in []T, i int, v T) []T {
	out := make([]T, len(in)+1)
	copy(out, in[:i])
	out[i] = v
	copy(out[i+1:], in[i:])
	return out
}

func removed[T any](in []T, i int) []T {
	if len(in) == 1 {
		return nil
	}
	out := make([]T, len(in)-1)
	copy(out, in[:i])
	copy(out[i:], in[i+1:])
	return out
}
