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
// asked. Here each is refused, as are null, broken UTF-8, anything behind the
// value, more than MaxRequestBytes and deeper nesting than MaxRequestDepth. Its
// errors are of kind bad-request, or limit.
func DecodeRequest(r io.Reader, v any) error {
	b, err := io.ReadAll(io.LimitReader(r, MaxRequestBytes+1))
	switch {
	case err != nil:
		return Errorf(KindBadRequest, "request: read: %w", err)
	case len(b) > MaxRequestBytes:
		return Errorf(KindLimit, "request: body is longer than %d bytes", MaxRequestBytes)
	case len(bytes.Trim(b, " \t\r\n")) == 0:
		return nil
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
	if err := checkValue(dec, t, "", 1); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one value")
	}
	return nil
}

// checkValue consumes one value that is to be decoded as t. path names it in
// errors, "" for the body itself; depth is how many brackets it may stand in.
func checkValue(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	token, err := dec.Token()
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	delim, nested := token.(json.Delim)
	switch {
	case token == nil:
		return fmt.Errorf("%s is null; leave it out instead", thing(path))
	case !nested:
		return nil
	case depth > MaxRequestDepth:
		return fmt.Errorf("%s is nested deeper than %d", thing(path), MaxRequestDepth)
	case delim == '{':
		err = checkObject(dec, t, path, depth)
	default:
		err = checkArray(dec, t, path, depth)
	}
	if err != nil {
		return err
	}
	_, err = dec.Token() // the closing bracket
	return err
}

func checkObject(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	seen := make(map[string]bool)
	for dec.More() {
		token, err := dec.Token()
		if err != nil {
			return err
		}
		key, ok := token.(string)
		if !ok {
			return fmt.Errorf("%s: key is not a string", thing(path))
		}
		at := strings.TrimPrefix(path+"."+key, ".")
		if seen[key] {
			return fmt.Errorf("%s is there twice", thing(at))
		}
		seen[key] = true
		vt, err := memberType(t, key, at)
		if err != nil {
			return err
		}
		if err := checkValue(dec, vt, at, depth+1); err != nil {
			return err
		}
	}
	return nil
}

func checkArray(dec *json.Decoder, t reflect.Type, path string, depth int) error {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var elem reflect.Type
	if t != nil && (t.Kind() == reflect.Slice || t.Kind() == reflect.Array) {
		elem = t.Elem()
	}
	for i := 0; dec.More(); i++ {
		if err := checkValue(dec, elem, fmt.Sprintf("%s[%d]", path, i), depth+1); err != nil {
			return err
		}
	}
	return nil
}

// memberType returns the type key has in an object that is decoded as t, nil
// where anything goes. A struct takes its fields' names and no others.
func memberType(t reflect.Type, key, at string) (reflect.Type, error) {
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil {
		return nil, nil
	}
	switch t.Kind() {
	case reflect.Map:
		return t.Elem(), nil
	case reflect.Struct:
		for f := range fields(t) {
			if f.name == key {
				return f.typ, nil
			}
		}
		return nil, fmt.Errorf("%s: unknown key", thing(at))
	}
	return nil, nil
}

func thing(path string) string {
	if path == "" {
		return "body"
	}
	return fmt.Sprintf("%q", path)
}
