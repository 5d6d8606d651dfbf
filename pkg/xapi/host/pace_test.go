package host

import (
	"testing"
	"time"
)

// TestPace holds looking to a small part of a core, however long a look takes.
func TestPace(t *testing.T) {
	for took, want := range map[time.Duration]time.Duration{
		0:                      lookEvery,
		50 * time.Millisecond:  lookEvery,
		125 * time.Millisecond: lookEvery,
		300 * time.Millisecond: 12 * time.Second,
		lookTimeout:            400 * time.Second,
	} {
		if got := pauseAfter(took); got != want {
			t.Errorf("after a look of %v nobody looks for %v, want %v", took, got, want)
		}
	}
}
