package vmtest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// userlandSuite is the Debian that boots with systemd as its first process.
const userlandSuite = "trixie"

// userlandPackages are what is in it beside what every Debian has: systemd, the
// tools that tests take as second opinion, and what the guard must let be.
var userlandPackages = []string{"systemd", "systemd-sysv", "kmod", "iproute2", "iputils-ping", "curl", "bpftool", "libxdp1",
	"busybox-static", "crun", "gdb-minimal", "iptables", "linux-perf", "nftables", "runc", "strace", "tcpdump"}

// userlandWithout is left out of every package.
var userlandWithout = []string{"/usr/share/doc/*", "/usr/share/i18n/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*"}

const (
	userlandDisk = "disk.ext4"
	userlandSize = 512 << 20 // of the disk; half is in use
)

// Userland returns the disk image of a Debian with systemd, from the cache or
// else made from the machine's mirror. It has never been booted: a guest needs a
// copy (CopyDisk). Errors are ErrUnavailable.
func Userland(ctx context.Context) (disk string, err error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return (&userlands{dir: filepath.Join(cache, "userland"), etc: "/etc/apt"}).find(ctx)
}

// userlands is their cache: a directory each, named after what goes in.
type userlands struct{ dir, etc string }

func (s *userlands) find(ctx context.Context) (disk string, err error) {
	disk, err = s.findOrMake(ctx)
	if err != nil && !errors.Is(err, ErrUnavailable) {
		err = unavailable("guest userland: %w", err)
	}
	return disk, err
}

func (s *userlands) findOrMake(ctx context.Context) (disk string, err error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return "", err
	}
	unlock, err := lock(filepath.Join(s.dir, ".lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	dir := filepath.Join(s.dir, userlandKey())
	disk = filepath.Join(dir, userlandDisk)
	err = checkSum(dir, userlandDisk)
	if err == nil {
		return disk, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		// Damaged. What was made can be made again.
		if err := os.RemoveAll(dir); err != nil {
			return "", err
		}
	}
	return disk, s.make(ctx, dir)
}

// userlandKey names a userland. Whatever changes what is made changes it; the
// versions of packages do not: remove the directory to get newer ones.
func userlandKey() string {
	recipe := fmt.Sprintln(userlandSuite, userlandPackages, userlandWithout, userlandSize, userlandFiles, userlandGone)
	return userlandSuite + "-" + hex.EncodeToString(sum([]byte(recipe)))[:12]
}

// checkSum holds a file against the checksums beside it.
func checkSum(dir, name string) error {
	want, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return err
	}
	got, err := sumLine(dir, name)
	if err == nil && got != string(want) {
		err = fmt.Errorf("%s has changed since it was made", filepath.Join(dir, name))
	}
	return err
}

// sumLine is the line of a file in the format of sha256sum(1). It is read piece
// by piece: a disk is large.
func sumLine(dir, name string) (string, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return fmt.Sprintf("%x  %s\n", h.Sum(nil), name), nil
}

// make makes a userland; the rename at its end makes it valid.
func (s *userlands) make(ctx context.Context, dir string) error {
	if err := s.able(); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, ".make-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	root, done := filepath.Join(tmp, "root"), filepath.Join(tmp, "done")
	if err := s.bootstrap(ctx, tmp, root); err != nil {
		return err
	}
	if err := settleUserland(root); err != nil {
		return err
	}
	if err := os.Mkdir(done, 0o755); err != nil {
		return err
	}
	if err := makeDisk(ctx, root, filepath.Join(done, userlandDisk)); err != nil {
		return err
	}
	line, err := sumLine(done, userlandDisk)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(done, sumsFile), []byte(line), 0o644); err != nil {
		return err
	}
	return os.Rename(done, dir)
}

