package listen

import (
	"bytes"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"testing"
)

// BenchmarkSmallPost compares with a bare net/http server: what the checks of
// this package cost a small call.
func BenchmarkSmallPost(b *testing.B) {
	answer := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Write(make([]byte, 200))
	})
	ours := start(b, Limits{}, answer)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	bare := &http.Server{Handler: answer}
	go bare.Serve(l)
	defer bare.Close()
	for name, url := range map[string]string{"bare": "http://" + l.Addr().String(),
		"ours": "http://" + ours.HTTPAddr().String(), "ours-tls": "https://" + ours.HTTPSAddr().String()} {
		b.Run(name, func(b *testing.B) {
			transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
			defer transport.CloseIdleConnections()
			client, body := &http.Client{Transport: transport}, make([]byte, 300)
			for b.Loop() {
				r, err := client.Post(url, "text/xml", bytes.NewReader(body))
				if err != nil {
					b.Fatal(err)
				}
				io.Copy(io.Discard, r.Body)
				r.Body.Close()
			}
		})
	}
}
