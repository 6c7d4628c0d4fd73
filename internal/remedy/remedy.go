// Package remedy attaches to an error what its reader can do about it.
//
// Every refusal a user can see names the thing, the reason and the remedy. The
// first two are the error's message; the third travels beside it, so that the
// API and the CLI can print it on a line of its own.
package remedy

import (
	"errors"
	"fmt"
)

// hinted is an error with a remedy. Its message is the wrapped error's.
type hinted struct {
	err  error
	hint string
}

func (h *hinted) Error() string { return h.err.Error() }
func (h *hinted) Unwrap() error { return h.err }

// With returns err with a remedy, an imperative sentence without a full stop
// ("run hornetctl sign …"). It returns nil if err is nil.
func With(err error, format string, args ...any) error {
	if err == nil {
		return nil
	}
	return &hinted{err: err, hint: fmt.Sprintf(format, args...)}
}

// Of returns the outermost remedy attached to err, or "".
func Of(err error) string {
	var h *hinted
	if errors.As(err, &h) {
		return h.hint
	}
	return ""
}
