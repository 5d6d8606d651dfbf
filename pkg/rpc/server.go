// Package rpc answers the API: it reads calls off HTTP, checks session, role
// and arguments, and hands them to generic code (the implicit messages) or to
// a service (the explicit ones).
//
// Its one invariant: it knows no class by name but session, task and event;
// everything else comes from the datamodel. Start reading at dispatch.go, then
// implicit.go.
package rpc

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Options are what a Server needs. All but Now, SetPassword and the limits
// are required.
type Options struct {
	DB       *db.DB
	Services *service.Services
	Hooks    Hooks
	Audit    *Audit
	Log      *slog.Logger
	// Login checks a name and a password that came from an address, at the
	// pace that is due to who guesses.
	Login func(ctx context.Context, address, user, password string) (User, error)
	// SetPassword changes a password; nil where the host doesn't keep them.
	SetPassword func(user, password string) error
	// ThisHost is the host that this daemon runs on.
	ThisHost func() xenapi.HostRef
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// CacheBytes bounds the encoded rows that are kept; 0 is 64 MiB.
	CacheBytes int64
	// Metrics serves GET /metrics.
	Metrics http.Handler
	// MaxBody bounds one request's body; 0 is 4 MiB.
	MaxBody int64
}

// User is who has shown the right password.
type User struct {
	Name string
	// Root marks those who may do everything; others need a subject object.
	Root bool
}

// ErrNotAuthorized is what Options.Login wraps for a user who is known, but
// may not manage this host.
var ErrNotAuthorized = errors.New("rpc: the user may not manage this host")

// Hooks are the implicit messages with a side effect of their own, by wire
// name. What has no hook is served by generic code.
type Hooks struct {
	// Create makes an object from a record that has every field at what the
	// client gave, or its default; given tells which those were.
	Create map[string]func(ctx context.Context, c *service.Call, rec xenapi.Record, given func(field string) bool) (string, error)
	// Destroy removes an object.
	Destroy map[string]func(ctx context.Context, c *service.Call, ref string) error
	// Write carries out a setter, add_to, remove_from, add or remove; args
	// are the canonical arguments, the reference first.
	Write map[string]func(ctx context.Context, c *service.Call, args []any) error
}

// Server answers the API over HTTP.
type Server struct {
	opts     Options
	db       *db.DB
	log      *slog.Logger
	now      func() time.Time
	model    *datamodel.Model
	methods  map[string]*method
	roleSets map[string]roleSet // by the weakest role, as the datamodel writes it
	guarded  []guardedClass
	rows     *rowCache
	sessions *sessionStore
	tasks    *taskStore
	events   *eventHub
	bodies   *semaphore.Weighted
	turns    turns
	metrics  *metrics

	base context.Context // of work that outlives a request
	wg   sync.WaitGroup
}

// bodiesTogether bounds the bytes of all large request bodies in memory.
const bodiesTogether = 64 << 20

// New makes a server, whose work outlives requests but not ctx. Run must be
// called before it serves.
func New(ctx context.Context, opts Options) *Server {
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.CacheBytes == 0 {
		opts.CacheBytes = 64 << 20
	}
	if opts.MaxBody == 0 {
		opts.MaxBody = 4 << 20
	}
	s := &Server{opts: opts, db: opts.DB, log: opts.Log, now: opts.Now, model: datamodel.Get(),
		rows: newRowCache(opts.CacheBytes, datamodel.Get().Classes), bodies: semaphore.NewWeighted(bodiesTogether), turns: newTurns(), base: ctx}
	s.roleSets, s.guarded = roleSetsOf(s.model), guardedClasses(s.model)
	s.sessions = newSessionStore(s)
	s.tasks = newTaskStore(s)
	s.events = newEventHub(s)
	s.metrics = newMetrics(s)
	opts.Services.Session = s.sessions
	opts.Services.Task = s.tasks
	opts.Services.Event = s.events
	s.methods = buildMethods(s)
	return s
}

// collectEvery is how often sessions and tasks are looked through.
const collectEvery = 30 * time.Second

// Run collects what has expired until ctx ends, then waits for the work under
// way, whose contexts end with it.
func (s *Server) Run(ctx context.Context) error {
	tick := time.NewTicker(collectEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			s.sessions.close()
			s.wg.Wait()
			return nil
		case <-tick.C:
			s.sessions.collect()
			s.tasks.collect()
			s.events.heartbeat()
		}
	}
}
