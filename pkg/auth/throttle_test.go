package auth

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// oracle knows one password, and counts how often it is asked.
type oracle struct {
	asked atomic.Int64
	takes time.Duration
}

func (o *oracle) Authenticate(ctx context.Context, user, password string) (Identity, error) {
	o.asked.Add(1)
	if o.takes > 0 {
		select {
		case <-time.After(o.takes):
		case <-ctx.Done():
			return Identity{}, ctx.Err()
		}
	}
	switch {
	case password == "right" && user == "guest":
		return Identity{}, ErrNotAuthorized
	case password == "right":
		return Identity{User: user, IsRoot: true}, nil
	case password == "broken":
		return Identity{}, errors.New("directory is down")
	}
	return Identity{}, ErrBadCredentials
}

// bubble runs a test with a fake clock.
func bubble(t *testing.T, o *oracle, test func(t *testing.T, th *Throttle)) {
	synctest.Test(t, func(t *testing.T) { test(t, NewThrottle(o, ThrottleConfig{})) })
}

// login gives the time and the error of one login.
func login(th *Throttle, address, user, password string) (time.Duration, error) {
	begin := time.Now()
	_, err := th.Login(context.Background(), address, user, password)
	return time.Since(begin), err
}

func TestA1EveryFailureAnswersAtOneTime(t *testing.T) {
	bubble(t, &oracle{takes: 40 * time.Millisecond}, func(t *testing.T, th *Throttle) {
		for i, c := range []struct {
			user, password string
			want           error
		}{{"root", "wrong", ErrBadCredentials}, {"nobody", "wrong", ErrBadCredentials}, {"guest", "right", ErrNotAuthorized},
			{"root", "broken", nil}, {strings.Repeat("u", 1<<20), "x", ErrBadCredentials}} {
			took, err := login(th, fmt.Sprint("192.0.2.", i), c.user, c.password)
			if err == nil || c.want != nil && !errors.Is(err, c.want) || took != 3*time.Second {
				t.Errorf("%.20s: %v after %v", c.user, err, took)
			}
		}
		if took, err := login(th, "192.0.2.100", "root", "right"); err != nil || took != 40*time.Millisecond {
			t.Errorf("the right one: %v after %v", err, took)
		}
	})
}

func TestA1SlowFailuresAnswerAtAMultiple(t *testing.T) {
	bubble(t, &oracle{takes: 10 * time.Second}, func(t *testing.T, th *Throttle) {
		if took, err := login(th, "192.0.2.1", "root", "wrong"); err == nil || took != 12*time.Second {
			t.Errorf("%v after %v", err, took)
		}
		if took, err := login(th, "192.0.2.1", "root", "right"); err != nil || took != 10*time.Second {
			t.Errorf("%v after %v", err, took)
		}
	})
}

// guess sends 100 guesses a second for a minute of a bubble's clock, from n
// addresses in turn.
func guess(th *Throttle, n int) {
	var wg sync.WaitGroup
	for i := range 6000 {
		wg.Go(func() { login(th, fmt.Sprintf("198.51.100.%d:%d", i%n, 1024+i), "root", "wrong") })
		time.Sleep(10 * time.Millisecond)
	}
	wg.Wait()
}

func TestA1OneAddress(t *testing.T) {
	o := &oracle{takes: 20 * time.Millisecond}
	bubble(t, o, func(t *testing.T, th *Throttle) {
		login(th, "192.0.2.1:5000", "root", "right")
		o.asked.Store(0)
		guess(th, 1)
		if n := o.asked.Load(); n > 15 {
			t.Errorf("%d guesses of 6,000 were tried", n)
		}
		if _, err := login(th, "192.0.2.1:6000", "root", "right"); err != nil {
			t.Errorf("the owner, from where he was before: %v", err)
		}
		if took, err := login(th, "198.51.100.0", "root", "right"); !errors.Is(err, ErrHeldBack) || took != 3*time.Second {
			t.Errorf("the guesser: %v after %v", err, took)
		}
		time.Sleep(20 * time.Minute)
		if _, err := login(th, "198.51.100.0", "root", "right"); err != nil {
			t.Errorf("later: %v", err)
		}
	})
}

