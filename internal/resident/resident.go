// Package resident keeps a process's memory in memory. Root has the pages of any other
// process written to a swap device that it reads and writes as it likes: process_madvise(2)
// with MADV_PAGEOUT asks for no right to trace.
package resident

import (
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Lock keeps all pages of this process, and those that it gets later, from being written
// out (mlockall(2)). It takes no memory by itself: pages come when they are used, as
// before. Without CAP_IPC_LOCK it is done only where RLIMIT_MEMLOCK is infinite: with
// less the process would be refused memory one day. It can be called again.
func Lock() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("memory: %w", err)
	}
	if limit.Cur != unix.RLIM_INFINITY && !mayLock() {
		return remedy.With(fmt.Errorf("memory: not kept out of swap: RLIMIT_MEMLOCK is %d bytes", limit.Cur), "LimitMEMLOCK=infinity in the unit")
	}
	if err := unix.Mlockall(unix.MCL_CURRENT | unix.MCL_FUTURE | unix.MCL_ONFAULT); err != nil {
		return remedy.With(fmt.Errorf("memory: not kept out of swap: mlockall: %w", err), "let SystemCallFilter= of the unit have mlockall (@memlock)")
	}
	return nil
}

func mayLock() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	return unix.Capget(&header, &have[0]) == nil && have[0].Effective&(1<<unix.CAP_IPC_LOCK) != 0
}
