package pool_test

import (
	"archive/tar"
	"bytes"
	"encoding/base64"
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/pool"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

func open(t *testing.T) (*xapi.Env, xenapi.PoolRef, *pool.Pools) {
	t.Helper()
	env := xapitest.Open(t, t.TempDir(), nil)
	xapitest.Host(t, env)
	ref, _ := xapi.Pool(env.DB.View())
	return env, ref, pool.New(env)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestPool(t *testing.T) {
	env, ref, s := open(t)
	ctx, c := t.Context(), xapitest.Call()
	must(t, s.SyncDatabase(ctx, c))
	slave, err := s.IsSlave(ctx, c, service.PoolIsSlaveParams{Host: env.Host()})
	if slave || err != nil {
		t.Errorf("%v %v", slave, err)
	}
	_, err = s.IsSlave(ctx, c, service.PoolIsSlaveParams{Host: "OpaqueRef:x"})
	xapitest.Fails(t, err, "HANDLE_INVALID", "host", "OpaqueRef:x")
	state, err := s.GetLicenseState(ctx, c, service.PoolGetLicenseStateParams{Self: ref})
	if err != nil || state["expiry"] != "never" {
		t.Errorf("%v %v", state, err)
	}
	if yes, err := s.HasExtension(ctx, c, service.PoolHasExtensionParams{Self: ref, Name: "x"}); yes || err != nil {
		t.Errorf("%v %v", yes, err)
	}
	b, err := s.CreateNewBlob(ctx, c, service.PoolCreateNewBlobParams{Pool: ref, Name: "n"})
	must(t, err)
	if db.Find(env.DB.View(), ref).Blobs["n"] != string(b) {
		t.Error("the blob is not attached")
	}
}

func TestGuestAgentConfig(t *testing.T) {
	env, ref, s := open(t)
	ctx, c := t.Context(), xapitest.Call()
	add := service.PoolAddToGuestAgentConfigParams{Self: ref, Key: "auto_update_enabled", Value: "true"}
	must(t, s.AddToGuestAgentConfig(ctx, c, add))
	xapitest.Fails(t, s.AddToGuestAgentConfig(ctx, c, add), "MAP_DUPLICATE_KEY", "pool", "guest_agent_config", string(ref), "auto_update_enabled")
	if got := db.Find(env.DB.View(), ref).GuestAgentConfig; got["auto_update_enabled"] != "true" {
		t.Errorf("%v", got)
	}
	for range 2 {
		must(t, s.RemoveFromGuestAgentConfig(ctx, c, service.PoolRemoveFromGuestAgentConfigParams{Self: ref, Key: "auto_update_enabled"}))
	}
	if got := db.Find(env.DB.View(), ref).GuestAgentConfig; len(got) != 0 {
		t.Errorf("%v", got)
	}
}

func TestCertificateList(t *testing.T) {
	env, _, s := open(t)
	xapitest.Update(t, env, func(tx *db.Tx) {
		for name, kind := range map[string]xenapi.CertificateType{"b": xenapi.CertificateTypeCA, "a": xenapi.CertificateTypeCA, "": xenapi.CertificateTypeHost} {
			rec := xenapi.NewCertificate()
			rec.UUID, rec.Name, rec.Type = xenapi.NewUUID(), name, kind
			db.Insert[xenapi.CertificateRef](tx, rec)
		}
	})
	got, err := s.CertificateList(t.Context(), xapitest.Call())
	if err != nil || len(got) != 2 || got[0] != "a" || got[1] != "b" {
		t.Errorf("%v %v", got, err)
	}
}

func TestSecurebootReadiness(t *testing.T) {
	env, ref, s := open(t)
	archive := func(names ...string) string {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		for _, name := range names {
			must(t, w.WriteHeader(&tar.Header{Name: name, Mode: 0o600}))
		}
		must(t, w.Close())
		return base64.StdEncoding.EncodeToString(b.Bytes())
	}
	for name, row := range map[string]struct {
		archive string
		want    xenapi.PoolGuestSecurebootReadiness
	}{
		"none":           {"", "not_ready"},
		"not an archive": {"hello", "not_ready"},
		"no db":          {archive("PK.auth", "KEK.auth", "dbx.auth"), "not_ready"},
		"no dbx":         {archive("PK.auth", "KEK.auth", "db.auth"), "ready_no_dbx"},
		"all":            {archive("./PK.auth", "./KEK.auth", "./db.auth", "./dbx.auth"), "ready"},
	} {
		t.Run(name, func(t *testing.T) {
			xapitest.Update(t, env, func(tx *db.Tx) {
				if p, err := db.Edit(tx, ref); err == nil {
					p.CustomUEFICertificates = row.archive
				}
			})
			got, err := s.GetGuestSecurebootReadiness(t.Context(), xapitest.Call(), service.PoolGetGuestSecurebootReadinessParams{Self: ref})
			if got != row.want || err != nil {
				t.Errorf("%s %v", got, err)
			}
		})
	}
}
