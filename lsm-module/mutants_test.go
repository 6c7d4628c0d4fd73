package lsm

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// What scripts/mutate-guard needs of the test binary, in a guest that tries one changed
// guard after the other.

// objectEnv names the file of a guard to test instead of the one that is built in.
const objectEnv = "LSM_TEST_OBJECT"

// leftOver is the exit status where the guard of an earlier run is in force, or has let
// something be done to the guest: what came of the tests would say nothing.
const leftOver = 99

// quickEnv has the deny matrix run first for the actors that notice most, and of the acts
// for those that the regular expression matches, and for all only if nothing is noticed and
// restEnv says so: emulated, they take longer than all other tests.
const quickEnv, restEnv = "LSM_TEST_QUICK", "LSM_TEST_REST"

func quick() bool { return os.Getenv(quickEnv) != "" }

// inHurry leaves those acts.
func inHurry(all []act) []act {
	if !quick() {
		return all
	}
	match := regexp.MustCompile(os.Getenv(quickEnv)).MatchString
	return slices.DeleteFunc(all, func(a act) bool { return !match(a.name) })
}

// runRest runs what is left out in a hurry, as the same child of the first process, if it
// was asked for. It returns only an exit status.
func runRest() int {
	const matrix = "TestDenyMatrix"
	run := flag.Lookup("test.run").Value.String()
	if asked, err := regexp.MatchString(run, matrix); err != nil || !asked || os.Getenv(restEnv) == "" {
		return 0
	}
	os.Unsetenv(quickEnv)
	args := slices.DeleteFunc(slices.Clone(os.Args), func(a string) bool { return strings.HasPrefix(a, "-test.run=") })
	fmt.Fprintln(os.Stderr, unix.Exec("/proc/self/exe", append(args, "-test.run=^"+matrix+"$"), os.Environ()))
	return 1
}

// takeObject takes the guard of objectEnv.
func takeObject() error {
	name := os.Getenv(objectEnv)
	if name == "" {
		return nil
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	object = b
	objectSum = sumOf(object)
	return nil
}

// sweepGuest removes what tests that were killed have left, and says whether that went.
func sweepGuest() error {
	const file = "/proc/self/mounts"
	mounts, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); f[2] == "bpf" && strings.HasPrefix(f[1], os.TempDir()+"/") {
			if err := unix.Unmount(f[1], unix.MNT_DETACH); err != nil {
				return fmt.Errorf("%s: %w", f[1], err)
			}
		}
	}
	for range 50 {
		if err = noGuard(); err == nil {
			break
		}
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		return err
	}
	if mounts, err = os.ReadFile(file); err != nil {
		return err
	}
	// A guard that did not refuse it lost the guest a mount, or got it one.
	const first = "/mounts" // in the guest's own root
	before, err := os.ReadFile(first)
	if errors.Is(err, os.ErrNotExist) {
		return os.WriteFile(first, mounts, 0o600)
	}
	if err == nil && string(before) != string(mounts) {
		err = fmt.Errorf("mounts were\n%s and are\n%s", before, mounts)
	}
	return err
}

// noGuard is an error if a program of a guard is loaded, or one that may not be seen.
func noGuard() error {
	for id := ebpf.ProgramID(0); ; {
		next, err := ebpf.ProgramGetNextID(id)
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		id = next
		p, err := ebpf.NewProgramFromID(id)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		info, err := p.Info()
		p.Close()
		if err != nil {
			return err
		}
		if strings.HasPrefix(info.Name, "guard_") {
			return fmt.Errorf("program %d is %s", id, info.Name)
		}
	}
}

// childKeeps pins, in a directory, a program that decides nothing at every hook of the
// guard: where it is not the last, the kernel takes a program away without waiting for
// all tasks, and a guard goes in a moment instead of seconds.
func childKeeps(args []string) error {
	if err := os.Mkdir(args[0], 0o700); err != nil {
		return err
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return err
	}
	for _, h := range choose(kernel).hooks {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.LSM, AttachType: ebpf.AttachLSMMac, AttachTo: h.Name, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		l, err := link.AttachLSM(link.LSMOptions{Program: p})
		if err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
		if err := l.Pin(filepath.Join(args[0], h.Name)); err != nil {
			return err
		}
	}
	return nil
}
