package resident

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

const childEnv = "RESIDENT_TEST_CHILD"

// kept is what a child has in memory, by its initial value in no file's copy any more.
var kept [1 << 14]byte

func TestMain(m *testing.M) {
	how := os.Getenv(childEnv)
	if how == "" {
		os.Exit(m.Run())
	}
	var err error
	switch how {
	case "little":
		err = errors.Join(unix.Setrlimit(unix.RLIMIT_MEMLOCK, &unix.Rlimit{Cur: 1 << 16, Max: 1 << 16}), dropLock())
	case "filtered":
		err = refuse(unix.SYS_MLOCKALL)
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if how != "not" {
		err = Lock()
	}
	for i := range kept {
		kept[i] = byte(i)
	}
	later := make([]byte, 1<<20)
	for i := range later {
		later[i] = 1
	}
	fmt.Printf("%d %d %v | %s\n", uintptr(unsafe.Pointer(&kept)), uintptr(unsafe.Pointer(&later[0])), err, remedy.Of(err))
	bufio.NewReader(os.Stdin).ReadString('\n')
	kept[0] = later[0]
}

// dropLock gives up CAP_IPC_LOCK.
func dropLock() error {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return err
	}
	have[0].Effective &^= 1 << unix.CAP_IPC_LOCK
	return unix.Capset(&header, &have[0])
}

// refuse has this thread's calls of a system call answered with EPERM.
func refuse(call uint32) error {
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)},
		{Code: unix.BPF_RET, K: unix.SECCOMP_RET_ALLOW},
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&prog)), 0, 0)
}

// Another root process has pages written out, or is refused.
func TestLock(t *testing.T) {
	testenv.RequireRoot(t)
	for how, want := range map[string]struct {
		errno error
		said  string
	}{
		"not":      {nil, "<nil> | "},
		"all":      {unix.EINVAL, "<nil> | "},
		"little":   {nil, "memory: not kept out of swap: RLIMIT_MEMLOCK is 65536 bytes | LimitMEMLOCK=infinity in the unit"},
		"filtered": {nil, "memory: not kept out of swap: mlockall: operation not permitted | let SystemCallFilter= of the unit have mlockall (@memlock)"},
	} {
		t.Run(how, func(t *testing.T) {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), childEnv+"="+how)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			defer cmd.Wait()
			defer stdin.Close()
			line, err := bufio.NewReader(stdout).ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			var before, later uintptr
			if _, err := fmt.Sscanf(line, "%d %d", &before, &later); err != nil {
				t.Fatalf("%q: %v", line, err)
			}
			if _, said, _ := strings.Cut(strings.TrimSuffix(line, "\n"), " "); !strings.HasSuffix(said, want.said) {
				t.Errorf("it says %q, want %q", said, want.said)
			}
			for name, at := range map[string]uintptr{"what was there": before, "what came later": later} {
				if err := writeOut(cmd.Process.Pid, at); !errors.Is(err, want.errno) || (err == nil) != (want.errno == nil) {
					t.Errorf("writing out %s: %v, want %v", name, err, want.errno)
				}
			}
		})
	}
}

// writeOut asks the kernel to write out a page of another process.
func writeOut(pid int, at uintptr) error {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	size := uintptr(os.Getpagesize())
	page := unix.RemoteIovec{Base: at &^ (size - 1), Len: int(size)}
	const pageOut = 21 // MADV_PAGEOUT
	_, _, errno := unix.Syscall6(unix.SYS_PROCESS_MADVISE, uintptr(fd), uintptr(unsafe.Pointer(&page)), 1, pageOut, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
