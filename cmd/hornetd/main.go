// Command hornetd owns eBPF on this host. See hornetd(8).
package main

import (
	"context"
	"os"
	"os/signal"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/daemon"
	"github.com/hornetd/hornetd/internal/resident"
)

// The first thread stays the main goroutine's: the kernel names the process by it, and a
// goroutine that ends with its thread must not take that one along.
func init() { runtime.LockOSThread() }

func main() {
	switch name := os.Args[0]; {
	case name != daemon.ParserName && name != daemon.MapMakerName:
	case !daemon.StartedThis():
		os.Exit(1)
	case name == daemon.ParserName:
		os.Exit(daemon.ServeParser())
	default:
		os.Exit(daemon.ServeMapMaker())
	}
	// Before there is anything in it that others should not change. Where it matters that
	// it is not, the daemon says so.
	_ = resident.Lock()
	// Files and sockets get exactly the mode they are given, never a wider one.
	unix.Umask(0o077)
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
	defer stop()
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, unix.SIGHUP)
	os.Exit(run(ctx, env{stdout: os.Stdout, stderr: os.Stderr, hangup: hangup}, os.Args[1:]))
}
