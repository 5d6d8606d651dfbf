package sm

import (
	"fmt"
	"path/filepath"
	"strings"
	"unicode/utf8"
)

// Bounds of a device_config, in bytes.
const (
	maxConfigValue = 4096
	maxConfig      = 64 << 10
)

// CheckConfig refuses a device_config that no driver should see: values with control characters, quotes or a leading
// "-" (code 2), or too long (code 1). Keys that a driver does not know are no error, since clients send some that
// were meant for other layers.
func CheckConfig(config map[string]string) error {
	total := 0
	for key, value := range config {
		total += len(key) + len(value)
		if len(key) > maxConfigValue || len(value) > maxConfigValue || total > maxConfig {
			return Failure(CodeInvalidArgument, "device_config is too long", nil)
		}
		if badText(key) || badText(value) || strings.HasPrefix(value, "-") {
			return Failure(CodeBadCharacter, fmt.Sprintf("in %q", key), nil)
		}
	}
	return nil
}

func badText(s string) bool {
	return !utf8.ValidString(s) || strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' || r == 0x7f || r == '"' || r == '\'' || r == '`'
	})
}

// CheckLocation checks a device_config value that names a local directory and returns it cleaned. It must be an
// absolute path below the root, without "..".
func CheckLocation(location string) (string, error) {
	clean := filepath.Clean(location)
	trimmed := strings.TrimSuffix(location, "/")
	if !filepath.IsAbs(location) || clean == "/" || clean != trimmed {
		return "", Failure(CodeInvalidArgument, "the location is not a plain absolute path", nil)
	}
	return clean, nil
}

// IsUUID tells whether s is a uuid in canonical lower case, the only form that names a volume.
func IsUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i := range len(s) {
		c := s[i]
		switch {
		case i == 8 || i == 13 || i == 18 || i == 23:
			if c != '-' {
				return false
			}
		case c < '0' || c > 'f' || c > '9' && c < 'a':
			return false
		}
	}
	return true
}
