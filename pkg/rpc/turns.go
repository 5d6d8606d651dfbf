package rpc

import (
	"io"
	"runtime"
	"sync"
	"time"
)

// turns lets only as many large answers be written at once as there are
// processors: writing is what costs, and eighty lists that all want to run
// would make every small call wait for all of them, at each of its steps.
type turns chan struct{}

func newTurns() turns { return make(turns, runtime.GOMAXPROCS(0)) }

// The size from which an answer takes turns, and how long a client that does
// not read may keep one: after that it costs nothing but its buffer.
const (
	largeAnswer = 256 << 10
	turnTime    = 2 * time.Millisecond
)

// writer gives a writer that takes a turn for each block.
func (t turns) writer(w io.Writer) io.Writer { return turnWriter{w, t} }

type turnWriter struct {
	w io.Writer
	t turns
}

// turnBlock is how much is written in one turn.
const turnBlock = 128 << 10

// Write implements io.Writer.
func (tw turnWriter) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := tw.block(p[written:min(len(p), written+turnBlock)])
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

func (tw turnWriter) block(p []byte) (int, error) {
	tw.t <- struct{}{}
	release := sync.OnceFunc(func() { <-tw.t })
	timer := time.AfterFunc(turnTime, release)
	n, err := tw.w.Write(p)
	timer.Stop()
	release()
	return n, err
}
