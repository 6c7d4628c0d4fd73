package vmtest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernels are what the matrix runs, oldest first: the floor, the long-term
// kernel of Debian 13, and the newest.
var Kernels = []string{"6.1", "6.12", "7.3"}

// Kernel is an unpacked Debian kernel in the cache.
type Kernel struct {
	Arch    *Arch
	Name    string // "6.12"
	Release string // as uname -r prints it
	dir     string // holds vmlinuz, lib/modules/RELEASE and SHA256SUMS
	sums    map[string]string
}

const sumsFile = "SHA256SUMS"

// CacheDir is where kernels, and what else can be made again, are kept.
func CacheDir() (string, error) {
	base, err := os.UserCacheDir()
	if err != nil {
		return "", unavailable("guest kernels: no cache directory: %w: set XDG_CACHE_HOME", err)
	}
	return filepath.Join(base, "hornetd"), nil
}

// Find returns the kernel NAME ("7.3") for AMD64, from the cache or else from
// the machine's mirror. Errors are ErrUnavailable.
func Find(name string) (*Kernel, error) { return AMD64.Find(name) }

// Find is Find for the architecture.
func (a *Arch) Find(name string) (*Kernel, error) {
	s, err := a.store()
	if err != nil {
		return nil, err
	}
	return s.find(name)
}

// store is the cache of what an architecture needs from Debian's archive.
type store struct {
	arch     *Arch
	dir, etc string
}

func (a *Arch) store() (*store, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	return &store{arch: a, dir: filepath.Join(cache, a.cache), etc: "/etc/apt"}, nil
}

func (s *store) find(name string) (*Kernel, error) {
	if strings.Trim(name, "0123456789.") != "" || !strings.Contains(name, ".") {
		return nil, fmt.Errorf("kernel %q: must be a version such as %s", name, Kernels[len(Kernels)-1])
	}
	var k *Kernel
	err := s.keep(item{
		what: "guest kernel " + name, name: name,
		open:    func(dir string) (err error) { k, err = open(dir); return err },
		resolve: func(a *apt) ([]string, error) { return s.kernelPackages(a, name) },
		unpack:  unpack,
	})
	if err != nil {
		return nil, err
	}
	k.Arch = s.arch
	return k, nil
}

// item is a directory of the cache that is made from packages.
type item struct {
	what    string // for people
	name    string
	open    func(dir string) error // fails if it is not there, or damaged
	resolve func(*apt) ([]string, error)
	unpack  func(dir string, debs []string) error
}

// keep opens an item. It makes what is not there or damaged: what is downloaded
// can be downloaded again.
func (s *store) keep(i item) error {
	dir := filepath.Join(s.dir, i.name)
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return unavailable("%s: %w", i.what, err)
	}
	unlock, err := lock(filepath.Join(s.dir, ".lock"))
	if err != nil {
		return unavailable("%s: %w", i.what, err)
	}
	defer unlock()
	if i.open(dir) == nil {
		return nil
	}
	if err := os.RemoveAll(dir); err != nil {
		return unavailable("%s: %w", i.what, err)
	}
	if err := s.fetch(i); err != nil {
		return err
	}
	return i.open(dir)
}

// open reads the checksums of a kernel and holds its image and the lists of its
// modules against them; modules themselves when they are used.
func open(dir string) (*Kernel, error) {
	b, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return nil, err
	}
	k := &Kernel{Name: filepath.Base(dir), dir: dir, sums: parseSums(b)}
	for name := range k.sums {
		if release, ok := strings.CutSuffix(name, "/modules.dep"); ok {
			k.Release = filepath.Base(release)
		}
	}
	for _, name := range []string{"vmlinuz", k.modules("modules.dep"), k.modules("modules.builtin")} {
		if _, err := k.read(name); err != nil {
			return nil, err
		}
	}
	return k, nil
}

// modules returns the name of a file in the directory of modules.
func (k *Kernel) modules(name string) string {
	return filepath.Join("lib/modules", k.Release, name)
}

// read returns a file of the kernel if it is what was unpacked.
func (k *Kernel) read(name string) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil {
		return nil, err
	}
	if got := hex.EncodeToString(sum(b)); got != k.sums[name] {
		return nil, fmt.Errorf("kernel %s: %s has changed since it was unpacked: remove %s", k.Name, name, k.dir)
	}
	return b, nil
}

func sum(b []byte) []byte {
	s := sha256.Sum256(b)
	return s[:]
}

// fetch downloads and unpacks an item; the rename at its end makes it valid.
func (s *store) fetch(i item) error {
	const need = 600 << 20
	var fsys unix.Statfs_t
	if err := unix.Statfs(s.dir, &fsys); err == nil && fsys.Bavail*uint64(fsys.Bsize) < need {
		return unavailable("%s: %s has %d MB left, %d are needed: make room or set XDG_CACHE_HOME",
			i.what, s.dir, fsys.Bavail*uint64(fsys.Bsize)>>20, need>>20)
	}
	a := &apt{dir: filepath.Join(s.dir, ".apt"), etc: s.etc, arch: s.arch.Name}
	packages, err := i.resolve(a)
	if err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(s.dir, ".fetch-")
	if err != nil {
		return unavailable("%s: %w", i.what, err)
	}
	defer os.RemoveAll(tmp)
	debs, err := a.download(filepath.Join(tmp, "debs"), packages)
	if err != nil {
		// The lists may be older than the archive. What came nevertheless is
		// of the old version.
		if err := a.update(); err != nil {
			return err
		}
		if packages, err = i.resolve(a); err != nil {
			return err
		}
		if debs, err = a.download(filepath.Join(tmp, "newer"), packages); err != nil {
			return unavailable("%s: %w", i.what, err)
		}
	}
	made := filepath.Join(tmp, "made")
	if err := i.unpack(made, debs); err != nil {
		return unavailable("%s: %w", i.what, err)
	}
	if err := os.Rename(made, filepath.Join(s.dir, i.name)); err != nil {
		return unavailable("%s: %w", i.what, err)
	}
	return nil
}

