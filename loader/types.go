package loader

import (
	"fmt"
	"strings"

	"github.com/cilium/ebpf/btf"
)

// maxName is how many bytes of a name from the object stand in a message. A
// parser took them for what they are; nobody else has looked at them.
const maxName = 64

// typeName returns how C names t; alias is the typedef it was reached by.
func typeName(t btf.Type, alias string) string {
	if alias != "" {
		return clean(alias, maxName)
	}
	name := clean(t.TypeName(), maxName)
	kind := ""
	switch t := t.(type) {
	case *btf.Struct:
		kind = "struct"
	case *btf.Union:
		kind = "union"
	case *btf.Enum:
		kind = "enum"
	case *btf.Array:
		return fmt.Sprintf("array of %d", t.Nelems)
	case *btf.Pointer:
		return "pointer"
	case *btf.Int, *btf.Float:
	default:
		kind = strings.ToLower(strings.TrimPrefix(fmt.Sprintf("%T", t), "*btf."))
	}
	return strings.TrimSpace(kind + " " + name)
}

// flatten returns the fields of a struct or union. As in C, the fields of a
// member without a name belong to its parent. A type is entered once, so that
// no type information, however made, costs more than its size.
func flatten(t btf.Type) []btf.Member {
	members, _ := anonymous(btf.Member{Type: t})
	return appendFlat(nil, members, 0, map[btf.Type]bool{t: true})
}

func appendFlat(to, members []btf.Member, offset btf.Bits, seen map[btf.Type]bool) []btf.Member {
	for _, m := range members {
		m.Offset += offset
		inner, ok := anonymous(m)
		switch typ := btf.UnderlyingType(m.Type); {
		case !ok && m.Name != "":
			to = append(to, m)
		case ok && !seen[typ]:
			seen[typ] = true
			to = appendFlat(to, inner, m.Offset, seen)
		}
	}
	return to
}

// anonymous returns the fields of a member without a name.
func anonymous(m btf.Member) ([]btf.Member, bool) {
	if m.Name != "" {
		return nil, false
	}
	switch t := btf.UnderlyingType(m.Type).(type) {
	case *btf.Struct:
		return t.Members, true
	case *btf.Union:
		return t.Members, true
	}
	return nil, false
}

func names(members []btf.Member) []string {
	names := make([]string, len(members))
	for i, m := range members {
		names[i] = m.Name
	}
	return names
}

// describeType says on one line what a value of type t looks like.
func describeType(t btf.Type) string { return describe(t, 0) }

// withoutArticle is what describeType says, without its "a".
func withoutArticle(t btf.Type) string { return strings.TrimPrefix(describeType(t), "a ") }

func describe(t btf.Type, depth int) string {
	alias := ""
	for range maxDepth {
		switch v := t.(type) {
		case *btf.Var:
			t = v.Type
		case *btf.Typedef:
			alias, t = v.Name, v.Type
		case *btf.Const:
			t = v.Type
		case *btf.Volatile:
			t = v.Type
		case *btf.Restrict:
			t = v.Type
		case *btf.TypeTag:
			t = v.Type
		}
	}
	switch v := t.(type) {
	case *btf.Struct:
		return withFields(typeName(t, alias), v)
	case *btf.Union:
		return withFields(typeName(t, alias), v)
	case *btf.Array:
		if depth < 3 {
			return fmt.Sprintf("%d times %s", v.Nelems, describe(v.Type, depth+1))
		}
	case *btf.Int:
		if v.Encoding == btf.Bool {
			return "true or false"
		}
	}
	return "a " + typeName(t, alias)
}

func withFields(name string, t btf.Type) string {
	fields := names(flatten(t))
	for i := range fields {
		fields[i] = clean(fields[i], maxName)
	}
	if len(fields) > 8 {
		fields = append(fields[:8], "…")
	}
	return fmt.Sprintf("a %s { %s }", name, strings.Join(fields, ", "))
}
