package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// spares are the targets behind those of the running collections: one for each
// contender, so that none finds what another left.
const spares = 3

// world is what all contenders work in: one network namespace full of
// interfaces, one directory full of cgroups, and bpffs.
type world struct {
	dir     string // on disk: state, manifests, objects
	bpffs   string // hornetd's root
	pins    string // bpffs of the others
	cgroups string
	mounted []string
}

// newWorld makes targets for n running collections and the spares. It moves
// the calling thread into namespaces of its own, so that a mount or interface
// cannot outlive the process.
func newWorld(parent string, n int) (_ *world, err error) {
	w := &world{}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("unshare: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	if w.dir, err = os.MkdirTemp(parent, "hornet-bench-"); err != nil {
		return nil, err
	}
	w.bpffs, w.pins = filepath.Join(w.dir, "bpffs"), filepath.Join(w.dir, "pins")
	for _, dir := range []string{w.bpffs, w.pins} {
		if err := w.mountBPFFS(dir); err != nil {
			return nil, err
		}
	}
	if err := w.makeCgroups(n + spares); err != nil {
		return nil, err
	}
	return w, makeInterfaces(n + spares)
}

func (w *world) mountBPFFS(dir string) error {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount("bpf", dir, "bpf", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return fmt.Errorf("mount bpffs: %w", err)
	}
	w.mounted = append(w.mounted, dir)
	return nil
}

func (w *world) makeCgroups(n int) error {
	root, err := cgroup2()
	if err != nil {
		return err
	}
	w.cgroups = filepath.Join(root, filepath.Base(w.dir))
	if err := os.Mkdir(w.cgroups, 0o755); err != nil {
		return err
	}
	for i := range n {
		if err := os.Mkdir(w.cgroup(i), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// cgroup2 returns where the unified hierarchy is mounted.
func cgroup2() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 2 && f[2] == "cgroup2" {
			return f[1], nil
		}
	}
	return "", errors.New("cgroup2 is not mounted")
}

// cgroup returns the i-th cgroup's path.
func (w *world) cgroup(i int) string { return filepath.Join(w.cgroups, fmt.Sprintf("t%04d", i)) }

// interfaceName returns the i-th interface's name.
func interfaceName(i int) string { return fmt.Sprintf("t%04d", i) }

func makeInterfaces(n int) error {
	var batch bytes.Buffer
	for i := range n {
		name := interfaceName(i)
		fmt.Fprintf(&batch, "link add %s type veth peer name %s-peer\nlink set %s up\nlink set %s-peer up\n", name, name, name, name)
	}
	cmd := exec.Command("ip", "-batch", "-")
	cmd.Stdin = &batch
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("ip link add: %w: %s", err, out)
	}
	return nil
}

// close takes everything away. Pins go with their mounts, links with their
// pins, interfaces with the namespace.
func (w *world) close() error {
	var errs []error
	for _, dir := range w.mounted {
		if err := unix.Unmount(dir, 0); err != nil {
			errs = append(errs, fmt.Errorf("unmount %s: %w", dir, err))
		}
	}
	stillMounted := len(errs) > 0
	if w.cgroups != "" {
		errs = append(errs, removeCgroups(w.cgroups))
	}
	if w.dir != "" && !stillMounted {
		errs = append(errs, os.RemoveAll(w.dir))
	}
	return errors.Join(errs...)
}

func removeCgroups(parent string) error {
	children, err := filepath.Glob(filepath.Join(parent, "t*"))
	if err != nil {
		return err
	}
	for _, dir := range append(children, parent) {
		err := os.Remove(dir)
		// A cgroup stays busy for a moment after its last child went.
		for range 100 {
			if !errors.Is(err, unix.EBUSY) {
				break
			}
			time.Sleep(10 * time.Millisecond)
			err = os.Remove(dir)
		}
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return nil
}
