package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// There is room for so many executables, and who retires one makes room.
func TestEnrollFull(t *testing.T) {
	g := arm(t, nil)
	dir := t.TempDir()
	enroll := func(i int) (Executable, error) {
		f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
		if err == nil {
			err = f.Close()
		}
		if err == nil {
			f, err = os.Open(f.Name())
		}
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		return g.Enroll(f)
	}
	had, err := g.Enrolled()
	if err != nil {
		t.Fatal(err)
	}
	var last Executable
	for i := len(had); i < 256; i++ {
		if last, err = enroll(i); err != nil {
			t.Fatalf("the %dth: %v", i, err)
		}
	}
	if _, err := enroll(256); !errors.Is(err, unix.ENOSPC) || !strings.Contains(remedy.Of(err), "retire") {
		t.Errorf("one more: %v (%s)", err, remedy.Of(err))
	}
	if err := g.Retire(last); err != nil {
		t.Fatal(err)
	}
	if _, err := enroll(256); err != nil {
		t.Errorf("where one was retired: %v", err)
	}
}

// An executable that is to have a digest is listed while it has it, whatever becomes of
// it while the guard is armed; one that has another keeps the guard from nothing.
func TestListedByDigest(t *testing.T) {
	guestOnly(t)
	exe := copyOf(t, self(t))
	good, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	bad := append(append([]byte{}, good...), 'x') // runs as well
	digest := digestOf(t, exe)
	other := copyOf(t, "/bin/true")
	makes := []uint32{unix.BPF_MAP_CREATE}
	for _, tt := range []struct {
		what   string
		sha256 [32]byte
		before []byte       // what is there
		arming func() error // what is done to it while the guard is filled, and not yet in force
		want   string
		listed error
	}{
		{"any", [32]byte{}, bad, nil, "ok", nil},
		{"it", digest, good, nil, "ok", nil},
		{"another", digest, bad, nil, "EPERM", fs.ErrNotExist},
		{"written meanwhile", digest, good, func() error { return os.WriteFile(exe, bad, 0o755) }, "EPERM", fs.ErrNotExist},
		{"still being written", digest, good, func() error {
			f, err := os.OpenFile(exe, os.O_RDWR, 0)
			if err == nil {
				t.Cleanup(func() { f.Close() })
			}
			return err
		}, "EPERM", fs.ErrNotExist},
	} {
		t.Run(tt.what, func(t *testing.T) {
			if err := os.WriteFile(exe, tt.before, 0o755); err != nil {
				t.Fatal(err)
			}
			file, fileErr := os.Open(exe)
			second, err := os.Open(other)
			if err := errors.Join(fileErr, err); err != nil {
				t.Fatal(err)
			}
			defer file.Close()
			defer second.Close()
			dir := filepath.Join(testenv.BPFFS(t), "guard")
			done := make(chan error, 1)
			go func() {
				if tt.arming == nil {
					done <- nil
					return
				}
				for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(100 * time.Microsecond) {
					if _, err := os.Stat(filepath.Join(dir, "stage-1")); err == nil {
						break
					}
					if time.Now().After(deadline) {
						done <- errors.New("nothing is armed")
						return
					}
				}
				done <- tt.arming()
			}()
			g, err := Arm(dir, Config{Mode: Enforce, ConfirmWithin: 2 * time.Minute, Cgroup: testenv.CgroupRoot(t), Allow: []Identity{
				{Executable: file, SHA256: tt.sha256, Commands: makes}, {Executable: second, SHA256: digestOf(t, other), Signals: true}}})
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := g.Disarm(); err != nil {
					t.Error(err)
				}
			}()
			if err := <-done; err != nil {
				t.Fatal(err)
			}
			if _, err := g.Listed(file); !errors.Is(err, tt.listed) {
				t.Errorf("listed: %v, want %v", err, tt.listed)
			}
			if _, err := g.Listed(second); err != nil {
				t.Errorf("the next one is not: %v", err)
			}
			writes := exec.Command("sh", "-c", "exec 3>>"+exe).Run() == nil // as nobody of hornetd's
			if writes == (tt.listed == nil) {
				t.Errorf("it can be written: %v", writes)
			}
			if tt.what == "still being written" {
				return // and so not to be executed
			}
			_, out := start(t, 0, testenv.CgroupRoot(t), exe, "tries", "map")
			if got := said(t, out); got != tt.want {
				t.Errorf("a map: %s, want %s", got, tt.want)
			}
		})
	}
}

