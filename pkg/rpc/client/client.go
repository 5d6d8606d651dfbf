// Package client speaks the XenAPI from Go: a method a message, typed, made
// from the same datamodel as the server.
//
// Its one invariant: a failure of the API is a *xenapi.Error; other errors
// are those of the way there. Start reading at Dial.
package client

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"

	"xapid/pkg/datamodel"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xenapi"
)

// Client calls one host over JSON-RPC. It is safe for concurrent use.
type Client struct {
	url     string
	http    *http.Client
	session string
	id      atomic.Int64
}

// Options say how to reach a host.
type Options struct {
	// TLS is the configuration for https; nil accepts what the system trusts.
	TLS *tls.Config
	// Socket is the path of a Unix socket to use in place of the URL's host.
	Socket string
}

// New makes a client for a URL such as https://10.0.0.1; Login comes next.
func New(url string, opts Options) *Client {
	transport := &http.Transport{TLSClientConfig: opts.TLS, MaxIdleConnsPerHost: 64}
	if opts.Socket != "" {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", opts.Socket)
		}
	}
	return &Client{url: strings.TrimSuffix(url, "/") + "/jsonrpc", http: &http.Client{Transport: transport}}
}

// Login opens the session that all further calls are made in.
func (c *Client) Login(ctx context.Context, user, password string) error {
	v, err := c.call(ctx, "session.login_with_password", user, password, "2.23", "xapid-client")
	if err == nil {
		c.session = v.(string)
	}
	return err
}

// SetSession makes the client use a session that is open already.
func (c *Client) SetSession(ref xenapi.SessionRef) { c.session = string(ref) }

// SessionRef is the session in use.
func (c *Client) SessionRef() xenapi.SessionRef { return xenapi.SessionRef(c.session) }

// Close drops idle connections; the session stays open.
func (c *Client) Close() { c.http.CloseIdleConnections() }

// Call makes a call in the session; args and the result are canonical values,
// records come as xenapi.Record.
func (c *Client) Call(ctx context.Context, method string, args ...any) (any, error) {
	return c.call(ctx, method, append([]any{c.session}, args...)...)
}

// Async starts a call and returns its task.
func (c *Client) Async(ctx context.Context, method string, args ...any) (xenapi.TaskRef, error) {
	v, err := c.Call(ctx, "Async."+method, args...)
	if err != nil {
		return "", err
	}
	return xenapi.TaskRef(v.(string)), nil
}

func (c *Client) call(ctx context.Context, method string, args ...any) (any, error) {
	body := wire.AppendJSONCall(nil, c.id.Add(1), method, args...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, c.url, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("client: %s: HTTP %s", method, resp.Status)
	}
	v, err := wire.DecodeJSONResponse(answer)
	if err != nil {
		return nil, err
	}
	t := resultType(method)
	got, err := wire.Decode(t, v, "result")
	if err != nil {
		return nil, fmt.Errorf("client: %s: %w", method, err)
	}
	return records(got), nil
}

// resultType is what a method answers with; a task's reference for Async.
func resultType(method string) *datamodel.Type {
	if m := datamodel.Get().Message(method); m != nil {
		return m.Result
	}
	return &datamodel.Type{Kind: datamodel.String}
}

// records makes records of the fields that were decoded.
func records(v any) any {
	switch v := v.(type) {
	case *wire.Fields:
		return record(v)
	case []*wire.Fields:
		out := make([]xenapi.Record, len(v))
		for i, f := range v {
			out[i] = record(f)
		}
		return out
	case map[string]*wire.Fields:
		out := make(map[string]xenapi.Record, len(v))
		for ref, f := range v {
			out[ref] = record(f)
		}
		return out
	}
	return v
}

func record(f *wire.Fields) xenapi.Record {
	rec := xenapi.New(f.Class.ID)
	for _, field := range f.Class.Fields {
		if v, ok := f.Get(field); ok {
			xenapi.SetField(rec.Ptr(field.Index), v)
		}
	}
	return rec
}
