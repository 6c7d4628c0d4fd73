package pinning

import (
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// Every one of these lies where a collection should; none of them is adopted,
// none of them is touched.
func TestLoadRefuses(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	id := commit(t, s, "good")
	good, err := json.Marshal(load(t, s, "good").Record)
	must(t, err)
	rename := func(n string) string { return strings.Replace(string(good), `"name":"good"`, `"name":"`+n+`"`, 1) }

	for n, tc := range map[string]struct {
		make func(dir string) error
		want error
	}{
		"missing":         {func(dir string) error { return nil }, ErrNotExist},
		"empty":           {func(dir string) error { return os.Mkdir(dir, 0o700) }, ErrCorrupt},
		"symlink":         {func(dir string) error { return os.Symlink("good", dir) }, ErrCorrupt},
		"pin":             {func(dir string) error { return pinValue(t, dir, "x", true) }, ErrCorrupt},
		"not-frozen":      {withRecord(t, rename("not-frozen"), false), ErrCorrupt},
		"no-json":         {withRecord(t, "hello", true), ErrCorrupt},
		"other-name":      {withRecord(t, string(good), true), ErrCorrupt},
		"newer":           {withRecord(t, strings.Replace(rename("newer"), `"format":4`, `"format":5,"mood":"good"`, 1), true), ErrNewerRecord},
		"record-is-a-dir": {func(dir string) error { return os.MkdirAll(dir+"/record", 0o700) }, ErrCorrupt},
		"record-is-a-link": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), os.Symlink("../nowhere", dir+"/record"))
		}, ErrCorrupt},
		"record-is-a-program": {func(dir string) error {
			return errors.Join(os.Mkdir(dir, 0o700), newObjects(t).programs["count"].Pin(dir+"/record"))
		}, ErrCorrupt},
		"record-is-a-hash": {func(dir string) error {
			m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Hash, KeySize: 4, ValueSize: 8, MaxEntries: 1})
			if err != nil {
				return err
			}
			defer m.Close()
			return errors.Join(os.Mkdir(dir, 0o700), m.Freeze(), m.Pin(dir+"/record"))
		}, ErrCorrupt},
		"record-too-large": {withRecord(t, rename("record-too-large")+strings.Repeat(" ", maxRecord), true), ErrCorrupt},
	} {
		must(t, tc.make(root+"/"+n))
		before := tree(t, root)
		e, err := s.Load(name(t, n))
		if err == nil {
			e.Close()
		}
		if !errors.Is(err, tc.want) || !strings.Contains(err.Error(), n) {
			t.Errorf("%s: %v, want %v", n, err, tc.want)
		}
		if tc.want != ErrNotExist && errors.Is(err, ErrNotExist) {
			t.Errorf("%s: %v is ErrNotExist: it would be loaded over", n, err)
		}
		if diff := cmp.Diff(before, tree(t, root)); diff != "" {
			t.Errorf("%s: Load changed something:\n%s", n, diff)
		}
	}
	if _, err := s.Load(Name{}); !errors.Is(err, ErrNotExist) {
		t.Errorf("the zero name: %v", err)
	}
	if !attached(id) {
		t.Error("a healthy link was detached")
	}
}

// pinValue pins an array map of one value, as a record is.
func pinValue(t *testing.T, path, value string, freeze bool) error {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: uint32(len(value)), MaxEntries: 1})
	if err != nil {
		return err
	}
	defer m.Close()
	if err := m.Put(uint32(0), []byte(value)); err != nil {
		return err
	}
	if freeze {
		if err := m.Freeze(); err != nil {
			return err
		}
	}
	return m.Pin(path)
}

func withRecord(t *testing.T, value string, freeze bool) func(dir string) error {
	return func(dir string) error {
		return errors.Join(os.Mkdir(dir, 0o700), pinValue(t, dir+"/record", value, freeze))
	}
}

