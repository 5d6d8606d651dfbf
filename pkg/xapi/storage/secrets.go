package storage

import (
	"strings"

	"xapid/pkg/db"
	"xapid/pkg/xenapi"
)

// secretSuffix marks a key of device_config whose value is the uuid of a
// secret, which holds what the key without it stands for.
const secretSuffix = "_secret"

// isPassword reports whether a key of device_config holds a password.
func isPassword(key string) bool { return strings.HasSuffix(key, "password") }

// withSecrets moves the passwords of a device_config into secrets.
func withSecrets(tx *db.Tx, config map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range config {
		if !isPassword(key) {
			out[key] = value
			continue
		}
		secret := xenapi.NewSecret()
		secret.UUID, secret.Value = xenapi.NewUUID(), value
		db.Insert[xenapi.SecretRef](tx, secret)
		out[key+secretSuffix] = secret.UUID
	}
	return out
}

// moved is a device_config without its passwords, for the journal.
func moved(config map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range config {
		if !isPassword(key) {
			out[key] = value
		}
	}
	return out
}

// secretOf finds the secret that a key of device_config names.
func secretOf(rd db.Reader, key, value string) (name string, ref xenapi.SecretRef) {
	name, ok := strings.CutSuffix(key, secretSuffix)
	if !ok || !isPassword(name) {
		return "", xenapi.Null
	}
	return name, xenapi.SecretRef(rd.Snapshot().ByUUID(xenapi.Class((*xenapi.Secret)(nil)), value))
}

// revealed puts the passwords back, for the driver.
func revealed(rd db.Reader, config map[string]string) map[string]string {
	out := map[string]string{}
	for key, value := range config {
		name, ref := secretOf(rd, key, value)
		if secret := db.Find(rd, ref); secret != nil {
			out[name] = secret.Value
		} else {
			out[key] = value
		}
	}
	return out
}

// dropSecrets removes the secrets of a device_config that goes.
func dropSecrets(tx *db.Tx, config map[string]string) {
	for key, value := range config {
		if _, ref := secretOf(tx, key, value); db.Find(tx, ref) != nil {
			db.Delete(tx, ref)
		}
	}
}
