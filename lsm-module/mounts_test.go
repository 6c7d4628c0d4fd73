package lsm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// tree is a tmpfs in a directory, shared, and in it a bpffs once more.
func tree(t *testing.T, bpffs string) (top string) {
	t.Helper()
	top = t.TempDir()
	in := filepath.Join(top, "in")
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(in, 0o755), unix.Mount("tmpfs", in, "tmpfs", 0, ""), unix.Mount("", in, "", unix.MS_SHARED, ""))
	t.Cleanup(func() { unix.Unmount(in, unix.MNT_DETACH) })
	first, place := filepath.Join(in, "first"), filepath.Join(in, "bpf")
	must(os.Mkdir(first, 0o755), unix.Mount("tmpfs", first, "tmpfs", 0, "")) // which comes before it
	must(os.Mkdir(place, 0o755), os.Mkdir(filepath.Join(in, "other"), 0o755), unix.Mount(bpffs, place, "", unix.MS_BIND, ""))
	return top
}

// The pins are kept by mounts, and mounts end in more ways than by umount(2) of theirs.
// Nobody ends the first process's from another namespace.
func TestMountsElsewhere(t *testing.T) {
	guestOnly(t)
	all := [][2]string{
		{"what has slaves", "EPERM"},
		{"the place itself", "EPERM"},
		{"the place of what it is in", "EPERM"},
		{"the place, renamed over", "EPERM"},
		{"the place, renamed away", "EPERM"},
		{"something else at the place", "EPERM"},
		{"the place, behind decoys", "EPERM"},
		{"moved to a process", "EPERM"},
		{"moved by mount(2)", "EPERM"},
		{"moved onto what is there", "EPERM"},
		{"moved to a directory", "ok"},
		{"the root, to a process", "EPERM"},
		{"another place", "ok"},
		{"another place in what is ours", "ok"},
		{"another place of others', too", "ok"},
		{"another's place", "ok"},
	}
	// So many places are there at once as a guard has room for.
	for some := range slices.Chunk(all, 4) {
		t.Run(some[0][0], func(t *testing.T) {
			bpffs := testenv.BPFFS(t)
			tops := map[string]string{}
			for _, tt := range some {
				tops[tt[0]] = tree(t, bpffs)
			}
			g := armIn(t, filepath.Join(bpffs, "guard"), nil)
			for _, tt := range some {
				out, err := child("unmounts", nil, tt[0], tops[tt[0]]).CombinedOutput()
				if got := strings.TrimSpace(string(out)); err != nil || got != tt[1] {
					t.Errorf("%s: %s, %v, want %s", tt[0], got, err, tt[1])
				}
				if _, err := os.Stat(filepath.Join(tops[tt[0]], "in", "bpf", filepath.Base(g.dir))); err != nil {
					t.Errorf("%s: its pins: %v", tt[0], err)
				}
			}
		})
	}
}

// What others mount of the pins' bpffs, as mount --rbind /sys does, they can unmount, however
// often; what was there when the guard was armed stays.
func TestMountsCopied(t *testing.T) {
	guestOnly(t)
	bpffs := testenv.BPFFS(t)
	top := tree(t, bpffs)
	armIn(t, filepath.Join(bpffs, "guard"), nil)
	out, err := child("copies", nil, filepath.Join(top, "in")).CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "ok ok ok EPERM" {
		t.Errorf("another mount, the tree of a copy, a copy, and what it is of: %s, %v, want ok ok ok EPERM", got, err)
	}
}

// While a guard only tells everybody changes mounts: what it keeps is what is there when it
// begins to enforce.
func TestMountsBeforeEnforce(t *testing.T) {
	guestOnly(t)
	for what, enforce := range map[string]func(*Guard) error{
		"mode": func(g *Guard) error { return g.SetMode(Enforce, time.Minute) },
		"upgrade": func(g *Guard) error {
			next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)})
			if err == nil {
				*g = *next
			}
			return err
		},
	} {
		t.Run(what, func(t *testing.T) {
			bpffs, aside := testenv.BPFFS(t), t.TempDir()
			g := armIn(t, filepath.Join(bpffs, "guard"), func(c *Config) { c.Mode, c.ConfirmWithin = Audit, 0 })
			for _, err := range []error{
				unix.Mount(bpffs, aside, "", unix.MS_BIND, ""), unix.Unmount(bpffs, unix.MNT_DETACH),
				unix.Mount(aside, bpffs, "", unix.MS_BIND, ""), unix.Unmount(aside, unix.MNT_DETACH), enforce(g),
			} {
				if err != nil {
					t.Fatal(err)
				}
			}
			out, err := child("tries", nil, "umount="+bpffs).CombinedOutput()
			if got := strings.TrimSpace(string(out)); err != nil || got != "EPERM" {
				t.Errorf("umount of what is there since: %s, %v, want EPERM", got, err)
			}
		})
	}
}

