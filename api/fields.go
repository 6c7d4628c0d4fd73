package api

import (
	"iter"
	"reflect"
	"strings"
)

// field is one key of a struct's JSON.
type field struct {
	name     string
	typ      reflect.Type
	optional bool // omitempty or omitzero
}

// fields yields what encoding/json makes of t, a struct. The types of this
// package embed nothing.
func fields(t reflect.Type) iter.Seq[field] {
	return func(yield func(field) bool) {
		for i := range t.NumField() {
			f := t.Field(i)
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !f.IsExported() || name == "" || name == "-" {
				continue
			}
			if !yield(field{name, f.Type, strings.Contains(options, "omit")}) {
				return
			}
		}
	}
}
