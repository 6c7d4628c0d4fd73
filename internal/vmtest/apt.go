package vmtest

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// ErrUnavailable marks what cannot run on this machine, whatever is tested: no
// QEMU, no mirror, no space, a kernel that left the archive.
var ErrUnavailable = errors.New("not available here")

// unavailable is an error of that kind. The text names what, why and remedy.
func unavailable(format string, args ...any) error {
	return &unavailableError{fmt.Errorf(format, args...)}
}

type unavailableError struct{ error }

func (e *unavailableError) Is(target error) bool { return target == ErrUnavailable }
func (e *unavailableError) Unwrap() error        { return e.error }

// suites are where the kernels of users are. None of them needs to be in the
// machine's own list.
var suites = []string{"bookworm", "trixie", "trixie-backports"}

// apt reads packages from the machine's own mirror, with a state of its own: it
// needs no privileges and changes nothing outside dir.
type apt struct {
	dir  string // lists, cache and the sources file
	etc  string // /etc/apt
	arch string // of the packages
}

// mirror is a line of sources.list without its suite and its architecture.
type mirror struct{ uri, options string }

// findMirror returns the first Debian mirror in the machine's configuration.
func findMirror(etc string) (mirror, error) {
	files, _ := filepath.Glob(filepath.Join(etc, "sources.list.d/*.sources"))
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		for stanza := range strings.SplitSeq(string(b), "\n\n") {
			if m, ok := stanzaMirror(stanza); ok {
				return m, nil
			}
		}
	}
	lists, _ := filepath.Glob(filepath.Join(etc, "sources.list.d/*.list"))
	for _, f := range append([]string{filepath.Join(etc, "sources.list")}, lists...) {
		b, _ := os.ReadFile(f)
		for line := range strings.Lines(string(b)) {
			if m, ok := lineMirror(line); ok {
				return m, nil
			}
		}
	}
	return mirror{}, unavailable("guest kernels: %s names no Debian mirror to take them from: add one (suite bookworm or trixie, component main)", etc)
}

// releases are the suites that a mirror of all of Debian has.
var releases = []string{"bullseye", "bookworm", "trixie", "forky", "sid", "stable", "testing", "unstable"}

// stanzaMirror reads a stanza of a .sources file (sources.list(5)).
func stanzaMirror(stanza string) (mirror, bool) {
	fields := map[string]string{}
	for line := range strings.Lines(stanza) {
		key, value, ok := strings.Cut(line, ":")
		if ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, " ") {
			fields[strings.ToLower(key)] = strings.TrimSpace(value)
		}
	}
	words := func(key string) []string { return strings.Fields(fields[key]) }
	if !slices.Contains(words("types"), "deb") || !slices.Contains(words("components"), "main") ||
		fields["enabled"] == "no" || len(words("uris")) == 0 || !isDebian(words("suites")) {
		return mirror{}, false
	}
	m := mirror{uri: words("uris")[0]}
	// A key may also stand in the stanza itself, over several lines: then
	// apt's own trusted keys must do.
	if by := fields["signed-by"]; strings.HasPrefix(by, "/") {
		m.options = "[signed-by=" + by + "]"
	}
	return m, true
}

// lineMirror reads a line of sources.list.
func lineMirror(line string) (mirror, bool) {
	rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
	if !ok {
		return mirror{}, false
	}
	var m mirror
	if rest = strings.TrimSpace(rest); strings.HasPrefix(rest, "[") {
		options, after, ok := strings.Cut(rest[1:], "]")
		if !ok {
			return mirror{}, false
		}
		// For which architecture is said to apt in another place.
		words := slices.DeleteFunc(strings.Fields(options), func(o string) bool { return strings.HasPrefix(o, "arch") })
		if rest = after; len(words) > 0 {
			m.options = "[" + strings.Join(words, " ") + "]"
		}
	}
	f := strings.Fields(rest)
	if len(f) < 3 || !isDebian(f[1:2]) || !slices.Contains(f[2:], "main") {
		return mirror{}, false
	}
	m.uri = f[0]
	return m, true
}

func isDebian(suites []string) bool {
	return slices.ContainsFunc(suites, func(s string) bool { return slices.Contains(releases, s) })
}

