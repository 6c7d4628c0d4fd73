package manifest

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/hornetd/hornetd/internal/tomlfile"
)

// maxRights is how many rights a rule may list.
const maxRights = 256

func (c checker) allowAll(raw []rawAllow) []Allow {
	var all []Allow
	for i, r := range raw {
		key := fmt.Sprintf("allow[%d]", i)
		switch {
		case r.User != "" && r.Group != "":
			c.Add(key+".group", "write two [[allow]]", "a rule names a user or a group, not both")
		case r.User == "" && r.Group == "":
			c.Add(key, `write user = "NAME" or group = "NAME"`, "names neither a user nor a group")
		}
		c.account(key+".user", r.User)
		c.account(key+".group", r.Group)
		all = append(all, Allow{User: r.User, Group: r.Group, May: c.rights(key+".may", r.May)})
	}
	return all
}

// account checks the name or the decimal id of a user or a group. Whether it
// exists is asked when somebody calls.
func (c checker) account(key, name string) {
	if name == "" || !c.Printable(key, name) {
		return
	}
	bad := func(r rune) bool { return unicode.IsSpace(r) || strings.ContainsRune("/:,", r) }
	if len(name) > 256 || strings.ContainsFunc(name, bad) || strings.HasPrefix(name, "-") {
		c.Add(key, "write a name that getent shows, or a number", "%.80q cannot be the name of an account", name)
	}
	if strings.Trim(name, "0123456789") != "" {
		return
	}
	if id, err := strconv.ParseUint(name, 10, 32); err != nil || id == math.MaxUint32 {
		c.Add(key, "write a number that id shows", "%.80q is not the id of an account", name)
	}
}

func (c checker) rights(key string, raw []string) []Right {
	switch n := len(raw); {
	case n == 0:
		c.Add(key, `write may = ["status"], or remove the rule`, "allows nothing")
	case n > maxRights:
		c.Add(key, "write read:* for all maps", "lists %d rights, more than %d", n, maxRights)
		return nil
	}
	var rights []Right
	for i, s := range raw {
		at := fmt.Sprintf("%s[%d]", key, i)
		c.right(at, s)
		if slices.Contains(rights, Right(s)) {
			c.Add(at, "remove one", "%.80q stands there twice", s)
		}
		rights = append(rights, Right(s))
	}
	return rights
}

func (c checker) right(key, s string) {
	known := []string{string(RightStatus), string(RightLoad), string(RightUpgrade), string(RightUnload), string(RightEvents)}
	prefix, name, ofMap := Right(s).cut()
	switch {
	case ofMap && name != all && !mapName.MatchString(name):
		c.Add(key, fmt.Sprintf("write %sMAP with the map's name, or %[1]s*", prefix), "%.80q is not the name of a map", name)
	case !ofMap && !slices.Contains(known, s):
		c.Add(key, tomlfile.Suggest(s, append(known, "read:MAP", "write:MAP", "fd:MAP", "rw-fd:MAP")), "%.80q is not a right", s)
	}
}
