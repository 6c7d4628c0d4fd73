package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// Found is a guard that the kernel has, wherever it is pinned.
type Found struct {
	Program  uint32 // id of the one that changes it
	Mode     Mode
	Enforces bool
	Sealed   map[[32]byte]uint32 // as Guard.Sealed
}

// ErrNotListed is returned by InForce where not even the ids of programs are to be had.
var ErrNotListed = errors.New("guard: programs are not listed")

// InForce finds the guards of the host by their programs, whatever is mounted where.
// One that enforces and does not know the caller is not found, as it gives nothing of
// its own away; nor is one that is off. What was taken down the kernel gives back some time
// later. It takes CAP_SYS_ADMIN. ErrNotListed is returned where the kernel does not say
// which programs there are.
func InForce() (all []Found, err error) {
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, fs.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotListed, err)
		}
		f, err := found(id)
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // else it has gone meanwhile
			return nil, fmt.Errorf("guard: program %d: %w", id, err)
		}
		if f != nil && f.Mode != Off {
			all = append(all, *f)
		}
	}
}

// found returns the guard whose control program has an id, or nil.
func found(id ebpf.ProgramID) (*Found, error) {
	// The library asks for much more, which counts where a host has thousands of programs.
	if typ, name, err := bpfsys.ProgramName(uint32(id)); err == nil && (name != controlProgram || typ != uint32(ebpf.RawTracepoint)) {
		return nil, nil
	}
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil || info.Name != controlProgram || info.Type != ebpf.RawTracepoint {
		return nil, err
	}
	if uid, ok := info.CreatedByUID(); ok && uid != 0 {
		return nil, nil // somebody calls theirs so
	}
	g := &Guard{maps: map[string]*ebpf.Map{}}
	defer g.Close()
	uses, _ := info.MapIDs()
	for _, id := range uses {
		if err := g.take(id); err != nil {
			return nil, err
		}
	}
	if g.maps[stateMap] == nil || g.maps["owned"] == nil {
		return nil, nil
	}
	b, err := readState(g.maps[stateMap])
	if err != nil {
		return nil, err
	}
	s, err := statusOf(b)
	if err != nil {
		return nil, err
	}
	f := &Found{Program: uint32(id), Mode: s.Mode, Enforces: s.Enforces}
	// Its program does not use what is sealed, but it owns it.
	owned, err := g.owned()
	if err != nil {
		return nil, err
	}
	for o, how := range owned {
		if o.Kind != Map || how&ownedGuard == 0 {
			continue
		}
		if err := g.take(ebpf.MapID(o.ID)); err != nil {
			return nil, err
		}
	}
	if g.maps["sealed"] != nil {
		f.Sealed, err = g.Sealed()
	}
	return f, err
}

// take opens one of a guard's maps, and keeps it where found reads it.
func (g *Guard) take(id ebpf.MapID) error {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return err
	}
	info, err := m.Info()
	if err != nil {
		m.Close()
		return err
	}
	name := info.Name
	if strings.HasSuffix(name, stateMap) {
		name = stateMap
	}
	if was := g.maps[name]; was != nil || name != stateMap && name != "owned" && name != "sealed" {
		m.Close()
		return nil
	}
	g.maps[name] = m
	return nil
}
