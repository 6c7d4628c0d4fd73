package main_test

import (
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/testdaemon"
)

// notifySocket is the service manager's end of sd_notify(3). It returns the
// path and a function that waits for a message that begins with want.
func notifySocket(t *testing.T, dir string) (string, func(want string)) {
	t.Helper()
	path := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return path, func(want string) {
		t.Helper()
		conn.SetReadDeadline(time.Now().Add(time.Minute))
		buf := make([]byte, 4096)
		var seen []string
		for {
			n, err := conn.Read(buf)
			if err != nil {
				t.Fatalf("%q was not sent, only %q: %v", want, seen, err)
			}
			if message := string(buf[:n]); strings.HasPrefix(message, want) {
				return
			} else {
				seen = append(seen, message)
			}
		}
	}
}

// TestSocketActivation has systemd's own tool hold the socket: nobody is
// turned away before the daemon is there, and the path outlives it.
func TestSocketActivation(t *testing.T) {
	h := testdaemon.New(t, "")
	notify, wait := notifySocket(t, h.Dir)
	if _, err := exec.LookPath("systemd-socket-activate"); err != nil {
		t.Fatal(err) // scripts/setup installs it
	}
	cmd := exec.Command("systemd-socket-activate", "--listen="+h.Socket, "--fdname=api", "-E", "NOTIFY_SOCKET="+notify, "-E", "WATCHDOG_USEC=400000",
		testdaemon.Binary(t, "hornetd"), "--config", h.Config)
	var said strings.Builder
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	}()
	eventually(t, "it listens", func() bool { // the name is there before
		b, err := os.ReadFile("/proc/net/unix")
		if err != nil {
			t.Fatal(err)
		}
		const accepts = " 00010000 " // the kernel's __SO_ACCEPTCON
		for line := range strings.Lines(string(b)) {
			if strings.Contains(line, accepts) && strings.HasSuffix(line, " "+h.Socket+"\n") {
				return true
			}
		}
		return false
	})
	status, err := h.Client().Status(context.Background())
	if err != nil || status.PID != cmd.Process.Pid {
		t.Fatalf("status = %+v, %v; want pid %d", status, err, cmd.Process.Pid)
	}
	if status.ReadyAt.IsZero() {
		t.Error("answered before it was ready")
	}
	wait("READY=1\nSTATUS=0 running")
	wait("WATCHDOG=1")
	if err := cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	wait("RELOADING=1\nMONOTONIC_USEC=")
	wait("READY=1")
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	wait("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(h.Socket); err != nil {
		t.Errorf("the socket unit's path is gone: %v", err)
	}
}

// TestWatchdogIsFed: as often as the unit asks, also without socket activation.
func TestWatchdogIsFed(t *testing.T) {
	h := testdaemon.New(t, "")
	notify, wait := notifySocket(t, h.Dir)
	t.Setenv("NOTIFY_SOCKET", notify)
	t.Setenv("WATCHDOG_USEC", "200000")
	t.Setenv("WATCHDOG_PID", "")
	h.Start()
	wait("WATCHDOG=1")
	wait("WATCHDOG=1")
	h.Stop()
	wait("STOPPING=1")
}
