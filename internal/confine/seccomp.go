package confine

import (
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"
)

// call is a system call that the process keeps: always, or where an argument has
// certain bits. One may stand there more than once.
type call struct {
	number     uint32
	argument   uint32 // which
	mask, want uint32 // of its lower half; mask 0 is always
}

// denyCalls leaves what the runtime needs to compute: memory, threads, signals
// among them, time, and to read and write what is open. Whoever asks for more is
// killed: no file is opened, no socket made, no program run, no process reached. more
// is what this one needs beside that.
func denyCalls(more []call) error {
	kept := []call{
		{number: unix.SYS_READ}, {number: unix.SYS_WRITE}, {number: unix.SYS_CLOSE},
		{number: unix.SYS_EXIT}, {number: unix.SYS_EXIT_GROUP},
		// Memory, of which none can be executed.
		{unix.SYS_MMAP, 2, unix.PROT_EXEC, 0}, {unix.SYS_MPROTECT, 2, unix.PROT_EXEC, 0},
		{number: unix.SYS_MUNMAP}, {number: unix.SYS_MADVISE}, {number: unix.SYS_MINCORE},
		{unix.SYS_PRCTL, 0, ^uint32(0), unix.PR_SET_VMA}, // gives memory a name
		// Threads, and no processes.
		{unix.SYS_CLONE, 0, unix.CLONE_THREAD, unix.CLONE_THREAD},
		{number: unix.SYS_FUTEX}, {number: unix.SYS_SCHED_YIELD}, {number: unix.SYS_SCHED_GETAFFINITY},
		{number: unix.SYS_GETPID}, {number: unix.SYS_GETTID},
		// Signals, to itself.
		{unix.SYS_TGKILL, 0, ^uint32(0), uint32(unix.Getpid())},
		{number: unix.SYS_RT_SIGACTION}, {number: unix.SYS_RT_SIGPROCMASK}, {number: unix.SYS_RT_SIGRETURN}, {number: unix.SYS_SIGALTSTACK},
		// Time, and waiting for it.
		{number: unix.SYS_NANOSLEEP}, {number: unix.SYS_CLOCK_GETTIME}, {number: unix.SYS_RESTART_SYSCALL},
		{number: unix.SYS_EPOLL_CREATE1}, {number: unix.SYS_EPOLL_CTL}, {number: unix.SYS_EPOLL_PWAIT}, {number: unix.SYS_EVENTFD2},
		{number: unix.SYS_GETRANDOM},
	}
	program := filter(slices.Concat(kept, machineCalls, more))
	fprog := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	return everyThread(unix.SYS_PRCTL, unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&fprog)))
}

// filter is the classic BPF program that keeps calls. It reads struct
// seccomp_data: number, architecture, instruction pointer, six arguments.
func filter(kept []call) []unix.SockFilter {
	const (
		load   = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
		and    = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
		equal  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
		answer = unix.BPF_RET | unix.BPF_K
	)
	lower := func(argument uint32) uint32 { return 16 + 8*argument } // both machines are little-endian
	program := []unix.SockFilter{
		{Code: load, K: 4},
		{Code: equal, Jt: 1, K: auditArch},
		{Code: answer, K: unix.SECCOMP_RET_KILL_PROCESS},
	}
	for _, c := range kept {
		program = append(program,
			unix.SockFilter{Code: load, K: 0},
			unix.SockFilter{Code: equal, Jf: 4, K: c.number},
			unix.SockFilter{Code: load, K: lower(c.argument)},
			unix.SockFilter{Code: and, K: c.mask},
			unix.SockFilter{Code: equal, Jf: 1, K: c.want},
			unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_ALLOW},
		)
	}
	return append(program, unix.SockFilter{Code: answer, K: unix.SECCOMP_RET_KILL_PROCESS})
}
