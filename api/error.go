package api

import (
	"fmt"
	"net/http"
)

// Kind says what sort of error it is, for programs. The strings are stable.
type Kind string

const (
	KindBadRequest  Kind = "bad-request" // the request makes no sense
	KindProtocol    Kind = "protocol"    // what answers, or asks, does not speak this API
	KindNotFound    Kind = "not-found"   // no such collection, map or route
	KindDenied      Kind = "denied"      // the caller may not
	KindSignature   Kind = "signature"   // the object is not covered by a good signature
	KindManifest    Kind = "manifest"    // the manifest is wrong
	KindObject      Kind = "object"      // the object is wrong, or does not fit the manifest
	KindKernel      Kind = "kernel"      // the kernel refused
	KindConflict    Kind = "conflict"    // not in this state
	KindLimit       Kind = "limit"       // more than the policy or the daemon allows
	KindUnavailable Kind = "unavailable" // the daemon is not there, or not ready
	KindInternal    Kind = "internal"    // a bug in hornetd
)

// Kinds lists every kind there is.
func Kinds() []Kind {
	return []Kind{
		KindBadRequest, KindProtocol, KindNotFound, KindDenied, KindSignature, KindManifest,
		KindObject, KindKernel, KindConflict, KindLimit, KindUnavailable, KindInternal,
	}
}

// Status is the HTTP status that goes with the kind. Several kinds share one;
// the kind in the body decides.
func (k Kind) Status() int {
	switch k {
	case KindBadRequest, KindProtocol:
		return http.StatusBadRequest
	case KindNotFound:
		return http.StatusNotFound
	case KindDenied:
		return http.StatusForbidden
	case KindSignature, KindManifest, KindObject, KindKernel:
		return http.StatusUnprocessableEntity
	case KindConflict:
		return http.StatusConflict
	case KindLimit:
		return http.StatusTooManyRequests
	case KindUnavailable:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// Exit codes of hornetctl.
const (
	ExitOK          = 0
	ExitFailure     = 1
	ExitUsage       = 2
	ExitDenied      = 3
	ExitSignature   = 4
	ExitUnavailable = 5
)

// ExitCode is the code a command-line program ends with for the kind.
func (k Kind) ExitCode() int {
	switch k {
	case KindBadRequest:
		return ExitUsage
	case KindDenied:
		return ExitDenied
	case KindSignature:
		return ExitSignature
	case KindUnavailable:
		return ExitUnavailable
	}
	return ExitFailure
}

// Error is the body of every answer that is not a success, and every error the
// client returns.
type Error struct {
	Kind    Kind   `json:"kind"`
	Message string `json:"message"`          // what was refused and why
	Hint    string `json:"hint,omitempty"`   // what to do about it
	Detail  string `json:"detail,omitempty"` // the whole of it, such as the verifier's log
	Plan    *Plan  `json:"plan,omitempty"`   // of a reload: all that is wrong, and what was done all the same

	err error // on the client's side, what it was told
}

// Error returns the message.
func (e *Error) Error() string { return e.Message }

// Unwrap returns what the client itself ran into, such as ECONNREFUSED.
func (e *Error) Unwrap() error { return e.err }

// Errorf makes an error. A %w in the format can be unwrapped on this side; only
// its text travels.
func Errorf(kind Kind, format string, args ...any) *Error {
	err := fmt.Errorf(format, args...)
	return &Error{Kind: kind, Message: err.Error(), err: err}
}

// WithHint sets the hint and returns e.
func (e *Error) WithHint(format string, args ...any) *Error {
	e.Hint = fmt.Sprintf(format, args...)
	return e
}
