package main

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
	"golang.org/x/sys/unix"
)

// command runs c to its end and returns its status and how it ended. Nothing
// that it started is left, unless systemd is the first process and sees to that.
func command(c vmtest.Command, out *os.File) (status int, how string) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return -1, fmt.Sprintf("stdin:%v", err)
	}
	defer null.Close()
	proc, err := os.StartProcess(c.Args[0], c.Args, &os.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []*os.File{null, out, out}, Sys: &unix.SysProcAttr{Setsid: true},
	})
	if err != nil {
		fmt.Fprintf(out, "init: %v\n", err)
		return 127, "exited"
	}
	stop := limit(proc.Pid, c.Timeout)
	ws := reap(proc.Pid)
	timedOut := stop()
	if os.Getpid() == 1 {
		unix.Kill(-1, unix.SIGKILL) // all but this process
		reap(-1)
	}
	return ending(ws, timedOut)
}

func ending(ws unix.WaitStatus, timedOut bool) (int, string) {
	switch {
	case timedOut:
		return -1, "timeout"
	case ws.Exited():
		return ws.ExitStatus(), "exited"
	default:
		return -1, unix.SignalName(ws.Signal())
	}
}

// limit kills pid after d: first with SIGQUIT, on which Go says what all
// goroutines do. The function it returns ends that and says if it happened.
func limit(pid int, d time.Duration) (stop func() bool) {
	if d == 0 {
		return func() bool { return false }
	}
	var mu sync.Mutex
	fired := false
	quit := time.AfterFunc(d, func() {
		mu.Lock()
		defer mu.Unlock()
		fired = true
		unix.Kill(pid, unix.SIGQUIT)
	})
	kill := time.AfterFunc(d+10*time.Second, func() { unix.Kill(pid, unix.SIGKILL) })
	return func() bool {
		quit.Stop()
		kill.Stop()
		mu.Lock()
		defer mu.Unlock()
		return fired
	}
}

// reap waits for pid and for every orphan that ends before it, as the first
// process must. For -1 it waits for all.
func reap(pid int) unix.WaitStatus {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if err == unix.ECHILD || err == nil && got == pid {
			return ws
		}
	}
}

// shell gives the console to a person.
func shell(console string) {
	tty, err := os.OpenFile(console, os.O_RDWR, 0)
	if err != nil {
		fmt.Println("init:", err)
		return
	}
	dir := "/"
	if found, _ := filepath.Glob("/src/*"); len(found) > 0 {
		dir = "/src"
	}
	proc, err := os.StartProcess("/usr/bin/busybox", []string{"sh", "-l"}, &os.ProcAttr{
		Dir:   dir,
		Env:   append(os.Environ(), vmtest.Path, "TERM=linux", "HOME=/root", "PS1=guest \\w # "),
		Files: []*os.File{tty, tty, tty},
		Sys:   &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0},
	})
	if err != nil {
		fmt.Println("init:", err)
		return
	}
	reap(proc.Pid)
}
