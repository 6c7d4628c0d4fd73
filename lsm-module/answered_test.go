package lsm

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// The kernel gives the mark to nobody whom another than the kernel can answer, or who
// may not ask which programs there are.
func TestWhoIsAnswered(t *testing.T) {
	guestOnly(t)
	home, exe := testenv.Cgroup(t), self(t)
	before := copyOf(t, exe)
	enrolled, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	arm(t, func(c *Config) {
		c.Cgroup = home
		c.Executables = []*os.File{enrolled}
	})
	for _, tt := range []struct{ what, want string }{
		{"nothing", "ok"},
		{"filter of another call", "ok"},
		{"many filters", "ok"},
		{"filter of one command", "EPERM"},
		{"filter of one command, and others", "EPERM"},
		{"filter that says that memory is locked", "EPERM"},
		{"listener", "EPERM"},
		{"listener, and others", "EPERM"},
		{"without CAP_SYS_ADMIN", "EPERM"},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, out := fromInit(t, home, before, "becomes", tt.what, exe)
			if got := said(t, out); got != tt.want {
				t.Errorf("a map: %s, want %s", got, tt.want)
			}
		})
	}
	t.Run("in a user namespace", func(t *testing.T) {
		// Where anybody may make a map, it is the guard that refuses one.
		const open = "/proc/sys/kernel/unprivileged_bpf_disabled"
		was, err := os.ReadFile(open)
		if err == nil {
			err = os.WriteFile(open, []byte("0"), 0)
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.WriteFile(open, was, 0) })
		all := []syscall.SysProcIDMap{{Size: 1 << 16}}
		for _, tt := range []struct {
			what  string
			flags uintptr
			want  string
		}{{"no", 0, "ok"}, {"yes", unix.CLONE_NEWUSER, "EPERM"}} {
			as := &syscall.SysProcAttr{Cloneflags: unix.CLONE_PARENT | tt.flags}
			if tt.flags != 0 {
				as.UidMappings, as.GidMappings = all, all
			}
			_, out := startAs(t, as, ":", home, exe, "who")
			if got := said(t, out); got != tt.want {
				t.Errorf("%s: a map: %s, want %s", tt.what, got, tt.want)
			}
		}
	})
}

// childBecomes executes a program, with what the first argument says.
func childBecomes(args []string) error {
	runtime.LockOSThread()
	if err := become[args[0]](); err != nil {
		return err
	}
	if err := os.Setenv(childEnv, "who"); err != nil {
		return err
	}
	return unix.Exec(args[1], args[1:2], os.Environ())
}

var become = map[string]func() error{
	"nothing":                func() error { return nil },
	"filter of another call": func() error { return times(1, refusesAnother, 0) },
	"many filters":           func() error { return times(200, refusesAnother, 0) },
	"filter of one command":  func() error { return times(1, refusesListing, 0) },
	"filter of one command, and others": func() error {
		return firstOf(func() error { return times(1, refusesListing, 0) }, 200)
	},
	"filter that says that memory is locked": func() error { return times(1, locksNothing, 0) },
	"listener":                               func() error { return times(1, asksForAnother, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER) },
	"listener, and others": func() error {
		return firstOf(func() error { return times(1, asksForAnother, unix.SECCOMP_FILTER_FLAG_NEW_LISTENER) }, 200)
	},
	"without CAP_SYS_ADMIN": func() error { return unix.Prctl(unix.PR_CAPBSET_DROP, unix.CAP_SYS_ADMIN, 0, 0, 0) },
}

// firstOf has something followed by so many filters that do nothing to bpf(2).
func firstOf(f func() error, n int) error {
	if err := f(); err != nil {
		return err
	}
	return times(n, refusesAnother, 0)
}

const (
	loadWord = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	jumpIf   = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	answers  = unix.BPF_RET | unix.BPF_K

	ofCall, ofCommand = 0, 16 // in struct seccomp_data, the latter's low half
)

var (
	refusesAnother = []unix.SockFilter{
		{Code: loadWord, K: ofCall},
		{Code: jumpIf, K: unix.SYS_ACCT, Jf: 1},
		{Code: answers, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: answers, K: unix.SECCOMP_RET_ALLOW},
	}
	locksNothing = []unix.SockFilter{
		{Code: loadWord, K: ofCall},
		{Code: jumpIf, K: unix.SYS_MLOCKALL, Jf: 1},
		{Code: answers, K: unix.SECCOMP_RET_ERRNO}, // 0, as if it were done
		{Code: answers, K: unix.SECCOMP_RET_ALLOW},
	}
	asksForAnother = []unix.SockFilter{
		{Code: loadWord, K: ofCall},
		{Code: jumpIf, K: unix.SYS_ACCT, Jf: 1},
		{Code: answers, K: unix.SECCOMP_RET_USER_NOTIF},
		{Code: answers, K: unix.SECCOMP_RET_ALLOW},
	}
	refusesListing = []unix.SockFilter{
		{Code: loadWord, K: ofCall},
		{Code: jumpIf, K: unix.SYS_BPF, Jf: 3},
		{Code: loadWord, K: ofCommand},
		{Code: jumpIf, K: unix.BPF_PROG_GET_NEXT_ID, Jf: 1},
		{Code: answers, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOENT)},
		{Code: answers, K: unix.SECCOMP_RET_ALLOW},
	}
)

// times adds a filter so many times to the calling thread. A listener goes on to what
// it executes.
func times(n int, filter []unix.SockFilter, flags uintptr) error {
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	for range n {
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, flags, uintptr(unsafe.Pointer(&prog)))
		if errno != 0 {
			return fmt.Errorf("seccomp: %w", errno)
		}
		if flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0 {
			if _, err := unix.FcntlInt(fd, unix.F_SETFD, 0); err != nil {
				return err
			}
		}
	}
	return nil
}
