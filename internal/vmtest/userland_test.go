package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// builders puts an mmdebstrap, an mkfs.ext4 and an apt-config into PATH, of
// which the first behaves as told, and returns an empty cache on a machine with
// a mirror.
func builders(t *testing.T, mmdebstrap string) *userlands {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, as making a userland does")
	}
	bin, s := t.TempDir(), &userlands{dir: t.TempDir(), etc: t.TempDir()}
	for name, script := range map[string]string{
		"mmdebstrap": mmdebstrap,
		"mkfs.ext4":  `while [ $# -gt 1 ]; do [ "$1" != -d ] || root=$2; shift; done; cat "$root/etc/hostname" "$root/made" >"$1"`,
		"apt-config": `echo 'Acquire::http::Proxy "http://proxy.example/";'`,
	} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(s.etc, "sources.list"), []byte("deb http://mirror.example/debian trixie main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// makes stands for an mmdebstrap that works: it says what it was asked for, and
// where apt finds its proxy.
const makes = `for a; do
	case $a in
	--aptopt=*) conf=${a#--aptopt=} ;;
	/*/root) root=$a ;;
	esac
	source=$a
done
mkdir -p "$root/etc/apt"
{ echo "$source"; cat "$conf"; } >"$root/made"
`

func TestUserland(t *testing.T) {
	s := builders(t, makes)
	disk, err := s.find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const want = "guest\ndeb http://mirror.example/debian trixie main\nAcquire::http::Proxy \"http://proxy.example/\";\n"
	if b, err := os.ReadFile(disk); string(b) != want {
		t.Errorf("made of %q, %v", b, err)
	}
	left, _ := os.ReadDir(s.dir)
	if len(left) != 2 {
		t.Errorf("left %v", left)
	}

	// It is made once, and again where it was damaged.
	t.Setenv("PATH", "/usr/bin:/bin")
	if _, err := s.find(t.Context()); err != nil {
		t.Errorf("not kept: %v", err)
	}
	again := builders(t, makes)
	s.etc = again.etc
	if err := os.WriteFile(disk, []byte("damaged"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := s.find(t.Context()); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(disk); string(b) != want {
		t.Errorf("made again of %q, %v", b, err)
	}
}

// Whatever the machine lacks, the error says what and why, and nothing is left.
func TestUserlandRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*testing.T, *userlands)
		want    string
	}{
		"no mirror":     {func(t *testing.T, s *userlands) { s.etc = t.TempDir() }, "names no Debian mirror"},
		"mirror silent": {nil, "http://mirror.example/debian: mmdebstrap: exit status 25: E: cannot download"},
		"no tool":       {func(t *testing.T, _ *userlands) { t.Setenv("PATH", t.TempDir()) }, "mmdebstrap is not installed: run scripts/vm-setup"},
		"no space": {func(t *testing.T, s *userlands) {
			if err := unix.Mount("tmpfs", s.dir, "tmpfs", 0, "size=1m"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { unix.Unmount(s.dir, unix.MNT_DETACH) })
		}, "MB left, 1024 are needed: make room"},
	} {
		t.Run(name, func(t *testing.T) {
			s := builders(t, "echo 'I: trying'; echo 'E: cannot download'; exit 25")
			if tt.prepare != nil {
				tt.prepare(t, s)
			}
			disk, err := s.find(t.Context())
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%q, %v; want %s", disk, err, tt.want)
			}
			left, _ := os.ReadDir(s.dir)
			for _, e := range left {
				if e.Name() != ".lock" {
					t.Errorf("left %s", e.Name())
				}
			}
		})
	}
}
