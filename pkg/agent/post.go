package agent

import (
	"xapid/pkg/db"
	"xapid/pkg/xapi"
	"xapid/pkg/xapi/alert"
	"xapid/pkg/xenapi"
)

// post adds alerts at the clock's time.
func post(env *xapi.Env) func(tx *db.Tx, name string, cls xenapi.Cls, uuid, body string) {
	return func(tx *db.Tx, name string, cls xenapi.Cls, uuid, body string) {
		alert.Post(tx, name, cls, uuid, body, env.Time())
	}
}
