package tomlfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Problems collects what is wrong with a file, so that a reader is told of the
// first one in the file rather than of the first one that was looked for.
type Problems struct {
	at   func(key string) *Text // where key stands
	errs []found
}

// found is one of them. Its line is looked for when all are known: finding it means
// reading the whole text.
type found struct {
	in        *Text
	key, hint string
	err       error
}

// maxProblems bounds the work for a file that is wrong throughout.
const maxProblems = 16

// Problems starts a collection of what is wrong with t.
func (t *Text) Problems() *Problems { return ProblemsOf(func(string) *Text { return t }) }

// ProblemsOf starts a collection of what is wrong with what several texts make
// together; at says in which of them a key stands.
func ProblemsOf(at func(key string) *Text) *Problems { return &Problems{at: at} }

// Add notes that something is wrong at key. hint is its remedy.
func (p *Problems) Add(key, hint, format string, args ...any) {
	if !p.full() {
		p.errs = append(p.errs, found{p.at(key), key, hint, fmt.Errorf(format, args...)})
	}
}

// full tells whether Add keeps no more.
func (p *Problems) full() bool { return len(p.errs) == maxProblems }

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
	finders := make([]*finder, len(p.errs))
	in := make(map[*Text][]*finder)
	for i, f := range p.errs {
		finders[i] = &finder{key: []byte(f.key), best: -1}
		in[f.in] = append(in[f.in], finders[i])
	}
	for text, fs := range in {
		text.find(fs)
	}
	first := 0
	for i, f := range finders {
		if f.line < finders[first].line {
			first = i
		}
	}
	f := p.errs[first]
	return remedy.With(&Error{File: f.in.file, Line: finders[first].line, Key: f.key, Err: f.err}, "%s", f.hint)
}
