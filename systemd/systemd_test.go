package systemd

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// manager is the other end of NOTIFY_SOCKET, as PID 1 holds it.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return conn
}

func receive(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := conn.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNotifications(t *testing.T) {
	conn := manager(t)
	for _, c := range []struct {
		name string
		send func() error
		want string
	}{
		{"ready", func() error { return Ready("3 running") }, "READY=1\nSTATUS=3 running"},
		{"stopping", Stopping, "STOPPING=1"},
		{"alive", Alive, "WATCHDOG=1"},
	} {
		if err := c.send(); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := receive(t, conn); got != c.want {
			t.Errorf("%s: sent %q, want %q", c.name, got, c.want)
		}
	}

	if err := Reloading(); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, conn); !strings.HasPrefix(got, "RELOADING=1\nMONOTONIC_USEC=") || strings.HasSuffix(got, "=") {
		t.Errorf("reloading: sent %q", got)
	}
}

func TestWithoutServiceManager(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	t.Setenv("WATCHDOG_USEC", "")
	t.Setenv("LISTEN_PID", "")
	if err := Ready("up"); err != nil {
		t.Errorf("Ready: %v", err)
	}
	if d, err := WatchdogInterval(); d != 0 || err != nil {
		t.Errorf("WatchdogInterval = %v, %v", d, err)
	}
	if l, err := Listener(); l != nil || err != nil {
		t.Errorf("Listener = %v, %v", l, err)
	}
}
