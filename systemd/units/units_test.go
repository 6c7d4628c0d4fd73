// Package units checks the unit files with systemd's own tools, offline: as
// `make install` puts them below a directory that plays the root.
package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/systemd"
)

// maxExposure is what `systemd-analyze security` may say, times ten. It only
// goes down; whoever wants it up says why in hornetd.service.
const maxExposure = "32"

// tool skips the test where systemd's program is not installed.
func tool(t *testing.T, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: install the package systemd", name)
	}
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	return string(out), err
}

// installed returns a directory with what `make install` puts into the system,
// except that the programs are files of no use: building is not the point here.
func installed(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	for name, file := range map[string]string{
		"hornetd.service":  "usr/lib/systemd/system/hornetd.service",
		"hornetd.socket":   "usr/lib/systemd/system/hornetd.socket",
		"hornetd.tmpfiles": "usr/lib/tmpfiles.d/hornetd.conf",
		"hornetd.sysusers": "usr/lib/sysusers.d/hornetd.conf",
		"hornetd.preset":   "usr/lib/systemd/system-preset/80-hornetd.preset",
	} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(root, file), string(b), 0o644)
	}
	for _, program := range []string{"usr/sbin/hornetd", "usr/bin/hornetctl"} {
		write(t, filepath.Join(root, program), "#!/bin/true\n", 0o755)
	}
	write(t, filepath.Join(root, "etc/hostname"), "test\n", 0o644)
	// A distribution that turns nothing on by itself.
	write(t, filepath.Join(root, "usr/lib/systemd/system-preset/99-default.preset"), "disable *\n", 0o644)
	return root
}

func write(t *testing.T, file, text string, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), mode); err != nil {
		t.Fatal(err)
	}
}

// systemd prints a line for each key it does not know, each value it cannot
// parse and each unit it cannot find.
func TestVerify(t *testing.T) {
	root := installed(t)
	unit := filepath.Join(root, "usr/lib/systemd/system/hornetd.service")
	b, err := os.ReadFile(unit)
	if err != nil {
		t.Fatal(err)
	}
	// verify wants the programs to exist, in the real root.
	edit := strings.NewReplacer("=/usr/sbin/hornetd", "="+root+"/usr/sbin/hornetd", "=/usr/bin/hornetctl", "="+root+"/usr/bin/hornetctl")
	write(t, unit, edit.Replace(string(b)), 0o644)

	out, err := tool(t, "systemd-analyze", "verify", "--man=no", unit, filepath.Join(root, "usr/lib/systemd/system/hornetd.socket"))
	if err != nil || out != "" {
		t.Errorf("systemd-analyze verify: %v\n%s", err, out)
	}
}

func TestExposure(t *testing.T) {
	out, err := tool(t, "systemd-analyze", "security", "--offline=true", "--threshold="+maxExposure,
		filepath.Join(installed(t), "usr/lib/systemd/system/hornetd.service"))
	if err != nil {
		t.Errorf("more exposed than %s: %v\n%s", maxExposure, err, out)
	}
}

// What a first boot makes of the files: directories with their modes, the
// group, and both units turned on by the preset.
func TestFirstBoot(t *testing.T) {
	root := installed(t)
	for _, c := range [][]string{
		{"systemd-sysusers", "--root=" + root},
		{"systemd-tmpfiles", "--root=" + root, "--create", "--prefix=/sys/fs/bpf", "--prefix=/run"},
		{"systemctl", "--root=" + root, "preset", "hornetd.service", "hornetd.socket"},
	} {
		if out, err := tool(t, c[0], c[1:]...); err != nil {
			t.Fatalf("%v: %v\n%s", c, err, out)
		}
	}

	group, err := os.ReadFile(filepath.Join(root, "etc/group"))
	if err != nil || !strings.Contains(string(group), "hornet:x:") {
		t.Errorf("group hornet is not made: %v\n%s", err, group)
	}
	got := map[string]string{}
	for _, dir := range []string{"sys/fs/bpf/hornet", "run/hornet", "run/hornet.d"} {
		info, err := os.Stat(filepath.Join(root, dir))
		if err != nil {
			t.Fatal(err)
		}
		got[dir] = info.Mode().String()
	}
	want := map[string]string{"sys/fs/bpf/hornet": "drwx------", "run/hornet": "drwxr-xr-x", "run/hornet.d": "drwxr-xr-x"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("directories (-want +got):\n%s", diff)
	}
	for _, link := range []string{"sysinit.target.wants/hornetd.service", "sockets.target.wants/hornetd.socket"} {
		if _, err := os.Lstat(filepath.Join(root, "etc/systemd/system", link)); err != nil {
			t.Errorf("preset: %v", err)
		}
	}
}

// The unit files and the program must mean the same names.
func TestNames(t *testing.T) {
	socket, err := os.ReadFile("hornetd.socket")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"FileDescriptorName=" + systemd.SocketName, "ListenStream=/run/hornet/hornetd.sock", "SocketMode=0660", "SocketGroup=hornet"} {
		if !strings.Contains(string(socket), "\n"+line+"\n") {
			t.Errorf("hornetd.socket has no line %q", line)
		}
	}
}
