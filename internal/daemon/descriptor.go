package daemon

import (
	"fmt"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/policy"
)

// Descriptor is an open map for a client, and what the client is told of it.
// Whoever gets it closes File.
type Descriptor struct {
	File *os.File
	api.MapDescriptor
}

// OpenMap opens a map for a client. The descriptor is fresh from the pin, never
// one the daemon uses, so that read-only is the kernel's word.
//
// There is no such call for programs and links: whoever holds a link's
// descriptor can detach it.
func (d *Daemon) OpenMap(who Peer, name, mapName string, access api.Access) (Descriptor, error) {
	verb, right := "fd", policy.FD(mapName)
	if access == api.AccessReadWrite {
		verb, right = "rw-fd", policy.RWFD(mapName)
	}
	entry, err := d.openFor(who, right, verb, name)
	if err != nil {
		return Descriptor{}, err
	}
	defer entry.Close()
	open := entry.ReadOnlyMap
	if access == api.AccessReadWrite {
		open = entry.Map
	}
	m, err := open(mapName)
	if err != nil {
		return Descriptor{}, noMap(name, mapName)
	}
	defer m.Close()
	if err := handOut(m, access); err != nil {
		return Descriptor{}, d.refuse(who, verb, name, fmt.Errorf("collection %q: map %q: %w", name, mapName, err))
	}
	info, err := bpfsys.MapInfo(m.FD())
	if err != nil {
		return Descriptor{}, err
	}
	if access == api.AccessReadWrite {
		if err := d.share(info.ID); err != nil {
			return Descriptor{}, err
		}
	}
	fd, err := unix.FcntlInt(uintptr(m.FD()), unix.F_DUPFD_CLOEXEC, 0) // the library closes its own
	if err != nil {
		return Descriptor{}, fmt.Errorf("map %q: %w", mapName, err)
	}
	out := Descriptor{os.NewFile(uintptr(fd), mapName),
		api.MapDescriptor{Map: mapName, Type: m.Type().String(), ID: info.ID, Access: access}}
	if err := d.recordHandOut(who, verb, name, mapName); err != nil {
		out.File.Close()
		return Descriptor{}, err
	}
	return out, nil
}

// handOut refuses what no right can give.
func handOut(m *ebpf.Map, access api.Access) error {
	if m.Type() == ebpf.PerfEventArray {
		return api.Errorf(api.KindDenied, "a perf event array is never handed out: whoever reads it registers in it").
			WithHint("hornetctl map stream, or GET …/stream, gives its samples")
	}
	if access == api.AccessReadOnly {
		return nil
	}
	return writable(m)
}

// writable refuses maps that only hornetd's loader fills, and those that the
// kernel lets nobody write.
func writable(m *ebpf.Map) error {
	switch m.Type() {
	case ebpf.ProgramArray, ebpf.ArrayOfMaps, ebpf.HashOfMaps, ebpf.StructOpsMap:
		return api.Errorf(api.KindDenied, "a %s decides what runs: only hornetd writes it", m.Type()).
			WithHint("say in the manifest what it holds, and upgrade the collection")
	}
	frozen, err := bpfsys.Frozen(m.FD())
	if err != nil {
		return err
	}
	if frozen {
		return api.Errorf(api.KindConflict, "it is frozen: nobody can write it").
			WithHint("to change it, change the manifest and upgrade the collection, or declare it with class = \"mutable\"")
	}
	return nil
}
