package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// loop posts a body again and again and reads the answers.
func loop(ctx context.Context, url, body string) {
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 1}}
	defer c.CloseIdleConnections()
	for ctx.Err() == nil {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
		if err != nil {
			return
		}
		resp, err := c.Do(req)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
	}
}

// peerStarts measures a bare net/http handler, in a process of its own, that
// writes as many synced records as a start, beside clients that fetch as many
// bytes as a list has.
func (b *bench) peerStarts(ctx context.Context, dir string, syncs int64) (time.Duration, error) {
	size, err := b.listSize(ctx)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(os.Args[0], "-peer", dir)
	cmd.Env = append(os.Environ(), fmt.Sprint("PEER_BYTES=", size), fmt.Sprint("PEER_SYNCS=", syncs))
	out, err := cmd.StdoutPipe()
	if err != nil {
		return 0, err
	}
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var url string
	if _, err := fmt.Fscanln(out, &url); err != nil {
		return 0, err
	}
	load, stop := context.WithCancel(ctx)
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() { loop(load, url+"/list", "") })
	}
	defer wg.Wait()
	defer stop()
	var took []time.Duration
	for range rounds {
		t := time.Now()
		resp, err := http.Post(url+"/start", "text/plain", strings.NewReader(""))
		if err != nil {
			return 0, err
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		took = append(took, time.Since(t))
	}
	return median(took), nil
}

func (b *bench) listSize(ctx context.Context) (int64, error) {
	body := fmt.Sprintf(`{"jsonrpc":"2.0","id":1,"method":"VM.get_all_records","params":[%q]}`, b.c.SessionRef())
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, b.url+"/jsonrpc", strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}

// peer is the bare handler.
func peer(dir string) {
	size, _ := strconv.Atoi(os.Getenv("PEER_BYTES"))
	syncs, _ := strconv.Atoi(os.Getenv("PEER_SYNCS"))
	list, record := make([]byte, size), make([]byte, 1024)
	f, err := os.Create(filepath.Join(dir, "peer.log"))
	if err != nil {
		panic(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/list", func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(list) })
	mux.HandleFunc("/start", func(w http.ResponseWriter, _ *http.Request) {
		for range syncs {
			if _, err := f.Write(record); err != nil {
				panic(err)
			}
			if err := f.Sync(); err != nil {
				panic(err)
			}
		}
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Println("http://" + l.Addr().String())
	panic(http.Serve(l, mux))
}
