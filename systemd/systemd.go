// Package systemd speaks the service manager's side of being a daemon:
// readiness, reload, watchdog and passed sockets. Without systemd every
// function does nothing and says so, so that hornetd runs the same under any
// supervisor.
//
// Source: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3).
package systemd

import (
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// SocketName is the FileDescriptorName= of the API socket in hornetd.socket.
const SocketName = "api"

// Ready tells the service manager that the daemon is up, with a one-line
// status for `systemctl status`.
func Ready(status string) error {
	return notify(daemon.SdNotifyReady + "\nSTATUS=" + status)
}

// Reloading tells the service manager that a reload began. Ready ends it.
// The timestamp is what Type=notify-reload asks for; Type=notify ignores it.
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("clock: %w", err)
	}
	return notify(fmt.Sprintf("%s\nMONOTONIC_USEC=%d", daemon.SdNotifyReloading, now.Nano()/1000))
}

// Stopping tells the service manager that the daemon is going down.
func Stopping() error { return notify(daemon.SdNotifyStopping) }

// Alive feeds the watchdog. Call it from the loop whose health it stands for.
func Alive() error { return notify(daemon.SdNotifyWatchdog) }

func notify(state string) error {
	if _, err := daemon.SdNotify(false, state); err != nil {
		return fmt.Errorf("notify service manager: %w", err)
	}
	return nil
}

// WatchdogInterval returns how often Alive must be called: half of what the
// unit allows. 0 means that no watchdog waits.
func WatchdogInterval() (time.Duration, error) {
	d, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return 0, fmt.Errorf("WATCHDOG_USEC: %w", err)
	}
	return d / 2, nil
}

// Listener returns the API socket that the service manager passed, or nil
// where it passed none. A socket of another kind or name is an error: the unit
// is wrong, and serving somewhere else would hide it.
func Listener() (*net.UnixListener, error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("passed sockets: %w", err)
	}
	var found *net.UnixListener
	for name, ls := range byName {
		for _, l := range ls {
			ul, ok := l.(*net.UnixListener)
			if !ok || (name != SocketName && name != "hornetd.socket" && name != "LISTEN_FD_3") {
				return nil, fmt.Errorf("passed socket %q: not the API's Unix stream socket (FileDescriptorName=%s)", name, SocketName)
			}
			if found != nil {
				return nil, errors.New("passed sockets: more than one, want only the API's")
			}
			found = ul
		}
	}
	if found != nil {
		// The path belongs to the socket unit: closing must not remove it.
		found.SetUnlinkOnClose(false)
	}
	return found, nil
}
