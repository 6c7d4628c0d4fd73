package policy

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// accounts stand in for /etc/passwd and /etc/group.
type accounts map[string]uint32

func (a accounts) UserID(name string) (uint32, bool) { id, ok := a["user "+name]; return id, ok }
func (a accounts) GroupID(name string) (uint32, bool) {
	id, ok := a["group "+name]
	return id, ok
}

// File gives each file of /bin a number of its own.
func (a accounts) File(path string) (File, bool) {
	id, ok := a["file "+path]
	return File{Path: path, Device: 8, Inode: uint64(id)}, ok
}

var host = accounts{
	"file /bin/cat": 77, "file /bin/dog": 78,
	"user ada": 1000, "user bob": 1001, "user nobody": 65534, "user root": 0,
	"group ada": 1000, "group netops": 50, "group nogroup": 65534, "group root": 0,
}

func rules(allow ...manifest.Allow) manifest.Manifest {
	return manifest.Manifest{Name: "m", Allow: allow}
}

func user(name string, may ...manifest.Right) manifest.Allow {
	return manifest.Allow{User: name, May: may}
}

func group(name string, may ...manifest.Right) manifest.Allow {
	return manifest.Allow{Group: name, May: may}
}

func unit(name, user, group string, may ...manifest.Right) manifest.Allow {
	return manifest.Allow{Unit: name, User: user, Group: group, May: may}
}

