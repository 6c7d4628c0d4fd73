package vmtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// Tests are the tests of some packages of this module, to be run in a guest.
type Tests struct {
	Arch     *Arch    // of the guest; nil is AMD64
	Packages []string // as for go test: "./loader"
	Flags    []string // -test.* flags: "-test.v", "-test.run=X"
	Timeout  time.Duration
	Cover    string // package pattern to count coverage of, or ""
	CI       bool   // what cannot run fails
	Clock    string // of the guest
}

// Build compiles the test binaries into dir, once for all kernels, static
// because the guest has another userland or none.
func (t *Tests) Build(dir string) error {
	list := t.arch().goCommand(append([]string{"list", "-f", "{{if or .TestGoFiles .XTestGoFiles}}{{.ImportPath}}{{end}}"}, t.Packages...)...)
	out, err := list.Output()
	if err != nil {
		return fmt.Errorf("go list %s: %w: %s", strings.Join(t.Packages, " "), err, stderr(err))
	}
	paths := strings.Fields(string(out))
	if len(paths) == 0 {
		return fmt.Errorf("packages %s: there are no tests", strings.Join(t.Packages, " "))
	}
	t.Packages = paths
	// Unprivileged users of the guest run what is in it.
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	// What package testdaemon starts.
	build := t.arch().goCommand("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", dir+"/", modulePath+"/cmd/hornetd", modulePath+"/cmd/hornetctl")
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	for _, p := range paths {
		args := []string{"test", "-c", "-o", filepath.Join(dir, binaryName(p))}
		if t.Cover != "" {
			args = append(args, "-cover", "-covermode=atomic", "-coverpkg="+t.Cover)
		}
		if out, err := t.arch().goCommand(append(args, p)...).CombinedOutput(); err != nil {
			return fmt.Errorf("build tests of %s: %w: %s", p, err, out)
		}
	}
	return nil
}

func (t *Tests) arch() *Arch {
	if t.Arch == nil {
		return AMD64
	}
	return t.Arch
}

// goCommand builds for the architecture.
func (a *Arch) goCommand(args ...string) *exec.Cmd {
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+a.Name)
	return cmd
}

func stderr(err error) string {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return string(exit.Stderr)
	}
	return ""
}

// Where the sources and the binaries are in a guest.
const (
	sourceDir = "/src"
	binaryDir = "/vm/bin"
)

const modulePath = "github.com/hornetd/hornetd"

func binaryName(importPath string) string {
	return strings.ReplaceAll(strings.TrimPrefix(strings.TrimPrefix(importPath, modulePath), "/"), "/", "-") + ".test"
}

// DefaultModules are those that tests of this module need.
var DefaultModules = []string{"veth", "dummy", "sch_ingress", "cls_bpf", "nf_defrag_ipv4", "nf_defrag_ipv6", "loop", "bridge", "overlay", "romfs"}

// programs are what tests of this module run beside Go's.
var programs = []string{
	"sh", "bash", "cat", "true", "sleep", "setsid", "setpriv", "readlink", "mount", "umount", "mountpoint", "unshare", "nsenter",
	"ip", "ping", "ss", "bpftool", "strace", "openssl", "curl", "jq", "ldd", "nm", "readelf", "prlimit", "mkfs.ext4", "systemd-socket-activate",
}

// Guest returns a guest with the tests of t, which Build has put into dir.
// module is the root of this module's sources on the host.
func (t *Tests) Guest(k *Kernel, dir, module string) (*Guest, error) {
	sysroot, err := k.Arch.sysroot()
	if err != nil {
		return nil, err
	}
	g := &Guest{
		Kernel: k, Modules: DefaultModules, Sysroot: sysroot, Programs: k.Arch.programs, Clock: t.Clock,
		Files: map[string]string{binaryDir: dir},
	}
	entries, err := os.ReadDir(module)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		switch e.Name() {
		case ".git", ".cache", "bin":
		default:
			g.Files[path.Join(sourceDir, e.Name())] = filepath.Join(module, e.Name())
		}
	}
	// Objects that Debian ships, which tests load, and what openssl wants.
	for _, pattern := range []string{"/usr/lib/*/bpf", "/usr/lib/ssl/openssl.cnf"} {
		found, _ := filepath.Glob(filepath.Join(sysroot, pattern))
		for _, name := range found {
			g.Host = append(g.Host, strings.TrimPrefix(name, sysroot))
		}
	}
	for _, p := range t.Packages {
		g.Commands = append(g.Commands, t.command(p))
		g.Timeout += t.timeout() + 30*time.Second
	}
	g.Timeout += 2 * time.Minute // boot
	return g, nil
}

func (t *Tests) timeout() time.Duration {
	if t.Timeout == 0 {
		return 25 * time.Minute // beside the packages of the host
	}
	return t.Timeout
}

func (t *Tests) command(p string) Command {
	args := append([]string{path.Join(binaryDir, binaryName(p)), "-test.paniconexit0", "-test.short"}, t.Flags...)
	if t.timeout() > 10*time.Second {
		// A little earlier than /init's, so that it says which test hangs.
		args = append(args, fmt.Sprintf("-test.timeout=%s", t.timeout()-5*time.Second))
	}
	if t.Cover != "" {
		args = append(args, "-test.coverprofile="+path.Join(coverDir, binaryName(p)))
	}
	env := []string{Path, "HOME=/root", "LC_ALL=C", "TERM=dumb", "HORNET_BIN=" + binaryDir, guestEnv + "=1"}
	if t.CI {
		env = append(env, "CI=true")
	}
	return Command{
		Name: p, Dir: path.Join(sourceDir, strings.TrimPrefix(p, modulePath)),
		Args: args, Env: env, Timeout: t.timeout(),
	}
}

// guestEnv is set in the environment of what runs in a guest.
const guestEnv = "HORNET_GUEST"
