// Package tomlfile reads the small TOML files that people write for hornetd.
//
// It stands between a file and the TOML library for three reasons. A few
// kilobytes of nesting, or one key of many parts, cost the library minutes and
// gigabytes, so scan bounds a file in one linear pass before the library sees
// it. The library matches keys without regard to case and knows no position of
// most of them, so Decode matches them exactly and every error names file, line
// and key. And what a file does not say clearly is refused: unknown keys,
// empty strings, dates, numbers that are none.
package tomlfile

import (
	"bytes"
	"errors"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/BurntSushi/toml"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Error is a refused file. It prints as "file:line: key: reason"; what the
// reader can do about it is its remedy (internal/remedy).
type Error struct {
	File string
	Line int    // counted from 1; 0 where there is none
	Key  string // dotted, with indexes from 0: "attach[1].interface"; "" where there is none
	Err  error
}

func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(printable(e.File))
	if e.Line > 0 {
		b.WriteString(":" + strconv.Itoa(e.Line))
	}
	if e.Key != "" {
		b.WriteString(": " + printable(e.Key))
	}
	return b.String() + ": " + e.Err.Error()
}

func (e *Error) Unwrap() error { return e.Err }

// printable keeps names from forging lines or colours in a log or a terminal.
func printable(s string) string {
	if isPrintable(s) {
		return s
	}
	return strconv.Quote(s)
}

func isPrintable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !strconv.IsPrint(r) })
}

// Text is the text of a file that was decoded. It finds lines for messages.
type Text struct{ file, text string }

// Decode decodes the TOML in b into v, a pointer to a struct whose fields are
// tagged `toml:"key"`. Fields may be strings (never empty), booleans, integers
// (range checked), structs, maps with string keys, slices, pointers (nil where
// the key is absent), toml.Unmarshalers, and any, which becomes a bool, an int64,
// a float64, a string, an []any or a map[string]any. A slice tagged
// `toml:"key,one"` also takes a single table. file is used in messages only.
//
// Of several errors the one nearest to the top of the file is returned, always
// an *Error with a remedy.
func Decode(file string, b []byte, v any) (*Text, error) {
	t := &Text{file: file, text: string(b)}
	if err := scan(file, t.text, nil); err != nil {
		return nil, err
	}
	tree, err := t.parse()
	if err != nil {
		return nil, err
	}
	d := decoder{t.Problems()}
	d.value(nil, tree, reflect.ValueOf(v).Elem())
	if err := d.First(); err != nil {
		return nil, err
	}
	return t, nil
}

// parse calls the library on a text that scan has passed.
func (t *Text) parse() (tree map[string]any, err error) {
	// The library panics on what it calls its own bugs.
	defer func() {
		if p := recover(); p != nil {
			err = remedy.With(&Error{File: t.file, Err: fmt.Errorf("TOML: internal error: %.200v", p)},
				"write the file in simpler TOML and report this as a bug")
		}
	}()
	_, err = toml.Decode(t.text, &tree)
	var pe toml.ParseError
	if errors.As(err, &pe) {
		return nil, remedy.With(&Error{File: t.file, Line: max(pe.Position.Line, 1), Key: pe.LastKey, Err: shorten(pe.Message)},
			"correct the TOML; an integer has at most 63 bits, a key stands only once in its table")
	}
	if err != nil {
		return nil, remedy.With(&Error{File: t.file, Err: shorten(err.Error())}, "correct the TOML")
	}
	return tree, nil
}

// shorten is the library's message, which can quote the whole file, as an error.
func shorten(msg string) error {
	const limit = 200
	msg = strings.TrimPrefix(msg, "toml: ")
	if len(msg) > limit {
		msg = strings.ToValidUTF8(msg[:limit], "") + "…"
	}
	return errors.New(printable(msg))
}

// String returns the text itself.
func (t *Text) String() string { return t.text }

// Errorf returns an *Error for key, with the line that key, or else the nearest
// key around it, stands on. A nil Text knows no file and no line.
func (t *Text) Errorf(key, format string, args ...any) error {
	e := &Error{Key: key, Err: fmt.Errorf(format, args...)}
	if t != nil {
		e.File = t.file
		e.Line, _ = t.Line(key)
	}
	return e
}

// Line returns the line on which key stands. Where the text does not have that
// key it returns the line of the nearest one around it, or else of the first
// one inside it, or else 0, and false. The parts of key are separated by dots
// and not quoted.
func (t *Text) Line(key string) (line int, exact bool) {
	f := finder{key: []byte(key), best: -1}
	t.find([]*finder{&f})
	return f.line, f.best == len(key)
}

// find looks for several keys in one pass.
func (t *Text) find(finders []*finder) {
	// The text was scanned before, so this cannot fail.
	_ = scan(t.file, t.text, func(path []byte, at int) {
		for _, f := range finders {
			f.see(path, at)
		}
	})
}

// finder finds the line of a key.
type finder struct {
	key        []byte
	line, best int // best is how much of the key stands on the line; -1 none of it
}

// see looks at what stands on the next line.
func (f *finder) see(path []byte, line int) {
	switch {
	case within(f.key, path) && len(path) > f.best:
		f.line, f.best = line, len(path)
	case f.line == 0 && within(path, f.key):
		f.line = line
	}
}

// Has reports whether key, or something inside it, stands in the text.
func (t *Text) Has(key string) bool {
	found := false
	_ = scan(t.file, t.text, func(p []byte, _ int) { found = found || within(p, []byte(key)) })
	return found
}

// within tells whether key is path or lies inside of it.
func within(key, path []byte) bool {
	rest, ok := bytes.CutPrefix(key, path)
	return ok && (len(rest) == 0 || rest[0] == '.' || rest[0] == '[')
}
