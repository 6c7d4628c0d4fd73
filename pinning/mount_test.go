package pinning

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// mountDir returns a path for Mount that is unmounted when the test ends.
func mountDir(t *testing.T) string {
	t.Helper()
	testenv.NoLeaks(t)
	dir, err := os.MkdirTemp("", "hornet-mount-*")
	must(t, err)
	path := filepath.Join(dir, "bpf")
	t.Cleanup(func() {
		for unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW) == nil {
		}
		os.Remove(path + "/file")
		os.Remove(path)
		os.Remove(dir)
	})
	return path
}

func TestMountAndUnmount(t *testing.T) {
	path := mountDir(t)
	if mounted, err := Mount(path); !mounted || err != nil {
		t.Fatalf("Mount = %v, %v", mounted, err)
	}
	if mounted, err := Mount(path); mounted || err != nil {
		t.Fatalf("second Mount = %v, %v", mounted, err)
	}
	if mounted, err := Mount(path + "/below"); mounted || err != nil {
		t.Fatalf("Mount below a bpffs = %v, %v", mounted, err)
	}
	var fs unix.Statfs_t
	must(t, unix.Statfs(path, &fs))
	const want = unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC
	if uint32(fs.Type) != unix.BPF_FS_MAGIC || fs.Flags&want != want {
		t.Errorf("type %x, flags %x", fs.Type, fs.Flags)
	}

	s := open(t, path)
	id := commit(t, s, "a")
	if err := Unmount(path); !errors.Is(err, unix.EBUSY) || remedy.Of(err) == "" {
		t.Errorf("Unmount while a store holds it = %v, want EBUSY", err)
	}
	if !attached(id) {
		t.Error("the refused unmount detached a link")
	}
	s.Close()
	must(t, Unmount(path))
	mustGo(t, id)
	if err := Unmount(path); !errors.Is(err, ErrNotBPFFS) {
		t.Errorf("Unmount of a plain directory = %v", err)
	}
	must(t, os.Remove(path))
}

func TestMountRefuses(t *testing.T) {
	for what, tc := range map[string]struct {
		prepare func(t *testing.T, path string)
		want    error
	}{
		"parent missing": {func(t *testing.T, path string) { os.Remove(filepath.Dir(path)) }, ErrNotExist},
		"something else mounted": {func(t *testing.T, path string) {
			must(t, os.Mkdir(path, 0o700))
			must(t, unix.Mount("tmpfs", path, "tmpfs", 0, "mode=0700"))
		}, ErrNotBPFFS},
		"a stranger's": {func(t *testing.T, path string) {
			must(t, os.Mkdir(path, 0o700))
			must(t, os.Chown(path, 4242, 4242))
		}, ErrUnsafeRoot},
		"writable by others": {func(t *testing.T, path string) {
			must(t, os.Mkdir(path, 0o700))
			must(t, os.Chmod(path, 0o777))
		}, ErrUnsafeRoot},
		"not empty": {func(t *testing.T, path string) {
			must(t, os.Mkdir(path, 0o700))
			must(t, os.WriteFile(path+"/file", nil, 0o600))
		}, nil},
		"symbolic link": {func(t *testing.T, path string) { must(t, os.Symlink(t.TempDir(), path)) }, unix.ENOTDIR},
		"file":          {func(t *testing.T, path string) { must(t, os.WriteFile(path, nil, 0o600)) }, unix.ENOTDIR},
	} {
		t.Run(what, func(t *testing.T) {
			path := mountDir(t)
			tc.prepare(t, path)
			mounted, err := Mount(path)
			if mounted || err == nil {
				t.Fatalf("Mount = %v, %v", mounted, err)
			}
			if tc.want != nil && !errors.Is(err, tc.want) {
				t.Errorf("%v, want %v", err, tc.want)
			}
			var fs unix.Statfs_t
			if unix.Statfs(path, &fs) == nil && uint32(fs.Type) == unix.BPF_FS_MAGIC {
				t.Error("a bpffs is mounted there all the same")
			}
		})
	}
}

func TestUnmountOfADirectoryInside(t *testing.T) {
	root := bpffs(t)
	must(t, os.Mkdir(root+"/hornet", 0o700))
	if err := Unmount(root + "/hornet"); err == nil || !strings.Contains(err.Error(), "not where it is mounted") {
		t.Errorf("Unmount = %v", err)
	}
}