// Of sixteen places none is forgotten, nor that there are more.
func TestMountsFill(t *testing.T) {
	guestOnly(t)
	bpffs, in := testenv.BPFFS(t), t.TempDir()
	if err := unix.Mount("tmpfs", in, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(in, unix.MNT_DETACH) })
	another := func(i int) {
		t.Helper()
		at := filepath.Join(in, fmt.Sprint(i))
		if err := errors.Join(os.Mkdir(at, 0o755), unix.Mount(bpffs, at, "", unix.MS_BIND, "")); err != nil {
			t.Fatal(err)
		}
	}
	for i := range keptMounts + 1 { // with which none is a copy
		another(i)
	}
	armIn(t, filepath.Join(bpffs, "guard"), nil)
	for i := keptMounts + 1; i < 18; i++ {
		another(i)
		out, err := child("removes", nil, bpffs).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != "EPERM" {
			t.Fatalf("the first of %d places, removed: %s, %v, want EPERM", i+3, got, err)
		}
	}
}

// childRemoves removes a place on which it sees nothing mounted.
func childRemoves(args []string) error {
	runtime.LockOSThread()
	if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Unmount(args[0], unix.MNT_DETACH)); err != nil {
		return err
	}
	fmt.Println(answer(unix.Rmdir(args[0])))
	return nil
}

// childCopies mounts a tree often, and unmounts something else, what it has mounted, and
// then the pins.
func childCopies(args []string) error {
	in := args[0]
	other, copies := filepath.Join(in, "other"), filepath.Join(filepath.Dir(in), "copies")
	if err := errors.Join(os.Mkdir(copies, 0o755), unix.Mount("tmpfs", copies, "tmpfs", 0, "")); err != nil {
		return err
	}
	defer unix.Unmount(copies, unix.MNT_DETACH)
	var first string
	for i := range 20 {
		at := filepath.Join(copies, fmt.Sprint(i))
		if err := errors.Join(os.Mkdir(at, 0o755), unix.Mount(in, at, "", unix.MS_BIND|unix.MS_REC, ""), unix.Mount("", at, "", unix.MS_SLAVE|unix.MS_REC, "")); err != nil {
			return err
		}
		first = at
	}
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, ""); err != nil {
		return err
	}
	fmt.Println(answer(unix.Unmount(other, unix.MNT_DETACH)), answer(unix.Unmount(first, unix.MNT_DETACH)),
		answer(unix.Unmount(filepath.Join(copies, "0", "bpf"), 0)), answer(unix.Unmount(filepath.Join(in, "bpf"), unix.MNT_DETACH)))
	return nil
}

// childUnmounts does one of them, below a directory. Everything before it goes through.
func childUnmounts(args []string) error {
	runtime.LockOSThread()
	in := filepath.Join(args[1], "in")
	bpf, other := filepath.Join(in, "bpf"), filepath.Join(in, "other")
	// private leaves the first process's namespace, and there unmounts a place.
	private := func(place string) error {
		return errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Unmount(place, unix.MNT_DETACH))
	}
	var before, last error
	switch args[0] {
	case "what has slaves":
		before = slaves(in)
		last = unix.Unmount(bpf, unix.MNT_DETACH)
	case "the place itself":
		before, last = private(bpf), unix.Rmdir(bpf)
	case "the place of what it is in":
		before, last = private(in), unix.Rmdir(in)
	case "the place, renamed over":
		before, last = private(bpf), unix.Rename(other, bpf)
	case "the place, renamed away":
		before, last = private(bpf), unix.Rename(bpf, filepath.Join(in, "away"))
	case "something else at the place":
		before = impostor(in, bpf)
		last = unix.Unmount(bpf, unix.MNT_DETACH)
	case "the place, behind decoys":
		before = errors.Join(unix.Mount("", in, "", unix.MS_PRIVATE, ""), decoys(filepath.Join(in, "first"), bpf), private(in))
		last = unix.Rmdir(in)
	case "moved to a process", "moved by mount(2)", "moved onto what is there", "moved to a directory":
		last = moved(in, args[0])
	case "the root, to a process":
		last = pivoted(filepath.Join(in, "first"))
	case "another place":
		before, last = private(bpf), unix.Rmdir(other)
	case "another's place":
		var theirs *os.File
		theirs, before = aside(func() error {
			return errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("tmpfs", other, "tmpfs", 0, ""))
		})
		defer theirs.Close()
		last = unix.Rmdir(other)
	case "another place of others', too":
		var theirs *os.File
		theirs, before = aside(func() error { return nil }) // has a peer of it
		defer theirs.Close()
		before = errors.Join(before, unix.Mount("tmpfs", other, "tmpfs", 0, ""))
		last = unix.Unmount(other, unix.MNT_DETACH)
	case "another place in what is ours":
		before = unix.Mount("tmpfs", other, "tmpfs", 0, "")
		last = unix.Unmount(other, unix.MNT_DETACH)
	}
	if before != nil {
		return before
	}
	fmt.Println(answer(last))
	return nil
}

