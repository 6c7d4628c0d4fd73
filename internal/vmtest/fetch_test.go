package vmtest

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// lists starts a script: $lists is a file that stands for what update fetches.
const lists = `for a; do case $a in Dir::State::Lists=*) lists=${a#*=}/x_Packages ;; esac; done
`

// archive puts an apt-get and an apt-cache into PATH that behave as told, and
// returns an empty store whose machine has a mirror.
func archive(t *testing.T, aptGet, aptCache string) *store {
	t.Helper()
	bin, s := t.TempDir(), &store{arch: AMD64, dir: t.TempDir(), etc: t.TempDir()}
	for name, script := range map[string]string{"apt-get": aptGet, "apt-cache": aptCache} {
		if err := os.WriteFile(filepath.Join(bin, name), []byte("#!/bin/sh\n"+lists+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	if err := os.WriteFile(filepath.Join(s.etc, "sources.list"), []byte("deb http://mirror.example/debian trixie main\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return s
}

// Whatever the machine lacks, the error says what and why.
func TestFetchRefused(t *testing.T) {
	const listed = "echo linux-image-6.1.0-50-cloud-amd64\n"
	for name, tt := range map[string]struct{ get, cache, want string }{
		"kernel gone":   {": >$lists", listed, "guest kernel 5.4: no package of the suites bookworm, trixie, trixie-backports holds one for amd64: it has left the archive"},
		"mirror silent": {"echo 'E: Could not resolve mirror.example'; exit 100", listed, "guest kernels: http://mirror.example/debian: apt-get update: exit status 100: E: Could not resolve mirror.example"},
		"mirror away": {"echo 'Err:1 http://mirror.example trixie'; echo 'W: Failed to fetch http://mirror.example/x  Could not connect'", listed,
			"guest kernels: http://mirror.example/debian: apt-get update: it gave no lists of packages: W: Failed to fetch http://mirror.example/x  Could not connect"},
		"package gone":   {`: >$lists; case "$*" in *download*) echo 'E: 404  Not Found'; exit 100; esac`, "echo linux-image-5.4.0-1-cloud-amd64\n", "apt-get download linux-image-5.4.0-1-cloud-amd64: exit status 100: E: 404  Not Found"},
		"nothing inside": {": >$lists", "echo linux-image-5.4.0-1-cloud-amd64\n", "packages hold 0 trees of modules"},
	} {
		t.Run(name, func(t *testing.T) {
			s := archive(t, tt.get, tt.cache)
			k, err := s.find("5.4")
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%+v, %v; want %s", k, err, tt.want)
			}
			left, _ := os.ReadDir(s.dir)
			for _, e := range left {
				if e.Name() != ".apt" && e.Name() != ".lock" {
					t.Errorf("left %s", e.Name())
				}
			}
		})
	}
}

func TestFetchNoSpace(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts a small file system")
	}
	s := archive(t, "exit 0", "exit 0")
	if err := unix.Mount("tmpfs", s.dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(s.dir, unix.MNT_DETACH) })
	if _, err := s.find("5.4"); !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "MB left, 600 are needed: make room") {
		t.Errorf("error %v", err)
	}
}
