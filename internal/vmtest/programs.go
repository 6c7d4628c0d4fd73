package vmtest

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// sysroot returns the directory whose programs the guests run: "" is this
// machine's root, others are unpacked from packages and kept as kernels are.
// Errors are ErrUnavailable.
func (a *Arch) sysroot() (string, error) {
	if a.packages == nil {
		return "", a.native()
	}
	s, err := a.store()
	if err != nil {
		return "", err
	}
	return s.sysroot(a.packages)
}

// native says whether guests can run programs of this machine.
func (a *Arch) native() error {
	if a.Name != runtime.GOARCH {
		return unavailable("%s guest: it runs programs of this machine, which is %s: run the tests on a machine of its kind", a.Name, runtime.GOARCH)
	}
	return nil
}

func (s *store) sysroot(packages []string) (string, error) {
	const name = "programs"
	err := s.keep(item{
		what: "guest programs for " + s.arch.Name, name: name,
		open:    func(dir string) error { return openSysroot(dir, packages) },
		resolve: func(a *apt) ([]string, error) { return s.programPackages(a, packages) },
		unpack:  func(dir string, debs []string) error { return unpackSysroot(dir, packages, debs) },
	})
	return filepath.Join(s.dir, name), err
}

// programPackages returns packages with all that they depend on.
func (s *store) programPackages(a *apt, packages []string) ([]string, error) {
	if !a.hasLists() {
		if err := a.update(); err != nil {
			return nil, err
		}
	}
	all, err := a.closure(packages)
	if err != nil {
		if err = a.update(); err == nil { // the lists may be older than the archive
			all, err = a.closure(packages)
		}
	}
	if err != nil {
		return nil, unavailable("guest programs for %s: %w", s.arch.Name, err)
	}
	return all, nil
}

// packagesFile says what it was made of.
const packagesFile = "PACKAGES"

// openSysroot holds every file against its checksum: all of them may be used.
func openSysroot(dir string, packages []string) error {
	b, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return err
	}
	sums := parseSums(b)
	if got, _ := os.ReadFile(filepath.Join(dir, packagesFile)); !slices.Equal(strings.Fields(string(got)), packages) {
		return fmt.Errorf("%s: is of other packages: %s", dir, got)
	}
	for name, want := range sums {
		b, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return err
		}
		if fmt.Sprintf("%x", sum(b)) != want {
			return fmt.Errorf("%s: %s has changed since it was unpacked", dir, name)
		}
	}
	return nil
}

// unpackSysroot makes dir from packages. Since Debian 13 all their files are in
// /usr; the links that lead there come with base-files, if that is one of them.
func unpackSysroot(dir string, packages, debs []string) error {
	if err := extract(dir, debs); err != nil {
		return err
	}
	for _, d := range []string{"bin", "sbin", "lib"} {
		link := filepath.Join(dir, d)
		if to, _ := os.Readlink(link); to == "usr/"+d {
			continue
		}
		if err := os.Symlink("usr/"+d, link); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, packagesFile), []byte(strings.Join(packages, "\n")+"\n"), 0o644); err != nil {
		return err
	}
	return writeSums(dir)
}