// aside has something done in a mount namespace of its own, which stays while it is open.
func aside(do func() error) (*os.File, error) {
	home, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	defer home.Close()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, err
	}
	theirs, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	return theirs, errors.Join(do(), unix.Unshare(unix.CLONE_FS), unix.Setns(int(home.Fd()), unix.CLONE_NEWNS))
}

// slaves leaves the calling thread in a namespace whose mount has the first process's
// as a slave.
func slaves(top string) error {
	peer, err := aside(func() error { return nil })
	if err != nil {
		return err
	}
	defer peer.Close()
	return errors.Join(unix.Mount("", top, "", unix.MS_SLAVE, ""), unix.Setns(int(peer.Fd()), unix.CLONE_NEWNS))
}

// impostor has a tmpfs where the first process has something else, in a mount that it
// then makes a peer of the first process's.
func impostor(top, place string) error {
	const setGroup = 0x100 // MOVE_MOUNT_SET_GROUP, Linux 5.15
	aside := filepath.Join(filepath.Dir(top), "aside")
	err := os.Mkdir(aside, 0o755)
	if err == nil {
		err = unix.Unshare(unix.CLONE_NEWNS)
	}
	for _, do := range []func() error{
		func() error { return unix.Mount(top, aside, "", unix.MS_BIND, "") }, // a peer
		func() error { return unix.Mount("", top, "", unix.MS_PRIVATE, "") },
		func() error { return unix.Unmount(place, unix.MNT_DETACH) },
		func() error { return unix.Mount("tmpfs", place, "tmpfs", 0, "") },
		func() error { return unix.MoveMount(unix.AT_FDCWD, aside, unix.AT_FDCWD, top, setGroup) },
	} {
		if err == nil {
			err = do()
		}
	}
	return err
}

// decoys mounts the bpffs once more, in so many others that the places of those are all
// that a walk has room for.
func decoys(at, bpf string) error {
	for i := range 12 {
		at = filepath.Join(at, "d")
		if err := errors.Join(os.Mkdir(at, 0o755), unix.Mount("tmpfs", at, "tmpfs", 0, "")); err != nil {
			return err
		}
		if i < 9 {
			continue
		}
		decoy := filepath.Join(at, "decoy")
		if err := errors.Join(os.Mkdir(decoy, 0o755), unix.Mount(bpf, decoy, "", unix.MS_BIND, "")); err != nil {
			return err
		}
	}
	return nil
}

// moved moves a mount, which the pins are in, to a place of a process's in /proc, which the
// kernel takes away with it, and takes that away.
func moved(in, how string) error {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	to := fmt.Sprintf("/proc/%d/task", cmd.Process.Pid)
	// Out of a shared mount the kernel moves nothing.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	switch how {
	case "moved by mount(2)":
		return unix.Mount(in, to, "", unix.MS_MOVE, "")
	case "moved onto what is there":
		if err := errors.Join(unix.Mount("tmpfs", to, "tmpfs", 0, ""), os.Mkdir(filepath.Join(to, "d"), 0o755)); err != nil {
			return err
		}
		to = filepath.Join(to, "d")
	case "moved to a directory":
		to = filepath.Join(filepath.Dir(in), "elsewhere")
		if err := os.Mkdir(to, 0o755); err != nil {
			return err
		}
		return errors.Join(unix.MoveMount(unix.AT_FDCWD, in, unix.AT_FDCWD, to, 0), unix.MoveMount(unix.AT_FDCWD, to, unix.AT_FDCWD, in, 0), unix.Mount(in, to, "", unix.MS_MOVE, ""), unix.Mount(to, in, "", unix.MS_MOVE, ""))
	}
	return unix.MoveMount(unix.AT_FDCWD, in, unix.AT_FDCWD, to, 0)
}

// pivoted has the root file system, with all that is in it, mounted in a process's place.
func pivoted(root string) error {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		return err
	}
	defer func() { cmd.Process.Kill(); cmd.Wait() }()
	proc := filepath.Join(root, "proc")
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), os.Mkdir(proc, 0o755), unix.Mount("proc", proc, "proc", 0, "")); err != nil {
		return err
	}
	return unix.PivotRoot(root, fmt.Sprintf("%s/%d/task", proc, cmd.Process.Pid))
}
