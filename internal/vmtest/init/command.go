package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
	"golang.org/x/sys/unix"
)

// command runs c to its end and returns its status and how it ended.
func command(c vmtest.Command, out io.Writer) (status int, how string) {
	r, w, err := os.Pipe()
	if err != nil {
		return -1, fmt.Sprintf("pipe:%v", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		return -1, fmt.Sprintf("stdin:%v", err)
	}
	defer null.Close()
	proc, err := os.StartProcess(c.Args[0], c.Args, &os.ProcAttr{
		Dir: c.Dir, Env: c.Env, Files: []*os.File{null, w, w}, Sys: &unix.SysProcAttr{Setsid: true},
	})
	w.Close()
	if err != nil {
		fmt.Fprintf(out, "init: %v\n", err)
		return 127, "exited"
	}
	copied := make(chan struct{})
	go func() { io.Copy(out, r); close(copied) }()

	stop := limit(proc.Pid, c.Timeout)
	ws := reap(proc.Pid)
	timedOut := stop()
	// What the command left behind may hold the pipe for ever.
	select {
	case <-copied:
	case <-time.After(2 * time.Second):
	}
	r.Close()
	<-copied
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
// process must.
func reap(pid int) unix.WaitStatus {
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(-1, &ws, 0, nil)
		if got == pid || err == unix.ECHILD {
			return ws
		}
	}
}

// shell gives the console to a person.
func shell() {
	tty, err := os.OpenFile("/dev/ttyS0", os.O_RDWR, 0)
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
