package lsm

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
)

// children are what the test binary does when a test starts it again as a process
// of its own: name -> function of the arguments.
var children = map[string]func(args []string) error{
	"adopts":   childAdopts,
	"attacks":  childAttacks,
	"costs":    childCosts,
	"create":   childCreates,
	"becomes":  childBecomes,
	"daemon":   childDaemon,
	"flood":    childFlood,
	"look":     childLook,
	"loop":     childLoop,
	"token":    childToken,
	"stays":    childStays,
	"tries":    childTries,
	"copies":   childCopies,
	"removes":  childRemoves,
	"unmounts": childUnmounts,
	"waits":    childWaits,
	"who":      childWho,
	"makes":    childMakes,
	"signed":   childSigned,
	"keeps":    childKeeps,
	"pins":     childPins,
	"polls":    childPolls,
	"repeats":  childRepeats,
	"runs":     func(args []string) error { return exec.Command(args[0]).Run() },
	"holds":    childHolds,
}

const childEnv = "LSM_TEST_CHILD"

func TestMain(m *testing.M) {
	if err := takeObject(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	name := os.Getenv(childEnv)
	if name == "" {
		if os.Getenv(objectEnv) != "" {
			if err := sweepGuest(); err != nil {
				fmt.Fprintln(os.Stderr, "an earlier guard has left:", err)
				os.Exit(leftOver)
			}
		}
		keepHooks()
		status := m.Run()
		if status == 0 && quick() {
			status = runRest()
		}
		os.Exit(status)
	}
	if err := children[name](os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// keepHooks keeps programs that decide nothing at the hooks, where the machine is the
// tests' own: a guard goes in a moment then. Where it is refused, tests take longer.
func keepHooks() {
	const place = "/sys/fs/bpf/kept"
	if _, err := os.Stat(place); err == nil || !vmtest.InGuest() {
		return
	}
	if out, err := child("keeps", nil, place).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "hooks are not kept: %v: %s\n", err, out)
	}
}

// child returns a command that runs the child called name. wrap, if any, is the
// command to run it under.
func child(name string, wrap []string, args ...string) *exec.Cmd {
	argv := append(append(append([]string{}, wrap...), "/proc/self/exe"), args...)
	if wrap != nil {
		argv[len(wrap)] = os.Args[0]
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	return cmd
}

// guestOnly keeps a test from arming the machine that it was started on.
func guestOnly(t testing.TB) {
	t.Helper()
	if !vmtest.InGuest() {
		t.Skip("arms the guard: only in guests")
	}
	testenv.RequireRoot(t)
}

// copyOf returns a copy of an executable, which to the guard is another one.
func copyOf(t *testing.T, exe string) string {
	t.Helper()
	copied := filepath.Join(t.TempDir(), "copy")
	b, err := os.ReadFile(exe)
	if err == nil {
		err = os.WriteFile(copied, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return copied
}