func TestA1HundredAddresses(t *testing.T) {
	o := &oracle{takes: 20 * time.Millisecond}
	bubble(t, o, func(t *testing.T, th *Throttle) {
		login(th, "2001:db8::1", "root", "right")
		o.asked.Store(0)
		guess(th, 100)
		if n := o.asked.Load(); n > 20 {
			t.Errorf("%d guesses of 6,000 were tried", n)
		}
		if _, err := login(th, "[2001:db8::2]:443", "root", "right"); err != nil {
			t.Errorf("the owner, from his own network: %v", err)
		}
		if _, err := login(th, "192.0.2.9", "other", "right"); err != nil {
			t.Errorf("another account from another address: %v", err)
		}
		time.Sleep(time.Minute)
		if _, err := login(th, "192.0.2.9", "root", "right"); err != nil {
			t.Errorf("root from anywhere, a minute later: %v", err)
		}
	})
}

func TestGuessesSentAtOnceCountOneByOne(t *testing.T) {
	o := &oracle{takes: 100 * time.Millisecond}
	bubble(t, o, func(t *testing.T, th *Throttle) {
		var wg sync.WaitGroup
		for range 1000 {
			wg.Go(func() { login(th, "198.51.100.1", "root", "wrong") })
		}
		wg.Wait()
		if n := o.asked.Load(); n > 8 {
			t.Errorf("%d were tried", n)
		}
	})
}

func TestManyRightLoginsAtOncePass(t *testing.T) {
	bubble(t, &oracle{takes: 10 * time.Millisecond}, func(t *testing.T, th *Throttle) {
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				if took, err := login(th, "192.0.2.1", "root", "right"); err != nil || took > time.Second {
					t.Errorf("%v after %v", err, took)
				}
			})
		}
		wg.Wait()
	})
}

func TestGuessesThatGiveUpEarlyCount(t *testing.T) {
	o := &oracle{takes: 2 * time.Second} // as PAM does with a wrong password
	bubble(t, o, func(t *testing.T, th *Throttle) {
		for range 1000 {
			ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
			th.Login(ctx, "198.51.100.1", "root", "wrong")
			cancel()
		}
		if n := o.asked.Load(); n > 15 {
			t.Errorf("%d were tried", n)
		}
	})
}

func TestLoginEndsWithItsContext(t *testing.T) {
	bubble(t, &oracle{takes: time.Hour}, func(t *testing.T, th *Throttle) {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		for range 5 { // two are being checked, three wait
			wg.Go(func() {
				begin := time.Now()
				if _, err := th.Login(ctx, "a", "root", "right"); err == nil || time.Since(begin) != time.Second {
					t.Errorf("%v after %v", err, time.Since(begin))
				}
			})
		}
		wg.Wait()
	})
}

func TestWhatIsRememberedIsBounded(t *testing.T) {
	bubble(t, &oracle{}, func(t *testing.T, th *Throttle) {
		for range 10 {
			login(th, "192.0.2.1", "root", "wrong")
		}
		login(th, "203.0.113.1", "root", "right") // held back: not learned
		var wg sync.WaitGroup
		for i := range 3 * maxRecords {
			wg.Go(func() {
				login(th, fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255), fmt.Sprint("user", i), "wrong")
			})
			if i%5000 == 0 {
				wg.Wait()
			}
		}
		wg.Wait()
		if len(th.addresses) > maxRecords || len(th.accounts) > maxRecords {
			t.Errorf("%d addresses, %d accounts", len(th.addresses), len(th.accounts))
		}
	})
}

func TestKnownAddressesAreBounded(t *testing.T) {
	r := &record{}
	for i := range 2 * maxKnown {
		r.learn(fmt.Sprint(i))
		r.learn(fmt.Sprint(i))
	}
	if len(r.known) != maxKnown || r.knows("0") || !r.knows(fmt.Sprint(2*maxKnown-1)) {
		t.Errorf("%v", r.known)
	}
}
