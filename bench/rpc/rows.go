package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"math/big"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/db"
	"xapid/pkg/rpc/wire"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenctl/xenctltest/libvirtd"
)

// list is VM.get_all_records over all VMs, with everything encoded already.
func list(w *world) []row {
	var out []row
	for _, enc := range []struct {
		name, content string
		request       []byte
	}{{"JSON-RPC", "application/json", jsonCall("VM.get_all_records", w.session)}, {"XML-RPC", "text/xml", xmlCall("VM.get_all_records", w.session)}} {
		for _, secure := range []bool{false, true} {
			name, addr, config, limit := "plain", w.srv.HTTPAddr().String(), (*tls.Config)(nil), 1.25
			if secure {
				name, addr, config, limit = "TLS", w.srv.HTTPSAddr().String(), insecure, 1.15
			}
			ours := dial(addr, config)
			body := ours.fetch(enc.request)
			peer := dial(w.bare(secure, same(enc.content, body)), config)
			run := func(c *client) func() time.Duration {
				return func() time.Duration {
					begun := time.Now()
					for range 10 {
						c.get(enc.request)
					}
					return time.Since(begun) / 10
				}
			}
			run(peer)()
			out = append(out, atMost(fmt.Sprintf("VM.get_all_records, %d VMs, %.1f MiB, %s, %s", vmCount, float64(len(body))/(1<<20), enc.name, name),
				25, limit, run(ours), run(peer)))
		}
	}
	return append(out, changed(w))
}

// changed is a list after a change to one VM: everything else is encoded.
func changed(w *world) row {
	request := jsonCall("VM.get_all_records", w.session)
	ours := dial(w.srv.HTTPAddr().String(), nil)
	peer := dial(w.bare(false, same("application/json", ours.fetch(request))), nil)
	n, operations := 0, db.Find(w.DB.View(), w.vms[0]).AllowedOperations
	return atMost("the same, JSON-RPC, plain, one VM changed before each", 100, 1.25, func() time.Duration {
		n++
		xapitest.Update(w.b, w.Env, func(tx *db.Tx) {
			vm, err := db.Edit(tx, w.vms[0])
			check(err)
			vm.AllowedOperations = operations[:len(operations)-n%2] // takes no log
		})
		begun := time.Now()
		ours.get(request)
		return time.Since(begun)
	}, func() time.Duration {
		begun := time.Now()
		peer.get(request)
		return time.Since(begun)
	})
}

// small is VM.get_name_label on one connection and on 64.
func small(w *world) []row {
	var out []row
	request := jsonCall("VM.get_name_label", w.session, string(w.vms[0]))
	body := dial(w.srv.HTTPAddr().String(), nil).fetch(request)
	peer := w.bare(false, same("application/json", body))
	for _, c := range []struct {
		conns, calls int
		limit        float64
	}{{1, 3000, 0.6}, {64, 200, 0.7}} {
		run := func(addr string) func() time.Duration {
			clients := make([]*client, c.conns)
			for i := range clients {
				clients[i] = dial(addr, nil)
			}
			return func() time.Duration {
				begun := time.Now()
				var wg sync.WaitGroup
				for _, cl := range clients {
					wg.Go(func() {
						for range c.calls {
							cl.get(request)
						}
					})
				}
				wg.Wait()
				return time.Since(begun)
			}
		}
		out = append(out, atLeast(fmt.Sprintf("VM.get_name_label on %d connections", c.conns), 15, c.conns*c.calls, c.limit, run(w.srv.HTTPAddr().String()), run(peer)))
	}
	return out
}

// change alters a VM's metrics, which takes no log and no disk.
func (w *world) change(n int64) {
	xapitest.Update(w.b, w.Env, func(tx *db.Tx) {
		metrics, err := db.Edit(tx, db.Find(tx, w.vms[0]).Metrics)
		check(err)
		metrics.MemoryActual = n
	})
}

// token gives a token of now.
func (w *world) token() string {
	c := dial(w.srv.HTTPAddr().String(), nil)
	defer c.conn.Close()
	v, err := wire.DecodeJSONResponse(c.fetch(jsonCall("event.from", w.login("token"), []string{}, "", 0.0)))
	check(err)
	m, _ := v.Member("token")
	return m.Text
}

// quiet is how long nothing happens before a change that is told at once.
const quiet = 60 * time.Millisecond

