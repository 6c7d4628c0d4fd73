package loader

import (
	"errors"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

// FuzzReadLinks: whatever the kernel's list looks like, reading it ends, without
// a panic, and finds no more interfaces than there is room for.
func FuzzReadLinks(f *testing.F) {
	dump, err := syscall.NetlinkRIB(unix.RTM_GETLINK, unix.AF_UNSPEC)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(dump)
	f.Add(dump[:len(dump)-1])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		links, err := readLinks(b)
		if err == nil && len(links) > len(b)/unix.SizeofNlMsghdr {
			t.Errorf("%d interfaces in %d bytes", len(links), len(b))
		}
	})
}

// TestViewLists compares the list with the standard library's.
func TestViewLists(t *testing.T) {
	pair := testenv.Veth(t)
	err := testenv.InNetns(t, pair.B.Netns, func() error {
		all, err := net.Interfaces()
		if err != nil {
			return err
		}
		links := NewView().net("").links
		if len(links) != len(all) {
			t.Errorf("%v, want %v", links, all)
		}
		for _, i := range all {
			if links[i.Index].name != i.Name {
				t.Errorf("interface %d: %q, want %q", i.Index, links[i.Index].name, i.Name)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestViewAgain(t *testing.T) {
	pair := testenv.Veth(t)
	cgroup := testenv.Cgroup(t)
	exe := filepath.Join(t.TempDir(), "exe")
	if err := os.WriteFile(exe, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		t      Target
		absent bool
		ok     func(Target) bool
	}{
		"interface":        {Target{Kind: kindXDP, Interface: "veth0", Netns: pair.B.Netns}, false, func(t Target) bool { return t.Ifindex == pair.B.Ifindex && t.NetnsInode != 0 }},
		"no interface":     {Target{Kind: kindTCX, Interface: "veth1", Netns: pair.B.Netns}, true, nil},
		"no namespace":     {Target{Kind: kindXDP, Interface: "veth0", Netns: pair.B.Netns + "x"}, true, nil},
		"namespace":        {Target{Kind: kindNetns, Netns: pair.B.Netns}, false, func(t Target) bool { return t.NetnsInode != 0 }},
		"namespace gone":   {Target{Kind: kindNetfilter, Netns: pair.B.Netns + "x"}, true, nil},
		"cgroup":           {Target{Kind: kindCgroup, Cgroup: cgroup}, false, func(t Target) bool { return t.CgroupID != 0 }},
		"no cgroup":        {Target{Kind: kindCgroup, Cgroup: cgroup + "/x"}, true, nil},
		"executable":       {Target{Kind: kindPerfEvent, Executable: exe, Offset: 4}, false, func(t Target) bool { return t.Inode != 0 && t.Offset == 4 }},
		"no executable":    {Target{Kind: kindPerfEvent, Executable: exe + "x"}, true, nil},
		"nothing to look":  {Target{Kind: kindTracing, Function: "f", TypeID: 3}, false, func(t Target) bool { return t.TypeID == 3 }},
		"alternative name": {Target{Kind: kindXDP, Interface: "a-name-of-more-than-15", Netns: pair.B.Netns}, true, nil},
	} {
		t.Run(name, func(t *testing.T) {
			now, err := NewView().Again(test.t)
			if errors.Is(err, ErrAbsent) != test.absent || !test.absent && err != nil {
				t.Fatal(err)
			}
			if test.ok != nil && !test.ok(now) {
				t.Errorf("%+v", now)
			}
		})
	}
}

// A file is another one on another device, but in a record that does not say which.
func TestViewAgainDevice(t *testing.T) {
	exe := filepath.Join(t.TempDir(), "exe")
	if err := os.WriteFile(exe, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ device, want uint64 }{{device(t, exe), device(t, exe)}, {device(t, exe) + 1, device(t, exe)}, {0, 0}} {
		was := Target{Kind: kindPerfEvent, Executable: exe, Inode: inode(t, exe), Device: tt.device}
		now, err := NewView().Again(was)
		if err != nil || now.Device != tt.want {
			t.Errorf("device %d: %d, want %d, %v", tt.device, now.Device, tt.want, err)
		}
		f, err := was.OpenExecutable()
		if (err == nil) != (tt.device == tt.want) {
			t.Errorf("device %d: opened: %v", tt.device, err)
		}
		if err == nil {
			f.Close()
		}
	}
}

func TestViewSpread(t *testing.T) {
	pair := testenv.Veth(t)
	testenv.IP(t, pair.B.Netns, "link", "add", "veth5", "type", "veth", "peer", "name", "other")
	a := manifest.Attach{Program: "p", Interface: "veth*", Netns: pair.B.Netns, Direction: "egress"}
	base := Target{Program: "p", Kind: kindTCX, AttachType: "tcx_egress", Netns: pair.B.Netns, Interface: "veth9"}
	all, err := NewView().Spread(base, a)
	var names []string
	for _, t := range all {
		names = append(names, t.Link)
	}
	if err != nil || !slices.EqualFunc(names, []string{"-veth0-egress", "-veth5-egress"}, strings.Contains) {
		t.Errorf("%q, %v", names, err)
	}
	for what, other := range map[string]manifest.Attach{
		"direction": {Program: "p", Interface: "veth*", Netns: pair.B.Netns, Direction: "ingress"},
		"pattern":   {Program: "p", Interface: "eth*", Netns: pair.B.Netns, Direction: "egress"},
		"program":   {Program: "q", Interface: "veth*", Netns: pair.B.Netns, Direction: "egress"},
		"namespace": {Program: "p", Interface: "veth*", Direction: "egress"},
	} {
		if base.From(other) {
			t.Errorf("another %s: it is from there", what)
		}
	}
	if !base.From(a) {
		t.Error("it is not from where it is")
	}
}

// TestPlaces: watched is the nearest directory that is there.
func TestPlaces(t *testing.T) {
	dir := t.TempDir()
	lib := t.TempDir()
	got := Places([]Target{{Cgroup: dir + "/a/b/c"}, {Netns: dir + "/x"}, {Executable: lib + "/x.so"}, {}}, []manifest.Attach{{Executable: "/no/such"}})
	if want := []string{"/", dir, lib}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestReadOnce: an executable that has no such symbol is read once, and again when
// it has changed.
func TestReadOnce(t *testing.T) {
	name := filepath.Join(t.TempDir(), "x")
	lib, err := os.ReadFile(libc(t))
	if err == nil {
		err = os.WriteFile(name, lib, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{kindPerfEvent, kindUprobeMulti} {
		var s Symbols
		gone := Target{Kind: kind, Executable: name, Symbol: "no_such", Inode: 1}
		again := func() Target {
			now, err := NewViewWith(&s).Again(gone)
			if err == nil || !strings.Contains(err.Error(), "no_such") {
				t.Fatal(err)
			}
			return now
		}
		again()
		if n := testing.AllocsPerRun(5, func() { again() }); n > 40 {
			t.Errorf("%s: %v allocations: it is read again", kind, n)
		}
		there := gone
		there.Symbol = "exit"
		want, err := NewView().Again(there)
		got, err2 := NewViewWith(&s).Again(there)
		if err != nil || err2 != nil || !reflect.DeepEqual(got, want) || got.Offset == 0 && len(got.Offsets) == 0 {
			t.Errorf("%+v, want %+v; %v, %v", got, want, err, err2)
		}
		if err := os.Truncate(name, int64(len(lib)/2)); err != nil {
			t.Fatal(err)
		}
		if now, err := NewViewWith(&s).Again(there); err == nil {
			t.Errorf("half of it: %+v", now)
		}
		if err := os.WriteFile(name, lib, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}
