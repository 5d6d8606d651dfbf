package client

import "xapid/pkg/xenapi"

// none drops the empty result of a call.
func none(_ any, err error) error { return err }

// text types a result that is text: a string, a reference, an enum.
func text[T ~string](v any, err error) (T, error) {
	if err != nil {
		return "", err
	}
	return T(v.(string)), nil
}

// set types a set of texts.
func set[T ~string](v any, err error) ([]T, error) {
	if err != nil {
		return nil, err
	}
	return xenapi.As[T](v.([]string)), nil
}

// value types every other result.
func value[T any](v any, err error) (T, error) {
	if err != nil {
		var zero T
		return zero, err
	}
	return v.(T), nil
}
