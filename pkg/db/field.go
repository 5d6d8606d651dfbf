package db

import (
	"fmt"
	"slices"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// WriteField carries out a set_, add_to_, remove_from_, add_ or remove_ of a
// field: args are canonical, the object's reference first. Explicit messages
// that add checks or effects to such a write use it too.
func WriteField(tx *Tx, f *datamodel.Field, kind datamodel.Kind, args []any) error {
	ref := args[0].(string)
	rec, err := tx.Edit(f.Class, ref)
	if err != nil {
		return err
	}
	p := rec.Ptr(f.Index)
	switch kind {
	case datamodel.FieldSet:
		xenapi.SetField(p, args[1])
	case datamodel.FieldAdd:
		if !addTo(p, args[1:]) {
			return xenapi.ErrMapDuplicateKey(f.Class.Name, f.Name, ref, fmt.Sprint(args[1]))
		}
	case datamodel.FieldRemove:
		removeFrom(p, args[1])
	}
	return nil
}

// addTo adds a key and value to a map, or a member to a set; false if the map
// has the key.
func addTo(p any, args []any) bool {
	switch p := p.(type) {
	case *[]string:
		if v := args[0].(string); !slices.Contains(*p, v) {
			*p = append(slices.Clip(*p), v)
		}
	case *[]int64:
		if v := args[0].(int64); !slices.Contains(*p, v) {
			*p = append(slices.Clip(*p), v)
		}
	case *map[string]string:
		return addKey(p, args[0].(string), args[1].(string))
	case *map[string]int64:
		return addKey(p, args[0].(string), args[1].(int64))
	case *map[string][]string:
		return addKey(p, args[0].(string), args[1].([]string))
	}
	return true
}

func addKey[K comparable, V any](p *map[K]V, key K, value V) bool {
	if _, there := (*p)[key]; there {
		return false
	}
	next := make(map[K]V, len(*p)+1)
	for k, v := range *p {
		next[k] = v
	}
	next[key] = value
	*p = next
	return true
}

func removeFrom(p, key any) {
	switch p := p.(type) {
	case *[]string:
		*p = slices.DeleteFunc(slices.Clone(*p), func(s string) bool { return s == key })
	case *[]int64:
		*p = slices.DeleteFunc(slices.Clone(*p), func(n int64) bool { return n == key })
	case *map[string]string:
		removeKey(p, key.(string))
	case *map[string]int64:
		removeKey(p, key.(string))
	case *map[string][]string:
		removeKey(p, key.(string))
	}
}

func removeKey[K comparable, V any](p *map[K]V, key K) {
	next := make(map[K]V, len(*p))
	for k, v := range *p {
		if k != key {
			next[k] = v
		}
	}
	*p = next
}