// fanOut is one change that 1,000 clients wait for: until the last has it.
func fanOut(w *world) []row {
	const n = 1000
	ours, peers := make([]*client, n), make([]*client, n)
	sessions := make([]string, n)
	var answer atomic.Pointer[[]byte]
	var gate atomic.Pointer[chan struct{}]
	var waiting atomic.Int32
	addr := w.bare(false, func(rw http.ResponseWriter, r *http.Request) {
		waiting.Add(1)
		<-*gate.Load()
		same("application/json", *answer.Load())(rw, r)
	})
	for i := range n {
		sessions[i] = w.login(fmt.Sprint("client ", i%10))
		ours[i], peers[i] = dial(w.srv.HTTPAddr().String(), nil), dial(addr, nil)
	}
	value := int64(0)
	wake := func() { value++; w.change(value) }
	round := func(clients []*client, request func(i int) []byte, ready func() bool, wake func()) time.Duration {
		for i, c := range clients {
			c.send(request(i))
		}
		for !ready() {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(quiet)
		begun := time.Now()
		wake()
		var wg sync.WaitGroup
		for _, c := range clients {
			wg.Go(func() {
				var b bufferWriter
				c.receive(&b)
				body := []byte(b)
				answer.Store(&body)
			})
		}
		wg.Wait()
		return time.Since(begun)
	}
	mine := func() time.Duration {
		token := w.token()
		return round(ours, func(i int) []byte { return jsonCall("event.from", sessions[i], []string{"vm_metrics"}, token, 60.0) },
			func() bool { return w.DB.Feed().Waiting() == n }, wake)
	}
	theirs := func() time.Duration {
		opened := make(chan struct{})
		gate.Store(&opened)
		waiting.Store(0)
		request := jsonCall("event.from", sessions[0], []string{"vm_metrics"}, "", 60.0)
		return round(peers, func(int) []byte { return request }, func() bool { return waiting.Load() == n }, func() { close(opened) })
	}
	mine()
	return []row{atMost(fmt.Sprintf("one change to %d waiting event.from, the last served", n), 15, 1.5, mine, theirs)}
}

// latency is one waiting client: from the change to the answer, after quiet.
func latency(w *world) []row {
	c := dial(w.srv.HTTPAddr().String(), nil)
	session := w.login("latency")
	var all []time.Duration
	for i := range 200 {
		token := w.token()
		c.send(jsonCall("event.from", session, []string{"vm_metrics"}, token, 60.0))
		for w.DB.Feed().Waiting() == 0 {
			time.Sleep(time.Millisecond)
		}
		time.Sleep(quiet)
		begun := time.Now()
		w.change(int64(1_000_000 + i))
		var b bufferWriter
		c.receive(&b)
		all = append(all, time.Since(begun))
	}
	slices.Sort(all)
	p99 := all[len(all)*99/100]
	return []row{{"one waiting client, change to answer, p99 of 200", p99.Round(time.Microsecond).String(), "5ms",
		float64(p99) / float64(5*time.Millisecond), fmt.Sprintf("median %s", all[len(all)/2].Round(time.Microsecond)), "≤ 1.00", p99 <= 5*time.Millisecond}}
}

// againstLibvirt is the whole list with details, as libvirtd gives it.
func againstLibvirt(w *world) []row {
	conn := libvirtd.Start(w.b).Fill(vmCount)
	peer := func() time.Duration {
		begun := time.Now()
		domains, _, err := conn.ConnectListAllDomains(1, libvirt.ConnectListDomainsActive)
		check(err)
		for _, d := range domains {
			_, _, _, _, _, err := conn.DomainGetInfo(d)
			check(err)
			_, err = conn.DomainGetXMLDesc(d, 0)
			check(err)
		}
		return time.Since(begun)
	}
	var out []row
	c := dial(w.srv.HTTPAddr().String(), nil)
	for _, enc := range []struct {
		name    string
		request []byte
		limit   float64
	}{{"JSON-RPC", jsonCall("VM.get_all_records", w.session), 40}, {"XML-RPC", xmlCall("VM.get_all_records", w.session), 15}} {
		c.get(enc.request)
		ours := func() time.Duration {
			begun := time.Now()
			c.get(enc.request)
			return time.Since(begun)
		}
		out = append(out, atLeast(fmt.Sprintf("%d VMs with details, %s, beside libvirtd by go-libvirt", vmCount, enc.name), 11, 1, enc.limit, ours, peer))
	}
	return out
}

// selfSigned makes a certificate of the kind that the server makes for itself.
func selfSigned() tls.Certificate {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	check(err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
