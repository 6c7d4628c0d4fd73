package daemon

import "strings"

// unitTypes are the types of units that have processes.
var unitTypes = []string{".service", ".scope", ".socket", ".mount", ".swap"}

// unitOf returns the unit of the system's systemd that a process is in, as
// /proc/PID/cgroup tells, or "" where that is no place at which systemd puts one.
// It is the first unit behind the slices: what is below it is delegated to it, and
// whoever owns it gives names there as they like.
//
// Source: systemd.unit(5), systemd.slice(5); cg_path_get_unit in systemd.
func unitOf(cgroups string) string {
	path, found := "", false
	for line := range strings.Lines(cgroups) {
		if p, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "0::/"); ok {
			if found {
				return ""
			}
			path, found = p, true
		}
	}
	parent := ""
	for name := range strings.SplitSeq(path, "/") {
		name = strings.TrimPrefix(name, "_") // where a file of the cgroup could have the name
		slice, ok := strings.CutSuffix(name, ".slice")
		if !ok {
			return unitNamed(name)
		}
		if !validSlice(slice) || parent != "" && !strings.HasPrefix(slice, parent+"-") || parent == "" && strings.Contains(slice, "-") {
			return ""
		}
		parent = slice
	}
	return "" // in a slice, in no unit
}

// validSlice tells whether name, without .slice, is one: words with a single -
// between them, each of which is a level.
func validSlice(name string) bool {
	return unitName(name) && !strings.Contains(name, "@") && !strings.HasPrefix(name, "-") && !strings.HasSuffix(name, "-") && !strings.Contains(name, "--")
}

// unitNamed returns name where it is that of a unit that has processes; else "".
func unitNamed(name string) string {
	if len(name) > 255 {
		return ""
	}
	for _, suffix := range unitTypes {
		prefix, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		before, instance, template := strings.Cut(prefix, "@")
		if !unitName(prefix) || before == "" || template && instance == "" {
			return ""
		}
		return name
	}
	return ""
}

// unitName tells whether s, without the type, has only what names of units have. An
// escape, \x2d, is part of the name.
func unitName(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(`:-_.\@`, r):
		default:
			return false
		}
	}
	return s != ""
}
