package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// Found is a guard that the kernel has, wherever it is pinned.
type Found struct {
	Program  uint32 // id of the one that changes it, or of one in force where that has gone
	Orphan   bool   // it has gone: nothing changes or ends the guard any more
	Floor    bool   // so have its links: of an orphan only the floor is in force
	Mode     Mode
	Enforces bool
	Sealed   map[[32]byte]uint32 // as Guard.Sealed; nil where that has gone too

	programs map[uint32]bool // its own
	state    uint32          // id of the map that all of them have
	roots    [roots]root
}

// Guards reports whether a directory is one of those whose pins it guards.
func (f Found) Guards(directory unix.Stat_t) bool { return guards(f.roots, directory) }

// Is reports whether g is one that was found.
func (g *Guard) Is(f Found) bool {
	info, err := g.programs[controlProgram].Info()
	if err != nil {
		return false
	}
	id, ok := info.ID()
	return ok && uint32(id) == f.Program
}

// ErrNotListed is returned by InForce where not even the ids of programs are to be had.
var ErrNotListed = errors.New("guard: programs are not listed")

// InForce finds the guards of the host by their programs, whatever is mounted where, also
// one of which only what is attached is left. One that enforces and does not know the
// caller is not found, as it gives nothing of its own away; nor is one that is off, or of which
// only the floor is left that does not enforce: that decides nothing. What
// was taken down the kernel gives back some time later. It takes CAP_SYS_ADMIN.
// ErrNotListed is returned where the kernel does not say which programs there are.
func InForce() (all []Found, err error) {
	var hooks, floor []ebpf.ProgramID
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrNotListed, err)
		}
		// The library asks for much more, which counts where a host has thousands of programs.
		typ, name, err := bpfsys.ProgramName(uint32(id))
		switch {
		case err == nil && typ == uint32(ebpf.LSM) && strings.HasPrefix(name, floorPrefix):
			floor = append(floor, id)
		case err == nil && typ == uint32(ebpf.LSM) && strings.HasPrefix(name, "guard_"):
			hooks = append(hooks, id)
		case err != nil, typ == uint32(ebpf.RawTracepoint) && name == controlProgram:
			if all, err = find(all, id); err != nil {
				return nil, err
			}
		}
	}
	known := func(id ebpf.ProgramID) bool {
		return slices.ContainsFunc(all, func(f Found) bool { return f.programs[uint32(id)] })
	}
	if hooks, err = attached(slices.DeleteFunc(hooks, known)); err != nil {
		return nil, err
	}
	if floor, err = attachedToRoot(slices.DeleteFunc(floor, known)); err != nil {
		return nil, err
	}
	for _, id := range slices.Concat(hooks, floor) {
		if known(id) {
			continue
		}
		if all, err = find(all, id); err != nil {
			return nil, err
		}
	}
	for i, f := range all {
		all[i].Floor = f.Orphan && slices.Contains(floor, ebpf.ProgramID(f.Program))
	}
	return slices.DeleteFunc(all, func(f Found) bool { return f.Mode == Off || f.Floor && !f.Enforces }), nil
}

// attached returns those of some programs that a link has attached, or all where a link is
// not to be seen. What is only pinned, or held by a descriptor, does nothing.
func attached(programs []ebpf.ProgramID) (all []ebpf.ProgramID, err error) {
	if len(programs) == 0 {
		return nil, nil
	}
	var links link.Iterator
	defer links.Close()
	for links.Next() {
		info, err := links.Link.Info()
		if err != nil {
			return nil, fmt.Errorf("guard: link %d: %w", links.ID, err)
		}
		if slices.Contains(programs, info.Program) {
			all = append(all, info.Program)
		}
	}
	if err := links.Err(); errors.Is(err, unix.EPERM) { // somebody else's security module
		return programs, nil
	} else if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	return all, nil
}

// attachedToRoot returns those of some programs that the root cgroup has, or all where that
// cannot be seen: next to nothing else keeps one.
func attachedToRoot(programs []ebpf.ProgramID) ([]ebpf.ProgramID, error) {
	if len(programs) == 0 {
		return nil, nil
	}
	root, err := openRootCgroup()
	if err != nil {
		return programs, nil
	}
	defer root.Close()
	there, err := lsmPrograms(root)
	if errors.Is(err, errNotTold) {
		return programs, nil
	}
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(programs, func(id ebpf.ProgramID) bool { return !slices.Contains(there, uint32(id)) }), nil
}

// find adds the guard that a program is of, if it is of one that is not among all and has
// not gone meanwhile. Not every program knows what is sealed.
func find(all []Found, id ebpf.ProgramID) ([]Found, error) {
	f, err := found(id)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("guard: program %d: %w", id, err)
	}
	if f == nil {
		return all, nil
	}
	if i := slices.IndexFunc(all, func(other Found) bool { return other.state == f.state }); i < 0 {
		all = append(all, *f)
	} else if all[i].Sealed == nil {
		all[i].Sealed, all[i].programs = f.Sealed, f.programs
	}
	return all, nil
}

// found returns the guard that a program is of, by its maps, or nil.
func found(id ebpf.ProgramID) (*Found, error) {
	p, err := ebpf.NewProgramFromID(id)
	if errors.Is(err, unix.EPERM) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return nil, err
	}
	control := info.Type == ebpf.RawTracepoint && info.Name == controlProgram
	if !control && info.Type != ebpf.LSM {
		return nil, nil
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
	if g.maps[stateMap] == nil || g.maps["marks"] == nil {
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
	f := &Found{Program: uint32(id), Orphan: !control, Mode: s.Mode, Enforces: s.Enforces, programs: map[uint32]bool{}, roots: b.Roots}
	if i, err := g.maps[stateMap].Info(); err != nil {
		return nil, err
	} else if id, ok := i.ID(); ok {
		f.state = uint32(id)
	}
	if g.maps["owned"] == nil {
		return f, nil
	}
	// Its program does not use what is sealed, but it owns it. Those of guards that it has
	// replaced it owns too: they have smaller ids, or have gone.
	owned, err := g.owned()
	if err != nil {
		return nil, err
	}
	var maps []uint32
	for o, how := range owned {
		switch {
		case how&ownedGuard == 0:
		case o.Kind == Map:
			maps = append(maps, o.ID)
		case o.Kind == Program:
			f.programs[o.ID] = true
		}
	}
	slices.Sort(maps)
	for _, id := range slices.Backward(maps) {
		if err := g.take(ebpf.MapID(id)); err != nil && !errors.Is(err, fs.ErrNotExist) {
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
	if was := g.maps[name]; was != nil || !slices.Contains([]string{stateMap, "marks", "owned", "sealed"}, name) {
		m.Close()
		return nil
	}
	g.maps[name] = m
	return nil
}
