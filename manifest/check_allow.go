package manifest

import (
	"fmt"
	"slices"

	"github.com/hornetd/hornetd/internal/remedy"
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
		case r.User == "" && r.Group == "" && r.Unit == "":
			c.Add(key, `write user = "NAME", group = "NAME" or unit = "NAME.service"`, "names no user, no group and no unit")
		}
		c.valid(key+".user", r.User, ValidAccount)
		c.valid(key+".group", r.Group, ValidAccount)
		c.valid(key+".unit", r.Unit, ValidUnit)
		all = append(all, Allow{User: r.User, Group: r.Group, Unit: r.Unit, May: c.rights(key+".may", r.May)})
	}
	return all
}

// valid checks a name by one of the functions that say what is wrong with it.
func (c checker) valid(key, name string, check func(string) error) {
	if name == "" || !c.Printable(key, name) {
		return
	}
	if err := check(name); err != nil {
		c.Add(key, remedy.Of(err), "%w", err)
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
