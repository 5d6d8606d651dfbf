package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"testing"

	"xapid/pkg/xenapi"
)

// post makes a JSON-RPC call as a script does, with headers of its own.
func (w *world) post(ctx context.Context, header http.Header, method string, params ...any) (json.RawMessage, error) {
	body, err := json.Marshal(map[string]any{"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.d.HTTPURL+"/jsonrpc", bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header = header.Clone()
	if req.Header == nil {
		req.Header = http.Header{}
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("HTTP %s", resp.Status)
	}
	var a struct {
		Result json.RawMessage `json:"result"`
		Error  *struct {
			Message string   `json:"message"`
			Data    []string `json:"data"`
		} `json:"error"`
	}
	if err := json.Unmarshal(answer, &a); err != nil {
		return nil, err
	}
	if a.Error != nil {
		return nil, &xenapi.Error{Code: a.Error.Message, Params: a.Error.Data}
	}
	return a.Result, nil
}

// get reads a page of the daemon's.
func (w *world) get(path string) string {
	w.Helper()
	return w.getAs(w.d.Password, path)
}

// getAs is get with another password of root's.
func (w *world) getAs(password, path string) string {
	w.Helper()
	req, err := http.NewRequestWithContext(w.ctx, http.MethodGet, w.d.HTTPURL+path, nil)
	w.ok(err)
	req.SetBasicAuth("root", password)
	resp, err := http.DefaultClient.Do(req)
	w.ok(err)
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	w.ok(err)
	if resp.StatusCode != http.StatusOK {
		w.Fatalf("GET %s: %s", path, resp.Status)
	}
	return string(b)
}

// event is one change, as event.from and event.next tell it.
type event struct {
	Class, Operation, Ref string
	Snapshot              map[string]any
}

// batch is what event.from answers.
type batch struct {
	Events         []event
	Token          string
	ValidRefCounts map[string]int `json:"valid_ref_counts"`
}

// from asks for what has changed since a token.
func (w *world) from(token string, seconds float64, classes ...string) batch {
	w.Helper()
	raw, err := w.post(w.ctx, nil, "event.from", w.SessionRef(), classes, token, seconds)
	w.ok(err)
	var b batch
	w.ok(json.Unmarshal(raw, &b))
	return b
}

// about keeps the events of one object.
func (b batch) about(ref string) []event {
	var out []event
	for _, e := range b.Events {
		if e.Ref == ref {
			out = append(out, e)
		}
	}
	return out
}

// TestPages: a page says what this is; figures are for whoever asks.
func TestPages(t *testing.T) {
	w := start(t)
	if page := w.get("/"); !bytes.Contains([]byte(page), []byte("xapid")) {
		t.Errorf("the page: %s", page)
	}
	if figures := w.get("/metrics"); !bytes.Contains([]byte(figures), []byte("xapid_")) {
		t.Error("no figures")
	}
}

// next reads the events that a session has registered for.
func (w *world) next() []event {
	w.Helper()
	raw, err := w.post(w.ctx, nil, "event.next", w.SessionRef())
	w.ok(err)
	var events []event
	w.ok(json.Unmarshal(raw, &events))
	return events
}
