package pinning

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

func init() {
	// open-and-wait opens a store, says so and waits to be killed.
	children["open-and-wait"] = func(args []string) error {
		s, err := Open(args[0])
		if err != nil {
			return err
		}
		defer s.Close()
		fmt.Println("open")
		time.Sleep(time.Hour) // where nothing else is to come, Go ends "select {}" as a deadlock
		return nil
	}
}

func TestOpenRefusesHostileRoots(t *testing.T) {
	testenv.RequireRoot(t)
	const stranger = 4242
	for what, tc := range map[string]struct {
		prepare func(t *testing.T, root string) string // returns the root to open
		want    error
		says    string
	}{
		"not absolute":           {func(t *testing.T, root string) string { return "hornet" }, nil, "not an absolute path"},
		"not a bpffs":            {func(t *testing.T, root string) string { return t.TempDir() }, ErrNotBPFFS, "(magic 0x"},
		"missing, parent is not": {func(t *testing.T, root string) string { return filepath.Join(t.TempDir(), "hornet") }, ErrNotBPFFS, "(magic 0x"},
		"parent missing":         {func(t *testing.T, root string) string { return root + "/no/hornet" }, ErrNotExist, "parent directory"},
		"mode 0755":              {chmod(0o755), ErrUnsafeRoot, "mode 0755, want 0700"},
		"mode 0770":              {chmod(0o770), ErrUnsafeRoot, "mode 0770, want 0700"},
		"mode 02700":             {chmod(0o2700), ErrUnsafeRoot, "mode 2700, want 0700"},
		"mode 0500":              {chmod(0o500), ErrUnsafeRoot, "mode 0500, want 0700"},
		"squatted": {func(t *testing.T, root string) string {
			must(t, os.Chmod(root, 0o1777|os.ModeSticky))
			must(t, os.Mkdir(root+"/hornet", 0o700))
			must(t, os.Chown(root+"/hornet", stranger, stranger))
			return root + "/hornet"
		}, ErrUnsafeRoot, "owned by uid 4242"},
		"parent is a stranger's": {func(t *testing.T, root string) string {
			must(t, os.Mkdir(root+"/his", 0o755))
			must(t, os.Chown(root+"/his", stranger, stranger))
			return root + "/his/hornet"
		}, ErrUnsafeRoot, "uid 4242 or others can rename it"},
		"parent is everybody's": {func(t *testing.T, root string) string {
			must(t, os.Mkdir(root+"/all", 0o700))
			must(t, os.Chmod(root+"/all", 0o777))
			return root + "/all/hornet"
		}, ErrUnsafeRoot, "others can rename it"},
		"symbolic link": {func(t *testing.T, root string) string {
			must(t, os.Mkdir(root+"/real", 0o700))
			must(t, os.Symlink("real", root+"/hornet"))
			return root + "/hornet"
		}, ErrUnsafeRoot, "symbolic link"},
		"a pin": {func(t *testing.T, root string) string {
			o := newObjects(t)
			must(t, o.maps["hits"].Pin(root+"/hornet"))
			return root + "/hornet"
		}, ErrUnsafeRoot, "not a directory"},
		"read-only": {func(t *testing.T, root string) string {
			must(t, unix.Mount("", root, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
			return root
		}, unix.EROFS, "read-only"},
		"mounted over": {func(t *testing.T, root string) string {
			must(t, unix.Mount("tmpfs", root, "tmpfs", 0, "mode=0700"))
			t.Cleanup(func() { unix.Unmount(root, unix.MNT_DETACH) })
			return root
		}, ErrNotBPFFS, "(magic 0x1021994)"},
	} {
		t.Run(what, func(t *testing.T) {
			root := tc.prepare(t, bpffs(t))
			s, err := Open(root)
			if err == nil {
				s.Close()
				t.Fatal("opened")
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			if !strings.Contains(err.Error(), root) || !strings.Contains(err.Error(), tc.says) {
				t.Errorf("%q does not name %q and %q", err, root, tc.says)
			}
			if tc.want != nil && remedy.Of(err) == "" {
				t.Errorf("no remedy: %v", err)
			}
			if errors.Is(err, ErrNotBPFFS) && strings.HasSuffix(root, "/hornet") {
				mustNotExist(t, root)
			}
		})
	}
}

func chmod(mode uint32) func(*testing.T, string) string {
	return func(t *testing.T, root string) string {
		must(t, unix.Chmod(root, mode))
		return root
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestOpenMakesAMissingRoot(t *testing.T) {
	for what, mode := range map[string]uint32{"as systemd mounts it": 0o700, "as others mount it": 0o1777} {
		t.Run(what, func(t *testing.T) {
			parent := bpffs(t)
			must(t, unix.Chmod(parent, mode))
			root := filepath.Join(parent, "hornet")
			open(t, root)
			var st unix.Stat_t
			must(t, unix.Lstat(root, &st))
			if st.Mode != unix.S_IFDIR|0o700 || st.Uid != 0 {
				t.Errorf("mode %o, uid %d", st.Mode, st.Uid)
			}
		})
	}
}

// A slash more or less is the same root.
func TestOpenCleansThePath(t *testing.T) {
	root := bpffs(t)
	open(t, root+"/hornet//")
	if _, err := Open(root + "/./hornet"); !errors.Is(err, ErrLocked) {
		t.Errorf("Open = %v, want ErrLocked", err)
	}
}

func TestOneOwner(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	_, err := Open(root)
	if !errors.Is(err, ErrLocked) || remedy.Of(err) == "" {
		t.Fatalf("Open = %v, want ErrLocked with a remedy", err)
	}
	if want := fmt.Sprintf("(pid %d)", os.Getpid()); !strings.Contains(err.Error(), want) {
		t.Errorf("%q does not say %q", err, want)
	}
	if out, err := child("open-and-wait", nil, root).CombinedOutput(); err == nil || !strings.Contains(string(out), ErrLocked.Error()) {
		t.Errorf("another process: %v, %s", err, out)
	}
	s.Close()
	open(t, root)
}

// The lock goes with its owner, however it ends.
func TestOwnerIsKilled(t *testing.T) {
	root := bpffs(t)
	cmd := child("open-and-wait", nil, root)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "open\n" {
		cmd.Process.Kill()
		t.Fatalf("child said %q, %v", line, err)
	}
	if _, err := Open(root); !errors.Is(err, ErrLocked) || !strings.Contains(err.Error(), fmt.Sprintf("pid %d", cmd.Process.Pid)) {
		t.Errorf("Open = %v, want ErrLocked by the child", err)
	}
	must(t, cmd.Process.Kill())
	cmd.Wait()
	open(t, root)
}

func TestOneOfManyWins(t *testing.T) {
	root := filepath.Join(bpffs(t), "hornet")
	for range 20 {
		var wg sync.WaitGroup
		stores := make(chan *Store, 50)
		for range cap(stores) {
			wg.Go(func() {
				s, err := Open(root)
				if err == nil {
					stores <- s
				} else if !errors.Is(err, ErrLocked) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		close(stores)
		if len(stores) != 1 {
			t.Fatalf("%d owners", len(stores))
		}
		(<-stores).Close()
		must(t, os.Remove(root)) // the next round makes it again
	}
}

func TestReachable(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	must(t, s.Reachable())

	must(t, unix.Mount("bpf", root, "bpf", 0, "mode=0700"))
	if err := s.Reachable(); err == nil || remedy.Of(err) == "" {
		t.Errorf("mounted over: %v", err)
	}
	must(t, unix.Unmount(root, 0))
	must(t, s.Reachable())

	sub := open(t, root+"/hornet")
	must(t, os.Remove(root+"/hornet"))
	if err := sub.Reachable(); !errors.Is(err, ErrNotExist) {
		t.Errorf("removed: %v", err)
	}
}

// What the store holds is reached through its descriptor, not its path.
func TestStoreWorksWhileMountedOver(t *testing.T) {
	root := bpffs(t)
	s := open(t, root)
	must(t, unix.Mount("tmpfs", root, "tmpfs", 0, ""))
	defer unix.Unmount(root, unix.MNT_DETACH)
	commit(t, s, "a")
	if e := load(t, s, "a"); len(e.Missing) != 0 {
		t.Errorf("missing %q", e.Missing)
	}
	must(t, s.Remove(name(t, "a")))
}
