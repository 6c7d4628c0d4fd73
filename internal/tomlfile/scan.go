package tomlfile

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Bounds of a file. What the library then needs for it stays below 32 MiB.
const (
	MaxSize  = 64 << 10 // bytes
	maxDepth = 16       // key parts and brackets around a value, together
	maxParts = 8        // parts of one dotted key
	maxPart  = 128      // bytes of one part: the library stores full keys again and again
	maxPath  = 512      // bytes of a key with the tables around it, for the same reason
	maxKeys  = 2000     // parts of keys and of headers, arrays and inline tables
)

// scan walks through text once, calls visit (unless it is nil) with every key and
// every element of an array in it ("maps.hits.class", "attach[0]"; valid until visit
// returns) and its line, and refuses whatever is out of bounds or defined twice.
//
// It knows TOML's structure, not its values: where it is not sure what follows
// it refuses, so that nothing it has not counted can reach the library. A fuzz
// test holds the keys it sees against those the library sees.
func scan(file, text string, visit func(key []byte, line int)) error {
	s := &scanner{file: file, text: text, line: 1, visit: visit,
		arrays: map[string]int{}, defined: map[string]definition{}}
	if err := s.characters(); err != nil {
		return err
	}
	for s.blank(); s.pos < len(s.text); s.blank() {
		if err := s.statement(); err != nil {
			return err
		}
	}
	return nil
}

type scanner struct {
	file, text string
	pos, line  int
	visit      func(key []byte, line int)

	path    []byte // of the key being read, see pretty
	shown   []byte // for visit
	table   int    // how much of path the last header gave
	depth   int    // key parts and brackets around pos
	tdepth  int    // the part of depth that the last header gave
	keys    int    // seen so far
	section int    // headers seen so far
	arrays  map[string]int
	defined map[string]definition
}

// refuse is an error at the current line.
func (s *scanner) refuse(hint, format string, args ...any) error {
	return remedy.With(&Error{File: s.file, Line: s.line, Key: string(pretty(nil, s.path)), Err: fmt.Errorf(format, args...)}, "%s", hint)
}

// characters checks what no part of a file may contain.
func (s *scanner) characters() error {
	switch {
	case len(s.text) > MaxSize:
		return remedy.With(&Error{File: s.file, Err: fmt.Errorf("has %d bytes, more than %d", len(s.text), MaxSize)},
			"split it into several files")
	case strings.HasPrefix(s.text, "\ufeff"):
		return s.refuse("save the file as UTF-8 without one", "starts with a byte order mark")
	}
	line := 1
	for i, r := range s.text {
		var what string
		switch {
		case r == '\n':
			line++
			continue
		case r == utf8.RuneError && !strings.HasPrefix(s.text[i:], "\ufffd"):
			what = "byte " + strconv.Quote(s.text[i:i+1]) + " that is not UTF-8"
		case r == '\t' || r == '\r' && strings.HasPrefix(s.text[i+1:], "\n"):
			continue
		case r < ' ' || r == 0x7f:
			what = fmt.Sprintf("control character U+%04X", r)
		default:
			continue
		}
		s.line = line
		return s.refuse("save the file as plain UTF-8 text", "contains a %s", what)
	}
	return nil
}

// statement reads one header or one key with its value, and the end of its line.
func (s *scanner) statement() error {
	read := s.pair
	if s.peek() == '[' {
		read = s.header
	}
	s.path, s.depth = s.path[:s.table], s.tdepth
	if err := read(); err != nil {
		return err
	}
	s.spaces()
	s.comment()
	if s.pos < len(s.text) && !s.newline() {
		return s.refuse("put it on a line of its own", "something follows behind the end: %s", s.next())
	}
	return nil
}

// header reads [a.b] or [[a.b]].
func (s *scanner) header() error {
	closing := "]"
	if strings.HasPrefix(s.text[s.pos:], "[[") {
		closing = "]]"
	}
	s.pos += len(closing)
	s.path, s.depth = s.path[:0], 0
	s.section++
	if err := s.key(asSuper); err != nil {
		return err
	}
	if !strings.HasPrefix(s.text[s.pos:], closing) {
		return s.refuse("close it with "+closing, "expected %s behind the name of a table, found %s", closing, s.next())
	}
	s.pos += len(closing)
	kind := map[string]kindOfDefinition{"]": asHeader, "]]": asArray}[closing]
	if err := s.define(kind); err != nil {
		return err
	}
	if kind == asArray {
		n := s.arrays[string(s.path)]
		s.arrays[string(s.path)] = n + 1
		s.index(n)
	}
	s.table, s.tdepth = len(s.path), s.depth
	s.seen()
	return nil
}

