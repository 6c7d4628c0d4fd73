package vmtest

import (
	"bufio"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// root makes the first root of a guest.
type root struct {
	*cpioWriter
	host string   // directory that programs come from: "" is this machine's root
	libs []string // directories of shared libraries there
}

func newRoot(w io.Writer, host string) *root {
	r := &root{cpioWriter: newCPIO(w), host: host}
	r.libs = r.libraryDirs()
	return r
}

// path is where a file of the host is.
func (r *root) path(name string) string { return filepath.Join(r.host, name) }

// same adds a file of the host under the same name, with every symbolic link on
// the way to it and, if it is a program, its interpreter and shared libraries.
func (r *root) same(name string) error {
	real, err := r.links(name)
	if err != nil {
		return err
	}
	if r.seen[strings.TrimPrefix(real, "/")] {
		return nil
	}
	info, err := os.Stat(r.path(real))
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%s: not a regular file", name)
	}
	b, err := os.ReadFile(r.path(real))
	if err != nil {
		return err
	}
	r.file(real, info.Mode().Perm(), b)
	return r.libraries(r.path(real))
}

// libraries adds what a program, a file of this machine, needs to start.
func (r *root) libraries(file string) error {
	needed, err := r.needs(file)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, n := range needed {
		if err := r.same(n); err != nil {
			return err
		}
	}
	return nil
}

// all adds a file or every file of a directory, as same does.
func (r *root) all(name string) error {
	return filepath.WalkDir(r.path(name), func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return r.same(strings.TrimPrefix(name, r.host))
	})
}

// links follows name component by component, adds the symbolic links it meets,
// and returns where it ends.
func (r *root) links(name string) (string, error) {
	done, rest := "/", strings.Split(strings.Trim(filepath.Clean(name), "/"), "/")
	for hops := 0; len(rest) > 0; {
		next := filepath.Join(done, rest[0])
		rest = rest[1:]
		info, err := os.Lstat(r.path(next))
		if err != nil {
			return "", err
		}
		if info.Mode()&fs.ModeSymlink == 0 {
			done = next
			continue
		}
		if hops++; hops > 40 {
			return "", fmt.Errorf("%s: too many symbolic links", name)
		}
		target, err := os.Readlink(r.path(next))
		if err != nil {
			return "", err
		}
		r.symlink(next, target)
		if !filepath.IsAbs(target) {
			target = filepath.Join(done, target)
		}
		done, rest = "/", append(strings.Split(strings.Trim(filepath.Clean(target), "/"), "/"), rest...)
	}
	return done, nil
}

// needs returns the interpreter and the libraries that an ELF file names, as
// ld.so(8) of the host would find them; of a script, its interpreter; of others,
// nothing.
func (r *root) needs(file string) ([]string, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	line, _ := bufio.NewReaderSize(f, 256).ReadString('\n')
	if script, ok := strings.CutPrefix(line, "#!"); ok {
		if words := strings.Fields(script); len(words) > 0 && exists(r.path(words[0])) {
			return words[:1], nil
		}
		return nil, nil
	}
	if !strings.HasPrefix(line, elf.ELFMAG) {
		return nil, nil
	}
	e, err := elf.NewFile(f)
	if err != nil {
		return nil, err
	}
	libs, err := e.ImportedLibraries()
	if err != nil || len(libs) == 0 {
		return nil, nil // static, or data in ELF clothes
	}
	var found []string
	for _, p := range e.Progs {
		if p.Type == elf.PT_INTERP {
			b, err := io.ReadAll(p.Open())
			if err != nil {
				return nil, err
			}
			found = append(found, strings.TrimRight(string(b), "\x00"))
		}
	}
	dirs := append(runPath(e, filepath.Dir(strings.TrimPrefix(file, r.host))), r.libs...)
	for _, lib := range libs {
		file, err := r.findLibrary(lib, dirs, e)
		if err != nil {
			return nil, err
		}
		found = append(found, file)
	}
	return found, nil
}

func runPath(e *elf.File, origin string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		values, _ := e.DynString(tag)
		for _, v := range values {
			for d := range strings.SplitSeq(v, ":") {
				dirs = append(dirs, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(d))
			}
		}
	}
	return dirs
}

func (r *root) findLibrary(name string, dirs []string, user *elf.File) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	for _, d := range dirs {
		file := filepath.Join(d, name)
		lib, err := elf.Open(r.path(file))
		if err != nil {
			continue
		}
		lib.Close()
		if lib.Machine == user.Machine && lib.Class == user.Class {
			return file, nil
		}
	}
	return "", fmt.Errorf("library %s: not found", name)
}

