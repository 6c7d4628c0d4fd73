package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// limit is the cap the tests read with: what sysfs says each of its files has.
const limit = 4096

// write makes a file of mode 0644 and returns its path.
func write(t *testing.T, path, contents string) string {
	t.Helper()
	must(t, os.WriteFile(path, []byte(contents), 0o644))
	return path
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestReadReturnsTheContents(t *testing.T) {
	for _, contents := range []string{"x", "hello\n", strings.Repeat("a", limit)} {
		path := write(t, filepath.Join(t.TempDir(), "f"), contents)
		b, err := Read(path, limit)
		if err != nil {
			t.Fatal(err)
		}
		if string(b) != contents {
			t.Errorf("Read = %q, want %q", b, contents)
		}
		if cap(b) != len(b) {
			t.Errorf("%d bytes behind the contents can be reached", cap(b)-len(b))
		}
	}
}

func TestReadTakesARelativePath(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "f", "x")
	if _, err := Read("f", limit); err != nil {
		t.Fatal(err)
	}
}

// Each row makes one thing that must not be read and returns its path. The
// reasons must differ, so that an operator knows which one it is.
func TestReadRefuses(t *testing.T) {
	testenv.RequireRoot(t) // chown and mknod
	tests := []struct {
		name   string
		make   func(t *testing.T, dir string) string
		is     error
		reason string
	}{
		{"symlink", func(t *testing.T, dir string) string {
			write(t, filepath.Join(dir, "target"), "x")
			must(t, os.Symlink("target", filepath.Join(dir, "f")))
			return filepath.Join(dir, "f")
		}, ErrUnsafe, "/f: is a symbolic link"},
		{"dangling symlink", func(t *testing.T, dir string) string {
			must(t, os.Symlink("nowhere", filepath.Join(dir, "f")))
			return filepath.Join(dir, "f")
		}, ErrUnsafe, "/f: is a symbolic link"},
		{"symlinked parent", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
			write(t, filepath.Join(dir, "real", "f"), "x")
			must(t, os.Symlink("real", filepath.Join(dir, "link")))
			return filepath.Join(dir, "link", "f")
		}, ErrUnsafe, "/link: is a symbolic link"},
		{"magic link", func(*testing.T, string) string { return "/proc/1/exe" },
			ErrUnsafe, "/proc/1/exe: is a symbolic link"},
		{"FIFO", func(t *testing.T, dir string) string {
			must(t, unix.Mkfifo(filepath.Join(dir, "f"), 0o644))
			return filepath.Join(dir, "f")
		}, ErrNotRegular, "/f: is a FIFO"},
		{"character device", func(t *testing.T, dir string) string {
			must(t, unix.Mknod(filepath.Join(dir, "f"), unix.S_IFCHR|0o644, int(unix.Mkdev(1, 5)))) // /dev/zero
			return filepath.Join(dir, "f")
		}, ErrNotRegular, "/f: is a character device"},
		{"link to a device", func(t *testing.T, dir string) string {
			must(t, os.Symlink("/dev/zero", filepath.Join(dir, "f")))
			return filepath.Join(dir, "f")
		}, ErrUnsafe, "/f: is a symbolic link"},
		{"block device", func(t *testing.T, dir string) string {
			must(t, unix.Mknod(filepath.Join(dir, "f"), unix.S_IFBLK|0o644, int(unix.Mkdev(7, 200)))) // no such loop device
			return filepath.Join(dir, "f")
		}, ErrNotRegular, "/f: is a block device"},
		{"directory", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "f"), 0o755))
			return filepath.Join(dir, "f")
		}, ErrNotRegular, "/f: is a directory"},
		{"socket", func(t *testing.T, dir string) string {
			l, err := net.Listen("unix", filepath.Join(dir, "f"))
			must(t, err)
			t.Cleanup(func() { l.Close() })
			return filepath.Join(dir, "f")
		}, ErrNotRegular, "/f: is a socket"},
		{"sparse file of 1 TiB", func(t *testing.T, dir string) string {
			path := write(t, filepath.Join(dir, "f"), "")
			must(t, os.Truncate(path, 1<<40))
			return path
		}, ErrTooLarge, "/f: has 1099511627776 bytes, more than 4096"},
		{"one byte too large", func(t *testing.T, dir string) string {
			return write(t, filepath.Join(dir, "f"), strings.Repeat("x", limit+1))
		}, ErrTooLarge, "/f: has 4097 bytes, more than 4096"},
		{"empty", func(t *testing.T, dir string) string { return write(t, filepath.Join(dir, "f"), "") },
			ErrEmpty, "/f: is empty"},
		{"procfs file", func(*testing.T, string) string { return "/proc/version" }, ErrEmpty, "/proc/version: is empty"},
		{"sysfs file, shorter than it says", func(*testing.T, string) string { return "/sys/kernel/profiling" },
			ErrUnsafe, "/sys/kernel/profiling: changed while it was read"},
		{"writable by the group", func(t *testing.T, dir string) string {
			path := write(t, filepath.Join(dir, "f"), "x")
			must(t, os.Chmod(path, 0o664))
			return path
		}, ErrUnsafe, "/f: can be written by others (mode 0664)"},
		{"writable by everybody", func(t *testing.T, dir string) string {
			path := write(t, filepath.Join(dir, "f"), "x")
			must(t, os.Chmod(path, 0o646))
			return path
		}, ErrUnsafe, "/f: can be written by others (mode 0646)"},
		{"foreign owner", func(t *testing.T, dir string) string {
			path := write(t, filepath.Join(dir, "f"), "x")
			must(t, os.Chown(path, 1234, 0))
			return path
		}, ErrUnsafe, "/f: belongs to uid 1234, not to root"},
		{"parent of a foreign owner", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			must(t, os.Chown(filepath.Join(dir, "d"), 1234, 0))
			return write(t, filepath.Join(dir, "d", "f"), "x")
		}, ErrUnsafe, "/d: belongs to uid 1234, not to root"},
		{"parent writable by others", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			must(t, os.Chmod(filepath.Join(dir, "d"), 0o777))
			return write(t, filepath.Join(dir, "d", "f"), "x")
		}, ErrUnsafe, "/d: can be written by others (mode 0777)"},
		{"grandparent writable by the group", func(t *testing.T, dir string) string {
			must(t, os.MkdirAll(filepath.Join(dir, "d", "e"), 0o755))
			must(t, os.Chmod(filepath.Join(dir, "d"), 0o775))
			return write(t, filepath.Join(dir, "d", "e", "f"), "x")
		}, ErrUnsafe, "/d: can be written by others (mode 0775)"},
		{"sticky parent of a foreign owner", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			must(t, os.Chmod(filepath.Join(dir, "d"), 0o777|os.ModeSticky))
			must(t, os.Chown(filepath.Join(dir, "d"), 1234, 0))
			return write(t, filepath.Join(dir, "d", "f"), "x")
		}, ErrUnsafe, "/d: belongs to uid 1234, not to root"},
		{"second name in a sticky directory", func(t *testing.T, dir string) string {
			must(t, os.Mkdir(filepath.Join(dir, "d"), 0o755))
			must(t, os.Chmod(filepath.Join(dir, "d"), 0o777|os.ModeSticky))
			path := write(t, filepath.Join(dir, "f"), "x")
			must(t, os.Link(path, filepath.Join(dir, "d", "f")))
			return filepath.Join(dir, "d", "f")
		}, ErrUnsafe, "/f: has 2 names"},
		{"missing", func(t *testing.T, dir string) string { return filepath.Join(dir, "f") },
			fs.ErrNotExist, "/f: no such file"},
		{"missing directory", func(t *testing.T, dir string) string { return filepath.Join(dir, "d", "f") },
			fs.ErrNotExist, "/d: no such file"},
		{"file as directory", func(t *testing.T, dir string) string {
			return filepath.Join(write(t, filepath.Join(dir, "f"), "x"), "g")
		}, unix.ENOTDIR, "/f: not a directory"},
		{"NUL", func(*testing.T, string) string { return "/etc/host\x00name" }, unix.EINVAL, "invalid argument"},
		{"no path", func(*testing.T, string) string { return "" }, unix.EINVAL, "invalid argument"},
		{"name of 256 bytes", func(t *testing.T, dir string) string { return filepath.Join(dir, strings.Repeat("a", 256)) },
			unix.ENAMETOOLONG, "file name too long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := tt.make(t, t.TempDir())
			b, err := Read(path, limit)
			if b != nil {
				t.Errorf("returned %d bytes", len(b))
			}
			if !errors.Is(err, tt.is) {
				t.Fatalf("Read = %v, want %v", err, tt.is)
			}
			if !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("%q does not say %q", err, tt.reason)
			}
			if ours(err) && remedy.Of(err) == "" {
				t.Errorf("%q: no remedy", err)
			}
		})
	}
}

