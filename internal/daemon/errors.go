package daemon

import (
	"errors"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/audit"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
	"github.com/hornetd/hornetd/policy"
	"github.com/hornetd/hornetd/signing"
)

// unrecorded means that the audit log could not take a record.
type unrecorded struct{ err error }

func (u unrecorded) Error() string { return "audit log: " + u.err.Error() }
func (u unrecorded) Unwrap() error { return u.err }

// kindOfError is the one place where errors become the API's stable kinds.
func kindOfError(err error) api.Kind {
	var apiErr *api.Error
	var unrec unrecorded
	var signErr *signing.Error
	var manifestErr *manifest.Error
	var objectErr *loader.ObjectError
	switch {
	case errors.As(err, &apiErr):
		return apiErr.Kind
	case errors.As(err, &unrec), errors.Is(err, audit.ErrFull), errors.Is(err, errStopped):
		return api.KindUnavailable
	case errors.Is(err, loader.ErrNotShown):
		return api.KindBadRequest
	case errors.Is(err, loader.ErrEnded):
		return api.KindConflict
	case errors.Is(err, policy.ErrDenied), errors.Is(err, loader.ErrNotOwned):
		return api.KindDenied
	case errors.Is(err, policy.ErrLimit):
		return api.KindLimit
	case errors.As(err, &signErr):
		return api.KindSignature
	case errors.As(err, &manifestErr):
		return api.KindManifest
	case errors.As(err, &objectErr):
		return api.KindObject
	case errors.Is(err, pinning.ErrExist):
		return api.KindConflict
	default:
		return api.KindKernel
	}
}

// asAPIError returns what a client is told of err.
func asAPIError(err error) *api.Error {
	out := &api.Error{Kind: kindOfError(err), Message: err.Error(), Hint: remedy.Of(err)}
	var apiErr *api.Error
	if errors.As(err, &apiErr) {
		out.Detail, out.Plan = apiErr.Detail, apiErr.Plan
		if out.Hint == "" {
			out.Hint = apiErr.Hint
		}
	}
	var rejected *loader.VerifierError
	if errors.As(err, &rejected) {
		out.Detail = rejected.Log()
	}
	return out
}

// problem is what the status shows of err.
func problem(collection string, err error) api.Problem {
	e := asAPIError(err)
	p := api.Problem{Kind: e.Kind, Collection: collection, Message: e.Message, Hint: e.Hint}
	var me *manifest.Error
	if errors.As(err, &me) {
		p.File, p.Line, p.Key = me.File, me.Line, me.Key
	}
	return p
}
