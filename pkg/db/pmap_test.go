package db

import (
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// TestPmapIsAMap drives a pmap and a Go map with the same random steps, and
// holds an early version to what it was.
func TestPmapIsAMap(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := newMap(func(s [2]string) string { return s[0] })
		want := map[string]string{}
		var old pmap[[2]string]
		oldWant := map[string]string{}
		for i := range rapid.IntRange(0, 400).Draw(t, "steps") {
			key := fmt.Sprint(rapid.IntRange(0, 150).Draw(t, "key"))
			if rapid.Bool().Draw(t, "put") {
				m, want[key] = m.put([2]string{key, fmt.Sprint(i)}), fmt.Sprint(i)
			} else {
				m = m.delete(key)
				delete(want, key)
			}
			if i == 100 {
				old = m
				for k, v := range want {
					oldWant[k] = v
				}
			}
		}
		same(t, m, want)
		if old.key != nil {
			same(t, old, oldWant)
		}
	})
}

func same(t *rapid.T, m pmap[[2]string], want map[string]string) {
	n := 0
	for kv := range m.all() {
		n++
		if want[kv[0]] != kv[1] {
			t.Fatalf("%s is %s, want %s", kv[0], kv[1], want[kv[0]])
		}
	}
	if n != len(want) || m.size != n {
		t.Fatalf("%d walked, size %d, want %d", n, m.size, len(want))
	}
	for k, v := range want {
		if got, ok := m.get(k); !ok || got[1] != v {
			t.Fatalf("get %s = %v %v", k, got, ok)
		}
	}
	for i := range 1000 { // most of them end at some other key's place
		if got, ok := m.get(fmt.Sprint("absent", i)); ok || got != [2]string{} {
			t.Fatalf("found %v, which was never put", got)
		}
	}
}

func TestPmapSurvivesEqualHashes(t *testing.T) {
	m := newMap(func(s string) string { return s })
	n := &node[string]{}
	for _, k := range []string{"a", "b", "c"} {
		n, _ = m.insert(n, k, k, 7, maxShift+bitsPerLevel)
	}
	n, gone := m.remove(n, "b", 7, maxShift+bitsPerLevel)
	if !gone || len(n.data) != 2 || m.listed(n, "b") >= 0 || m.listed(n, "c") < 0 {
		t.Fatalf("list node holds %v", n.data)
	}
}
