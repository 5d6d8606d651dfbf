package sim

import (
	"io"
	"sync"
)

// consoleKept is how much of a console's past a new reader sees, in bytes.
const consoleKept = 16 << 10

// console is what a guest has written last, and the readers that wait for more.
type console struct {
	mu      sync.Mutex
	kept    []byte
	start   int64         // position of kept[0] in all that was ever written
	ended   bool          // the domain has stopped
	changed chan struct{} // closed at the next change; nil while nobody waits
}

func (c *console) write(text string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended {
		return
	}
	c.kept = append(c.kept, text...)
	if over := len(c.kept) - consoleKept; over > 0 {
		c.kept = append(c.kept[:0:0], c.kept[over:]...)
		c.start += int64(over)
	}
	c.notify()
}

// end lets readers have what is kept and then io.EOF.
func (c *console) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.ended = true
	c.notify()
}

func (c *console) text() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return string(c.kept)
}

func (c *console) notify() {
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// read copies from position at, or says what to wait for when nothing is there yet.
func (c *console) read(p []byte, at *int64) (n int, wait <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*at = max(*at, c.start)
	if have := c.kept[*at-c.start:]; len(have) > 0 {
		n = copy(p, have)
		*at += int64(n)
		return n, nil, nil
	}
	if c.ended {
		return 0, nil, io.EOF
	}
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return 0, c.changed, nil
}

// consoleStream is one reader and typist.
type consoleStream struct {
	console *console
	typed   func([]byte) error
	at      int64
	once    sync.Once
	closed  chan struct{}
}

// Read implements io.Reader.
func (s *consoleStream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	for {
		select {
		case <-s.closed:
			return 0, io.ErrClosedPipe
		default:
		}
		n, wait, err := s.console.read(p, &s.at)
		if wait == nil {
			return n, err
		}
		select {
		case <-wait:
		case <-s.closed:
		}
	}
}

// Write implements io.Writer: keystrokes.
func (s *consoleStream) Write(p []byte) (int, error) {
	select {
	case <-s.closed:
		return 0, io.ErrClosedPipe
	default:
	}
	if err := s.typed(p); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close implements io.Closer.
func (s *consoleStream) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}
