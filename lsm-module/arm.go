package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"bytes"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

var (
	// ErrArmed is returned by Arm where a guard is in force already.
	ErrArmed = errors.New("already armed")
	// ErrNotArmed is returned by Adopt and Look where there is none.
	ErrNotArmed = errors.New("not armed")
	// ErrNotHornetd is returned where the guard does not take the caller for hornetd.
	ErrNotHornetd = errors.New("the guard does not know this process as hornetd")
	// ErrPartial is returned by Adopt where something of the guard has gone.
	ErrPartial = errors.New("not whole")
)

// Arm puts a guard in force and pins it in dir, which is made if only its last
// component is missing. The caller becomes hornetd in its eyes. With an error
// nothing is in force, unless it says otherwise.
//
// Errors are Support.Err's, ErrArmed, and those of the configuration.
func Arm(dir string, c Config) (*Guard, error) {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("guard: %w", err)
	}
	n, err := newest(dir)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		return nil, remedy.With(fmt.Errorf("guard: %s: %w", dir, ErrArmed), "upgrade it, or disarm it first")
	}
	g, err := build(dir, 1, c, nil)
	if err != nil {
		os.Remove(dir) // if nothing is in it
	}
	return g, err
}

// Upgrade puts a guard of this build and another configuration in force, and then
// takes down g, which is closed. It carries over what g knows to be owned and
// which executables are enrolled. With an error g is in force as before.
func (g *Guard) Upgrade(c Config) (*Guard, error) {
	next, err := build(g.dir, g.number+1, c, g)
	if err != nil {
		return nil, err
	}
	// The new one is in force: from here on the old one only refuses more.
	if err := g.takeDown(); err != nil {
		return next, fmt.Errorf("guard: the old one, which the new one replaces: %w", err)
	}
	return next, nil
}

// build makes set n: load, fill, freeze, pin, attach, verify, name.
func build(dir string, n int, c Config, old *Guard) (_ *Guard, err error) {
	if err := Probe().Err(); err != nil {
		return nil, err
	}
	if err := sweep(dir); err != nil {
		return nil, err
	}
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	plan := choose(kernel)
	use := plan.hooks
	want, err := c.check(dir, len(use))
	if err == nil && want.state.Keyrings != 0 {
		err = plan.unverified
	}
	if err != nil {
		return nil, err
	}
	g := &Guard{dir: dir, number: n}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.abandon())
		}
	}()
	if err := g.load(use, len(want.Sealed)); err != nil {
		return nil, err
	}
	if err := g.fill(want, old); err != nil {
		return nil, err
	}
	if err := g.pinObjects(); err != nil {
		return nil, err
	}
	// From here on system calls cannot write what the guard decides by.
	if err := g.freeze(); err != nil {
		return nil, err
	}
	for _, h := range use {
		if err := g.attach(h.Program); err != nil {
			return nil, err
		}
	}
	if err := g.verify(); err != nil {
		return nil, err
	}
	// In force.
	if err := g.SetMode(c.Mode, c.ConfirmWithin); err != nil {
		return nil, err
	}
	if err := os.Rename(g.path(), filepath.Join(dir, "set-"+strconv.Itoa(n))); err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	g.named = true
	return g, nil
}

// load creates maps and programs, with room for so many digests.
func (g *Guard) load(use []hook, digests int) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	keep := map[string]bool{controlProgram: true}
	for _, h := range use {
		keep[h.Program] = true
	}
	for name := range spec.Programs {
		if !keep[name] {
			delete(spec.Programs, name)
		}
	}
	spec.Maps["sealed"].MaxEntries = uint32(max(1, digests))
	spec.Variables = nil // the library would map the state, and what is mapped cannot be frozen
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	g.maps, g.programs = coll.Maps, coll.Programs
	return nil
}

// fill writes what the guard decides by, and marks the caller.
func (g *Guard) fill(want *checked, old *Guard) error {
	if err := g.maps[stateMap].Put(uint32(0), want.state.bytes()); err != nil {
		return fmt.Errorf("guard: state: %w", err)
	}
	if err := g.mark(); err != nil {
		return err
	}
	for p, m := range want.places {
		if err := g.maps["places"].Put(p, m); err != nil {
			return fmt.Errorf("guard: cgroup %d/%s: %w", p.Parent, unix.ByteSliceToString(p.Name[:]), err)
		}
	}
	for sum, number := range want.Sealed {
		if err := g.maps["sealed"].Put(sum, number); err != nil {
			return fmt.Errorf("guard: seal %x: %w", sum, err)
		}
	}
	if err := g.fillExecutables(want, old); err != nil {
		return err
	}
	owned := map[Object]uint32{}
	if old != nil {
		var err error
		if owned, err = old.owned(); err != nil { // shared as before
			return err
		}
	}
	for _, o := range want.Owned {
		owned[o] |= ownedYes
	}
	ours, err := g.objects()
	if err != nil {
		return err
	}
	for _, o := range ours {
		owned[o] = ownedYes | ownedGuard
	}
	for o, how := range owned {
		if err := g.maps["owned"].Put(o, how); err != nil {
			return fmt.Errorf("guard: own %s %d: %w", o.Kind, o.ID, err)
		}
	}
	return nil
}

// mark makes the caller hornetd: its storage can still be written.
func (g *Guard) mark() error {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return fmt.Errorf("guard: pidfd: %w", err)
	}
	defer unix.Close(fd)
	if err := g.maps["marks"].Put(int32(fd), uint32(markHornetd)); err != nil {
		return fmt.Errorf("guard: mark of hornetd: %w", err)
	}
	return nil
}

