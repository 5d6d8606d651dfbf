// Package secret is the behaviour of secrets: passwords that other objects
// name by uuid. Making, reading and removing them is generic; what is here is
// the one message of their own.
//
// Its one invariant: a value never leaves the graph but by the API's own
// answer. Start reading at Introduce.
package secret

import (
	"context"
	"regexp"

	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenapi/service"
)

// Secrets serves class secret.
type Secrets struct {
	service.UnimplementedSecret
	env *xapi.Env
}

// New makes the service.
func New(env *xapi.Env) *Secrets { return &Secrets{env: env} }

// Register puts the message where the server finds it.
func (s *Secrets) Register(_ xapi.Hooks, services *service.Services) { services.Secret = s }

var uuidForm = regexp.MustCompile(`^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Introduce implements service.Secret: a secret under a uuid that others have
// already written down.
func (s *Secrets) Introduce(ctx context.Context, _ *service.Call, p service.SecretIntroduceParams) (xenapi.SecretRef, error) {
	if !uuidForm.MatchString(p.UUID) {
		return "", xenapi.ErrUUIDInvalid("secret", p.UUID)
	}
	ref := xenapi.NewRef[xenapi.SecretRef]()
	return ref, s.env.Update(ctx, func(tx *db.Tx) error {
		rec := xenapi.NewSecret()
		if tx.Snapshot().ByUUID(xenapi.Class(rec), p.UUID) != "" {
			return xenapi.ErrUUIDInvalid("secret", p.UUID)
		}
		rec.UUID, rec.Value, rec.OtherConfig = p.UUID, p.Value, p.OtherConfig
		tx.Insert(string(ref), rec)
		return nil
	})
}
