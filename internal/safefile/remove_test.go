package safefile

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// What another mount or a symbolic link leads to stays, in each of the places where
// somebody may put one, and so do the directories above a mount. The rest goes.
func TestRemoveAll(t *testing.T) {
	testenv.RequireRoot(t)
	bind := func(to string) func(from string) error {
		return func(from string) error { return unix.Mount(from, to, "", unix.MS_BIND|unix.MS_REC, "") }
	}
	for _, tt := range []struct {
		what  string
		make  func(from string) error // from is the directory of another
		left  string                  // of the tree
		wrong error
	}{
		{"nothing of another's", nil, "", nil},
		{"a symbolic link to a directory", func(from string) error { return os.Symlink("../../"+from, "tree/a/link") }, "", nil},
		{"a symbolic link for the tree", func(from string) error {
			return errors.Join(os.Rename("tree", "old"), os.Symlink(from, "tree"))
		}, "", nil},
		{"a mount on the tree", bind("tree"), "tree tree/deep tree/deep/pin tree/pin", unix.EXDEV},
		{"a mount deep in it", bind("tree/a/b"), "tree tree/a tree/a/b tree/a/b/deep tree/a/b/deep/pin tree/a/b/pin", unix.EXDEV},
		{"a mount of a file", func(from string) error { return bind("tree/file")(from + "/pin") }, "tree tree/file", unix.EBUSY},
		{"a mount of the same file system, from beside it", func(from string) error {
			return errors.Join(os.CopyFS("beside", os.DirFS(from)), bind("tree/a")("beside"))
		}, "tree tree/a tree/a/deep tree/a/deep/pin tree/a/pin", unix.EXDEV},
	} {
		t.Run(tt.what, func(t *testing.T) {
			dir := t.TempDir()
			result := make(chan error)
			go func() {
				runtime.LockOSThread() // for ever: the mounts end with the thread
				result <- func() error {
					err := errors.Join(unix.Unshare(unix.CLONE_NEWNS|unix.CLONE_FS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
						unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0700"), unix.Chdir(dir),
						os.MkdirAll("tree/a/b", 0o755), os.WriteFile("tree/a/file", nil, 0o600), os.WriteFile("tree/file", nil, 0o600), os.Symlink("nowhere", "tree/link"),
						os.MkdirAll("another/deep", 0o755), os.WriteFile("another/deep/pin", nil, 0o600), os.WriteFile("another/pin", nil, 0o600))
					if err == nil && tt.make != nil {
						err = tt.make("another")
					}
					if err != nil {
						return fmt.Errorf("not tried: %w", err)
					}
					err = RemoveAll(filepath.Join(dir, "tree"))
					if !errors.Is(err, tt.wrong) || err != nil && remedy.Of(err) != "unmount what is below "+dir+"/tree (findmnt)" {
						return fmt.Errorf("RemoveAll: %w (%s), want %w", err, remedy.Of(err), tt.wrong)
					}
					if left := walk("tree"); left != tt.left {
						return fmt.Errorf("left %q, want %q", left, tt.left)
					}
					if left := walk("another"); left != "another another/deep another/deep/pin another/pin" {
						return fmt.Errorf("of another's is left %q", left)
					}
					return nil
				}()
			}()
			if err := <-result; err != nil {
				t.Error(err)
			}
		})
	}
}

// walk names what there is, and follows no link.
func walk(dir string) string {
	var all []string
	filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			all = append(all, path)
		}
		return nil
	})
	return strings.Join(all, " ")
}

// A part that somebody else removes meanwhile is no failure, and hides none.
func TestRemoveAllMeanwhile(t *testing.T) {
	testenv.RequireRoot(t)
	tree := filepath.Join(t.TempDir(), "tree")
	mounted, comes := filepath.Join(tree, "mounted"), filepath.Join(tree, "comes")
	must(t, os.MkdirAll(mounted, 0o755))
	must(t, unix.Mount("test", mounted, "tmpfs", 0, ""))
	defer unix.Unmount(mounted, unix.MNT_DETACH)
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
				os.Mkdir(comes, 0o755)
				os.Remove(comes)
			}
		}
	}()
	for range 6000 {
		if err := RemoveAll(tree); !errors.Is(err, unix.EXDEV) || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("a mount is left, and the error is %v", err)
			break
		}
	}
	close(stop)
	<-stopped
}

func TestRemoveAllOfNothing(t *testing.T) {
	dir := t.TempDir()
	for _, path := range []string{"absent", "absent/too"} {
		if err := RemoveAll(filepath.Join(dir, path)); err != nil {
			t.Error(err)
		}
	}
	if err := RemoveAll(""); !errors.Is(err, unix.EINVAL) {
		t.Errorf("no path: %v", err)
	}
	write(t, filepath.Join(dir, "f"), "x")
	must(t, os.Chmod(dir, 0o777))
	if err := RemoveAll(filepath.Join(dir, "f")); !errors.Is(err, ErrUnsafe) {
		t.Errorf("in a directory of everybody's: %v", err)
	}
}