func TestAuthorize(t *testing.T) {
	ada := Subject{UID: 1000, GID: 1000, Groups: []uint32{1000, 50}}
	web := ada
	web.Unit = "web.service"
	tests := []struct {
		name    string
		subject Subject
		verb    Verb
		m       manifest.Manifest
		ok      bool
	}{
		{"root may load what allows nobody", Subject{}, Load, rules(), true},
		{"root may read", Subject{}, Read("x"), rules(), true},
		{"root by its group only", Subject{UID: 1, GID: 0}, Load, rules(), false},
		{"nobody else", ada, Status, rules(), false},

		{"by name", ada, Load, rules(user("ada", "load")), true},
		{"by number", ada, Load, rules(user("1000", "load")), true},
		{"by number with zeros in front", ada, Load, rules(user("0001000", "load")), true},
		{"by a negative number", ada, Load, rules(user("-1", "load")), false},
		{"by a number of 33 bits", Subject{UID: 1}, Load, rules(user("4294967297", "load")), false},
		{"another user", ada, Load, rules(user("bob", "load")), false},
		{"an unknown name", ada, Load, rules(user("eve", "load")), false},
		{"an unknown group", Subject{UID: 5}, Load, rules(group("eve", "load")), false},
		{"the name of a group is not one of a user", ada, Load, rules(user("netops", "load")), false},

		{"by group", ada, Load, rules(group("netops", "load")), true},
		{"by the first group", Subject{UID: 7, GID: 50}, Load, rules(group("netops", "load")), true},
		{"by a group's number", ada, Load, rules(group("50", "load")), true},
		{"another group", Subject{UID: 7, GID: 7, Groups: []uint32{8}}, Load, rules(group("netops", "load")), false},
		{"a uid is no gid", Subject{UID: 50, GID: 7}, Load, rules(group("netops", "load")), false},
		{"a gid is no uid", Subject{UID: 7, GID: 1000, Groups: []uint32{1000}}, Load, rules(user("ada", "load")), false},

		{"only what is listed", ada, Unload, rules(user("ada", "load", "status")), false},
		{"load does not imply status", ada, Status, rules(user("ada", "load")), false},
		{"one of several rules", ada, Events, rules(user("bob", "events"), group("netops", "events")), true},
		{"rights of two rules are not mixed", Subject{UID: 1001}, Load, rules(user("ada", "load"), user("bob", "status")), false},
		{"a rule without rights", ada, Load, rules(user("ada")), false},
		{"a rule about nobody", ada, Load, rules(manifest.Allow{May: []manifest.Right{"load"}}), false},
		{"a rule about a user and a group", ada, Load, rules(manifest.Allow{User: "ada", Group: "netops", May: []manifest.Right{"load"}}), false},

		{"read one map", ada, Read("hits"), rules(user("ada", "read:hits")), true},
		{"read another map", ada, Read("blocked"), rules(user("ada", "read:hits")), false},
		{"a longer name", ada, Read("hits2"), rules(user("ada", "read:hits")), false},
		{"read every map", ada, Read("hits"), rules(user("ada", "read:*")), true},
		{"reading every map is not loading", ada, Load, rules(user("ada", "read:*")), false},
		{"reading no map", ada, Read(""), rules(user("ada", "read:*")), false},
		{"write one map", ada, Write("hits"), rules(user("ada", "write:hits")), true},
		{"write another map", ada, Write("blocked"), rules(user("ada", "write:hits")), false},
		{"write every map", ada, Write("hits"), rules(user("ada", "write:*")), true},
		{"reading is not writing", ada, Write("hits"), rules(user("ada", "read:hits", "read:*")), false},
		{"writing is not reading", ada, Read("hits"), rules(user("ada", "write:hits", "write:*")), false},
		{"a descriptor", ada, FD("hits"), rules(user("ada", "fd:hits")), true},
		{"a descriptor of every map", ada, FD("hits"), rules(user("ada", "fd:*")), true},
		{"a descriptor of another map", ada, FD("blocked"), rules(user("ada", "fd:hits")), false},
		{"a descriptor that writes", ada, RWFD("hits"), rules(user("ada", "rw-fd:hits")), true},
		{"a descriptor that writes, of every map", ada, RWFD("hits"), rules(user("ada", "rw-fd:*")), true},
		{"a descriptor does not write", ada, RWFD("hits"), rules(user("ada", "fd:hits", "fd:*", "write:*", "read:*")), false},
		{"a descriptor that writes reads", ada, FD("hits"), rules(user("ada", "rw-fd:hits")), true},
		{"descriptors that write read", ada, FD("hits"), rules(user("ada", "rw-fd:*")), true},
		{"but of that map only", ada, FD("blocked"), rules(user("ada", "rw-fd:hits")), false},
		{"entries need rights of their own", ada, Read("hits"), rules(user("ada", "rw-fd:*", "fd:*")), false},
		{"a descriptor of no map", ada, FD(""), rules(user("ada", "fd:*", "rw-fd:*")), false},
		{"an unknown verb", ada, Verb("reload"), rules(user("ada", "load", "read:*")), false},
		{"no verb", ada, "", rules(user("ada", "load")), false},

		{"by unit", ada, Load, rules(unit("web.service", "", "", "load")), false},
		{"by unit alone", web, Load, rules(unit("web.service", "", "", "load")), true},
		{"by unit, what it may not", web, Unload, rules(unit("web.service", "", "", "load")), false},
		{"another unit", web, Load, rules(unit("web@1.service", "", "", "load")), false},
		{"a unit and its user", web, Load, rules(unit("web.service", "ada", "", "load")), true},
		{"a unit and another user", web, Load, rules(unit("web.service", "bob", "", "load")), false},
		{"a unit and a group", web, Load, rules(unit("web.service", "", "netops", "load")), true},
		{"a unit and another group", web, Load, rules(unit("web.service", "", "51", "load")), false},
		{"another unit and its user", web, Load, rules(unit("db.service", "ada", "", "load")), false},
		{"a unit and user in no unit", ada, Load, rules(unit("web.service", "ada", "", "load")), false},
		{"a name that is no unit's", Subject{UID: 5, Unit: "x"}, Load, rules(unit("x", "", "", "load")), false},
		{"the overflow uid in a unit", Subject{UID: 65534, Unit: "web.service"}, Load, rules(unit("web.service", "", "", "load")), true},

		{"the overflow uid by name", Subject{UID: 65534, GID: 65534}, Load, rules(user("nobody", "load")), false},
		{"the overflow uid by number", Subject{UID: 65534, GID: 65534}, Load, rules(user("65534", "load")), true},
		{"the overflow gid by name", Subject{UID: 5, GID: 65534}, Load, rules(group("nogroup", "load")), false},
		{"the overflow gid among several", Subject{UID: 5, GID: 5, Groups: []uint32{65534}}, Load, rules(group("nogroup", "load")), false},
		{"the overflow gid by number", Subject{UID: 5, GID: 65534}, Load, rules(group("65534", "load")), true},
		{"the overflow uid by a group of its own", Subject{UID: 65534, GID: 50}, Load, rules(group("netops", "load")), true},
	}
	p := New(Limits{}, host)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := p.Authorize(tt.subject, tt.verb, tt.m)
			_, steps, explained := p.Explain(tt.subject, tt.verb, tt.m)
			if fmt.Sprint(err) != fmt.Sprint(explained) || (err == nil) != slices.ContainsFunc(steps, func(s Step) bool { return s.Allows }) {
				t.Errorf("decides %v and explains %v, %+v", err, explained, steps)
			}
			if tt.ok && err != nil {
				t.Error(err)
			}
			if !tt.ok && !errors.Is(err, ErrDenied) {
				t.Errorf("%v, want ErrDenied", err)
			}
		})
	}
}

