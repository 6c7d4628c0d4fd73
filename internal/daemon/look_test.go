package daemon

import (
	"runtime"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/pinning"
)

// TestOnlyNoSuchLinkIsGone: a link that the kernel does not tell of, for want of a
// right, is not gone.
func TestOnlyNoSuchLinkIsGone(t *testing.T) {
	none := pinning.RecordLink{ID: 1 << 30}
	look := func() (linkSight, error) {
		return lookAtLink(loader.NewView(), none, loader.Target{Kind: "raw_tracepoint"}, manifest.Manifest{})
	}
	if l, err := look(); err != nil || l.state != nil {
		t.Errorf("no such link: %+v, %v", l.state, err)
	}
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread has no rights any more
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var no [2]unix.CapUserData
		if err := unix.Capset(&header, &no[0]); err != nil {
			t.Error(err)
		}
		_, err := look()
		done <- err
	}()
	if err := <-done; err == nil {
		t.Error("what may not be asked for is taken to be gone")
	}
}
