package pool

import (
	"archive/tar"
	"context"
	"encoding/base64"
	"io"
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// maxCertificates bounds the files in an archive of certificates.
const maxCertificates = 64

// GetGuestSecurebootReadiness implements service.Pool: the administrator's
// certificates count before the product's.
func (s *Pools) GetGuestSecurebootReadiness(_ context.Context, _ *service.Call, p service.PoolGetGuestSecurebootReadinessParams) (xenapi.PoolGuestSecurebootReadiness, error) {
	pool, err := db.Get(s.env.DB.View(), p.Self)
	if err != nil {
		return "", err
	}
	archive := pool.CustomUEFICertificates
	if archive == "" {
		archive = pool.UEFICertificates
	}
	return readiness(archive), nil
}

// readiness looks for the four variables that Secure Boot needs in an archive:
// base64 of a tar; only the list of revocations may be missing.
func readiness(archive string) xenapi.PoolGuestSecurebootReadiness {
	found := map[string]bool{}
	files := tar.NewReader(base64.NewDecoder(base64.StdEncoding, strings.NewReader(archive)))
	for range maxCertificates {
		h, err := files.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return xenapi.PoolGuestSecurebootReadinessNotReady
		}
		found[strings.TrimPrefix(h.Name, "./")] = true
	}
	switch {
	case !found["PK.auth"] || !found["KEK.auth"] || !found["db.auth"]:
		return xenapi.PoolGuestSecurebootReadinessNotReady
	case !found["dbx.auth"]:
		return xenapi.PoolGuestSecurebootReadinessReadyNoDbx
	}
	return xenapi.PoolGuestSecurebootReadinessReady
}