// update writes the sources and fetches the lists.
func (a *apt) update() error {
	if _, err := exec.LookPath("apt-get"); err != nil {
		return unavailable("guest kernels: apt-get is not installed: they come as Debian packages")
	}
	m, err := findMirror(a.etc)
	if err != nil {
		return err
	}
	var lines strings.Builder
	for _, s := range suites {
		fmt.Fprintln(&lines, strings.Join(strings.Fields("deb "+m.options+" "+m.uri+" "+s+" main"), " "))
	}
	for _, d := range []string{"lists/partial", "cache/archives/partial"} {
		if err := os.MkdirAll(filepath.Join(a.dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(a.dir, "sources.list"), []byte(lines.String()), 0o644); err != nil {
		return err
	}
	// One suite may be gone: whether the kernel is there shows later. A mirror
	// that cannot be reached is none of apt's errors.
	out, err := a.run("apt-get", "-q", "update")
	if a.hasLists() {
		return nil
	}
	if err == nil {
		err = errors.New("it gave no lists of packages")
	}
	return unavailable("guest kernels: %s: apt-get update: %w: %s: make it work on this machine", m.uri, err, lastLine(out))
}

func (a *apt) hasLists() bool {
	found, _ := filepath.Glob(filepath.Join(a.dir, "lists/*Packages*"))
	return len(found) > 0
}

// names returns the names of all packages that start with prefix.
func (a *apt) names(prefix string) ([]string, error) {
	out, err := a.run("apt-cache", "pkgnames", prefix)
	if err != nil {
		return nil, fmt.Errorf("apt-cache pkgnames: %w: %s", err, lastLine(out))
	}
	return strings.Fields(string(out)), nil
}

// closure returns packages and what they depend on, where nothing is installed.
func (a *apt) closure(packages []string) ([]string, error) {
	args := append([]string{"-q", "-s", "-y", "--no-install-recommends", "install"}, packages...)
	out, err := a.run("apt-get", args...)
	if err != nil {
		return nil, fmt.Errorf("apt-get install %s: %w: %s", strings.Join(packages, " "), err, lastLine(out))
	}
	var all []string
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "Inst" {
			all = append(all, f[1])
		}
	}
	return all, nil
}

// download puts packages into the new directory dir and returns their files.
func (a *apt) download(dir string, packages []string) ([]string, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	cmd := a.command("apt-get", append([]string{"-q", "download"}, packages...)...)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("apt-get download %s: %w: %s", strings.Join(packages, " "), err, lastLine(out))
	}
	return filepath.Glob(filepath.Join(dir, "*.deb"))
}

func (a *apt) run(name string, args ...string) ([]byte, error) {
	return a.command(name, args...).CombinedOutput()
}

func (a *apt) command(name string, args ...string) *exec.Cmd {
	options := []string{
		"-o", "Dir::Etc::sourcelist=" + filepath.Join(a.dir, "sources.list"),
		"-o", "Dir::Etc::sourceparts=-",
		"-o", "Dir::State::Lists=" + filepath.Join(a.dir, "lists"),
		"-o", "Dir::State::status=/dev/null", // nothing is installed
		"-o", "Dir::Cache=" + filepath.Join(a.dir, "cache"),
		"-o", "APT::Architecture=" + a.arch,
		"-o", "APT::Architectures=" + a.arch,
		"-o", "Acquire::Languages=none",
		"-o", "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false",
		"-o", "Acquire::Retries=3",
		"-o", "APT::Sandbox::User=root",
	}
	cmd := exec.Command(name, append(options, args...)...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	return cmd
}

// lastLine returns the first complaint of apt, or else its last line.
func lastLine(out []byte) string {
	lines := strings.Split(strings.TrimSpace(string(bytes.ToValidUTF8(out, nil))), "\n")
	for _, complaint := range []string{"E: ", "W: Failed to fetch ", "Err:"} {
		for _, l := range lines {
			if strings.HasPrefix(l, complaint) {
				return l
			}
		}
	}
	return lines[len(lines)-1]
}

// exists says whether a file is there.
func exists(name string) bool {
	_, err := os.Stat(name)
	return !errors.Is(err, fs.ErrNotExist)
}
