package wire

import (
	"errors"
	"io"
	"slices"
	"sync"

	"xapid/pkg/datamodel"
	"xapid/pkg/xenapi"
)

// Reply is a whole answer. It refers to encoded fragments instead of copying
// them, and knows its length before it is written.
type Reply struct {
	chunks [][]byte
	size   int64
}

// Len is the number of bytes that WriteTo writes: the Content-Length.
func (r *Reply) Len() int64 { return r.size }

// Chunks gives the pieces of the answer, in order.
func (r *Reply) Chunks() [][]byte { return r.chunks }

// Bytes copies the answer into one piece.
func (r *Reply) Bytes() []byte {
	out := make([]byte, 0, r.size)
	for _, c := range r.chunks {
		out = append(out, c...)
	}
	return out
}

// writeBlock is how much is written at once: small pieces are gathered, since
// a system call (or a TLS record) for each would cost more than the copy.
const writeBlock = 128 << 10

var blocks = sync.Pool{New: func() any { b := make([]byte, 0, writeBlock); return &b }}

// WriteTo writes the answer in large blocks.
func (r *Reply) WriteTo(w io.Writer) (int64, error) {
	if len(r.chunks) == 1 {
		n, err := w.Write(r.chunks[0])
		return int64(n), err
	}
	buf := blocks.Get().(*[]byte)
	defer blocks.Put(buf)
	out := blockWriter{w: w, buf: (*buf)[:0]}
	for _, c := range r.chunks {
		out.add(c)
	}
	out.flush()
	return out.written, out.err
}

type blockWriter struct {
	w       io.Writer
	buf     []byte
	written int64
	err     error
}

func (b *blockWriter) add(c []byte) {
	if len(b.buf)+len(c) > cap(b.buf) {
		b.flush()
	}
	if len(c) > cap(b.buf)/2 {
		b.flush()
		b.write(c)
		return
	}
	b.buf = append(b.buf, c...)
}

func (b *blockWriter) flush() {
	b.write(b.buf)
	b.buf = b.buf[:0]
}

func (b *blockWriter) write(c []byte) {
	if b.err != nil || len(c) == 0 {
		return
	}
	var n int
	n, b.err = b.w.Write(c)
	b.written += int64(n)
}

// builder gathers what is written and what is referred to. Bytes before mark
// are in chunks already.
type builder struct {
	s      *syntax
	own    []byte
	mark   int
	chunks [][]byte
	size   int64
}

func (b *builder) put(text string) { b.own = append(b.own, text...) }

func (b *builder) flush() {
	if part := b.own[b.mark:]; len(part) > 0 {
		b.chunks = append(b.chunks, part[:len(part):len(part)])
		b.size += int64(len(part))
	}
	b.mark = len(b.own)
}

// memberRoom is what a member of a RawMap takes beside its value, nearly.
const memberRoom = 96

// smallFragment is copied rather than referred to.
const smallFragment = 512

func (b *builder) fragment(c []byte) {
	if len(c) <= smallFragment {
		b.own = append(b.own, c...)
		return
	}
	b.flush()
	b.chunks = append(b.chunks, c)
	b.size += int64(len(c))
}

// value is syntax.top, but keeps fragments out of own.
func (b *builder) value(t *datamodel.Type, v any) {
	switch v := v.(type) {
	case Raw:
		b.fragment(v)
	case Chunks:
		for _, c := range v {
			b.fragment(c)
		}
	case RawSet:
		b.put(b.s.openSet)
		for i, r := range v {
			if i > 0 {
				b.put(b.s.comma)
			}
			b.fragment(r)
		}
		b.put(b.s.closeSet)
	case RawMap:
		b.chunks, b.own = slices.Grow(b.chunks, 2*len(v)+1), slices.Grow(b.own, memberRoom*len(v))
		b.put(b.s.openMap)
		for i, m := range v {
			b.own = b.s.key(b.own, i == 0, m.Name)
			b.fragment(m.Value)
			b.put(b.s.closeMember)
		}
		b.put(b.s.closeMap)
	case Object:
		b.put(b.s.openMap)
		for i, m := range v {
			b.own = b.s.key(b.own, i == 0, m.Name)
			b.value(nil, m.Value)
			b.put(b.s.closeMember)
		}
		b.put(b.s.closeMap)
	default:
		b.own = b.s.top(b.own, t, v)
	}
}