func TestAuthorizeWithoutNames(t *testing.T) {
	p := New(Limits{}, nil)
	if _, err := p.Authorize(Subject{UID: 1000}, Load, rules(user("ada", "load"), group("netops", "load"))); !errors.Is(err, ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
	if _, err := p.Authorize(Subject{UID: 1000}, Load, rules(user("1000", "load"))); err != nil {
		t.Error(err)
	}
	var zero Policy
	if _, err := zero.Authorize(Subject{UID: 1000}, Load, rules()); !errors.Is(err, ErrDenied) {
		t.Errorf("%v, want ErrDenied", err)
	}
}

func TestDeniedSaysWhatToDo(t *testing.T) {
	_, err := New(Limits{}, host).Authorize(Subject{UID: 1000}, Read("hits"), rules())
	if want := `collection "m": uid 1000 may not read:hits: permission denied`; err.Error() != want {
		t.Errorf("%v\nwant %s", err, want)
	}
	if want := `[[allow]] with user = "1000" and may = ["read:hits"]`; !strings.Contains(remedy.Of(err), want) {
		t.Errorf("remedy %q, want %s", remedy.Of(err), want)
	}
}

func TestExplain(t *testing.T) {
	ada := Subject{UID: 1000, GID: 1000, Groups: []uint32{1000, 50}}
	m := rules(user("bob", "load"), user("ada", "status"), user("eve", "load"), user("nobody", "load"), group("netops", "load"),
		unit("web.service", "ada", "", "load"), user("ada", "load"))
	_, steps, err := New(Limits{}, host).Explain(ada, Load, m)
	want := []Step{
		{"allow[0]", false, `user "bob": the caller's is 1000`},
		{"allow[1]", false, `may does not list load`},
		{"allow[2]", false, `user "eve": there is none of that name`},
		{"allow[3]", false, `user "nobody": the caller's is 1000`},
		{"allow[4]", true, "is about the caller, and allows load"},
		{"allow[5]", false, `unit "web.service": in which unit the caller is, is not known`},
		{"allow[6]", true, "is about the caller, and allows load"},
	}
	if err != nil || !slices.Equal(steps, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, steps, want)
	}
	_, steps, err = New(Limits{}, host).Explain(Subject{UID: 65534, GID: 5, Groups: []uint32{7}, Unit: "db.service"}, Load, rules(user("nobody", "load"), unit("web.service", "", "", "load"), group("netops", "load")))
	want = []Step{
		{"allow[0]", false, `user "nobody": 65534 is everybody whom the kernel cannot name, and only that number itself means them`},
		{"allow[1]", false, `unit "web.service": the caller is in "db.service"`},
		{"allow[2]", false, `group "netops": the caller's is 5, 7`},
	}
	if !errors.Is(err, ErrDenied) || !slices.Equal(steps, want) {
		t.Errorf("%v\n%+v\nwant\n%+v", err, steps, want)
	}
	if _, steps, err := New(Limits{}, host).Explain(Subject{}, Unload, rules()); err != nil || len(steps) != 1 || steps[0].Rule != "root" {
		t.Errorf("%v, %+v", err, steps)
	}
}
