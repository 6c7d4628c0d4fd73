package manifest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

func (c checker) maps(raw map[string]rawMap) map[string]Map {
	checked := make(map[string]Map, len(raw))
	shared := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(raw)) {
		checked[name] = c.mapOf("maps."+name, name, raw[name], raw[all].Class)
		if as := raw[name].Shared; as != "" {
			if other, ok := shared[as]; ok {
				c.Add("maps."+name+".shared", "choose another name", "%q is that of %s already", as, other)
			}
			shared[as] = name
		}
	}
	return checked
}

// mapOf checks what the manifest says of one map. general is the class of "*".
func (c checker) mapOf(key, name string, raw rawMap, general string) Map {
	if name != all && !mapName.MatchString(name) {
		c.Add(key, `write the map's name as it stands in the C source, or "*" for all others`, "%.80q is not the name of a map", name)
	}
	m := Map{
		Class:         c.class(key, name, raw.Class, general),
		Entries:       c.entries(key+".entries", raw.Entries),
		ProgramWrites: raw.ProgramWrites != nil && *raw.ProgramWrites,
		Keep:          raw.Keep != nil && *raw.Keep,
		Shared:        raw.Shared,
		Inner:         raw.Inner,
	}
	if raw.Inner != "" {
		c.identifier(key+".inner", raw.Inner)
	}
	if raw.MaxEntries != nil {
		if m.MaxEntries = *raw.MaxEntries; m.MaxEntries == 0 {
			c.Add(key+".max_entries", "write 1 or more, or remove the key to take the object's number", "is 0")
		}
	}
	if raw.Shared != "" && ValidName(raw.Shared) != nil {
		c.Add(key+".shared", "write a name as collections have: a-z, 0-9, - and _", "%.80q is not a name", raw.Shared)
	}
	c.combination(key, name, m)
	return m
}

// class is the class of a map. A data section has one by its kind: the manifest
// need not name it, and "*" does not change it.
func (c checker) class(key, name, class, general string) Class {
	switch {
	case class == "exclusive":
		c.Add(key+".class", "write frozen where only user space writes it before the start, else mutable",
			`"exclusive" needs an object that the kernel verified itself, which this version of hornetd cannot load`)
	case class != "":
		c.OneOf(key+".class", class, string(ClassFrozen), string(ClassMutable))
	case strings.HasPrefix(name, "."):
		return ""
	case general != "":
		return Class(general)
	default:
		c.Add(key+".class", `write class = "frozen" if nothing changes it once the programs run, else class = "mutable"`, "is missing")
	}
	return Class(class)
}

// combination refuses what does not go together.
func (c checker) combination(key, name string, m Map) {
	const every = "one map's, not every other's"
	switch {
	case name == all && len(m.Entries) > 0:
		c.Add(key+".entries", "name the map", "entries are "+every)
	case name == all && m.MaxEntries != 0:
		c.Add(key+".max_entries", "name the map", "max_entries is "+every)
	case name == all && m.Inner != "":
		c.Add(key+".inner", "name the map", "inner is "+every)
	case name == all && m.Shared != "":
		c.Add(key+".shared", "name the map", "shared is "+every)
	case m.Shared != "" && m.Class != ClassMutable:
		c.Add(key+".shared", `remove it, or write class = "mutable"`, "only a mutable map is shared: another collection cannot know what a frozen one was filled with")
	case m.Shared != "" && m.Keep:
		c.Add(key+".keep", "remove it", "a shared map is kept anyway")
	case m.ProgramWrites && m.Class == ClassMutable:
		c.Add(key+".program_writes", "remove it", "programs may write a mutable map anyway")
	case m.Keep && m.Class == ClassFrozen:
		c.Add(key+".keep", "remove it, or make the map mutable", "the contents of a frozen map come from the object and the manifest")
	}
}

func (c checker) entries(key string, raw []rawEntry) []Entry {
	var entries []Entry
	seen := map[string]int{}
	for i, r := range raw {
		at := fmt.Sprintf("%s[%d]", key, i)
		if r.Key == nil {
			c.Add(at+".key", "write { key = …, value = … }", "is missing")
		}
		if r.Value == nil {
			c.Add(at+".value", "write { key = …, value = … }", "is missing")
		}
		same := fmt.Sprintf("%#v", r.Key) // fmt sorts the keys of tables
		if first, ok := seen[same]; ok && r.Key != nil {
			c.Add(at+".key", "remove one of them", "is the key of %s[%d] again", key, first)
		}
		seen[same] = i
		entries = append(entries, Entry(r))
	}
	return entries
}
