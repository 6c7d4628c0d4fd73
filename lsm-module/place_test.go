package lsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// What is removed, renamed and taken up lies in the directory that hornetd was shown, and
// not in another one that a symbolic link or a mount in there leads to.
func TestStaysInside(t *testing.T) {
	theirs, ours := testenv.BPFFS(t), testenv.BPFFS(t)
	makeSet := func(set string) {
		t.Helper()
		for _, sub := range []string{"links", "programs", "maps"} {
			if err := os.MkdirAll(filepath.Join(set, sub), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if err := newMap(t).Pin(filepath.Join(set, "maps", "owned")); err != nil {
			t.Fatal(err)
		}
	}
	bind := func(from, to string) {
		t.Helper()
		if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(to, unix.MNT_DETACH) })
	}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	guard := filepath.Join(theirs, "set-1")
	makeSet(guard)
	pin := filepath.Join(guard, "maps", "owned")
	for how, show := range map[string]func(stage string){
		"symbolic link":       func(stage string) { must(os.Symlink(guard, stage)) },
		"mount":               func(stage string) { must(os.Mkdir(stage, 0o700)); bind(guard, stage) },
		"symbolic link in it": func(stage string) { must(os.Mkdir(stage, 0o700)); must(os.Symlink(guard+"/maps", stage+"/maps")) },
		"mount in it": func(stage string) {
			must(os.MkdirAll(stage+"/maps", 0o700))
			bind(guard+"/maps", stage+"/maps")
		},
		"mounted pin": func(stage string) {
			makeSet(stage)
			bind(pin, stage+"/maps/owned")
		},
	} {
		t.Run(how, func(t *testing.T) {
			dir := filepath.Join(ours, "guard")
			must(os.Mkdir(dir, 0o700))
			t.Cleanup(func() {
				for _, at := range []string{"/maps/owned", "/maps", ""} {
					unix.Unmount(dir+"/stage-1"+at, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
				}
				os.RemoveAll(dir)
			})
			show(filepath.Join(dir, "stage-1"))
			if err := Tidy(dir); err == nil || remedy.Of(err) == "" {
				t.Errorf("Tidy = %v, want a refusal with a remedy", err)
			}
			if _, err := os.Lstat(pin); err != nil {
				t.Fatalf("the other one's pin: %v", err)
			}
		})
	}
	// Nor is the directory itself one that leads elsewhere.
	link := filepath.Join(ours, "link")
	must(os.Symlink(theirs, link))
	if g, err := Adopt(link); g != nil || err == nil || errors.Is(err, ErrNotArmed) || remedy.Of(err) == "" {
		t.Errorf("Adopt = %v, %v", g, err)
	}
	if adopted, others, err := Pinned(link); adopted != 0 || len(others) != 0 || err != nil {
		t.Errorf("Pinned = %d, %v, %v", adopted, others, err)
	}
	must(os.Remove(link))

	own := filepath.Join(ours, "guard")
	makeSet(filepath.Join(own, "stage-1"))
	must(os.MkdirAll(own+"/stage-1/maps/more/of/it", 0o700))
	must(Tidy(own))
	if left, err := names(own); err != nil || len(left) != 0 {
		t.Errorf("its own: left %v, %v", left, err)
	}
}

// What is mounted over a guard's directory while hornetd is at it is neither read nor
// written, and decides nothing.
func TestMountedOverMeanwhile(t *testing.T) {
	guestOnly(t)
	above := t.TempDir()
	mount := func(at string) {
		t.Helper()
		if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount("bpf", at, "bpf", 0, "")); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount(filepath.Join(above, "bpf"))
	dir := filepath.Join(above, "bpf", "guard")
	g := armIn(t, dir, nil)
	mount(above) // not the pins' file system itself, which the guard keeps from it
	if err := os.MkdirAll(filepath.Join(dir, "set-9"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := g.Tidy(); err != nil {
		t.Fatal(err)
	}
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { next.Disarm() })
	if left, err := names(dir); err != nil || len(left) != 1 || left[0] != "set-9" {
		t.Errorf("what is mounted there has %v, %v", left, err)
	}
	if s, err := next.Status(); err != nil || len(s.Hooks) == 0 || !s.Enforces {
		t.Errorf("its own: %+v, %v", s, err)
	}
}

// A set of which what is needed has gone, or that never was one, is not taken up, and it is
// said what to do.
func TestAdoptNotWhole(t *testing.T) {
	testenv.RequireRoot(t)
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	for _, made := range []string{"set-1", "set-1/programs"} {
		if err := os.MkdirAll(filepath.Join(dir, made), 0o700); err != nil {
			t.Fatal(err)
		}
		if _, err := Adopt(dir); !errors.Is(err, ErrPartial) || !strings.Contains(remedy.Of(err), "reboot") {
			t.Errorf("%s: %v (%s)", made, err, remedy.Of(err))
		}
	}
}

// Who reads why a set stays is told to unmount where that helps, and else what does.
func TestRemedyOfStays(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{unix.EBUSY, "unmount what is below /run/guard/stage-1 "},
		{strange(unix.EXDEV), "unmount what is below /run/guard/stage-1 "},
		{strange(unix.ELOOP), "unmount what is below /run/guard/stage-1 "},
		{unix.ENOTEMPTY, "unmount what is below /run/guard/stage-1 "},
		{remedy.With(unix.EPERM, "start hornetd with CAP_NET_ADMIN"), "start hornetd with CAP_NET_ADMIN"},
		{unix.EROFS, "see that /run/guard can be written (findmnt -T /run/guard)"},
	} {
		if got := remedy.Of(stays(fmt.Errorf("x: %w", tt.err), "/run/guard/stage-1")); !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v: %q, want %q", tt.err, got, tt.want)
		}
	}
	if err := stays(nil, "/run/guard/stage-1"); err != nil {
		t.Errorf("nothing stays: %v", err)
	}
}
