// Package blob is the behaviour of binary objects: empty ones are made here,
// by themselves or attached to another object; data comes over HTTP.
//
// Its one invariant: a blob that is attached goes with the object. Start
// reading at Attach.
package blob

import (
	"context"
	"maps"

	"xapid/pkg/datamodel"
	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// defaultType is the MIME type of data that nobody described.
const defaultType = "application/octet-stream"

// Blobs serves class blob.
type Blobs struct {
	service.UnimplementedBlob
	env *xapi.Env
}

// New makes the service.
func New(env *xapi.Env) *Blobs { return &Blobs{env: env} }

// Register puts the messages where the server finds them.
func (b *Blobs) Register(_ xapi.Hooks, s *service.Services) { s.Blob = b }

func fresh(env *xapi.Env, name, mimeType string, public bool) *xenapi.Blob {
	rec := xenapi.NewBlob()
	rec.UUID, rec.NameLabel, rec.Public, rec.LastUpdated = xenapi.NewUUID(), name, public, env.Time()
	rec.MimeType = mimeType
	if mimeType == "" {
		rec.MimeType = defaultType
	}
	return rec
}

// Create implements service.Blob.
func (b *Blobs) Create(ctx context.Context, _ *service.Call, p service.BlobCreateParams) (xenapi.BlobRef, error) {
	rec, ref := fresh(b.env, "", p.MimeType, p.Public), xenapi.NewRef[xenapi.BlobRef]()
	return ref, b.env.Update(ctx, func(tx *db.Tx) error {
		tx.Insert(string(ref), rec.Clone())
		return nil
	})
}

// Destroy implements service.Blob.
func (b *Blobs) Destroy(ctx context.Context, _ *service.Call, p service.BlobDestroyParams) error {
	return b.env.Update(ctx, func(tx *db.Tx) error {
		if _, err := db.Get(tx, p.Self); err != nil {
			return err
		}
		db.Delete(tx, p.Self)
		return nil
	})
}

// Attach makes a blob that belongs to an object under a name: what
// create_new_blob does in every class that has it. The object's class must
// have the field blobs.
func Attach[R interface {
	~string
	Of() *T
}, T any, P interface {
	*T
	xenapi.Record
}](ctx context.Context, env *xapi.Env, owner R, name, mimeType string, public bool) (xenapi.BlobRef, error) {
	class := datamodel.Get().Classes[P(nil).XenClass()]
	field := class.FieldByName("blobs")
	rec, ref := fresh(env, name, mimeType, public), xenapi.NewRef[xenapi.BlobRef]()
	return ref, env.Update(ctx, func(tx *db.Tx) error {
		obj, err := tx.Edit(class, string(owner))
		if err != nil {
			return err
		}
		p := obj.Ptr(field.Index).(*map[string]string)
		if _, taken := (*p)[name]; taken {
			return xenapi.ErrMapDuplicateKey(class.Name, field.Name, string(owner), name)
		}
		next := map[string]string{name: string(ref)}
		maps.Copy(next, *p)
		*p = next
		tx.Insert(string(ref), rec.Clone())
		return nil
	})
}
