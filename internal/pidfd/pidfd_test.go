package pidfd

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestProcess(t *testing.T) {
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	p, err := Identify(fd)
	if err != nil || p.PID != cmd.Process.Pid || p.Started == 0 {
		t.Fatalf("%+v, %v", p, err)
	}
	again, err := Open(p)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(again)
	for _, other := range []Process{{os.Getpid(), p.Started, p.Inode}, {p.PID, p.Started + 1, p.Inode}, {p.PID, p.Started, p.Inode + 1}} {
		if fd, err := Open(other); !errors.Is(err, unix.ESRCH) {
			unix.Close(fd)
			t.Errorf("%+v: %v, want ESRCH", other, err)
		}
	}
	cmd.Process.Kill()
	unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
	for _, state := range []string{"not waited for", "waited for"} {
		if _, err := Identify(fd); Alive(fd) || !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: alive %t, %v", state, Alive(fd), err)
		}
		if _, err := Open(p); !errors.Is(err, unix.ESRCH) {
			t.Errorf("%s: open: %v", state, err)
		}
		cmd.Wait()
	}
}

func FuzzStarted(f *testing.F) {
	self, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(self)
	f.Add([]byte("1 (a) b) S 1 1 1 0 -1 1 1 1 1 1 1 1 1 1 20 0 1 0 42 1"))
	f.Add([]byte("1 (a"))
	f.Fuzz(func(t *testing.T, stat []byte) { started(stat) })
}

func TestStarted(t *testing.T) {
	if got, err := started([]byte("1 (a) 9 9 9) S 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 42 23")); err != nil || got != 42 {
		t.Errorf("%d, %v, want 42", got, err)
	}
	if _, err := started([]byte("1 (a) S " + strconv.Itoa(3))); err == nil {
		t.Error("taken though it is short")
	}
}

// Each of the four numbers counts, of users and of groups.
func TestIsOf(t *testing.T) {
	const status = "Name:\tx\nTgid:\t7\nPid:\t7\nUid:\t1\t1\t1\t1\nGid:\t2\t2\t2\t2\nCapPrm:\t0000000000000000\n"
	if !isOf(status, 7, 1, 2) {
		t.Error("not taken")
	}
	for _, other := range []string{
		"Uid:\t0\t1\t1\t1", "Uid:\t1\t0\t1\t1", "Uid:\t1\t1\t0\t1", "Uid:\t1\t1\t1\t0",
		"Gid:\t0\t2\t2\t2", "Gid:\t2\t0\t2\t2", "Gid:\t2\t2\t0\t2", "Gid:\t2\t2\t2\t0", "Gid:\t2\t2\t2",
		"Tgid:\t8", "Pid:\t8", "CapPrm:\t0000000000000001", "Uid:", "Gid:", "CapPrm:",
	} {
		key, _, _ := strings.Cut(other, "\t")
		lines := strings.Split(status, "\n")
		for i, l := range lines {
			if was, _, _ := strings.Cut(l, "\t"); was == key {
				lines[i] = other
			}
		}
		if now := strings.Join(lines, "\n"); now != status && isOf(now, 7, 1, 2) {
			t.Errorf("%s: taken", other)
		}
	}
	for _, key := range []string{"Tgid", "Pid", "Uid", "Gid", "CapPrm"} {
		if isOf(strings.Replace(status, key, "X", 1), 7, 1, 2) {
			t.Errorf("without %s: taken", key)
		}
	}
}
