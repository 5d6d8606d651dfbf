package storage

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"xapid/pkg/node"
	"xapid/pkg/saga"
	"xapid/pkg/sm"
	"xapid/pkg/xenapi"
	"xapid/pkg/xenctl"
)

// subject is what an error of the storage layer is about.
type subject struct {
	sr     xenapi.SRRef
	vdi    xenapi.VDIRef
	op     string // on the VDI
	srType string
}

// fault makes an error of the storage layer one of the API; what it doesn't
// know stays as it is. The cause stays in the chain.
func (s subject) fault(err error) error {
	if err == nil || xenapi.Code(err) != "" {
		return err
	}
	if known := s.codeOf(err); known != nil {
		return fmt.Errorf("%w: %w", known, err)
	}
	return err
}

func (s subject) codeOf(err error) *xenapi.Error {
	var full *sm.FullError
	var failure *sm.Error
	switch {
	case errors.As(err, &full):
		return xenapi.ErrSRFull(strconv.FormatInt(full.RequestedBytes, 10), strconv.FormatInt(full.MaxBytes, 10))
	case errors.As(err, &failure):
		return backendFailure(failure.Code, failure.Text(), failure.Detail)
	case errors.Is(err, node.ErrNotAttached):
		return xenapi.ErrSRHasNoPBDs(string(s.sr))
	case errors.Is(err, sm.ErrUnknownDriver):
		return xenapi.ErrSRUnknownDriver(s.srType)
	case errors.Is(err, sm.ErrNotSupported):
		return xenapi.ErrSROperationNotSupported(string(s.sr))
	case errors.Is(err, sm.ErrInUse):
		return xenapi.ErrVDIInUse(string(s.vdi), s.op)
	case errors.Is(err, sm.ErrSRInUse):
		return xenapi.ErrSRDeviceInUse()
	case errors.Is(err, sm.ErrNotEmpty):
		return xenapi.ErrSRNotEmpty()
	case errors.Is(err, sm.ErrMissing):
		return xenapi.ErrVDIMissing(string(s.sr), string(s.vdi))
	case errors.Is(err, saga.ErrStepTimeout), errors.Is(err, context.DeadlineExceeded):
		return backendFailure(sm.CodeTryAgain, "Currently unavailable, try again", "")
	}
	return nil
}

// backendFailure is SR_BACKEND_FAILURE_<n> with its three strings.
func backendFailure(code sm.Code, text, detail string) *xenapi.Error {
	return &xenapi.Error{Code: fmt.Sprintf("SR_BACKEND_FAILURE_%d", code), Params: []string{"", text, detail}}
}

// deviceFault makes an error of the hypervisor about a VBD one of the API.
func deviceFault(ref xenapi.VBDRef, device string, attaching bool, err error) error {
	var known *xenapi.Error
	switch {
	case err == nil || xenapi.Code(err) != "":
		return err
	case errors.Is(err, xenctl.ErrRefused):
		known = xenapi.ErrDeviceDetachRejected("VBD", string(ref), "the guest did not release the device")
	case errors.Is(err, xenctl.ErrTimeout) && attaching:
		known = xenapi.ErrDeviceAttachTimeout("VBD", string(ref))
	case errors.Is(err, xenctl.ErrTimeout):
		known = xenapi.ErrDeviceDetachTimeout("VBD", string(ref))
	case errors.Is(err, xenctl.ErrExists):
		known = xenapi.ErrDeviceAlreadyExists(device)
	case errors.Is(err, xenctl.ErrNotSupported):
		known = xenapi.ErrOperationNotAllowed("the hypervisor cannot change the devices of a running domain")
	case errors.Is(err, xenctl.ErrBadState), errors.Is(err, xenctl.ErrNotFound):
		known = xenapi.ErrOperationNotAllowed("the domain cannot change its devices now")
	default:
		return err
	}
	return fmt.Errorf("%w: %w", known, err)
}
