package manifest

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
)

// widens returns the first key at which after asks for something that before did
// not ask for, and what that is; "" where it asks for the same or for less. What
// is not known here to be less is something else, be it a key that this version
// of hornetd has and this function was not told of.
func widens(before, after Manifest) (key, reason string) {
	if after.Start != before.Start && after.Start != StartRequest {
		return "start", fmt.Sprintf("is %q and was %q", after.Start, before.Start)
	}
	if i := wider(before.Attach, after.Attach); i >= 0 {
		return fmt.Sprintf("attach[%d]", i), "is not in the manifest, or not in this order"
	}
	for i, a := range after.Allow {
		if !slices.ContainsFunc(before.Allow, a.within) {
			return fmt.Sprintf("allow[%d]", i), "is not in the manifest, or allows more than there"
		}
	}
	if key, was := wideLimit(before.Limits, after.Limits); key != "" {
		return key, fmt.Sprintf("is more than %d", was)
	}
	// The rest, as it is written, must be the same.
	rest := after.raw
	rest.Start, rest.Attach, rest.Allow, rest.Limits = before.raw.Start, before.raw.Attach, before.raw.Allow, before.raw.Limits
	return different("", before.raw, rest), "is another one than in the manifest"
}

// wider returns the first of after that is not one of before, in the same order
// and none twice, or -1. The order counts: it says which program runs first.
func wider(before, after []Attach) int {
	next := 0
	for i, a := range after {
		for next < len(before) && !a.within(before[next]) {
			next++
		}
		if next == len(before) {
			return i
		}
		next++
	}
	return -1
}

// within tells whether a asks for nothing that b does not: it is the same, or
// names some of the functions or symbols in b. One interface of a pattern is not
// less than the pattern: the name may be another interface's second one.
func (a Attach) within(b Attach) bool {
	if some(a.Functions, b.Functions) {
		a.Functions = b.Functions
	}
	if some(a.Symbols, b.Symbols) {
		a.Symbols = b.Symbols
	}
	return reflect.DeepEqual(a, b)
}

// some tells whether a is a choice from b, and not an empty one, which the
// section of the program would fill.
func some(a, b []string) bool {
	return len(a) > 0 && !slices.ContainsFunc(a, func(s string) bool { return !slices.Contains(b, s) })
}

// within tells whether a allows nothing that b does not. One that names a unit too
// is about fewer callers.
func (a Allow) within(b Allow) bool {
	if a.User != b.User || a.Group != b.Group || b.Unit != "" && a.Unit != b.Unit {
		return false
	}
	a.Unit = b.Unit
	for _, right := range a.May {
		if !slices.ContainsFunc(b.May, func(r Right) bool { return r.Covers(right) }) {
			return false
		}
	}
	a.May = b.May
	return reflect.DeepEqual(a, b)
}

// wideLimit returns the key of a limit that after has higher than before, and
// what it was. 0 is the policy's, which none goes beyond.
func wideLimit(before, after Limits) (key string, was uint64) {
	for _, l := range []struct {
		key         string
		before, now uint64
	}{
		{"limits.memory", before.Memory, after.Memory},
		{"limits.maps", uint64(before.Maps), uint64(after.Maps)},
		{"limits.programs", uint64(before.Programs), uint64(after.Programs)},
	} {
		if l.before > 0 && (l.now == 0 || l.now > l.before) {
			return l.key, l.before
		}
	}
	return "", 0
}

// different returns the first key in which a and b, which have one type, are not
// the same, below key; "" where there is none.
func different(key string, a, b any) string {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	if reflect.DeepEqual(a, b) {
		return ""
	}
	below := func(name string) string { return strings.TrimPrefix(key+"."+name, ".") }
	switch va.Kind() {
	case reflect.Struct:
		for i := range va.NumField() {
			name, _, _ := strings.Cut(va.Type().Field(i).Tag.Get("toml"), ",")
			if at := different(below(name), va.Field(i).Interface(), vb.Field(i).Interface()); at != "" {
				return at
			}
		}
	case reflect.Map:
		names := map[string]bool{}
		for _, k := range append(va.MapKeys(), vb.MapKeys()...) {
			names[k.String()] = true
		}
		for _, name := range slices.Sorted(maps.Keys(names)) {
			x, y := va.MapIndex(reflect.ValueOf(name)), vb.MapIndex(reflect.ValueOf(name))
			if !x.IsValid() || !y.IsValid() || x.Kind() == reflect.Interface {
				if x.IsValid() != y.IsValid() || !reflect.DeepEqual(x.Interface(), y.Interface()) {
					return below(name)
				}
				continue
			}
			if at := different(below(name), x.Interface(), y.Interface()); at != "" {
				return at
			}
		}
	}
	return key
}