func (b *builder) reply() *Reply {
	b.flush()
	return &Reply{b.chunks, b.size}
}

const (
	xmlOpen    = `<?xml version="1.0"?><methodResponse><params><param>`
	xmlClose   = `</param></params></methodResponse>`
	xmlSuccess = xmlOpen + `<value><struct><member><name>Status</name><value>Success</value></member><member><name>Value</name>`
	xmlFailure = xmlOpen + `<value><struct><member><name>Status</name><value>Failure</value></member><member><name>ErrorDescription</name>`
	xmlEnd     = `</member></struct></value>` + xmlClose
)

// XMLSuccess wraps the result v of type t.
func XMLSuccess(t *datamodel.Type, v any) *Reply {
	b := builder{s: &xmlSyntax, own: make([]byte, 0, smallFragment)}
	b.put(xmlSuccess)
	b.value(t, v)
	b.put(xmlEnd)
	return b.reply()
}

// XMLFailure wraps an error; one that is no *xenapi.Error becomes an
// INTERNAL_ERROR with its text.
func XMLFailure(err error) *Reply {
	b := builder{s: &xmlSyntax}
	b.put(xmlFailure)
	b.value(nil, faultOf(err).Description())
	b.put(xmlEnd)
	return b.reply()
}

// XMLBare wraps a result without a status, as system.listMethods answers.
func XMLBare(t *datamodel.Type, v any) *Reply {
	b := builder{s: &xmlSyntax}
	b.put(xmlOpen)
	b.value(t, v)
	b.put(xmlClose)
	return b.reply()
}

func faultOf(err error) *xenapi.Error {
	if e, ok := errors.AsType[*xenapi.Error](err); ok {
		return e
	}
	return &xenapi.Error{Code: "INTERNAL_ERROR", Params: []string{Clip(err.Error())}}
}

// JSONSuccess wraps the result v of type t in the version of the call, and
// gives its id back.
func JSONSuccess(c *Call, t *datamodel.Type, v any) *Reply {
	b := builder{s: &jsonSyntax, own: make([]byte, 0, smallFragment)}
	if c.V2 {
		b.put(`{"jsonrpc":"2.0","result":`)
		b.value(t, v)
		b.put(`,"id":`)
	} else {
		b.put(`{"result":`)
		b.value(t, v)
		b.put(`,"error":null,"id":`)
	}
	b.own = append(b.own, c.ID...)
	b.put("}")
	return b.reply()
}

// JSONFailure wraps an error in the version of the call.
func JSONFailure(c *Call, err error) *Reply {
	e := faultOf(err)
	b := builder{s: &jsonSyntax}
	if c.V2 {
		b.put(`{"jsonrpc":"2.0","error":{"code":1,"message":`)
		b.value(nil, e.Code)
		b.put(`,"data":`)
		b.value(nil, e.Params)
		b.put(`},"id":`)
	} else {
		b.put(`{"result":null,"error":`)
		b.value(nil, e.Description())
		b.put(`,"id":`)
	}
	b.own = append(b.own, c.ID...)
	b.put("}")
	return b.reply()
}

// AppendXMLCall writes a methodCall, for clients.
func AppendXMLCall(dst []byte, method string, params ...any) []byte {
	dst = append(dst, `<?xml version="1.0"?><methodCall><methodName>`...)
	dst = appendXMLText(dst, method)
	dst = append(dst, `</methodName><params>`...)
	for _, p := range params {
		dst = append(dst, `<param>`...)
		dst = xmlSyntax.top(dst, nil, p)
		dst = append(dst, `</param>`...)
	}
	return append(dst, `</params></methodCall>`...)
}

// AppendJSONCall writes a JSON-RPC 2.0 request, for clients.
func AppendJSONCall(dst []byte, id int64, method string, params ...any) []byte {
	dst = append(dst, `{"jsonrpc":"2.0","method":`...)
	dst = jsonSyntax.text(dst, method)
	dst = append(dst, `,"params":[`...)
	for i, p := range params {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = jsonSyntax.top(dst, nil, p)
	}
	dst = append(dst, `],"id":`...)
	dst = jsonSyntax.int(dst, id)
	return append(dst, '}')
}
