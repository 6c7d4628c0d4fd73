package manifest

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode"

	"github.com/hornetd/hornetd/internal/remedy"
)

// ValidAccount says what is wrong with the name or the decimal id of a user or a
// group, or nil. Whether it exists is asked when somebody calls.
func ValidAccount(name string) error {
	bad := func(r rune) bool { return !unicode.IsPrint(r) || unicode.IsSpace(r) || strings.ContainsRune("/:,", r) }
	if name == "" || len(name) > 256 || strings.ContainsFunc(name, bad) || strings.HasPrefix(name, "-") {
		return remedy.With(fmt.Errorf("%.80q cannot be the name of an account", name), "write a name from /etc/passwd or /etc/group, or a number")
	}
	if strings.Trim(name, "0123456789") != "" {
		return nil
	}
	if id, err := strconv.ParseUint(name, 10, 32); err != nil || id == math.MaxUint32 {
		return remedy.With(fmt.Errorf("%.80q is not the id of an account", name), "write a number that id shows")
	}
	return nil
}

// unitTypes are the types of units that have processes.
var unitTypes = []string{".service", ".scope", ".socket", ".mount", ".swap"}

// ValidUnit says why name is not that of a systemd unit that has processes, or nil.
//
// Source: systemd.unit(5).
func ValidUnit(name string) error {
	for _, suffix := range unitTypes {
		prefix, ok := strings.CutSuffix(name, suffix)
		if !ok {
			continue
		}
		before, instance, template := strings.Cut(prefix, "@")
		if len(name) > 255 || !UnitCharacters(prefix) || before == "" || template && instance == "" {
			break
		}
		return nil
	}
	return remedy.With(fmt.Errorf("%.80q is not the name of a unit with processes", name),
		`write it as systemctl shows it, with its type, such as "web.service"; of a template the instance, "web@1.service"`)
}

// UnitCharacters tells whether s, without the type, is made of what names of units
// have. An escape, \x2d, is part of the name.
func UnitCharacters(s string) bool {
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', strings.ContainsRune(`:-_.\@`, r):
		default:
			return false
		}
	}
	return s != ""
}
