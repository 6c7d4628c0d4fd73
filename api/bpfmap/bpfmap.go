// Package bpfmap opens the maps that hornetd runs as those of cilium/ebpf. It is
// a package of its own so that clients which want no map need no eBPF library.
package bpfmap

import (
	"context"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
)

// Open returns a map of a collection, which is the caller's to close. It needs no
// capability, only the right fd:MAP, or rw-fd:MAP for api.AccessReadWrite, which
// is what ringbuf.NewReader wants. Errors of the daemon are *api.Error.
//
// With api.AccessReadOnly the kernel answers every write with EPERM.
func Open(ctx context.Context, c *api.Client, collection, mapName string, access api.Access) (*ebpf.Map, error) {
	f, _, err := c.OpenMap(ctx, collection, mapName, access)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The library wants a descriptor of its own.
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("map %q: %w", mapName, err)
	}
	m, err := ebpf.NewMapFromFD(fd) // closes fd on error
	if err != nil {
		return nil, fmt.Errorf("map %q: %w", mapName, err)
	}
	return m, nil
}
