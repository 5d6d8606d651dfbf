package sim_test

import (
	"sync"
	"time"

	"xapid/pkg/xenctl/sim"
)

// hands is a clock whose hands the test moves.
type hands struct {
	mu     sync.Mutex
	now    time.Time
	alarms map[*alarm]struct{}
}

type alarm struct {
	clock *hands
	at    time.Time
	f     func()
}

func (c *hands) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *hands) AfterFunc(d time.Duration, f func()) sim.Timer {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.alarms == nil {
		c.alarms = make(map[*alarm]struct{})
	}
	a := &alarm{c, c.now.Add(d), f}
	c.alarms[a] = struct{}{}
	return a
}

func (a *alarm) Stop() bool {
	a.clock.mu.Lock()
	defer a.clock.mu.Unlock()
	_, was := a.clock.alarms[a]
	delete(a.clock.alarms, a)
	return was
}

// advance moves the hands from alarm to alarm, and runs each in its time.
func (c *hands) advance(d time.Duration) {
	end := c.Now().Add(d)
	for {
		c.mu.Lock()
		var next *alarm
		for a := range c.alarms {
			if !a.at.After(end) && (next == nil || a.at.Before(next.at)) {
				next = a
			}
		}
		if next == nil {
			c.now = end
			c.mu.Unlock()
			return
		}
		c.now = next.at
		delete(c.alarms, next)
		c.mu.Unlock()
		next.f()
	}
}