// Elsewhere a second name is nothing to worry about: whole systems are made of
// hard links.
func TestReadTakesAHardLink(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "f"), "x")
	must(t, os.Link(path, filepath.Join(dir, "g")))
	if _, err := Read(path, limit); err != nil {
		t.Error(err)
	}
}

// A user who runs hornetctl trusts root and itself, and nobody else.
func TestReadAsAUser(t *testing.T) {
	testenv.RequireRoot(t)
	const uid, other = 1234, 4321
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	files := map[uint32]string{}
	for _, owner := range []int{0, uid, other} {
		d := filepath.Join(dir, fmt.Sprint(owner))
		must(t, os.Mkdir(d, 0o755))
		path := write(t, filepath.Join(d, "f"), "x")
		must(t, os.Chown(path, owner, -1))
		must(t, os.Chown(d, owner, -1))
		files[uint32(owner)] = path
	}
	errs := map[uint32]error{}
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), uid, ^uintptr(0)); errno != 0 {
			errs[0] = errno
			return
		}
		for owner, path := range files {
			_, errs[owner] = Read(path, limit)
		}
	})
	wg.Wait()
	if errs[0] != nil || errs[uid] != nil {
		t.Errorf("root's file: %v, the user's own: %v", errs[0], errs[uid])
	}
	if !errors.Is(errs[other], ErrUnsafe) {
		t.Errorf("another user's file: %v", errs[other])
	}
}

