package pool

import (
	"github.com/hashicorp/raft"
	raftwal "github.com/hashicorp/raft-wal"

	"xapid/pkg/db"
)

// The points that an entry passes in the log.
const (
	BeforeStore db.Point = "before log store"
	AfterStore  db.Point = "after log store"
)

// store is the log's files, with its points.
type store struct {
	*raftwal.WAL
	at func(p db.Point)
}

// StoreLog implements raft.LogStore.
func (s store) StoreLog(l *raft.Log) error { return s.StoreLogs([]*raft.Log{l}) }

// StoreLogs implements raft.LogStore.
func (s store) StoreLogs(logs []*raft.Log) error {
	if s.at == nil {
		return s.WAL.StoreLogs(logs)
	}
	s.at(BeforeStore)
	err := s.WAL.StoreLogs(logs)
	s.at(AfterStore)
	return err
}
