package tomlfile

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"github.com/hornetd/hornetd/internal/remedy"
)

// decoder writes the library's tree into tagged structs. It goes on after an
// error, so that the first one in the file can be chosen.
type decoder struct{ *Problems }

// place is where a value stands. It becomes a key only for a message: long keys of
// many elements would be megabytes.
type place struct {
	around *place
	name   string // of a key; "" for an element of an array
	index  int
}

func (p *place) key(name string) *place { return &place{around: p, name: name} }
func (p *place) element(i int) *place   { return &place{around: p, index: i} }

func (p *place) String() string {
	switch {
	case p == nil:
		return ""
	case p.name == "":
		return fmt.Sprintf("%s[%d]", p.around, p.index)
	case p.around == nil:
		return p.name
	}
	return p.around.String() + "." + p.name
}

// add is Add for a place. What is not kept costs nothing.
func (d decoder) add(at *place, hint, format string, args ...any) {
	if !d.full() {
		d.Add(at.String(), hint, format, args...)
	}
}

// mismatch refuses v, which is not what it should be.
func (d decoder) mismatch(at *place, v any, want string) {
	d.add(at, "write "+want, "is %s, not %s", kind(v), want)
}

// value decodes v, which stands at a place, into to.
func (d decoder) value(at *place, v any, to reflect.Value) {
	if u, ok := to.Addr().Interface().(toml.Unmarshaler); ok {
		if err := u.UnmarshalTOML(v); err != nil {
			d.add(at, cmp.Or(remedy.Of(err), "correct the value"), "%w", err)
		}
		return
	}
	switch to.Kind() {
	case reflect.Pointer:
		to.Set(reflect.New(to.Type().Elem()))
		d.value(at, v, to.Elem())
	case reflect.Interface:
		if plain := d.plain(at, v); plain != nil {
			to.Set(reflect.ValueOf(plain))
		}
	case reflect.Struct, reflect.Map:
		tree, ok := v.(map[string]any)
		switch {
		case !ok:
			d.mismatch(at, v, "a table")
		case to.Kind() == reflect.Struct:
			d.table(at, tree, to)
		default:
			d.dictionary(at, tree, to)
		}
	case reflect.Slice:
		d.list(at, v, to)
	default:
		d.scalar(at, v, to)
	}
}

// table decodes a table whose keys are to's fields.
func (d decoder) table(at *place, tree map[string]any, to reflect.Value) {
	var known []string
	for i := range to.NumField() {
		name, option, _ := strings.Cut(to.Type().Field(i).Tag.Get("toml"), ",")
		known = append(known, name)
		v, ok := tree[name]
		if !ok {
			continue
		}
		if one, single := v.(map[string]any); single && option == "one" {
			elem := reflect.New(to.Type().Field(i).Type.Elem()).Elem()
			d.value(at.key(name), one, elem)
			to.Field(i).Set(reflect.Append(to.Field(i), elem))
			continue
		}
		d.value(at.key(name), v, to.Field(i))
	}
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		if !slices.Contains(known, name) {
			d.unknown(at.key(name), known)
		}
	}
}

// unknown refuses a key that a table does not have.
func (d decoder) unknown(at *place, known []string) {
	if !d.full() {
		d.add(at, Suggest(at.name, known), "unknown key")
	}
}

// dictionary decodes a table with any keys.
func (d decoder) dictionary(at *place, tree map[string]any, to reflect.Value) {
	to.Set(reflect.MakeMapWithSize(to.Type(), len(tree)))
	for _, name := range slices.Sorted(maps.Keys(tree)) {
		elem := reflect.New(to.Type().Elem()).Elem()
		d.value(at.key(name), tree[name], elem)
		to.SetMapIndex(reflect.ValueOf(name), elem)
	}
}

// list decodes an array, or the tables of [[key]].
func (d decoder) list(at *place, v any, to reflect.Value) {
	elems, ok := elements(v)
	if !ok {
		d.mismatch(at, v, "an array")
		return
	}
	to.Set(reflect.MakeSlice(to.Type(), len(elems), len(elems)))
	for i, e := range elems {
		d.value(at.element(i), e, to.Index(i))
	}
}

// scalar decodes a string, a boolean or an integer.
func (d decoder) scalar(at *place, v any, to reflect.Value) {
	switch to.Kind() {
	case reflect.String:
		s, ok := v.(string)
		switch {
		case !ok:
			d.mismatch(at, v, "a string")
		case s == "":
			d.add(at, "write a value or remove the key", "is empty")
		default:
			to.SetString(s)
		}
	case reflect.Bool:
		if b, ok := v.(bool); ok {
			to.SetBool(b)
		} else {
			d.mismatch(at, v, "true or false")
		}
	default:
		if n, ok := v.(int64); ok {
			d.integer(at, n, to)
		} else {
			d.mismatch(at, v, "an integer")
		}
	}
}

// integer stores n in to if it fits.
func (d decoder) integer(at *place, n int64, to reflect.Value) {
	switch {
	case to.CanInt() && !to.OverflowInt(n):
		to.SetInt(n)
	case to.CanUint() && n >= 0 && !to.OverflowUint(uint64(n)):
		to.SetUint(uint64(n))
	case to.CanUint() && n < 0:
		d.add(at, "write 0 or more", "is %d, must not be negative", n)
	default:
		d.add(at, fmt.Sprintf("write a number of at most %d bits", to.Type().Bits()), "is %d, out of range", n)
	}
}

// plain returns v with nothing in it but the types that Decode promises for
// any. What is something else is refused and left out.
func (d decoder) plain(at *place, v any) any {
	switch x := v.(type) {
	case bool, int64, string:
		return v
	case float64:
		if math.IsNaN(x) || math.IsInf(x, 0) {
			d.add(at, "write a number", "is %v", x)
		}
	case map[string]any:
		for _, name := range slices.Sorted(maps.Keys(x)) {
			x[name] = d.plain(at.key(name), x[name])
		}
	default:
		elems, ok := elements(v)
		if !ok {
			d.mismatch(at, v, "a boolean, a number, a string, an array or a table")
			return nil
		}
		for i, e := range elems {
			elems[i] = d.plain(at.element(i), e)
		}
		return elems
	}
	return v
}

// elements returns the elements of an array or of an array of tables.
func elements(v any) ([]any, bool) {
	switch x := v.(type) {
	case []any:
		return x, true
	case []map[string]any:
		elems := make([]any, len(x))
		for i := range x {
			elems[i] = x[i]
		}
		return elems, true
	}
	return nil, false
}

// kind is what TOML calls v.
func kind(v any) string {
	switch v.(type) {
	case string:
		return "a string"
	case bool:
		return "a boolean"
	case int64:
		return "an integer"
	case float64:
		return "a float"
	case map[string]any:
		return "a table"
	case []any, []map[string]any:
		return "an array"
	}
	return "a date"
}
