package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
)

// store is the StateDir: a file UUID.json a domain, and last-id. Files are replaced whole and never synced,
// since guests don't outlive the machine: the records of an earlier boot are dropped.
type store struct {
	dir     string
	stripes [64]sync.Mutex // held while the file of a UUID that falls on one is written

	idMu   sync.Mutex
	idFile *os.File // the number of the last domain, twenty digits
	lastID int
}

const (
	lastIDFile   = "last-id"
	bootIDFile   = "boot-id"
	lastIDDigits = 20
	bootIDPath   = "/proc/sys/kernel/random/boot_id"
)

func openStore(dir string) (*store, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	s := &store{dir: dir}
	if err := s.dropOld(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, lastIDFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	s.idFile = f
	text := make([]byte, lastIDDigits)
	if n, _ := f.ReadAt(text, 0); n == lastIDDigits {
		s.lastID, _ = strconv.Atoi(string(text))
	}
	return s, nil
}

// dropOld removes what an earlier boot of the machine has left.
func (s *store) dropOld() error {
	boot, err := os.ReadFile(bootIDPath)
	if err != nil {
		boot = []byte("unknown")
	}
	was, err := os.ReadFile(filepath.Join(s.dir, bootIDFile))
	if err == nil && string(was) == string(boot) {
		return nil
	}
	for _, path := range s.records() {
		if err := os.Remove(path); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(s.dir, lastIDFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return s.replace(bootIDFile, boot)
}

func (s *store) close() error { return s.idFile.Close() }

// adopt takes over the domains that were left.
func (h *Hypervisor) adopt() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lastID = h.store.lastID
	for _, path := range h.store.records() {
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		d := &domain{console: new(console)}
		err = json.Unmarshal(text, &d.snapshot)
		if err == nil {
			err = d.Config.Validate()
		}
		if err != nil || d.Config.UUID+".json" != filepath.Base(path) {
			h.log.Warn("record of a simulated domain is not readable", "path", path, "error", err)
			continue
		}
		d.reserved = max(d.Memory, d.Target)
		h.usedBytes += d.reserved
		h.lastID = max(h.lastID, d.ID)
		h.domains[d.Config.UUID] = d
		if d.Guest.Up {
			d.console.write(d.banner())
		}
		h.rearm(d)
	}
	return nil
}

// record brings the file of d's UUID up to date with the domain of that UUID.
func (h *Hypervisor) record(d *domain) {
	if h.store == nil {
		return
	}
	uuid := d.Config.UUID
	lock := h.store.stripe(uuid)
	lock.Lock()
	defer lock.Unlock()

	h.mu.Lock()
	now, lastID := h.domains[uuid], h.lastID
	var state snapshot
	if now != nil {
		state = now.copy()
	}
	h.mu.Unlock()

	if err := h.store.put(uuid, now != nil, state, lastID); err != nil {
		h.log.Error("a simulated domain can't be recorded", "domain", uuid, "error", err)
	}
}

func (s *store) put(uuid string, exists bool, state snapshot, lastID int) error {
	if err := s.putLastID(lastID); err != nil {
		return err
	}
	if !exists {
		if err := os.Remove(filepath.Join(s.dir, uuid+".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	text, err := json.Marshal(state)
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	return s.replace(uuid+".json", text)
}

func (s *store) putLastID(id int) error {
	s.idMu.Lock()
	defer s.idMu.Unlock()
	if id <= s.lastID {
		return nil
	}
	if _, err := s.idFile.WriteAt(fmt.Appendf(nil, "%0*d", lastIDDigits, id), 0); err != nil {
		return err
	}
	s.lastID = id
	return nil
}

func (s *store) replace(name string, text []byte) error {
	path := filepath.Join(s.dir, name)
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

// records are the paths of the files of domains.
func (s *store) records() []string {
	paths, _ := filepath.Glob(filepath.Join(escapeGlob(s.dir), "*.json"))
	return paths
}

func (s *store) stripe(uuid string) *sync.Mutex {
	sum := fnv.New32a()
	sum.Write([]byte(uuid))
	return &s.stripes[sum.Sum32()%uint32(len(s.stripes))]
}

func escapeGlob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
