package secret_test

import (
	"testing"

	"xapid/pkg/db"
	"xapid/pkg/xapi/secret"
	"xapid/pkg/xapi/xapitest"
	"xapid/pkg/xenapi/service"
)

func TestIntroduce(t *testing.T) {
	env := xapitest.Open(t, t.TempDir(), nil)
	s := secret.New(env)
	p := service.SecretIntroduceParams{UUID: "11111111-2222-3333-4444-555555555555", Value: "hush"}
	ref, err := s.Introduce(t.Context(), xapitest.Call(), p)
	if err != nil {
		t.Fatal(err)
	}
	if got := db.Find(env.DB.View(), ref); got.UUID != p.UUID || got.Value != "hush" {
		t.Errorf("%+v", got)
	}
	_, err = s.Introduce(t.Context(), xapitest.Call(), p)
	xapitest.Fails(t, err, "UUID_INVALID", "secret", p.UUID)
	for _, bad := range []string{"", "x", "11111111-2222-3333-4444-55555555555Z"} {
		p.UUID = bad
		_, err = s.Introduce(t.Context(), xapitest.Call(), p)
		xapitest.Fails(t, err, "UUID_INVALID", "secret", bad)
	}
}