// Lose any pin, add any file: the entry still loads, says so, opens what is
// there and follows nothing.
func TestLoadReportsDrift(t *testing.T) {
	for what, tc := range map[string]struct {
		change           func(dir string) error
		missing, foreign []string
	}{
		"nothing":             {func(dir string) error { return nil }, nil, nil},
		"a map is gone":       {func(dir string) error { return os.Remove(dir + "/maps/hits") }, []string{"maps/hits"}, nil},
		"the program is gone": {func(dir string) error { return os.Remove(dir + "/programs/count") }, []string{"programs/count"}, nil},
		"the link is gone":    {func(dir string) error { return os.Remove(dir + "/links/exec") }, []string{"links/exec"}, nil},
		"links/ is gone":      {func(dir string) error { return os.RemoveAll(dir + "/links") }, []string{"links/exec"}, nil},
		"maps/ is elsewhere": {func(dir string) error {
			return errors.Join(os.Rename(dir+"/maps", dir+"/maps2"), os.Symlink("maps2", dir+"/maps"))
		}, []string{"maps/_rodata", "maps/hits"}, []string{"maps", "maps2"}},
		"a pin more":      {func(dir string) error { return os.Link(dir+"/maps/hits", dir+"/maps/more") }, nil, []string{"maps/more"}},
		"a pin above":     {func(dir string) error { return os.Link(dir+"/maps/hits", dir+"/intent") }, nil, []string{"intent"}},
		"a directory":     {func(dir string) error { return os.Mkdir(dir+"/links/sub", 0o700) }, nil, []string{"links/sub"}},
		"a symbolic link": {func(dir string) error { return os.Symlink("/etc/passwd", dir+"/programs/x") }, nil, []string{"programs/x"}},
		"a pin is a symbolic link": {func(dir string) error {
			return errors.Join(os.Rename(dir+"/maps/hits", dir+"/maps/moved"), os.Symlink("moved", dir+"/maps/hits"))
		}, []string{"maps/hits"}, []string{"maps/hits", "maps/moved"}},
		"a pin is a directory": {func(dir string) error {
			return errors.Join(os.Remove(dir+"/maps/hits"), os.Mkdir(dir+"/maps/hits", 0o700))
		}, []string{"maps/hits"}, []string{"maps/hits"}},
	} {
		t.Run(what, func(t *testing.T) {
			root := bpffs(t)
			s := open(t, root)
			commit(t, s, "a")
			must(t, tc.change(root+"/a"))
			e := load(t, s, "a")
			less := func(in []string) map[string]bool { // order does not matter
				set := map[string]bool{}
				for _, s := range in {
					set[s] = true
				}
				return set
			}
			if diff := cmp.Diff(less(tc.missing), less(e.Missing)); diff != "" {
				t.Errorf("missing:\n%s", diff)
			}
			if diff := cmp.Diff(less(tc.foreign), less(e.Foreign)); diff != "" {
				t.Errorf("foreign:\n%s", diff)
			}
			m, err := e.Map("hits")
			if less(tc.missing)["maps/hits"] != errors.Is(err, ErrNotExist) {
				t.Errorf("Map = %v, %v", m, err)
			}
			if err == nil {
				m.Close()
			}
		})
	}
}

func TestEntryOpensOnlyWhatItIs(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	commit(t, s, "a")
	must(t, os.Rename(root+"/a/maps/hits", root+"/a/maps/tmp"))
	must(t, os.Rename(root+"/a/programs/count", root+"/a/maps/hits"))
	must(t, os.Rename(root+"/a/links/exec", root+"/a/programs/count"))
	must(t, os.Rename(root+"/a/maps/tmp", root+"/a/links/exec"))
	e := load(t, s, "a")
	if m, err := e.Map("hits"); err == nil {
		t.Errorf("a program was opened as map %v", m)
	}
	if p, err := e.Program("count"); err == nil {
		t.Errorf("a link was opened as program %v", p)
	}
	if l, err := e.Link("exec"); err == nil {
		t.Errorf("a map was opened as link %v", l)
	}
	for _, n := range []string{"nothing", "../../record", ""} {
		if _, err := e.Map(n); !errors.Is(err, ErrNotExist) {
			t.Errorf("Map(%q) = %v, want ErrNotExist", n, err)
		}
	}
}

// An entry is held: it does not become another one when its name does.
func TestEntryStaysItself(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	id := commit(t, s, "a")
	e := load(t, s, "a")
	dir, err := s.Quarantine(name(t, "a"))
	must(t, err)
	commit(t, s, "a")
	l, err := e.Link("exec")
	must(t, err)
	if got := idOf(t, l); got != id {
		t.Errorf("link %d, want %d", got, id)
	}
	l.Close()
	must(t, s.RemoveQuarantined(dir))
}

// Readers need no lock: while a collection is replaced, removed and made again,
// it is there whole or not at all.
func TestLoadWhileItChanges(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	o := newObjects(t)
	o.links["exec"].Close()
	delete(o.links, "exec") // held by o, it would keep Remove waiting
	n := name(t, "a")
	done := make(chan error)
	go func() {
		var err error
		for i := 0; i < 300 && err == nil; i++ {
			var st *Stage
			if st, err = s.Stage(n); err == nil {
				err = errors.Join(stageAll(st, o), st.Commit())
			}
			if err != nil {
				break
			}
			if st, err = s.Restage(n); err == nil {
				err = errors.Join(stageAll(st, o), st.Replace(), s.Remove(n))
			}
		}
		done <- err
	}()
	there := 0
	for {
		select {
		case err := <-done:
			must(t, err)
			if there == 0 {
				t.Error("it was never there")
			}
			return
		default:
		}
		e, err := s.Load(n)
		if err != nil {
			if !errors.Is(err, ErrNotExist) || errors.Is(err, ErrCorrupt) {
				t.Errorf("Load = %v", err)
			}
			continue
		}
		there++
		if len(e.Missing)+len(e.Foreign) != 0 {
			t.Errorf("missing %q, foreign %q", e.Missing, e.Foreign)
		}
		e.Close()
	}
}

// Descriptors come back.
func TestNoDescriptorLeaks(t *testing.T) {
	root := bpffs(t)
	count := func() int {
		d, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(d)
	}
	s := open(t, root)
	round := func() {
		commit(t, s, "a")
		e := load(t, s, "a")
		for _, n := range []string{"b", "a"} { // one missing, one there
			if other, err := s.Load(name(t, n)); err == nil {
				other.Close()
			}
		}
		e.Close()
		dir, err := s.Quarantine(name(t, "a"))
		must(t, err)
		must(t, s.RemoveQuarantined(dir))
		if _, err := Open(root); err == nil {
			t.Error("opened twice")
		}
		if _, err := s.Sweep(); err != nil {
			t.Error(err)
		}
	}
	round()
	before := count()
	for range 20 {
		round()
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
	var st unix.Statfs_t
	must(t, unix.Statfs(root, &st))
}
