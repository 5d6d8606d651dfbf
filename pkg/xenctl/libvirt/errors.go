package libvirt

import (
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"xapid/pkg/xenctl"
)

// sentinels says what libvirt's error codes mean here.
var sentinels = map[libvirt.ErrorNumber]error{
	libvirt.ErrNoDomain:             xenctl.ErrNotFound,
	libvirt.ErrDomExist:             xenctl.ErrExists,
	libvirt.ErrOperationInvalid:     xenctl.ErrBadState,
	libvirt.ErrInvalidArg:           xenctl.ErrInvalid,
	libvirt.ErrXMLError:             xenctl.ErrInvalid,
	libvirt.ErrXMLDetail:            xenctl.ErrInvalid,
	libvirt.ErrNoSupport:            xenctl.ErrNotSupported,
	libvirt.ErrArgumentUnsupported:  xenctl.ErrNotSupported,
	libvirt.ErrOperationUnsupported: xenctl.ErrNotSupported,
	libvirt.ErrConfigUnsupported:    xenctl.ErrNotSupported,
	libvirt.ErrOperationTimeout:     xenctl.ErrTimeout,
	libvirt.ErrDeviceMissing:        xenctl.ErrNoDevice,
	libvirt.ErrNoConnect:            xenctl.ErrUnavailable,
	libvirt.ErrRPC:                  xenctl.ErrUnavailable,
}

// opError gives an error its operation, and libvirt's code its meaning.
func opError(op, uuid string, err error) error {
	if err == nil {
		return nil
	}
	var answer libvirt.Error
	if errors.As(err, &answer) {
		if s := sentinels[libvirt.ErrorNumber(answer.Code)]; s != nil && !errors.Is(err, s) {
			err = fmt.Errorf("%w: %w", s, err)
		}
	}
	return &xenctl.OpError{Op: op, UUID: uuid, Err: err}
}
