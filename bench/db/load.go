package main

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/mattn/go-sqlite3"

	"xapid/pkg/datamodel"
)

// memory measures what a process has resident once it has loaded a graph and
// nobody has asked it anything, with the settings that the daemon runs with.
func memory(ctx context.Context, c config) ([]figure, error) {
	var out []figure
	for _, size := range []struct {
		vms   int
		limit float64
	}{{1000, 120}, {10_000, 500}} {
		f := figure{name: fmt.Sprintf("resident, %d VMs", size.vms), unit: "MiB", target: size.limit, atMost: true}
		dir, err := populated(ctx, c, size.vms)
		if err != nil {
			return nil, err
		}
		for range 3 {
			kib, err := spawn(ctx, "resident", dir)
			if err != nil {
				return nil, err
			}
			f.ours = append(f.ours, kib/1024)
		}
		out = append(out, f)
	}
	return out, nil
}

// start measures how long it takes until reads are answered, the log's replay
// included, against reading every row of every table and dropping it.
func start(ctx context.Context, c config) ([]figure, error) {
	f := figure{name: "start-up, 10000 VMs", unit: "ms", target: 1.5, atMost: true}
	dir, err := populated(ctx, c, 10_000)
	if err != nil {
		return nil, err
	}
	for range c.pairs {
		ours, err := spawn(ctx, "open", dir)
		if err != nil {
			return nil, err
		}
		theirs, err := spawn(ctx, "select", dir)
		if err != nil {
			return nil, err
		}
		f.ours, f.peer = append(f.ours, ours), append(f.peer, theirs)
	}
	return []figure{f}, nil
}

func populated(ctx context.Context, c config, vms int) (string, error) {
	dir := filepath.Join(c.dir, fmt.Sprint("vms-", vms))
	if _, err := os.Stat(dir); err == nil {
		return dir, nil
	}
	return dir, populate(ctx, dir, vms)
}

// spawn runs this program as a child, which prints one number.
func spawn(ctx context.Context, mode, dir string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.CommandContext(ctx, self, "-child", mode, "-dir", dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("child %s: %w", mode, err)
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

func child(ctx context.Context, c config) error {
	began := time.Now()
	switch c.child {
	case "select":
		err := selectAll(filepath.Join(c.dir, "state.db"))
		fmt.Println(float64(time.Since(began).Microseconds()) / 1000)
		return err
	case "open", "resident":
		g, err := open(ctx, c.dir)
		if err != nil {
			return err
		}
		if c.child == "open" {
			fmt.Println(float64(time.Since(began).Microseconds()) / 1000)
			return g.close()
		}
		kib, err := resident()
		fmt.Println(kib)
		return errors.Join(err, g.close())
	}
	return fmt.Errorf("no such child: %s", c.child)
}

// resident reads VmRSS in KiB.
func resident() (int, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, after, _ := strings.Cut(string(b), "VmRSS:")
	return strconv.Atoi(strings.Fields(after)[0])
}

func selectAll(path string) error {
	conn, err := (&sqlite3.SQLiteDriver{}).Open("file:" + path + "?_journal_mode=WAL")
	if err != nil {
		return err
	}
	defer conn.Close()
	for _, c := range datamodel.Get().Classes {
		if c.InDatabase && c.Persist {
			if err := selectTable(conn, c.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func selectTable(conn driver.Conn, name string) error {
	st, err := conn.Prepare(`SELECT * FROM "` + name + `"`)
	if err != nil {
		return err
	}
	defer st.Close()
	rows, err := st.(driver.StmtQueryContext).QueryContext(context.Background(), nil)
	if err != nil {
		return err
	}
	row := make([]driver.Value, len(rows.Columns()))
	for err == nil {
		err = rows.Next(row)
	}
	if !errors.Is(err, io.EOF) {
		return errors.Join(err, rows.Close())
	}
	return rows.Close()
}