// libraryDirs returns where ld.so looks: what ld.so.conf(5) lists, then the
// directories it has built in.
func (r *root) libraryDirs() []string {
	var dirs []string
	files, _ := filepath.Glob(r.path("/etc/ld.so.conf.d/*.conf"))
	for _, f := range append(files, r.path("/etc/ld.so.conf")) {
		b, _ := os.ReadFile(f)
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); strings.HasPrefix(line, "/") {
				dirs = append(dirs, line)
			}
		}
	}
	return append(dirs, "/lib64", "/usr/lib64", "/lib", "/usr/lib")
}

// program adds a program found in PATH, or in the directories of root's.
func (r *root) program(name string) error {
	file, err := r.lookPath(name)
	if err != nil {
		return err
	}
	return r.same(file)
}

func (r *root) lookPath(name string) (string, error) {
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/bin", "/usr/sbin", "/sbin") {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(r.path(file)); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", &exec.Error{Name: name, Err: exec.ErrNotFound}
}

// tree adds the directory src of the host, whole, as dst.
func (r *root) tree(src, dst string) error {
	return filepath.WalkDir(src, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(src, name)
		if err != nil {
			return err
		}
		return r.as(name, filepath.Join(dst, rel))
	})
}

// as adds one file, directory or symbolic link of the host under another name.
func (r *root) as(src, dst string) error {
	info, err := os.Lstat(src)
	if err != nil {
		return err
	}
	switch info.Mode().Type() {
	case fs.ModeDir:
		r.dir(dst, info.Mode().Perm())
	case fs.ModeSymlink:
		target, err := os.Readlink(src)
		if err != nil {
			return err
		}
		r.symlink(dst, target)
	case 0:
		b, err := os.ReadFile(src)
		if err != nil {
			return err
		}
		r.file(dst, info.Mode().Perm(), b)
		if info.Mode()&0o111 != 0 {
			return r.libraries(src)
		}
	}
	return r.err
}

// system adds what every Debian has and programs expect.
func (r *root) system() error {
	for _, link := range []string{"/bin", "/sbin", "/lib", "/lib64"} {
		if _, err := r.links(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	r.file("/etc/passwd", 0o644, []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n"))
	r.file("/etc/group", 0o644, []byte("root:x:0:\nnogroup:x:65534:\n"))
	r.file("/etc/nsswitch.conf", 0o644, []byte("passwd: files\ngroup: files\nhosts: files\n"))
	r.file("/etc/hosts", 0o644, []byte("127.0.0.1 localhost\n::1 localhost\n"))
	r.dir("/root", 0o700)
	r.dir("/etc", 0o755)
	for _, d := range []string{"/proc", "/sys", "/dev", "/run", "/var/lib", "/tmp", coverDir} {
		r.dir(d, 0o755)
	}
	return r.err
}

// modules adds modules of the kernel and returns their names in the guest, in
// the order of loading.
func (r *root) modules(k *Kernel, names []string) ([]string, error) {
	paths, err := k.modulePaths(names)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, p := range paths {
		b, err := k.read(k.modules(p))
		if err != nil {
			return nil, err
		}
		file := "/vm/modules/" + filepath.Base(p)
		r.file(file, 0o644, b)
		files = append(files, file)
	}
	return files, nil
}

// busybox adds it under the names of all its applets that nothing else has. That
// of this machine says which there are.
func (r *root) busybox() error {
	native, err := exec.LookPath("busybox")
	if err != nil {
		return unavailable("guest: busybox is not installed: run scripts/vm-setup")
	}
	out, err := exec.Command(native, "--list").Output()
	if err != nil {
		return fmt.Errorf("busybox --list: %w", err)
	}
	file, err := r.lookPath("busybox")
	if err != nil {
		return err
	}
	real, err := r.links(file)
	if err != nil {
		return err
	}
	if err := r.same(real); err != nil {
		return err
	}
	r.symlink("/usr/bin/busybox", real)
	for applet := range strings.FieldsSeq(string(out)) {
		if !r.seen["usr/bin/"+applet] && !r.seen["usr/sbin/"+applet] {
			r.symlink("/usr/bin/"+applet, real)
		}
	}
	return nil
}

// plan adds the plan of /init.
func (r *root) plan(p *Plan) error {
	b, err := json.Marshal(p)
	if err != nil {
		return err
	}
	r.file(planFile, 0o600, b)
	return r.err
}