// Two entries for one executable are one that has both; and with hornetd's own, which is
// taken away for its digest, it is hornetd's.
func TestListedTwice(t *testing.T) {
	guestOnly(t)
	exe := copyOf(t, self(t))
	file, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	g := arm(t, func(c *Config) {
		c.Allow = []Identity{{Executable: file, Commands: []uint32{unix.BPF_MAP_CREATE}}, {Executable: file, SHA256: digestOf(t, exe), Commands: []uint32{unix.BPF_PROG_LOAD}, Programs: []uint32{1}}}
	})
	_, out := start(t, 0, testenv.CgroupRoot(t), exe, "tries", "map", "filter")
	if got := said(t, out); got != "ok ok" {
		t.Errorf("a map, a program: %s", got)
	}
	if _, err := g.Enroll(file); err != nil {
		t.Fatal(err)
	}
	if err := g.CheckDigests([]Identity{{Executable: file, SHA256: [32]byte{1}}}); err != nil {
		t.Fatal(err)
	}
	if all, err := g.Enrolled(); err != nil || len(all) != 1 {
		t.Errorf("enrolled %v, %v", all, err)
	}
}

// What is hornetd is hornetd while it is enrolled again, also where it is not then: whoever
// is killed in between leaves it so.
func TestEnrollAgain(t *testing.T) {
	exe := copyOf(t, "/bin/true")
	g := arm(t, nil)
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	e, err := g.Enroll(f)
	if err != nil {
		t.Fatal(err)
	}
	stays := func(what string) {
		t.Helper()
		if all, err := g.Enrolled(); err != nil || len(all) != 1 || all[e] != digestOf(t, exe) {
			t.Errorf("%s: enrolled %v, %v", what, all, err)
		}
	}
	wrong := errors.New("wrong")
	for _, want := range []error{nil, wrong} {
		_, err := g.EnrollIf(f, func() error { stays("while it is looked at"); return want })
		if !errors.Is(err, want) {
			t.Errorf("EnrollIf = %v, want %v", err, want)
		}
		stays("then")
	}
	w, err := os.OpenFile(exe, os.O_WRONLY|os.O_APPEND, 0) // which hornetd may
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enroll(f); !errors.Is(err, unix.ETXTBSY) || remedy.Of(err) == "" {
		t.Errorf("while it is open for writing: %v (%s)", err, remedy.Of(err))
	}
	stays("while it is open for writing")
	_, err = w.WriteString("x")
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enroll(f); err != nil {
		t.Error(err)
	}
	stays("when it has another digest")
}

