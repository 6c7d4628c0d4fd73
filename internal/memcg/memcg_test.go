package memcg

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// TestMain runs what is to run in a cgroup of its own: this program under another
// name.
func TestMain(m *testing.M) {
	if child, ok := children[os.Args[0]]; ok {
		fmt.Print(child(os.Args[1]))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

var children = map[string]func(mount string) error{
	"test-take": func(mount string) error { _, err := take(mount); return err },
	"test-life": life,
}

// within runs a child in a cgroup that is marked as systemd marks one, or not, beside
// others or alone, and returns what it says.
func within(t *testing.T, dir, child, mark string) string {
	t.Helper()
	if mark != "" {
		if err := unix.Setxattr(dir, "user.delegate", []byte(mark), 0); err != nil {
			t.Fatal(err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := testenv.CgroupCommand(t, dir, self, testenv.CgroupRoot(t))
	cmd.Args[0] = child
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// counted makes a cgroup in which memory is counted.
func counted(t *testing.T) string {
	t.Helper()
	root := testenv.CgroupRoot(t)
	b, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil {
		t.Fatal(err)
	}
	if !hasWord(string(b), "memory") {
		t.Skip("memory is no controller of cgroup2 here")
	}
	if err := write(filepath.Join(root, "cgroup.subtree_control"), "+memory"); err != nil {
		t.Fatal(err)
	}
	return testenv.Cgroup(t)
}

// Where hornetd may not divide its cgroup nothing is touched, and the reason told.
func TestNotDelegated(t *testing.T) {
	testenv.RequireRoot(t)
	for _, mark := range []string{"", "0"} {
		dir := testenv.Cgroup(t)
		if said := within(t, dir, "test-take", mark); said != "cgroup "+dir+" is not delegated to hornetd" {
			t.Errorf("marked %q: %s", mark, said)
		}
		empty(t, dir)
	}
	dir := testenv.Cgroup(t) // directly below the root, which hands on no memory unless somebody has it do so
	if b, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers")); err != nil || !hasWord(string(b), "memory") {
		if said := within(t, dir, "test-take", "1"); said != "cgroup "+dir+" has no memory controller" {
			t.Error(said)
		}
		empty(t, dir)
	}
}

func TestNotAlone(t *testing.T) {
	testenv.RequireRoot(t)
	dir := counted(t)
	other := testenv.CgroupCommand(t, dir, "sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	if said := within(t, dir, "test-take", "1"); said != "cgroup "+dir+" has other processes than hornetd" {
		t.Error(said)
	}
	empty(t, dir)
}

func empty(t *testing.T, dir string) {
	t.Helper()
	if below, err := filepath.Glob(dir + "/*/"); err != nil || len(below) != 0 {
		t.Errorf("it has made %v, %v", below, err)
	}
}

func TestLife(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.NoLeaks(t)
	dir := counted(t)
	if err := write(filepath.Join(dir, "memory.max"), fmt.Sprint(512<<20)); err != nil {
		t.Fatal(err)
	}
	if said := within(t, dir, "test-life", "1"); said != "<nil>" {
		t.Error(said)
	}
}

func take(mount string) (*Tree, error) {
	own, err := Own()
	if err != nil {
		return nil, err
	}
	return Take(mount, own)
}

// life is what hornetd does with cgroups, in one.
func life(mount string) error {
	t, err := take(mount)
	if err != nil {
		return err
	}
	if self, err := Own(); err != nil || filepath.Join(mount, self) != filepath.Join(t.unit, daemonLeaf) {
		return fmt.Errorf("it is in %s, %v", self, err)
	}
	const size = 32 << 20
	r, err := t.Room("big", size, 0)
	if err != nil {
		return err
	}
	if r.Most < size+slack || r.Most > size+2*slack || r.Unit != 512<<20-reserve {
		return fmt.Errorf("bounds %+v", r)
	}
	for _, w := range []struct {
		file string
		want uint64
	}{{"maps/memory.max", r.Unit}, {"maps/big/memory.max", r.Most &^ 4095}, {"maps/big/memory.oom.group", 1}} {
		if got, _, err := read(filepath.Join(t.unit, w.file)); err != nil || got != w.want {
			return fmt.Errorf("%s is %d, %v, want %d", w.file, got, err, w.want)
		}
	}
	held, err := charge(t, r, size)
	if err != nil {
		return err
	}
	defer held.Close()
	u, ok := t.Usage("big")
	if !ok || u.Bytes < size || u.Bytes > size+slack || u.Cgroup != t.of("big") || u.Most != r.Most&^4095 {
		return fmt.Errorf("usage %+v, %t", u, ok)
	}
	if _, err := charge(t, r, 2*size); !errors.Is(err, unix.ENOMEM) {
		return fmt.Errorf("a map of more than it may have: %v", err)
	}

	// Another load in its place has room beside it, and failing leaves what there was.
	again, err := t.Room("big", size, size)
	if err != nil {
		return err
	}
	if again.Most < u.Bytes+size || again.Most > u.Bytes+size+2*slack {
		return fmt.Errorf("%d for a second one beside %d", again.Most, u.Bytes)
	}
	if alone, err := t.Room("big", 4*size, size); err != nil || alone.Most != 4*size+slack {
		return fmt.Errorf("%d, %v, where what runs may have more than both", alone.Most, err)
	}
	if less, err := t.Room("big", 0, 0); err != nil || less.Most < 4*size+slack {
		return fmt.Errorf("%d, %v: what runs may grow less while another one is made", less.Most, err)
	}
	// What runs then may have its own, as soon as the first one is given back.
	if over, err := t.Tighten("big", size); err != nil || !over {
		return fmt.Errorf("over %t, %v, while both are charged", over, err)
	}
	if now, _ := t.Usage("big"); now.Most < u.Bytes || now.Most > u.Bytes+2*slack {
		return fmt.Errorf("its limit is %d, and charged are %d", now.Most, u.Bytes)
	}
	if over, err := t.Tighten("big", 4*size); err != nil || over {
		return fmt.Errorf("over %t, %v", over, err)
	}
	if now, _ := t.Usage("big"); now.Most > u.Bytes+2*slack {
		return fmt.Errorf("it was made more: %d", now.Most)
	}
	if over, err := t.Tighten("never", size); err != nil || over || t.Has("never") {
		return fmt.Errorf("one that is not there: over %t, %v", over, err)
	}
	if err := again.Undo(); err != nil {
		return err
	}
	if now, _ := t.Usage("big"); now.Most != u.Most {
		return fmt.Errorf("its limit was %d and is %d", u.Most, now.Most)
	}
	small, err := t.Room("small", 0, 0)
	if err != nil {
		return err
	}
	if names, err := t.Names(); err != nil || !slices.Equal(names, []string{"big", "small"}) {
		return fmt.Errorf("names %v, %v", names, err)
	}
	if err := small.Undo(); err != nil || t.Has("small") || !t.Has("big") {
		return fmt.Errorf("undone: %v", err)
	}

	// What is still charged goes to the one above, and when it is given back it is.
	if err := errors.Join(t.Remove("big"), t.Remove("big"), t.Remove("never")); err != nil {
		return err
	}
	if names, err := t.Names(); err != nil || len(names) != 0 || t.Has("big") {
		return fmt.Errorf("names %v, %v", names, err)
	}
	if _, ok := t.Usage("big"); ok {
		return errors.New("it has a usage")
	}
	if all := t.All(); all.Bytes < size {
		return fmt.Errorf("all %+v", all)
	}
	held.Close()
	for deadline := time.Now().Add(20 * time.Second); t.All().Bytes >= size; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return fmt.Errorf("all are %+v still", t.All())
		}
	}
	// A limit of the unit's that is small leaves half of it, and none none.
	for text, want := range map[string]uint64{"104857600": 50 << 20, "max": 0} {
		if err := write(filepath.Join(t.unit, "memory.max"), text); err != nil {
			return err
		}
		if got, err := t.bound(); err != nil || got != want {
			return fmt.Errorf("of %s maps may have %d, %v", text, got, err)
		}
	}
	return nil
}

// charge makes a map as a process that has joined, and comes back.
func charge(t *Tree, r *Room, size uint32) (*ebpf.Map, error) {
	if err := r.Join(os.Getpid()); err != nil {
		return nil, err
	}
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4096, MaxEntries: size / 4096})
	return m, errors.Join(err, write(filepath.Join(t.unit, daemonLeaf, "cgroup.procs"), "0"))
}

// The cgroup of this process is found as the kernel's own tools find it.
func TestOwn(t *testing.T) {
	got, err := Own()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("sed", "-n", "s/^0:://p", "/proc/self/cgroup").Output()
	if err != nil {
		t.Fatal(err)
	}
	if want := string(bytes.TrimSpace(out)); got != want || strings.Contains(got, "..") {
		t.Errorf("%q, want %q", got, want)
	}
}

// The least of what the unit and all that it is in may have counts, as the files say.
func TestLimit(t *testing.T) {
	top := t.TempDir()
	slice := filepath.Join(top, "a.slice")
	unit := filepath.Join(slice, "a.service")
	cgroups(t, slice, unit)
	say := func(dir, most, high string) {
		for file, text := range map[string]string{"memory.max": most, "memory.high": high} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		max, high, sliceMax, sliceHigh string
		want                           uint64
		ok                             bool
	}{
		{"max", "max", "max", "max", 0, false},
		{"4096", "max", "max", "max", 4096, true},
		{"8192", "4096", "max", "max", 4096, true},
		{"8192", "max", "4096", "max", 4096, true},
		{"max", "max", "max", "0", 0, true},
		{"4096", "8192", "8192", "12288", 4096, true},
	} {
		say(unit, tt.max, tt.high)
		say(slice, tt.sliceMax, tt.sliceHigh)
		if n, ok, err := (&Tree{unit}).limit(); n != tt.want || ok != tt.ok || err != nil {
			t.Errorf("%+v: %d, %t, %v", tt, n, ok, err)
		}
	}
	say(slice, "lots", "max")
	if n, ok, err := (&Tree{unit}).limit(); err == nil {
		t.Errorf("%d, %t", n, ok)
	}
}

// cgroups makes directories that look like cgroups, in this order.
func cgroups(t *testing.T, dirs ...string) {
	t.Helper()
	for _, dir := range dirs {
		if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(filepath.Join(dir, "cgroup.procs"), nil, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
}

// What is left is what no bound of a cgroup or one above it takes away, less what hornetd
// keeps; what the kernel can take back is none of it.
func TestLeft(t *testing.T) {
	const mib = 1 << 20
	top := t.TempDir()
	unit := filepath.Join(top, "a.slice/a.service")
	cgroups(t, filepath.Dir(unit), unit, filepath.Join(unit, "daemon")) // the controller is not handed on to the last
	say := func(dir string, most, used, files uint64) {
		text := "max"
		if most > 0 {
			text = fmt.Sprint(most)
		}
		for file, text := range map[string]string{"memory.max": text, "memory.high": "max", "memory.current": fmt.Sprint(used),
			"memory.stat": fmt.Sprintf("anon 7\nactive_file %d\ninactive_file %d\nslab_reclaimable %d\nslab 9\n", files/2, files/4, files/4)} {
			if err := os.WriteFile(filepath.Join(dir, file), []byte(text+"\n"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, tt := range []struct {
		unit, slice [3]uint64
		want        uint64
		ok          bool
	}{
		{[3]uint64{0, 9 * mib, 0}, [3]uint64{0, 9 * mib, 0}, 0, false},
		{[3]uint64{256 * mib, 50 * mib, 10 * mib}, [3]uint64{0, 900 * mib, 0}, (256 - 64 - 40) * mib, true},
		{[3]uint64{256 * mib, 50 * mib, 10 * mib}, [3]uint64{512 * mib, 440 * mib, 40 * mib}, (512 - 64 - 400) * mib, true},
		{[3]uint64{100 * mib, 20 * mib, 0}, [3]uint64{0, 0, 0}, 30 * mib, true},
		{[3]uint64{256 * mib, 250 * mib, 0}, [3]uint64{0, 0, 0}, 0, true},
		{[3]uint64{256 * mib, 4 * mib, 40 * mib}, [3]uint64{0, 0, 0}, 192 * mib, true},
	} {
		say(unit, tt.unit[0], tt.unit[1], tt.unit[2])
		say(filepath.Dir(unit), tt.slice[0], tt.slice[1], tt.slice[2])
		for _, own := range []string{"/a.slice/a.service", "/a.slice/a.service/daemon"} {
			if n, ok, err := Left(top, own); n != tt.want || ok != tt.ok || err != nil {
				t.Errorf("%+v: %s: %d, %t, %v", tt, own, n, ok, err)
			}
		}
	}
	if err := os.Remove(filepath.Join(unit, "memory.stat")); err != nil {
		t.Fatal(err)
	}
	if n, ok, err := Left(top, "/a.slice/a.service"); err == nil {
		t.Errorf("%d, %t", n, ok)
	}
}

// What somebody has mounted where the cgroups are is no cgroup, and no file of it goes.
func TestRemoveLeavesFiles(t *testing.T) {
	tree := &Tree{unit: t.TempDir()}
	file := tree.of("pin")
	if err := errors.Join(os.Mkdir(filepath.Dir(file), 0o700), os.WriteFile(file, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	if err := tree.Remove("pin"); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("Remove: %v", err)
	}
	if _, err := os.Stat(file); err != nil {
		t.Error(err)
	}
}
