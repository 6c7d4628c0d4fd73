package manifest

import (
	"fmt"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

var (
	tracepoint = regexp.MustCompile(`^[A-Za-z0-9_]{1,128}(/[A-Za-z0-9_]{1,128})?$`)
	function   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.$]{0,127}$`) // compilers add .isra.0 and the like
	functions  = regexp.MustCompile(`^[A-Za-z0-9_.$*?]{1,128}$`)
)

const mostPatterns = 256 // of functions or symbols

// LongestSymbol is how many bytes the symbols of an [[attach]] and what they are
// compared with may be long. C++ makes longer ones, for which there is uprobe
// with an offset.
const LongestSymbol = 1 << 10

func (c checker) attachAll(raw []rawAttach) []Attach {
	var list []Attach
	seen := map[string]int{}
	for i, r := range raw {
		a := Attach(r)
		key := fmt.Sprintf("attach[%d]", i)
		c.attach(key, a)
		all := fmt.Sprintf("%#v", a)
		if first, ok := seen[all]; ok {
			c.Add(key, "remove one of them", "is the same as attach[%d]", first)
		}
		seen[all] = i
		list = append(list, a)
	}
	return list
}

// attach checks the syntax of each key. Which of them a program takes follows
// from its type, which only the object knows.
func (c checker) attach(key string, a Attach) {
	switch {
	case a.Program != "":
		c.identifier(key+".program", a.Program)
	case a.Map == "":
		c.Add(key+".program", `write program = "NAME", a function of the object`, "is missing")
	}
	c.choice(key+".mode", a.Mode, "auto", "generic", "native", "offload")
	c.choice(key+".direction", a.Direction, "ingress", "egress")
	c.choice(key+".position", a.Position, "head", "tail")
	c.choice(key+".family", a.Family, "ipv4", "ipv6")
	c.choice(key+".upgrade", string(a.Upgrade), string(UpgradeGap))
	c.priorities(key+".priorities", a)
	c.choice(key+".target", a.Target, TargetCaller)
	c.choice(key+".hook", a.Hook, "prerouting", "input", "forward", "output", "postrouting")
	c.iface(key+".interface", a.Interface)
	c.absolute(key+".netns", a.Netns)
	c.absolute(key+".executable", a.Executable)
	c.cgroup(key+".cgroup", a.Cgroup)
	c.Printable(key+".symbol", a.Symbol)
	if a.Tracepoint != "" && !tracepoint.MatchString(a.Tracepoint) {
		c.Add(key+".tracepoint", "write GROUP/NAME, or NAME for a raw tracepoint", "%.80q is not the name of a tracepoint", a.Tracepoint)
	}
	if a.Function != "" && !function.MatchString(a.Function) {
		c.Add(key+".function", "write the name of one function", "%.80q is not the name of a function", a.Function)
	}
	if a.Replaces != "" {
		c.identifier(key+".replaces", a.Replaces)
	}
	c.patterns(key+".functions", a.Functions, functions.MatchString)
	c.patterns(key+".symbols", a.Symbols, func(s string) bool { return len(s) <= LongestSymbol && !strings.ContainsFunc(s, notPrintable) })
	if a.Map != "" && !mapName.MatchString(a.Map) {
		c.Add(key+".map", "write the map's name as it stands in the C source", "%.80q is not the name of a map", a.Map)
	}
}

// ofCaller checks what callers show the targets of: the manifest names none beside
// it, and at boot there is no caller.
func (c checker) ofCaller(m *Manifest, start string) {
	if !m.OfCaller() {
		return
	}
	if start == string(StartBoot) {
		c.Add("start", `write start = "request", or remove it`, "is %q, and an [[attach]] has target = %q: at boot there is no caller", StartBoot, TargetCaller)
	}
	m.Start = StartRequest
	for i, a := range m.Attach {
		if !a.OfCaller() {
			continue
		}
		key := fmt.Sprintf("attach[%d]", i)
		for _, named := range []struct{ key, value string }{{".cgroup", a.Cgroup}, {".netns", a.Netns}} {
			if named.value != "" {
				c.Add(key+named.key, "remove one of the two", "stands beside target = %q: whoever loads it shows which", TargetCaller)
			}
		}
		if strings.ContainsAny(a.Interface, `*?[\`) {
			c.Add(key+".interface", "write the name of one interface", "%.80q is a pattern, and nobody looks for what comes under it in a caller's network namespace", a.Interface)
		}
	}
}

// choice checks an optional key that takes few words.
func (c checker) choice(key, got string, allowed ...string) {
	if got != "" {
		c.OneOf(key, got, allowed...)
	}
}

// priorities checks the two that versions take in turns.
func (c checker) priorities(key string, a Attach) {
	switch {
	case a.Priorities == nil:
	case len(a.Priorities) != 2 || a.Priorities[0] == a.Priorities[1]:
		c.Add(key, "write two different numbers, such as [10, 11]: one for the version that runs, one for the next", "are %v", a.Priorities)
	case a.Priority != 0:
		c.Add(key, "remove one of the two keys", "stand beside priority")
	case a.Upgrade == UpgradeGap:
		c.Add(key, `remove upgrade = "gap": with two priorities there is no gap`, "stand beside upgrade")
	}
}

// iface checks the name of an interface or a glob of names.
func (c checker) iface(key, name string) {
	const longest = 15 // IFNAMSIZ without the NUL
	_, err := path.Match(name, "")
	switch {
	case name == "" || !c.Printable(key, name):
	case err != nil:
		c.Add(key, "close every [ with a ]", "%.80q is not a pattern", name)
	case name == "." || name == ".." || strings.ContainsRune(name, '/') || strings.ContainsFunc(name, unicode.IsSpace):
		c.Add(key, "write a name that ip link shows, or a pattern such as eth*", "%.80q cannot be the name of an interface", name)
	case !strings.ContainsAny(name, `*?[\`) && len(name) > longest:
		c.Add(key, "write a name that ip link shows", "%.80q is longer than the %d bytes an interface's name can have", name, longest)
	}
}

// cgroup checks a path below the cgroup2 mount, or an absolute one.
func (c checker) cgroup(key, name string) {
	switch {
	case filepath.IsAbs(name):
		c.absolute(key, name)
	case name != "" && c.Printable(key, name) && !filepath.IsLocal(name):
		c.Add(key, "write a path below the cgroup2 mount, such as system.slice", "%.200q leads out of the cgroup2 mount", name)
	}
}

// patterns checks a list of names, in which * and ? may stand for others.
func (c checker) patterns(key string, list []string, fits func(string) bool) {
	if list != nil && (len(list) == 0 || len(list) > mostPatterns) {
		c.Add(key, "write a list such as [\"NAME\", \"PRE*\"]", "has %d elements, not 1 to %d", len(list), mostPatterns)
		return
	}
	for i, p := range list {
		at := fmt.Sprintf("%s[%d]", key, i)
		switch {
		case !fits(p):
			c.Add(at, "write a name; * stands for any letters, ? for one", "%.80q is not the name of a function or a pattern", p)
		case slices.Contains(list[:i], p):
			c.Add(at, "remove one", "%.80q stands there twice", p)
		}
	}
}

func notPrintable(r rune) bool { return !unicode.IsPrint(r) }