// kernelPackages returns those that make up the newest kernel of a name.
func (s *store) kernelPackages(a *apt, name string) ([]string, error) {
	for fresh := false; ; fresh = true {
		if fresh || !a.hasLists() {
			if err := a.update(); err != nil {
				return nil, err
			}
		}
		names, err := a.names("linux-")
		if err != nil {
			return nil, unavailable("guest kernel %s: %w", name, err)
		}
		if p := packagesOf(name, s.arch.flavour(), names); p != nil {
			return p, nil
		}
		if fresh {
			return nil, unavailable("guest kernel %s: no package of the suites %s holds one for %s: it has left the archive; "+
				"choose another, or keep a copy of the cache", name, strings.Join(suites, ", "), s.arch.Name)
		}
	}
}

// packagesOf picks, of all names, the packages of the newest kernel NAME. Until
// 6.19 image and modules are one package, linux-image-RELEASE; then there are
// linux-binary-, linux-modules- and linux-base-RELEASE. Signed or not does not
// matter here.
func packagesOf(name, flavour string, names []string) []string {
	release := ""
	for _, p := range names {
		r := strings.TrimPrefix(strings.TrimPrefix(p, "linux-image-"), "linux-binary-")
		r = strings.TrimSuffix(strings.TrimPrefix(r, "unsigned-"), "-unsigned")
		if r != p && strings.HasPrefix(r, name+".") && strings.HasSuffix(r, flavour) && (release == "" || versionLess(release, r)) {
			release = r
		}
	}
	if release == "" {
		return nil
	}
	first := func(candidates ...string) []string {
		for _, c := range candidates {
			if slices.Contains(names, c) {
				return []string{c}
			}
		}
		return nil
	}
	packages := first("linux-binary-"+release, "linux-binary-unsigned-"+release)
	if packages == nil {
		return first("linux-image-"+release, "linux-image-"+release+"-unsigned")
	}
	packages = append(packages, first("linux-modules-"+release)...)
	return append(packages, first("linux-base-"+release)...)
}

// versionLess compares the numbers in two strings, and what is between them.
func versionLess(a, b string) bool {
	for a != "" && b != "" {
		x, y := chunk(a), chunk(b)
		if x != y {
			if digit(x[0]) && digit(y[0]) {
				x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
				if len(x) != len(y) {
					return len(x) < len(y)
				}
			}
			return x < y
		}
		a, b = a[len(x):], b[len(y):]
	}
	return len(a) < len(b)
}

// chunk returns the longest start of s that is all digits or has none.
func chunk(s string) string {
	n := 1
	for n < len(s) && digit(s[n]) == digit(s[0]) {
		n++
	}
	return s[:n]
}

func digit(c byte) bool { return '0' <= c && c <= '9' }

// extract unpacks packages into dir.
func extract(dir string, debs []string) error {
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w: %s", filepath.Base(deb), err, lastLine(out))
		}
	}
	return nil
}

// unpack makes dir from packages: vmlinuz, lib/modules/RELEASE with the lists
// that depmod writes, and the checksum of every file.
func unpack(dir string, debs []string) error {
	x := dir + ".x"
	if err := extract(x, debs); err != nil {
		return err
	}
	trees, _ := filepath.Glob(filepath.Join(x, "usr/lib/modules/*"))
	old, _ := filepath.Glob(filepath.Join(x, "lib/modules/*"))
	if trees = append(trees, old...); len(trees) != 1 {
		return fmt.Errorf("packages hold %d trees of modules", len(trees))
	}
	release := filepath.Base(trees[0])
	images, _ := filepath.Glob(filepath.Join(x, "boot/vmlinuz-*"))
	if images = append(images, filepath.Join(trees[0], "vmlinuz")); !exists(images[0]) {
		return errors.New("packages hold no vmlinuz")
	}
	if err := os.MkdirAll(filepath.Join(dir, "lib/modules"), 0o755); err != nil {
		return err
	}
	if err := os.Rename(images[0], filepath.Join(dir, "vmlinuz")); err != nil {
		return err
	}
	if err := os.Rename(trees[0], filepath.Join(dir, "lib/modules", release)); err != nil {
		return err
	}
	depmod, err := exec.LookPath("depmod")
	if err != nil {
		depmod = "/usr/sbin/depmod" // not in everybody's PATH
	}
	if out, err := exec.Command(depmod, "-b", dir, release).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s: run scripts/vm-setup", err, lastLine(out))
	}
	return writeSums(dir)
}

// writeSums writes the checksums in the format of sha256sum(1).
func writeSums(dir string) error {
	var lines strings.Builder
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		b, err := os.ReadFile(path)
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&lines, "%x  %s\n", sum(b), name)
		return err
	})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, sumsFile), []byte(lines.String()), 0o644)
}

// parseSums returns checksums by name.
func parseSums(b []byte) map[string]string {
	sums := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		if sum, name, ok := strings.Cut(lines.Text(), "  "); ok {
			sums[name] = sum
		}
	}
	return sums
}

// lock waits until no other process holds the file.
func lock(name string) (unlock func(), err error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		f.Close()
		return nil, err
	}
	return func() { f.Close() }, nil
}
