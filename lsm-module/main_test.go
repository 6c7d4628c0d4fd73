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
	"attacks": childAttacks,
	"costs":   childCosts,
	"create":  childCreates,
	"daemon":  childDaemon,
	"flood":   childFlood,
	"look":    childLook,
	"loop":    childLoop,
	"token":   childToken,
	"tries":   childTries,
	"waits":   childWaits,
	"who":     childWho,
	"makes":   childMakes,
	"signed":  childSigned,
}

const childEnv = "LSM_TEST_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	if err := children[name](os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
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
