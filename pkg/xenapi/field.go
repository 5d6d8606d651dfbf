package xenapi

import (
	"slices"
	"time"
)

// SetField assigns a canonical value to a field that p points at, as Ptr does.
func SetField(p, v any) {
	switch p := p.(type) {
	case *string:
		*p = v.(string)
	case *int64:
		*p = v.(int64)
	case *float64:
		*p = v.(float64)
	case *bool:
		*p = v.(bool)
	case *time.Time:
		*p = v.(time.Time)
	case *[]string:
		*p = unique(v.([]string))
	case *[]int64:
		*p = v.([]int64)
	case *map[string]string:
		*p = v.(map[string]string)
	case *map[string]int64:
		*p = v.(map[string]int64)
	case *map[string][]string:
		*p = v.(map[string][]string)
	case *map[int64]int64:
		*p = v.(map[int64]int64)
	case *map[int64]float64:
		*p = v.(map[int64]float64)
	case *map[int64][]string:
		*p = v.(map[int64][]string)
	}
}

// unique drops what a set has twice.
func unique(in []string) []string {
	seen := make(map[string]bool, len(in))
	return slices.DeleteFunc(slices.Clone(in), func(s string) bool {
		twice := seen[s]
		seen[s] = true
		return twice
	})
}
