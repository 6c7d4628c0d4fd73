package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode/utf8"
)

// Limits of a request's body.
const (
	MaxRequestBytes = 64 << 10
	MaxRequestDepth = 16
)

// DecodeRequest reads a request's body into v, a pointer to a struct. No body
// is the same as {}.
//
// encoding/json by itself takes an unknown key, the same key twice, and KEY for
// key: three ways for two readers of one request to disagree about what was
// asked. It also takes a key that is not there for 0. Here each is refused (a key
// may be left out where its field says omitempty or omitzero), as are null,
// broken UTF-8, anything behind the value, more than MaxRequestBytes and deeper nesting than MaxRequestDepth. Its
// errors are of kind bad-request, or limit.
func DecodeRequest(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, MaxRequestBytes+1))
	switch {
	case err != nil:
		return Errorf(KindBadRequest, "request: read: %w", err)
	case len(b) > MaxRequestBytes:
		return Errorf(KindLimit, "request: body is longer than %d bytes", MaxRequestBytes)
	case len(bytes.Trim(b, " \t\r\n")) == 0:
		b = []byte("{}")
	case !utf8.Valid(b):
		return Errorf(KindBadRequest, "request: body is not valid UTF-8")
	}
	if err := checkBody(b, reflect.TypeOf(v).Elem()); err != nil {
		return Errorf(KindBadRequest, "request: %w", err)
	}
	if err := json.Unmarshal(b, v); err != nil {
		return Errorf(KindBadRequest, "request: %w", err)
	}
	return nil
}

func checkBody(b []byte, t reflect.Type) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := checkValue(dec, t, nil); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// place is where in a body a value stands; nil is the body itself. It becomes
// text only in an error: building it for every value would make a long key
// around a long list cost gigabytes.
type place struct {
	in    *place
	key   string
	index int // where key is ""
	depth int
}

func (p *place) member(key string) *place { return &place{in: p, key: key, depth: p.brackets() + 1} }
func (p *place) element(i int) *place     { return &place{in: p, index: i, depth: p.brackets() + 1} }

// brackets is how many objects and arrays p stands in.
func (p *place) brackets() int {
	if p == nil {
		return 0
	}
	return p.depth
}

func (p *place) String() string {
	if p == nil {
		return "body"
	}
	return fmt.Sprintf("%.100q", strings.TrimPrefix(p.path(), "."))
}

func (p *place) path() string {
	switch {
	case p == nil:
		return ""
	case p.key != "":
		return p.in.path() + "." + p.key
	}
	return fmt.Sprintf("%s[%d]", p.in.path(), p.index)
}

// checkValue consumes the value at p, which is to be decoded as t; nil takes
// anything.
func checkValue(dec *json.Decoder, t reflect.Type, p *place) error {
	token, err := dec.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	delim, nested := token.(json.Delim)
	switch {
	case token == nil:
		return fmt.Errorf("%s is null; leave it out instead", p)
	case !nested:
		return nil
	case p.brackets() >= MaxRequestDepth:
		return fmt.Errorf("%s is nested deeper than %d", p, MaxRequestDepth)
	case delim == '{':
		err = checkObject(dec, t, p)
	default:
		err = checkArray(dec, t, p)
	}
	if err != nil {
		return err
	}
	_, err = dec.Token() // the closing bracket
	return err
}

func checkObject(dec *json.Decoder, t reflect.Type, p *place) error {
	seen := make(map[string]bool)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return fmt.Errorf("%s: key is not a string", p)
		}
		member := p.member(key)
		if seen[key] {
			return fmt.Errorf("%s is there twice", member)
		}
		seen[key] = true
		typ, err := memberType(t, key)
		if err != nil {
			return fmt.Errorf("%s: %w", member, err)
		}
		if err := checkValue(dec, typ, member); err != nil {
			return err
		}
	}
	if t == nil || t.Kind() != reflect.Struct {
		return nil
	}
	for f := range fields(t) {
		if !f.optional && !seen[f.name] {
			return fmt.Errorf("%s is missing", p.member(f.name))
		}
	}
	return nil
}

func checkArray(dec *json.Decoder, t reflect.Type, p *place) error {
	var elem reflect.Type
	if t != nil && t.Kind() == reflect.Slice {
		elem = t.Elem()
	}
	for i := 0; dec.More(); i++ {
		if err := checkValue(dec, elem, p.element(i)); err != nil {
			return err
		}
	}
	return nil
}

// memberType returns the type key has in an object that is decoded as t. A
// struct takes its fields' names and no others.
func memberType(t reflect.Type, key string) (reflect.Type, error) {
	switch {
	case t != nil && t.Kind() == reflect.Map:
		return t.Elem(), nil
	case t == nil || t.Kind() != reflect.Struct:
		return nil, nil
	}
	for f := range fields(t) {
		if f.name == key {
			return f.typ, nil
		}
	}
	return nil, errors.New("unknown key")
}