// able says what this machine lacks to make one.
func (s *userlands) able() error {
	if runtime.GOARCH != AMD64.Name {
		return errors.New("made on amd64 only, whose programs it runs while it is made")
	}
	if os.Geteuid() != 0 {
		return errors.New("made by root only, who can give files to others: run the tests as root")
	}
	for _, tool := range []string{"mmdebstrap", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed: run scripts/vm-setup", tool)
		}
	}
	const need = 1 << 30
	var fsys unix.Statfs_t
	if err := unix.Statfs(s.dir, &fsys); err == nil && fsys.Bavail*uint64(fsys.Bsize) < need {
		return fmt.Errorf("%s has %d MB left, %d are needed: make room or set XDG_CACHE_HOME",
			s.dir, fsys.Bavail*uint64(fsys.Bsize)>>20, need>>20)
	}
	return nil
}

// bootstrap installs the packages into the directory root. What it mounts there
// for the packages' scripts is in a mount namespace of its own and gone when it
// ends, however it ends.
func (s *userlands) bootstrap(ctx context.Context, tmp, root string) error {
	m, err := findMirror(s.etc)
	if err != nil {
		return err
	}
	args := []string{"--mode=root", "--variant=essential", "--format=directory", "--include=" + strings.Join(userlandPackages, ","),
		"--dpkgopt=force-unsafe-io"}
	for _, p := range userlandWithout {
		args = append(args, "--dpkgopt=path-exclude="+p)
	}
	// A proxy, for example: mmdebstrap has apt read no configuration of the machine's.
	if dump, err := exec.Command("apt-config", "dump", "Acquire").Output(); err == nil {
		conf := filepath.Join(tmp, "apt.conf")
		if err := os.WriteFile(conf, dump, 0o600); err != nil {
			return err
		}
		args = append(args, "--aptopt="+conf)
	}
	source := strings.Join(strings.Fields("deb "+m.options+" "+m.uri+" "+userlandSuite+" main"), " ")
	cmd := exec.CommandContext(ctx, "mmdebstrap", append(args, userlandSuite, root, source)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive", "TMPDIR="+tmp)
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS} // and nothing propagates out of it
	cmd.WaitDelay = 10 * time.Second                                    // apt and dpkg hold the pipe when it is killed
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: mmdebstrap: %w: %s", m.uri, err, lastLine(out))
	}
	return nil
}

// userlandFiles are written over what the packages made: a machine that has been
// booted before, so that systemd takes no first boot for a reason to turn
// everything on or to ask something.
var userlandFiles = []struct{ name, text string }{
	{"etc/machine-id", "0123456789abcdef0123456789abcdef\n"},
	{"etc/hostname", "guest\n"},
	{"etc/hosts", "127.0.0.1 localhost guest\n::1 localhost\n"},
	{"etc/resolv.conf", ""},
	{"etc/fstab", ""},
}

// userlandGone is removed: nothing is installed there any more, and apt knows
// the machine's proxy.
var userlandGone = []string{"etc/apt", "var/lib/apt", "var/lib/dpkg/info", "var/cache/apt"}

// settleUserland changes nothing outside dir, wherever links in there lead.
func settleUserland(dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for _, f := range userlandFiles {
		if err := root.WriteFile(f.name, []byte(f.text), 0o644); err != nil {
			return err
		}
	}
	for _, name := range userlandGone {
		if err := root.RemoveAll(name); err != nil {
			return err
		}
	}
	return nil
}

// makeDisk makes a file system with the tree root, without mounting it.
func makeDisk(ctx context.Context, root, disk string) error {
	f, err := os.OpenFile(disk, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if err := errors.Join(f.Truncate(userlandSize), f.Close()); err != nil {
		return err
	}
	out, err := exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", "-m", "0", "-d", root, disk).CombinedOutput()
	if err != nil {
		return fmt.Errorf("mkfs.ext4: %w: %s", err, lastLine(out))
	}
	return nil
}

// CopyDisk copies the image of a disk, with its holes.
func CopyDisk(from, to string) error {
	out, err := exec.Command("cp", "--sparse=always", "--reflink=auto", from, to).CombinedOutput()
	if err != nil {
		return unavailable("guest disk: cp: %w: %s", err, lastLine(out))
	}
	return nil
}
