package db_test

import (
	"bufio"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"xapid/pkg/db"
	"xapid/pkg/pool"
)

var (
	kills = flag.Int("kills", campaign(8, 220), "how often the kill test kills")
	cuts  = flag.Int("cuts", campaign(4, 60), "how often the power cut test cuts")
	seed  = flag.Uint64("seed", 0, "seed of the kill and power cut tests; 0 takes the time")
	child = flag.String("child", "", "used by the tests themselves")
)

// campaign is how often a test repeats itself: often where time is given.
func campaign(brief, long int) int {
	if os.Getenv("XAPID_LONG") != "" {
		return long
	}
	return brief
}

func TestMain(m *testing.M) {
	flag.Parse()
	if *child != "" {
		os.Exit(writers(*child))
	}
	os.Exit(m.Run())
}

// crash is a state directory that loses its process again and again, with
// what must be in it all the same.
type crash struct {
	t     *testing.T
	dir   string
	rng   *rand.Rand
	acked [writerCount]int64 // the last acknowledged change of each writer
	void  int                // rounds with too few acknowledgements to count
}

// leastRate is how many changes a second must have been acknowledged before a
// kill that counts.
const leastRate = 50

func newCrash(t *testing.T, dir string) *crash {
	s := *seed
	if s == 0 {
		s = uint64(time.Now().UnixNano())
	}
	t.Logf("-seed %d", s)
	return &crash{t: t, dir: dir, rng: rand.New(rand.NewPCG(s, s))}
}

var logPoints = []db.Point{db.BeforeAppend, pool.BeforeStore, pool.AfterStore, db.BeforePublish, db.AfterPublish, db.AfterAppend}
var sqlitePoints = []db.Point{db.BatchBegun, db.BatchWritten, db.BatchHeld}

// life draws how the next process lives and dies.
func (c *crash) life() life {
	l := life{Dir: c.dir, Snapshots: c.rng.IntN(4) == 0, Die: time.Duration(5+c.rng.IntN(75)) * time.Millisecond}
	switch c.rng.IntN(3) {
	case 0:
		l.Point, l.Pass = logPoints[c.rng.IntN(len(logPoints))], 5+c.rng.IntN(80)
	case 1:
		l.Point, l.Pass = sqlitePoints[c.rng.IntN(len(sqlitePoints))], 1+c.rng.IntN(3)
	}
	if l.Point != "" {
		l.Die = time.Minute
	}
	return l
}

// round starts a process, checks what it finds, lets it write, and kills it or
// waits until it has. It reports whether the round counts.
func (c *crash) round(l life) bool {
	config, err := json.Marshal(l)
	if err != nil {
		c.t.Fatal(err)
	}
	out, w, err := os.Pipe()
	if err != nil {
		c.t.Fatal(err)
	}
	defer out.Close()
	cmd := exec.Command(os.Args[0], "-child", string(config))
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	w.Close()
	var began time.Time
	acks := 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		word, rest, _ := strings.Cut(lines.Text(), " ")
		switch word {
		case "state":
			c.check(rest)
		case "ready":
			began = time.Now()
			time.AfterFunc(l.Die, func() { cmd.Process.Kill() })
		case "ack":
			var writer int
			var seq int64
			if _, err := fmt.Sscan(rest, &writer, &seq); err != nil {
				c.t.Fatal(err)
			}
			c.acked[writer] = max(c.acked[writer], seq)
			acks++
		}
	}
	err = cmd.Wait()
	if began.IsZero() && !l.Early || cmd.ProcessState.Exited() {
		c.t.Fatalf("%+v: the process ended by itself: %v", l, err)
	}
	if float64(acks) < leastRate*time.Since(began).Seconds() {
		c.void++
		return false
	}
	return true
}

// check compares what a restarted process found of one writer's with what the
// one before acknowledged: that or the next, and in every place the same.
func (c *crash) check(line string) {
	var s found
	if err := json.Unmarshal([]byte(line), &s); err != nil {
		c.t.Fatal(line, err)
	}
	want := found{Writer: s.Writer, Version: s.Version, Text: fmt.Sprint(s.Version), Size: s.Version, SizeText: fmt.Sprint(s.Version),
		Token: fmt.Sprint(s.Version), Tokens: 1, Journal: fmt.Sprint(s.Version)}
	if s != want {
		c.t.Errorf("a change half appeared: %+v", s)
	}
	if at := c.acked[s.Writer]; s.Version < at || s.Version > at+1 {
		c.t.Errorf("writer %d: %d was acknowledged, %d is there", s.Writer, at, s.Version)
	}
	c.acked[s.Writer] = s.Version
}

// loseSQLite takes the database file away, which the log must make up for.
func (c *crash) loseSQLite() {
	for _, name := range []string{"state.db", "state.db-wal", "state.db-shm"} {
		if err := os.Remove(filepath.Join(c.dir, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			c.t.Error(err)
		}
	}
}

// TestKill kills a process under 16 writers at random moments, and at named
// points of a commit. Every acknowledged change must be there afterwards, and
// none in part.
func TestKill(t *testing.T) {
	c := newCrash(t, t.TempDir())
	points := map[db.Point]int{}
	for counted := 0; counted < *kills && !t.Failed(); {
		l := c.life()
		if c.round(l) {
			counted++
			points[l.Point]++
		}
		if c.rng.IntN(8) == 0 {
			c.loseSQLite()
		}
		if c.void > 10+*kills {
			t.Fatalf("%d rounds with less than %d acknowledged changes a second", c.void, leastRate)
		}
	}
	t.Logf("%d kills by point: %v; %d void rounds; %d changes", *kills, points, c.void, c.sum())
}

// TestKillAtStart kills the first process of a new directory at every point
// that it passes while it makes its files.
func TestKillAtStart(t *testing.T) {
	for _, point := range append([]db.Point{pool.BeforeStore, pool.AfterStore, db.BeforePublish}, sqlitePoints...) {
		for pass := 1; pass <= campaign(2, 6); pass++ {
			c := newCrash(t, t.TempDir())
			c.round(life{Dir: c.dir, Point: point, Pass: pass, Early: true, Die: time.Minute})
			c.round(life{Dir: c.dir, Die: time.Millisecond})
		}
	}
}

func (c *crash) sum() (n int64) {
	for _, seq := range c.acked {
		n += seq
	}
	return n
}
