package auth

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"
)

// ThrottleConfig bounds guessing. Zero fields take the defaults.
type ThrottleConfig struct {
	// Answer is when a failed login answers, counted from its begin: 3 s. One
	// that takes longer to decide answers at the next multiple.
	Answer time.Duration
	// Free is how many failures an address or an account has before it is
	// held back: 5.
	Free int
	// MaxHold is the longest time that one failure holds back: 5 min. An
	// account is held at most a fifth of it, as strangers can bring it about.
	MaxHold time.Duration
	// PerAddress is how many logins of one address are checked at once: 2.
	PerAddress int
}

func (c ThrottleConfig) withDefaults() ThrottleConfig {
	if c.Answer == 0 {
		c.Answer = 3 * time.Second
	}
	if c.Free == 0 {
		c.Free = 5
	}
	if c.MaxHold == 0 {
		c.MaxHold = 5 * time.Minute
	}
	if c.PerAddress == 0 {
		c.PerAddress = 2
	}
	return c
}

// Throttle slows guessing down. Each failure above a few doubles the time for
// which the address, and the account, are refused without being tried. What
// holds an account back does not hold an address that has logged in to it
// before: a stranger can't lock its owner out. Logins from the Unix socket by
// root need no password and don't come here at all.
type Throttle struct {
	inner Authenticator
	cfg   ThrottleConfig

	mu        sync.Mutex
	addresses table
	accounts  table
}

// NewThrottle puts a throttle before an authenticator.
func NewThrottle(inner Authenticator, cfg ThrottleConfig) *Throttle {
	cfg = cfg.withDefaults()
	return &Throttle{inner: inner, cfg: cfg, addresses: table{}, accounts: table{}}
}

// Login checks a login from an address ("ip", "ip:port" or anything else that
// names the peer). A failure of any kind answers at a fixed time after the
// begin, unless ctx ends before.
func (t *Throttle) Login(ctx context.Context, address, user, password string) (Identity, error) {
	begin := time.Now()
	id, err := t.try(ctx, addressKey(address), user, password)
	if err == nil {
		return id, nil
	}
	late := time.Since(begin) % t.cfg.Answer
	timer := time.NewTimer(t.cfg.Answer - late)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
	return Identity{}, err
}

func (t *Throttle) try(ctx context.Context, address, user, password string) (Identity, error) {
	if len(user) > maxUser {
		user = user[:maxUser] // refused below, but not kept at its length
		password = ""
	}
	turn := t.turns(address)
	defer t.leave(address)
	select {
	case turn <- struct{}{}:
		defer func() { <-turn }()
	case <-ctx.Done():
		return Identity{}, context.Cause(ctx)
	}
	// Looked at when it is this login's turn, not when it came: a thousand
	// guesses sent at once count one by one.
	if t.held(address, user) {
		return Identity{}, ErrHeldBack
	}
	id, err := t.inner.Authenticate(ctx, user, password)
	switch {
	case err == nil:
		t.succeeded(address, user)
	case !errors.Is(err, ErrNotAuthorized):
		// One that gave up waiting counts as well: a right password would
		// have been answered sooner.
		t.failed(address, user)
	}
	return id, err
}

// turns gives the queue of an address and keeps it until leave.
func (t *Throttle) turns(address string) chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.addresses.get(address)
	r.users++
	if r.turns == nil {
		r.turns = make(chan struct{}, t.cfg.PerAddress)
	}
	return r.turns
}

func (t *Throttle) leave(address string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addresses[address].users--
}

func (t *Throttle) held(address, user string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := time.Now()
	if now.Before(t.addresses.get(address).until) {
		return true
	}
	a := t.accounts[user]
	return a != nil && now.Before(a.until) && !a.knows(address)
}

func (t *Throttle) failed(address, user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.addresses.get(address).fail(t.cfg.Free, t.cfg.MaxHold)
	t.accounts.get(user).fail(t.cfg.Free, t.cfg.MaxHold/5)
}

// succeeded forgives the address. The account's failures stay: they are
// others'.
func (t *Throttle) succeeded(address, user string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	r := t.addresses.get(address)
	r.failures, r.until = 0, time.Time{}
	t.accounts.get(user).learn(address)
}

// addressKey is what counts as one address: an IPv4 address or an IPv6 /64.
func addressKey(address string) string {
	ip, err := netip.ParseAddr(address)
	if ap, err2 := netip.ParseAddrPort(address); err2 == nil {
		ip, err = ap.Addr(), nil
	}
	if err != nil {
		return address
	}
	if ip = ip.Unmap().WithZone(""); ip.Is4() {
		return ip.String()
	}
	return netip.PrefixFrom(ip, 64).Masked().String()
}
