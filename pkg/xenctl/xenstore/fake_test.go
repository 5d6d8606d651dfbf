package xenstore

import (
	"bytes"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// fake is a xenstored: a map of keys, transactions that are copies of it, and watches.
type fake struct {
	t      *testing.T
	socket string
	listen net.Listener
	wg     sync.WaitGroup

	mu      sync.Mutex
	keys    map[string]string
	version int // of keys
	peers   map[net.Conn]*peer
	lastTx  uint32
	open    int               // transactions
	errors  map[string]string // code to answer to "op path"
	silent  map[op]bool       // operations that get no answer
	held    []func()          // their answers
	changed func(path string) // a guest's answer to a write, called without the lock
	listMax int
}

// peer is one connection.
type peer struct {
	conn    net.Conn
	writing sync.Mutex
	txs     map[uint32]*fakeTx
	watches map[string]string // path by token
}

type fakeTx struct {
	keys    map[string]string
	version int
	wrote   []string
}

func startFake(t *testing.T) *fake {
	f := &fake{t: t, socket: filepath.Join(t.TempDir(), "socket"), keys: map[string]string{"": ""},
		peers: map[net.Conn]*peer{}, errors: map[string]string{}, silent: map[op]bool{}, listMax: payloadLimit}
	var err error
	if f.listen, err = net.Listen("unix", f.socket); err != nil {
		t.Fatal(err)
	}
	f.wg.Go(func() {
		for {
			conn, err := f.listen.Accept()
			if err != nil {
				return
			}
			f.wg.Go(func() { f.serve(conn) })
		}
	})
	t.Cleanup(func() {
		f.listen.Close()
		f.cut()
		f.wg.Wait()
	})
	return f
}

// cut breaks all connections.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for conn := range f.peers {
		conn.Close()
	}
}

func (f *fake) serve(conn net.Conn) {
	p := &peer{conn: conn, txs: map[uint32]*fakeTx{}, watches: map[string]string{}}
	f.mu.Lock()
	f.peers[conn] = p
	f.mu.Unlock()
	defer func() {
		conn.Close()
		f.mu.Lock()
		delete(f.peers, conn)
		f.open -= len(p.txs)
		f.mu.Unlock()
	}()
	for {
		q, err := readFrame(conn)
		if err != nil {
			return
		}
		f.mu.Lock()
		out, code, wrote := f.answer(p, q)
		reply := frame{op: q.op, id: q.id, tx: q.tx, payload: out}
		if code != "" {
			reply.op, reply.payload = opError, terminated(code)
		}
		send := func() { p.send(reply) }
		if f.silent[q.op] {
			f.held = append(f.held, send)
			send = func() {}
		}
		hook := f.changed
		f.mu.Unlock()
		send()
		for _, path := range wrote {
			f.tell(path)
			if hook != nil {
				hook(path)
			}
		}
	}
}

func (p *peer) send(m frame) {
	p.writing.Lock()
	defer p.writing.Unlock()
	p.conn.Write(m.encode()) // a client that has gone is noticed by the read
}

// tell sends watch events.
func (f *fake) tell(path string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, p := range f.peers {
		for token, root := range p.watches {
			if path == root || strings.HasPrefix(path, root+"/") {
				f.wg.Go(func() { p.send(frame{op: opWatchEvent, payload: terminated(path, token)}) })
			}
		}
	}
}

// set is what somebody else writes.
func (f *fake) set(path, value string) {
	f.mu.Lock()
	f.keys[path] = value
	f.version++
	f.mu.Unlock()
	f.tell(path)
}

func (f *fake) get(path string) (string, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	v, ok := f.keys[path]
	return v, ok
}

// answer obeys a message with the lock held.
func (f *fake) answer(p *peer, q frame) (out []byte, code string, wrote []string) {
	words := strings.SplitN(string(q.payload), "\x00", 2)
	path := words[0]
	if code := f.errors[fmt.Sprint(q.op, " ", path)]; code != "" {
		return nil, code, nil
	}
	keys, tx := f.keys, (*fakeTx)(nil)
	if q.tx != 0 {
		if tx = p.txs[q.tx]; tx == nil {
			return nil, "ENOENT", nil
		}
		keys = tx.keys
	}
	ok := []byte("OK\x00")
	switch q.op {
	case opTransactionStart:
		f.lastTx++
		f.open++
		p.txs[f.lastTx] = &fakeTx{keys: maps.Clone(f.keys), version: f.version}
		return terminated(strconv.Itoa(int(f.lastTx))), "", nil
	case opTransactionEnd:
		return f.end(p, q.tx, tx, path == "T")
	case opWatch, opUnwatch:
		return f.watch(p, q.op, path, strings.TrimSuffix(words[1], "\x00"))
	case opDirectory, opDirectoryPart:
		return f.list(keys, q.op, path, words[1])
	case opRead:
		if v, there := keys[path]; there {
			return []byte(v), "", nil
		}
		return nil, "ENOENT", nil
	case opWrite:
		keys[path] = words[1]
	case opMkdir:
		keys[path] += ""
	case opRemove:
		maps.DeleteFunc(keys, func(k, _ string) bool { return k == path || strings.HasPrefix(k, path+"/") })
	default:
		return nil, "ENOSYS", nil
	}
	if tx != nil {
		tx.wrote = append(tx.wrote, path)
		return ok, "", nil
	}
	f.version++
	return ok, "", []string{path}
}

func (f *fake) end(p *peer, id uint32, tx *fakeTx, commit bool) ([]byte, string, []string) {
	if tx == nil {
		return nil, "ENOENT", nil
	}
	delete(p.txs, id)
	f.open--
	if commit && tx.version != f.version {
		return nil, "EAGAIN", nil
	}
	if commit {
		f.keys = tx.keys
		f.version++
		return []byte("OK\x00"), "", tx.wrote
	}
	return []byte("OK\x00"), "", nil
}

func (f *fake) watch(p *peer, o op, path, token string) ([]byte, string, []string) {
	if o == opUnwatch {
		if _, there := p.watches[token]; !there {
			return nil, "ENOENT", nil
		}
		delete(p.watches, token)
		return []byte("OK\x00"), "", nil
	}
	p.watches[token] = path
	f.wg.Go(func() { p.send(frame{op: opWatchEvent, payload: terminated(path, token)}) })
	return []byte("OK\x00"), "", nil
}

func (f *fake) list(keys map[string]string, o op, path, rest string) ([]byte, string, []string) {
	names := map[string]bool{}
	for k := range keys {
		if below, ok := strings.CutPrefix(k, path+"/"); ok {
			name, _, _ := strings.Cut(below, "/")
			names[name] = true
		}
	}
	var all bytes.Buffer
	for _, n := range slices.Sorted(maps.Keys(names)) {
		all.WriteString(n + "\x00")
	}
	if o == opDirectory {
		if all.Len() > f.listMax {
			return nil, "E2BIG", nil
		}
		return all.Bytes(), "", nil
	}
	offset, err := strconv.Atoi(strings.TrimSuffix(rest, "\x00"))
	if err != nil || offset > all.Len() {
		return nil, "EINVAL", nil
	}
	head := terminated(strconv.Itoa(f.version))
	part, last := all.Bytes()[offset:], true
	if room := f.listMax - len(head) - 1; len(part) > room {
		part, last = part[:bytes.LastIndexByte(part[:room], 0)+1], false
	}
	out := append(head, part...)
	if last {
		out = append(out, 0)
	}
	return out, "", nil
}
