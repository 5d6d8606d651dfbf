// Package pool is the behaviour of the pool's object while the pool has one
// host: settings, and answers that need nobody else.
//
// Its one invariant: what concerns other hosts answers NOT_IMPLEMENTED, never
// a success that did nothing. pool.allowed_operations is empty for the same
// reason: none of the operations that it may list is here. Start reading at
// Pools.
package pool

import (
	"context"
	"maps"
	"slices"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/blob"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Pools serves class pool.
type Pools struct {
	service.UnimplementedPool
	env *xapi.Env
}

// New makes the service.
func New(env *xapi.Env) *Pools { return &Pools{env: env} }

// Register puts the messages where the server finds them.
func (s *Pools) Register(_ xapi.Hooks, services *service.Services) { services.Pool = s }

// SyncDatabase implements service.Pool: SQLite holds all that was answered
// until now.
func (s *Pools) SyncDatabase(ctx context.Context, _ *service.Call) error {
	return s.env.DB.Flushed(ctx, s.env.DB.View().Index())
}

// IsSlave implements service.Pool.
func (s *Pools) IsSlave(_ context.Context, _ *service.Call, p service.PoolIsSlaveParams) (bool, error) {
	rd := s.env.DB.View()
	if _, err := db.Get(rd, p.Host); err != nil {
		return false, err
	}
	_, pool := xapi.Pool(rd)
	return pool != nil && pool.Master != p.Host, nil
}

// GetLicenseState implements service.Pool: everything is free, for ever.
func (s *Pools) GetLicenseState(_ context.Context, _ *service.Call, p service.PoolGetLicenseStateParams) (map[string]string, error) {
	rd := s.env.DB.View()
	pool, err := db.Get(rd, p.Self)
	if err != nil {
		return nil, err
	}
	master, err := db.Get(rd, pool.Master)
	if err != nil {
		return nil, err
	}
	return map[string]string{"edition": master.Edition, "expiry": "never"}, nil
}

// CreateNewBlob implements service.Pool.
func (s *Pools) CreateNewBlob(ctx context.Context, _ *service.Call, p service.PoolCreateNewBlobParams) (xenapi.BlobRef, error) {
	return blob.Attach(ctx, s.env, p.Pool, p.Name, p.MimeType, p.Public)
}

// CertificateList implements service.Pool: the trusted certificates by name.
func (s *Pools) CertificateList(context.Context, *service.Call) ([]string, error) {
	names := []string{}
	for _, c := range db.All[xenapi.CertificateRef](s.env.DB.View()) {
		if c.Type == xenapi.CertificateTypeCA {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names, nil
}

// HasExtension implements service.Pool: there are no extension calls.
func (s *Pools) HasExtension(_ context.Context, _ *service.Call, p service.PoolHasExtensionParams) (bool, error) {
	_, err := db.Get(s.env.DB.View(), p.Self)
	return false, err
}

// edit changes the pool's record.
func (s *Pools) edit(ctx context.Context, ref xenapi.PoolRef, fn func(p *xenapi.Pool) error) error {
	return s.env.Update(ctx, func(tx *db.Tx) error {
		p, err := db.Edit(tx, ref)
		if err != nil {
			return err
		}
		return fn(p)
	})
}

// AddToGuestAgentConfig implements service.Pool.
func (s *Pools) AddToGuestAgentConfig(ctx context.Context, _ *service.Call, p service.PoolAddToGuestAgentConfigParams) error {
	return s.edit(ctx, p.Self, func(pool *xenapi.Pool) error {
		if _, there := pool.GuestAgentConfig[p.Key]; there {
			return xenapi.ErrMapDuplicateKey("pool", "guest_agent_config", string(p.Self), p.Key)
		}
		next := map[string]string{p.Key: p.Value}
		maps.Copy(next, pool.GuestAgentConfig)
		pool.GuestAgentConfig = next
		return nil
	})
}

// RemoveFromGuestAgentConfig implements service.Pool.
func (s *Pools) RemoveFromGuestAgentConfig(ctx context.Context, _ *service.Call, p service.PoolRemoveFromGuestAgentConfigParams) error {
	return s.edit(ctx, p.Self, func(pool *xenapi.Pool) error {
		next := maps.Clone(pool.GuestAgentConfig)
		delete(next, p.Key)
		pool.GuestAgentConfig = next
		return nil
	})
}
