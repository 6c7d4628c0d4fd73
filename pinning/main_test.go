package pinning

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"testing"
)

// children are what the test binary does when a test starts it again as a
// process of its own: name -> function of the arguments.
var children = map[string]func(args []string) error{}

const childEnv = "PINNING_TEST_CHILD"

func TestMain(m *testing.M) {
	name := os.Getenv(childEnv)
	if name == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts system calls per thread
	if err := children[name](os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child returns a command that runs the child called name; wrap, if any, is
// the command to run it under.
func child(name string, wrap []string, args ...string) *exec.Cmd {
	argv := append(append(append([]string{}, wrap...), os.Args[0]), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"="+name)
	return cmd
}
