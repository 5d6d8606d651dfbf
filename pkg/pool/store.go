package pool

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/hashicorp/go-hclog"
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"

	"xapid/pkg/db"
)

// The points that an entry passes in the log.
const (
	BeforeStore db.Point = "before log store"
	AfterStore  db.Point = "after log store"
)

// segmentRoom is what the log needs free to begin a segment.
const segmentRoom = 80 << 20

// store is the log's files. It opens them anew after a segment could not be
// begun on a full disk, which raft-wal by itself doesn't get over.
type store struct {
	dir string
	log hclog.Logger
	at  func(p db.Point)

	mu  sync.RWMutex
	wal *raftwal.WAL
}

var (
	_ raft.LogStore          = (*store)(nil)
	_ raft.StableStore       = (*store)(nil)
	_ raft.MonotonicLogStore = (*store)(nil)
)

func openStore(dir string, log hclog.Logger, at func(p db.Point)) (*store, error) {
	s := &store{dir: filepath.Join(dir, "wal"), log: log, at: at}
	if err := makeDirs(s.dir, filepath.Join(dir, snapshotDir)); err != nil {
		return nil, err
	}
	return s, s.open()
}

func (s *store) open() (err error) {
	if s.wal, err = raftwal.Open(s.dir, raftwal.WithLogger(s.log)); err != nil {
		return fmt.Errorf("pool: open the log: %w", err)
	}
	// raft-wal syncs the name of a segment that it makes, but not of one that it
	// finds, which a kill may have left unsynced.
	return syncDir(s.dir)
}

// reopen opens the files anew, if there is room for what open makes.
func (s *store) reopen() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := room(s.dir, segmentRoom); err != nil {
		return err
	}
	return errors.Join(s.wal.Close(), s.open())
}

// StoreLog implements raft.LogStore.
func (s *store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s *store) StoreLogs(logs []*raft.Log) error {
	if s.at != nil {
		s.at(BeforeStore)
		defer s.at(AfterStore)
	}
	err := s.append(logs)
	if !errors.Is(err, raftwal.ErrSealed) {
		return err
	}
	if err := s.reopen(); err != nil {
		return err
	}
	return s.append(logs)
}

func (s *store) append(logs []*raft.Log) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.StoreLogs(logs)
}

// IsMonotonic implements raft.MonotonicLogStore.
func (s *store) IsMonotonic() bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.IsMonotonic()
}

// FirstIndex implements raft.LogStore.
func (s *store) FirstIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.FirstIndex()
}

// LastIndex implements raft.LogStore.
func (s *store) LastIndex() (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.LastIndex()
}

// GetLog implements raft.LogStore.
func (s *store) GetLog(index uint64, l *raft.Log) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.GetLog(index, l)
}

// DeleteRange implements raft.LogStore.
func (s *store) DeleteRange(from, to uint64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.DeleteRange(from, to)
}

// Set implements raft.StableStore.
func (s *store) Set(key, value []byte) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.Set(key, value)
}

// Get implements raft.StableStore.
func (s *store) Get(key []byte) ([]byte, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.Get(key)
}

// SetUint64 implements raft.StableStore.
func (s *store) SetUint64(key []byte, value uint64) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.SetUint64(key, value)
}

// GetUint64 implements raft.StableStore.
func (s *store) GetUint64(key []byte) (uint64, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.GetUint64(key)
}

// Close releases the files.
func (s *store) Close() error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.wal.Close()
}
