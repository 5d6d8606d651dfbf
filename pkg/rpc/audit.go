package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"time"

	"xapid/pkg/datamodel"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// Audit is the audit file: a line of JSON for every call that changes
// something, every login and every refusal. It is rotated by size.
type Audit struct {
	path     string
	maxBytes int64
	keep     int

	mu    sync.Mutex
	file  *os.File
	size  int64
	lines slog.Handler
}

// OpenAudit opens the file to append to. At maxBytes it becomes path.1, the
// older ones path.2 and so on; keep of them are kept.
func OpenAudit(path string, maxBytes int64, keep int) (*Audit, error) {
	a := &Audit{path: path, maxBytes: maxBytes, keep: keep}
	if err := a.open(); err != nil {
		return nil, fmt.Errorf("rpc: the audit file: %w", err)
	}
	a.lines = slog.NewJSONHandler(a, nil)
	return a, nil
}

func (a *Audit) open() error {
	f, err := os.OpenFile(a.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	a.file, a.size = f, info.Size()
	return nil
}

// Write implements io.Writer for one line.
func (a *Audit) Write(line []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size+int64(len(line)) > a.maxBytes && a.size > 0 {
		if err := a.rotate(); err != nil {
			return 0, err
		}
	}
	n, err := a.file.Write(line)
	a.size += int64(n)
	return n, err
}

func (a *Audit) rotate() error {
	for i := a.keep - 1; i > 0; i-- {
		err := os.Rename(fmt.Sprintf("%s.%d", a.path, i), fmt.Sprintf("%s.%d", a.path, i+1))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Rename(a.path, a.path+".1"); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	old := a.file
	return errors.Join(a.open(), old.Close())
}

// Close closes the file.
func (a *Audit) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.file.Close()
}

// audit writes the line of a call: who, what, which object, how it ended. No
// argument but a reference is written: any other may be a secret.
func (s *Server) audit(c *call, val any, err error) {
	attrs := []slog.Attr{slog.String("call", c.msg.WireName()), slog.String("user", c.Session.User),
		slog.String("session", c.Session.UUID), slog.String("address", c.RemoteAddr)}
	if c.job != nil && c.job.object {
		attrs = append(attrs, slog.String("task", string(c.job.ref)))
	}
	if ref := s.object(c, val, err); ref != "" {
		attrs = append(attrs, slog.String("object", ref))
	}
	s.auditLine(append(attrs, slog.String("result", resultText(err)))...)
}

// auditLine writes one line. An audit that fails does not undo the call, which
// has happened; the log says so.
func (s *Server) auditLine(attrs ...slog.Attr) {
	if err := s.opts.Audit.line(s.now(), attrs...); err != nil {
		s.log.Error("the audit file takes no lines", "error", err)
	}
}

// object names what a call was about: its first argument, or what it has made.
func (s *Server) object(c *call, val any, err error) string {
	ref := ""
	switch params := c.msg.Params; {
	case len(c.args) > 0 && params[0].Type.Kind == datamodel.Ref:
		ref = c.args[0].(string)
	case err == nil && c.msg.Result != nil && c.msg.Result.Kind == datamodel.Ref:
		ref = fmt.Sprint(val)
	}
	if ref == "" {
		return ""
	}
	// A session's reference is a credential wherever a client puts it.
	if sess := s.sessions.find(xenapi.SessionRef(ref)); sess != nil {
		return "session " + sess.identity.UUID
	}
	if c.msg.Secret || len(ref) != len(xenapi.RefPrefix)+36 && ref != xenapi.Null {
		return "no reference"
	}
	return wire.Clip(ref)
}

func resultText(err error) string {
	switch {
	case err == nil:
		return "ok"
	case xenapi.Code(err) == "":
		return "INTERNAL_ERROR"
	}
	return xenapi.Code(err)
}

func (a *Audit) line(now time.Time, attrs ...slog.Attr) error {
	r := slog.NewRecord(now, slog.LevelInfo, "call", 0)
	r.AddAttrs(attrs...)
	return a.lines.Handle(context.Background(), r)
}

// serveAudit streams the audit files, oldest first, from a time on: GET
// /audit_log?since=20260823T10:11:12Z.
func (s *Server) serveAudit(w http.ResponseWriter, r *http.Request) error {
	since := time.Time{}
	if text := r.URL.Query().Get("since"); text != "" {
		v, err := wire.Decode(timeType, wire.Value{Kind: wire.String, Text: text}, "since")
		if err != nil {
			return err
		}
		since = v.(time.Time)
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	a := s.opts.Audit
	for i := a.keep; i >= 0; i-- {
		path := a.path
		if i > 0 {
			path = fmt.Sprintf("%s.%d", a.path, i)
		}
		if err := copySince(w, path, since); err != nil {
			return err
		}
	}
	return nil
}

// copySince copies a rotated file unless it was last written before since.
func copySince(w io.Writer, path string, since time.Time) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil || info.ModTime().Before(since) {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