func (g *Guard) fillExecutables(want *checked, old *Guard) error {
	if old != nil {
		enrolled, err := old.Enrolled()
		if err != nil {
			return err
		}
		for _, e := range enrolled {
			if err := g.maps["executables"].Put(e, may{Hornetd: 1}); err != nil {
				return fmt.Errorf("guard: executable: %w", err)
			}
		}
	}
	for _, f := range want.Executables {
		if _, err := g.Enroll(f); err != nil {
			return err
		}
	}
	for _, id := range want.identities {
		if err := g.list(id); err != nil {
			return err
		}
	}
	return nil
}

// list enters an identity. Which file it is only the kernel can tell, so it is
// enrolled for a moment, in which nothing is attached.
func (g *Guard) list(id checkedExecutable) error {
	before, err := g.Enrolled()
	if err != nil {
		return err
	}
	e, err := g.Enroll(id.file)
	if err != nil {
		return err
	}
	m := id.may
	for _, b := range before {
		if b == e {
			m.Hornetd = 1
		}
	}
	if err := g.maps["executables"].Put(e, m); err != nil {
		return fmt.Errorf("guard: executable %s: %w", id.file.Name(), err)
	}
	return nil
}

// objects returns the guard's own maps and programs.
func (g *Guard) objects() ([]Object, error) {
	var all []Object
	for name, m := range g.maps {
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("guard: map %s: %w", name, err)
		}
		id, _ := info.ID()
		all = append(all, Object{Map, uint32(id)})
	}
	for name, p := range g.programs {
		info, err := p.Info()
		if err != nil {
			return nil, fmt.Errorf("guard: program %s: %w", name, err)
		}
		id, _ := info.ID()
		all = append(all, Object{Program, uint32(id)})
	}
	return all, nil
}

// pinName is what a map or program is called on bpffs, which takes no dot.
func pinName(name string) string { return strings.TrimPrefix(name, ".") }

func (g *Guard) pinObjects() error {
	for _, sub := range []string{"", "links", "maps", "programs"} {
		if err := os.Mkdir(filepath.Join(g.path(), sub), 0o700); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	for name, m := range g.maps {
		if err := m.Pin(filepath.Join(g.path(), "maps", pinName(name))); err != nil {
			return fmt.Errorf("guard: map %s: %w", name, err)
		}
	}
	for name, p := range g.programs {
		if err := p.Pin(filepath.Join(g.path(), "programs", name)); err != nil {
			return fmt.Errorf("guard: program %s: %w", name, err)
		}
	}
	return nil
}

// freeze freezes every map but the ring buffer, whose reader writes how far it is.
func (g *Guard) freeze() error {
	for name, m := range g.maps {
		if name == eventsMap {
			continue
		}
		if err := m.Freeze(); err != nil {
			return fmt.Errorf("guard: map %s: freeze: %w", name, err)
		}
	}
	return nil
}

// attach puts a program in force and keeps it so.
func (g *Guard) attach(program string) error {
	l, err := link.AttachLSM(link.LSMOptions{Program: g.programs[program]})
	if err != nil {
		return fmt.Errorf("guard: %s: attach: %w", program, err)
	}
	if g.links == nil {
		g.links = map[string]link.Link{}
	}
	g.links[program] = l
	if err := l.Pin(filepath.Join(g.path(), "links", program)); err != nil {
		return fmt.Errorf("guard: %s: %w", program, err)
	}
	return nil
}

// verify asks the kernel whether everything is in force, and sees that a system
// call goes by the guard.
func (g *Guard) verify() error {
	if err := g.control("arm", opWhoAmI); err != nil {
		return err
	}
	if err := g.checkLinks(); err != nil {
		return err
	}
	for _, l := range g.links {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("guard: %w", err)
		}
		if err := g.Own(Object{Link, uint32(info.ID)}); err != nil {
			return err
		}
	}
	before, err := readState(g.maps[stateMap])
	if err != nil {
		return fmt.Errorf("guard: state: %w", err)
	}
	after, err := readState(g.maps[stateMap])
	if err != nil {
		return fmt.Errorf("guard: state: %w", err)
	}
	if after.Calls == before.Calls {
		return remedy.With(errors.New("guard: attached, but the kernel does not ask it"), "boot with bpf in lsm=")
	}
	return nil
}

// checkLinks compares the links with the programs and with how many there must be.
func (g *Guard) checkLinks() error {
	s, err := readState(g.maps[stateMap])
	if err != nil {
		return fmt.Errorf("guard: state: %w", err)
	}
	if len(g.links) != int(s.Hooks) || len(g.programs) != int(s.Hooks)+1 {
		return fmt.Errorf("guard: %w: %d links and %d programs for %d hooks", ErrPartial, len(g.links), len(g.programs), s.Hooks)
	}
	for name, l := range g.links {
		info, err := l.Info()
		if err != nil {
			return fmt.Errorf("guard: link %s: %w", name, err)
		}
		p := g.programs[name]
		if p == nil {
			return fmt.Errorf("guard: %w: link %s has no program", ErrPartial, name)
		}
		pi, err := p.Info()
		if err != nil {
			return fmt.Errorf("guard: program %s: %w", name, err)
		}
		if id, _ := pi.ID(); id != info.Program {
			return fmt.Errorf("guard: %w: link %s is of program %d, not %d", ErrPartial, name, info.Program, id)
		}
	}
	return nil
}
