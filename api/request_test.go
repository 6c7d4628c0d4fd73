package api

import (
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

// ask has everything a request could be made of.
type ask struct {
	Force bool           `json:"force,omitzero"`
	Count uint8          `json:"count,omitzero"`
	Names []string       `json:"names,omitzero"`
	One   *part          `json:"one,omitzero"`
	Parts []part         `json:"parts,omitzero"`
	Any   any            `json:"any,omitzero"`
	Words map[string]int `json:"words,omitzero"`
}

type part struct {
	Name string `json:"name"`
}

func TestDecodeRequest(t *testing.T) {
	for _, body := range []string{"", " \n", "{}", " {} \n"} {
		var got ask
		if err := DecodeRequest(strings.NewReader(body), &got); err != nil || !reflect.ValueOf(got).IsZero() {
			t.Errorf("%q: %+v, %v; want the zero value", body, got, err)
		}
	}
	const body = `{"force":true,"count":7,"names":["a","b"],"one":{"name":"c"},"parts":[{"name":"d"},{"name":"e"}],
		"any":{"x":[1,"y"],"X":2},"words":{"Force":1,"force":2}}`
	want := ask{
		Force: true, Count: 7, Names: []string{"a", "b"}, One: &part{"c"}, Parts: []part{{"d"}, {"e"}},
		Any:   map[string]any{"x": []any{1.0, "y"}, "X": 2.0},
		Words: map[string]int{"Force": 1, "force": 2},
	}
	var got ask
	if err := DecodeRequest(strings.NewReader(body), &got); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestDecodeRequestRefuses(t *testing.T) {
	nested := func(n int) string {
		return `{"any":` + strings.Repeat("[", n) + strings.Repeat("]", n) + `}`
	}
	var v ask
	if err := DecodeRequest(strings.NewReader(nested(MaxRequestDepth-1)), &v); err != nil {
		t.Errorf("depth %d is refused: %v", MaxRequestDepth, err)
	}
	full := `{"names":["` + strings.Repeat("a", MaxRequestBytes-14) + `"]}`
	if err := DecodeRequest(strings.NewReader(full), &v); err != nil {
		t.Errorf("%d bytes are refused: %v", len(full), err)
	}

	for name, test := range map[string]struct {
		body string
		kind Kind
		says string
	}{
		"unknown":             {`{"fource":true}`, KindBadRequest, `"fource": unknown key`},
		"unknown inside":      {`{"parts":[{"name":"a"},{"nam":"b"}]}`, KindBadRequest, `"parts[1].nam": unknown key`},
		"other case":          {`{"Force":true}`, KindBadRequest, `"Force": unknown key`},
		"long s for s":        {`{"name\u017f":[]}`, KindBadRequest, `unknown key`},
		"twice":               {`{"force":true,"force":false}`, KindBadRequest, `"force" is there twice`},
		"twice, escaped":      {`{"force":true,"\u0066orce":false}`, KindBadRequest, `"force" is there twice`},
		"twice in any":        {`{"any":{"x":1,"x":2}}`, KindBadRequest, `"any.x" is there twice`},
		"twice in pointer":    {`{"one":{"name":"a","name":"b"}}`, KindBadRequest, `"one.name" is there twice`},
		"missing inside":      {`{"parts":[{"name":"a"},{}]}`, KindBadRequest, `"parts[1].name" is missing`},
		"missing in pointer":  {`{"one":{}}`, KindBadRequest, `"one.name" is missing`},
		"null":                {`null`, KindBadRequest, `body is null`},
		"null inside":         {`{"one":null}`, KindBadRequest, `"one" is null`},
		"wrong type":          {`{"force":"yes"}`, KindBadRequest, `ask.force`},
		"too large number":    {`{"count":256}`, KindBadRequest, `ask.count`},
		"not an object":       {`[]`, KindBadRequest, `array`},
		"two values":          {`{} {}`, KindBadRequest, `more than one value`},
		"garbage behind":      {`{}x`, KindBadRequest, `more than one value`},
		"cut":                 {`{"force":tr`, KindBadRequest, `request: `},
		"cut after key":       {`{"force"`, KindBadRequest, `request: `},
		"not JSON":            {`force=true`, KindBadRequest, `request: `},
		"NUL":                 {"\x00", KindBadRequest, `request: `},
		"broken UTF-8":        {"{\"names\":[\"\xff\"]}", KindBadRequest, `not valid UTF-8`},
		"too deep":            {nested(MaxRequestDepth), KindBadRequest, `nested deeper than 16`},
		"objects too deep":    {`{"any":` + strings.Repeat(`{"a":`, 16) + "1" + strings.Repeat("}", 17), KindBadRequest, `nested deeper than 16`},
		"much too deep":       {nested(MaxRequestBytes/2 - 8), KindBadRequest, `nested deeper than 16`},
		"too long":            {full + " ", KindLimit, `longer than 65536 bytes`},
		"spaces, too long":    {strings.Repeat(" ", MaxRequestBytes+1), KindLimit, `longer than 65536 bytes`},
		"empty key":           {`{"":1}`, KindBadRequest, `unknown key`},
		"long key":            {`{"` + strings.Repeat("k", 60000) + `":1}`, KindBadRequest, `unknown key`},
		"object for a number": {`{"words":{"a":{"b":1}}}`, KindBadRequest, `ask.words`},
	} {
		t.Run(name, func(t *testing.T) {
			var v ask
			err := DecodeRequest(strings.NewReader(test.body), &v)
			var e *Error
			if !errors.As(err, &e) {
				t.Fatalf("error is %v, want an *Error", err)
			}
			if len(e.Message) > 300 {
				t.Errorf("message of %d bytes", len(e.Message))
			}
			if e.Kind != test.kind || !strings.Contains(e.Message, test.says) {
				t.Errorf("%s: %s; want %s: …%s…", e.Kind, e.Message, test.kind, test.says)
			}
		})
	}
	if err := DecodeRequest(iotest.ErrReader(io.ErrClosedPipe), &v); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("read error is %v", err)
	}
}

// A rollback that does not say to which version is none to version 0, which
// would lift every bound.
func TestDecodeRollback(t *testing.T) {
	for body, want := range map[string]string{
		``: `"version" is missing`, `{}`: `"version" is missing`, `{"reason":"x"}`: `"version" is missing`,
		`{"version":null,"reason":"x"}`: `"version" is null`, `{"version":4}`: `"reason" is missing`,
	} {
		var req RollbackRequest
		var e *Error
		if err := DecodeRequest(strings.NewReader(body), &req); !errors.As(err, &e) || e.Kind != KindBadRequest || !strings.Contains(e.Message, want) {
			t.Errorf("%q: %+v, %v; want …%s…", body, req, err, want)
		}
	}
	var req RollbackRequest
	if err := DecodeRequest(strings.NewReader(`{"version":0,"reason":"x"}`), &req); err != nil || req.Reason != "x" {
		t.Errorf("to version 0 on purpose: %+v, %v", req, err)
	}
}

// A body without an end costs no more than the longest that is allowed.
func TestDecodeRequestReadsNoMoreThanItMay(t *testing.T) {
	var endless spaces
	var v ask
	if err := DecodeRequest(&endless, &v); err == nil {
		t.Error("accepted")
	}
	if endless > MaxRequestBytes+1 {
		t.Errorf("read %d bytes", endless)
	}
}

// spaces counts how many it gave.
type spaces int

func (s *spaces) Read(b []byte) (int, error) {
	for i := range b {
		b[i] = ' '
	}
	*s += spaces(len(b))
	return len(b), nil
}

// Whatever is accepted means one thing only: decoded without any strictness it
// has the same number of tokens (no key was there twice) and none but the
// fields' names.
func FuzzDecodeRequest(f *testing.F) {
	for _, seed := range []string{
		``, `{}`, `null`, `{"force":true}`, `{"Force":true}`, `{"force":true,"force":false}`, `{"any":{"x":[1,{"y":null}]}}`,
		`{"count":255,"names":["a"],"one":{"name":"b"},"parts":[{"name":"c"}],"words":{"d":1}}`, `{"any":[[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]}`,
		`{"\u0066orce":true}`, `{"names":["\ud800"]}`, "{\"names\":[\"\xff\"]}", `{"any":1e400}`, `{} {}`,
	} {
		f.Add([]byte(seed))
	}
	known := map[string]bool{"force": true, "count": true, "names": true, "one": true, "parts": true, "any": true, "words": true}
	f.Fuzz(func(t *testing.T, body []byte) {
		var v ask
		if DecodeRequest(strings.NewReader(string(body)), &v) != nil || len(strings.TrimSpace(string(body))) == 0 {
			return
		}
		var loose map[string]any
		if err := json.Unmarshal(body, &loose); err != nil {
			t.Fatalf("accepted, but no JSON object: %v", err)
		}
		for key := range loose {
			if !known[key] {
				t.Errorf("accepted with the unknown key %q", key)
			}
		}
		again, err := json.Marshal(loose)
		if err != nil {
			t.Fatal(err)
		}
		if got, want := tokens(t, body), tokens(t, again); got != want {
			t.Errorf("accepted with %d tokens, of which %d mean something", got, want)
		}
	})
}

func tokens(t *testing.T, b []byte) (n int) {
	dec := json.NewDecoder(strings.NewReader(string(b)))
	dec.UseNumber()
	for {
		if _, err := dec.Token(); err == io.EOF {
			return n
		} else if err != nil {
			t.Fatal(err)
		}
		n++
	}
}
