package tomlfile

import (
	"cmp"
	"errors"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Problems collects what is wrong with a file, so that a reader is told of the
// first one in the file rather than of the first one that was looked for.
type Problems struct {
	at   func(key string) *Text // where key stands
	errs []error
}

// maxProblems bounds the work for a file that is wrong throughout: finding the
// line of an error means reading the whole text.
const maxProblems = 16

// Problems starts a collection of what is wrong with t.
func (t *Text) Problems() *Problems { return ProblemsOf(func(string) *Text { return t }) }

// ProblemsOf starts a collection of what is wrong with what several texts make
// together; at says in which of them a key stands.
func ProblemsOf(at func(key string) *Text) *Problems { return &Problems{at: at} }

// Add notes that something is wrong at key. hint is its remedy.
func (p *Problems) Add(key, hint, format string, args ...any) {
	if len(p.errs) < maxProblems {
		p.errs = append(p.errs, remedy.With(p.at(key).Errorf(key, format, args...), "%s", hint))
	}
}

// OneOf checks that got, which stands at key, is one of allowed.
func (p *Problems) OneOf(key, got string, allowed ...string) {
	if !slices.Contains(allowed, got) {
		p.Add(key, Suggest(got, allowed), "%.60q is none of %s", got, strings.Join(allowed, ", "))
	}
}

// Printable checks that s, which stands at key, can be shown to people: that it
// cannot forge a line, a colour or the direction of text.
func (p *Problems) Printable(key, s string) bool {
	if !isPrintable(s) {
		p.Add(key, "write printable characters only", "%.60q contains a character that cannot be printed", s)
		return false
	}
	return true
}

// First returns the problem nearest to the top of the file, an *Error with a
// remedy, or nil if there is none.
func (p *Problems) First() error {
	if len(p.errs) == 0 {
		return nil
	}
	return slices.MinFunc(p.errs, func(a, b error) int { return cmp.Compare(line(a), line(b)) })
}

// line is the line of an error that Errorf made.
func line(err error) int {
	var e *Error
	if errors.As(err, &e) {
		return e.Line
	}
	return 0
}
