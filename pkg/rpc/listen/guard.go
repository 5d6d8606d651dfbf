package listen

import (
	"errors"
	"io"
	"net/http"
	"os"
	"time"
)

// guard stands between net/http and the handler: it limits headers, times
// bodies, and restores what the layers of a connection hide.
type guard struct {
	next   http.Handler
	limits Limits
}

// ServeHTTP implements http.Handler.
func (g *guard) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if headerCount(r.Header) > g.limits.HeaderCount {
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestHeaderFieldsTooLarge)
		return
	}
	if c, ok := r.Context().Value(connKey{}).(*conn); ok && c.secure != nil {
		r.TLS = c.tlsState()
	}
	if _, upgrade := r.Header["Upgrade"]; upgrade || r.Method == http.MethodConnect {
		// Framing is no longer followed, so nothing may follow an answer.
		w.Header().Set("Connection", "close")
	}
	if r.Body == nil || r.Body == http.NoBody {
		g.next.ServeHTTP(w, r)
		return
	}
	body := &timedBody{ReadCloser: r.Body, ctl: http.NewResponseController(w), limit: g.limits.Body}
	r.Body = body
	g.next.ServeHTTP(w, r)
	if !body.done {
		// net/http reads a little of what the handler left: not for ever.
		body.ctl.SetReadDeadline(time.Now().Add(g.limits.Body))
	}
}

func headerCount(h http.Header) int {
	n := 0
	for _, values := range h {
		n += len(values)
	}
	return n
}

// bodyStep is what must arrive within a limit.
const bodyStep = 1 << 10

// timedBody gives each KiB of a body a time limit. Only the time spent waiting
// for the client counts, not what the handler does between two reads.
type timedBody struct {
	io.ReadCloser
	ctl    *http.ResponseController
	limit  time.Duration
	waited time.Duration
	moved  int
	done   bool
}

// Read implements io.Reader.
func (b *timedBody) Read(p []byte) (int, error) {
	start := time.Now()
	b.ctl.SetReadDeadline(start.Add(b.limit - b.waited))
	n, err := b.ReadCloser.Read(p)
	if err == nil || err == io.EOF {
		b.ctl.SetReadDeadline(time.Time{})
	}
	b.done = err != nil
	b.waited += time.Since(start)
	if b.moved += n; b.moved >= bodyStep {
		b.moved, b.waited = 0, 0
	}
	return n, err
}

// BodyStatus is the HTTP status for an error that reading a request's body
// gave: 400 for bad framing, 408 for a client that was too slow, 413 above
// the limit of http.MaxBytesReader. The connection is to be closed.
func BodyStatus(err error) int {
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return http.StatusRequestEntityTooLarge
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return http.StatusRequestTimeout
	}
	return http.StatusBadRequest
}