// ours tells a refusal from an error of the kernel's.
func ours(err error) bool {
	var r *refusal
	return errors.As(err, &r)
}

func TestSymlinkRemedyNamesTheRealPath(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "real"), 0o755))
	must(t, os.Symlink("real", filepath.Join(dir, "link")))
	_, err := Read(filepath.Join(dir, "link", "f"), limit)
	if want := filepath.Join(dir, "real"); !strings.Contains(remedy.Of(err), want) {
		t.Errorf("remedy %q does not name %s", remedy.Of(err), want)
	}
}

// Somebody exchanges the file for a symbolic link, a foreign file and a FIFO
// as fast as the kernel can. What Read returns must always be the good file.
func TestReadWhileTheNameIsExchanged(t *testing.T) {
	testenv.RequireRoot(t) // chown and mknod
	dir := t.TempDir()
	good := write(t, filepath.Join(dir, "f"), "good")
	evil := write(t, filepath.Join(dir, "evil"), "evil")
	must(t, os.Chown(evil, 1234, 1234))
	must(t, os.Symlink("evil", filepath.Join(dir, "link")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644))

	stop := make(chan struct{})
	var swapper sync.WaitGroup
	defer swapper.Wait()
	defer close(stop)
	swapper.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			other := filepath.Join(dir, []string{"evil", "link", "fifo"}[i%3])
			for range 2 { // there and back
				_ = unix.Renameat2(unix.AT_FDCWD, good, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
			}
		}
	})
	seen := map[string]int{}
	for range 20_000 {
		b, err := Read(good, limit)
		switch {
		case err == nil && string(b) != "good":
			t.Fatalf("Read = %q", b)
		case err == nil:
			seen["read"]++
		case errors.Is(err, ErrUnsafe), errors.Is(err, ErrNotRegular):
			seen["refused"]++
		default:
			t.Fatal(err)
		}
	}
	if seen["read"] == 0 || seen["refused"] == 0 {
		t.Errorf("no race took place: %v", seen)
	}
}

// A file that is being rewritten in place is either whole or refused.
func TestReadWhileTheFileGrows(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "f"), "0123456789")
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	for size, want := range map[int64]error{9: ErrUnsafe, 10: nil, 11: ErrUnsafe} {
		_, err := f.Seek(0, 0)
		must(t, err)
		if _, err := readAll(handle{fd: int(f.Fd()), path: f.Name()}, size); !errors.Is(err, want) {
			t.Errorf("readAll of 10 bytes, %d expected: %v", size, err)
		}
	}
}

func TestReadDir(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b", "a", "c"} {
		write(t, filepath.Join(dir, name), "x")
	}
	entries, err := ReadDir(dir, 3)
	must(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	if got := fmt.Sprint(names); got != "[a b c]" {
		t.Errorf("ReadDir = %s", got)
	}
	if _, err := ReadDir(dir, 2); !errors.Is(err, ErrTooLarge) {
		t.Errorf("3 entries, 2 allowed: %v", err)
	}
	if _, err := ReadDir(filepath.Join(dir, "none"), 3); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing directory: %v", err)
	}
	must(t, os.Chmod(dir, 0o777))
	if _, err := ReadDir(dir, 3); !errors.Is(err, ErrUnsafe) {
		t.Errorf("writable directory: %v", err)
	}
}

func TestDescriptorsAreClosed(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "f"), "x")
	before := openDescriptors(t)
	for _, name := range []string{"f", "none", ".", "f/g"} {
		_, _ = Read(filepath.Join(dir, name), limit)
		_, _ = ReadDir(filepath.Join(dir, name), 10)
	}
	if after := openDescriptors(t); after != before {
		t.Errorf("%d descriptors before, %d after", before, after)
	}
}

func openDescriptors(t *testing.T) int {
	t.Helper()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(fds)
}
