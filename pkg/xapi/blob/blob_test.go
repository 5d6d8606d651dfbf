package blob_test

import (
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/blob"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi/service"
)

func TestBlob(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), nil)
	xapitest.Host(t, env)
	ctx, c, s := t.Context(), xapitest.Call(), blob.New(env)
	ref, err := s.Create(ctx, c, service.BlobCreateParams{MimeType: "text/plain", Public: true})
	if err != nil {
		t.Fatal(err)
	}
	if b := db.Find(env.DB.View(), ref); b.MimeType != "text/plain" || !b.Public || b.Size != 0 || !b.LastUpdated.Equal(xapitest.Now) {
		t.Errorf("%+v", b)
	}
	if err := s.Destroy(ctx, c, service.BlobDestroyParams{Self: ref}); err != nil {
		t.Fatal(err)
	}
	xapitest.Fails(t, s.Destroy(ctx, c, service.BlobDestroyParams{Self: ref}), "HANDLE_INVALID", "blob", string(ref))

	pool, _ := xapi.Pool(env.DB.View())
	ref, err = blob.Attach(ctx, env, pool, "icon", "", false)
	if err != nil {
		t.Fatal(err)
	}
	_, err = blob.Attach(ctx, env, pool, "icon", "", false)
	xapitest.Fails(t, err, "MAP_DUPLICATE_KEY", "pool", "blobs", string(pool), "icon")
	if err := s.Destroy(ctx, c, service.BlobDestroyParams{Self: ref}); err != nil {
		t.Fatal(err)
	}
	if _, p := xapi.Pool(env.DB.View()); len(p.Blobs) != 0 {
		t.Errorf("the pool still names a blob that is gone: %v", p.Blobs)
	}
}
