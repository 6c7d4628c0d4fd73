package audit

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"
)

const childEnv = "AUDIT_TEST_CHILD"

func TestMain(m *testing.M) {
	if os.Getenv(childEnv) == "" {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // strace counts system calls per thread
	if err := appendChild(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// child returns a command that runs appendChild in a process of its own; wrap,
// if any, is the command to run it under.
func child(wrap []string, args ...string) *exec.Cmd {
	argv := append(append(append([]string{}, wrap...), os.Args[0]), args...)
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), childEnv+"=1")
	return cmd
}

// appendChild appends n records and prints each sequence number as soon as it
// is acknowledged, "error" where it is not.
func appendChild(dir, n string) error {
	count, err := strconv.Atoi(n)
	if err != nil {
		return err
	}
	l, err := Open(dir)
	if err != nil {
		return err
	}
	for range count {
		r, err := l.Append(Record{Phase: Intent, Verb: "load", Error: "some text that a torn line can be torn in"})
		if err != nil {
			fmt.Println("error", err)
		} else {
			fmt.Println(r.Seq)
		}
	}
	return l.Close()
}