// pair reads a.b = value.
func (s *scanner) pair() error {
	if err := s.key(asDotted); err != nil {
		return err
	}
	if s.peek() != '=' {
		return s.refuse("write KEY = VALUE", "expected = behind the key, found %s", s.next())
	}
	s.pos++
	if err := s.define(asValue); err != nil {
		return err
	}
	s.seen()
	s.spaces()
	return s.value()
}

// key reads a dotted key, adds it to the path and counts it. All parts but the
// last are defined as between.
func (s *scanner) key(between kindOfDefinition) error {
	for parts := 1; ; parts++ {
		if parts > maxParts {
			return s.refuse("nest less", "a key has more than %d parts", maxParts)
		}
		if err := s.deeper(); err != nil {
			return err
		}
		if err := s.more(); err != nil {
			return err
		}
		s.spaces()
		part, err := s.keyPart()
		if err != nil {
			return err
		}
		s.push(part)
		if len(s.path) > maxPath {
			return s.refuse("choose shorter names", "a key has, with the tables around it, more than %d bytes", maxPath)
		}
		s.spaces()
		if s.peek() != '.' {
			return nil
		}
		s.pos++
		if err := s.define(between); err != nil {
			return err
		}
	}
}

// keyPart reads one part of a key and returns it without quotes.
func (s *scanner) keyPart() (part string, err error) {
	start := s.pos
	if q := s.peek(); q == '"' || q == '\'' {
		if err := s.quoted(q); err != nil {
			return "", err
		}
		part = s.text[start+1 : s.pos-1]
		if q == '"' && strings.Contains(part, `\`) {
			return "", s.refuse("write the key as it is", "a key contains a backslash")
		}
	} else {
		for s.pos < len(s.text) && bare(s.text[s.pos]) {
			s.pos++
		}
		if part = s.text[start:s.pos]; part == "" {
			return "", s.refuse("write KEY = VALUE, or put the key in quotes", "expected a key, found %s", s.next())
		}
	}
	switch {
	case part == "":
		return "", s.refuse("give the key a name", "a key is empty")
	case len(part) > maxPart:
		return "", s.refuse("choose a shorter key", "a key has a part of %d bytes, more than %d", len(part), maxPart)
	}
	return part, nil
}

// value reads one value.
func (s *scanner) value() error {
	rest := s.text[s.pos:]
	switch {
	case strings.HasPrefix(rest, `"""`), strings.HasPrefix(rest, "'''"):
		return s.tripleQuoted(rest[0])
	case strings.HasPrefix(rest, `"`), strings.HasPrefix(rest, "'"):
		return s.quoted(rest[0])
	case strings.HasPrefix(rest, "["):
		if err := s.more(); err != nil {
			return err
		}
		return s.nested(']', s.element)
	case strings.HasPrefix(rest, "{"):
		if err := s.more(); err != nil {
			return err
		}
		return s.nested('}', func(int) error { return s.pair() })
	}
	start := s.pos
	for s.pos < len(s.text) && !strings.ContainsRune("\r\n#,[]{}=\"'", rune(s.text[s.pos])) {
		s.pos++
	}
	if strings.TrimSpace(s.text[start:s.pos]) == "" {
		return s.refuse("write KEY = VALUE", "expected a value, found %s", s.next())
	}
	return nil
}

// element reads the n-th value of an array.
func (s *scanner) element(n int) error {
	s.index(n)
	s.seen()
	return s.value()
}

// nested reads an array or an inline table: items between commas, up to closing.
func (s *scanner) nested(closing byte, item func(n int) error) error {
	if err := s.deeper(); err != nil {
		return err
	}
	s.pos++
	path, depth, opened := len(s.path), s.depth, s.line
	for n := 0; ; n++ {
		s.blank()
		if s.peek() != closing && s.pos < len(s.text) {
			if err := item(n); err != nil {
				return err
			}
			s.path, s.depth = s.path[:path], depth
			s.blank()
			if s.peek() == ',' {
				s.pos++
				continue
			}
		}
		switch {
		case s.pos == len(s.text):
			s.line = opened
			return s.refuse(fmt.Sprintf("close it with %c", closing), "is not closed")
		case s.peek() != closing:
			return s.refuse("put a comma between the items", "expected , or %c, found %s", closing, s.next())
		}
		s.pos++
		s.depth--
		return nil
	}
}

// quoted reads a string on one line.
func (s *scanner) quoted(quote byte) error {
	for s.pos++; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == quote:
			s.pos++
			return nil
		case c == '\n':
			return s.refuse("close the string with "+string(quote), "a string is not closed")
		case c == '\\' && quote == '"' && s.pos+1 < len(s.text) && s.text[s.pos+1] != '\n':
			s.pos++
		}
	}
	return s.refuse("close the string with "+string(quote), "a string is not closed")
}

// tripleQuoted reads a string between three quotes, which can itself end with two.
func (s *scanner) tripleQuoted(quote byte) error {
	opened, run := s.line, 0
	for s.pos += 3; s.pos < len(s.text); s.pos++ {
		switch c := s.text[s.pos]; {
		case c == quote:
			run++
			continue
		case run >= 3:
			return s.endOfQuotes(run)
		case c == '\n':
			s.line++
		case c == '\\' && quote == '"' && s.pos+1 < len(s.text) && s.text[s.pos+1] != '\n':
			s.pos++
		}
		run = 0
	}
	if run >= 3 {
		return s.endOfQuotes(run)
	}
	s.line = opened
	return s.refuse("close the string with three quotes", "a string is not closed")
}

// endOfQuotes judges the run of quotes at the end of a string.
func (s *scanner) endOfQuotes(run int) error {
	if run > 5 {
		return s.refuse("close the string with three quotes", "a string ends with %d quotes", run)
	}
	return nil
}

// deeper counts one more level around pos.
func (s *scanner) deeper() error {
	if s.depth++; s.depth > maxDepth {
		return s.refuse("nest less", "is nested more than %d deep", maxDepth)
	}
	return nil
}

// more counts one more key.
func (s *scanner) more() error {
	if s.keys++; s.keys > maxKeys {
		return s.refuse("split the file into several", "has more than %d keys, arrays and inline tables", maxKeys)
	}
	return nil
}

// push adds a part to the path. Behind the name of an array of tables it
// belongs to the last of them.
func (s *scanner) push(part string) {
	if n := s.arrays[string(s.path)]; n > 0 {
		s.index(n - 1)
	}
	if len(s.path) > 0 {
		s.path = append(s.path, 0)
	}
	s.path = append(s.path, part...)
}

// index adds [n] to the path.
func (s *scanner) index(n int) {
	s.path = append(strconv.AppendInt(append(s.path, 1, '['), int64(n), 10), ']')
}

// seen calls visit with what the path says now.
func (s *scanner) seen() {
	if s.visit != nil {
		s.shown = pretty(s.shown[:0], s.path)
		s.visit(s.shown, s.line)
	}
}

// peek is the byte at pos, 0 at the end: there is no NUL in the text.
func (s *scanner) peek() byte {
	if s.pos == len(s.text) {
		return 0
	}
	return s.text[s.pos]
}

// next is the character at pos, for messages.
func (s *scanner) next() string {
	r, size := utf8.DecodeRuneInString(s.text[s.pos:])
	switch {
	case size == 0:
		return "the end of the file"
	case r == '\n' || r == '\r':
		return "the end of the line"
	}
	return strconv.QuoteRune(r)
}

func (s *scanner) spaces() {
	for s.peek() == ' ' || s.peek() == '\t' {
		s.pos++
	}
}

func (s *scanner) comment() {
	if s.peek() == '#' {
		if n := strings.IndexByte(s.text[s.pos:], '\n'); n >= 0 {
			s.pos += n
		} else {
			s.pos = len(s.text)
		}
	}
}

// newline reads the end of a line, if there is one.
func (s *scanner) newline() bool {
	switch {
	case strings.HasPrefix(s.text[s.pos:], "\n"):
		s.pos++
	case strings.HasPrefix(s.text[s.pos:], "\r\n"):
		s.pos += 2
	default:
		return false
	}
	s.line++
	return true
}

// blank skips spaces, comments and ends of lines.
func (s *scanner) blank() {
	for {
		s.spaces()
		s.comment()
		if !s.newline() {
			return
		}
	}
}

// bare tells whether c may stand in a key without quotes.
func bare(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
}