// Of an overlay of two file systems stat(2) tells another device than the kernel has.
func TestBecomesHornetd(t *testing.T) {
	guestOnly(t)
	dirs := map[string]string{}
	mount := func(dir, kind, options string) {
		t.Helper()
		dirs[dir] = t.TempDir()
		if err := unix.Mount("test", dirs[dir], kind, 0, options); err != nil {
			t.Fatalf("%s: %v", kind, err)
		}
		t.Cleanup(func() {
			if err := unix.Unmount(dirs[dir], unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		})
	}
	mount("lower", "tmpfs", "")
	mount("upper", "tmpfs", "")
	err := errors.Join(os.Mkdir(dirs["upper"]+"/files", 0o755), os.Mkdir(dirs["upper"]+"/work", 0o755))
	for _, name := range []string{"own", "other"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(dirs["lower"], name), []byte("x"), 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	mount("over", "overlay", fmt.Sprintf("lowerdir=%s,upperdir=%[2]s/files,workdir=%[2]s/work,xino=off", dirs["lower"], dirs["upper"]))
	open := func(name string) *os.File {
		t.Helper()
		f, err := os.Open(filepath.Join(dirs["over"], name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	own, other := open("own"), open("other")
	g := arm(t, nil)
	e, err := g.Enroll(own)
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(own.Fd()), &st); err != nil || kernelDevice(st.Dev) == e.Device {
		t.Fatalf("device %d to both, %v", e.Device, err)
	}
	for f, want := range map[*os.File]bool{own: true, open("own"): true, other: false} {
		if is, err := g.BecomesHornetd(f); is != want || err != nil {
			t.Errorf("%s becomes hornetd: %v, %v", f.Name(), is, err)
		}
	}
}

// An upgrade that fails leaves no file for the next one's sake that nobody may write.
func TestUpgradeLetsGo(t *testing.T) {
	listed, written := copyOf(t, "/bin/true"), copyOf(t, "/bin/true")
	g := arm(t, nil)
	w, err := os.OpenFile(written, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	var files []*os.File
	for _, name := range []string{listed, written} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Allow: []Identity{
		{Executable: files[0], SHA256: digestOf(t, listed), Signals: true}, {Executable: files[1], Signals: true}}})
	if next != nil || !errors.Is(err, unix.ETXTBSY) {
		t.Fatalf("upgraded to %v, %v", next, err)
	}
	if _, err := g.Listed(files[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the old guard has it still: %v", err)
	}
	if out, err := exec.Command("sh", "-c", "exec 3>>"+listed).CombinedOutput(); err != nil {
		t.Errorf("it is not to be written: %s", strings.TrimSpace(string(out)))
	}
}

// What a guard knows of executables, and what it has counted, the next one does.
func TestUpgradeKeeps(t *testing.T) {
	exe := copyOf(t, self(t))
	g := arm(t, nil)
	file, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	e, err := g.Enroll(file)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := child("flood", nil, "1", "500").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := child("flood", nil, "100", "64").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	before, err := g.Status()
	if err != nil {
		t.Fatal(err)
	}
	if before.Refused == 0 || before.Suppressed == 0 || before.Lost == 0 || before.Calls == 0 {
		t.Errorf("before: %+v", before)
	}
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	after, err := g.Status()
	if err != nil {
		t.Fatal(err)
	}
	if after.Refused != before.Refused || after.Suppressed != before.Suppressed || after.Lost != before.Lost || after.Calls <= before.Calls {
		t.Errorf("counted %+v, before %+v", after, before)
	}
	if all, err := g.Enrolled(); err != nil || len(all) != 1 || all[e] != digestOf(t, exe) {
		t.Errorf("enrolled %v, %v", all, err)
	}
	if err := g.Retire(e); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Listed(file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("retired, and listed: %v", err)
	}
	if out, err := exec.Command("sh", "-c", "exec 3>>"+exe).CombinedOutput(); err != nil {
		t.Errorf("retired, and not to be written: %s", strings.TrimSpace(string(out)))
	}
}

// Two that are hornetd are each answered what they asked, whoever asks in between.
func TestAnswers(t *testing.T) {
	guestOnly(t)
	home, exe := testenv.Cgroup(t), self(t)
	var files []*os.File
	for _, name := range []string{exe, copyOf(t, exe)} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	g := arm(t, func(c *Config) { c.Cgroup, c.Executables = home, files })
	if err := g.control("ask", opListed, uint64(files[1].Fd())); err != nil {
		t.Fatal(err)
	}
	want, err := g.last()
	if err != nil {
		t.Fatal(err)
	}
	_, out := fromInit(t, home, exe, "adopts", g.dir)
	if got := said(t, out); got != "ok" {
		t.Fatalf("another hornetd: %s", got)
	}
	if got, err := g.last(); err != nil || got != want {
		t.Errorf("it was asked about %+v, and says %+v, %v", want, got, err)
	}
}

// childAdopts takes up a guard, which asks it who this is.
func childAdopts(args []string) error {
	g, err := Adopt(args[0])
	fmt.Println(answer(err))
	if err == nil {
		err = g.Close()
	}
	return err
}
