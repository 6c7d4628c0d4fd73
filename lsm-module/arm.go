package lsm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strconv"
	"strings"

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
	// ErrLeft is returned by Disarm where the guard has ended and not all of it could be removed.
	ErrLeft = errors.New("off, but not all of it could be removed")
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
	place, err := openPlace(dir)
	if err != nil {
		return nil, err
	}
	defer place.Close()
	n, err := newest(place)
	if err != nil {
		return nil, err
	}
	if n > 0 {
		return nil, remedy.With(fmt.Errorf("guard: %s: %w", dir, ErrArmed), "upgrade it, or disarm it first")
	}
	g, err := build(place, 1, c, nil)
	if err != nil {
		unix.Rmdir(dir) // if nothing is in it
	}
	return g, err
}

// Upgrade puts a guard of this build and another configuration in force, and then
// takes down g, which is closed. It carries over what g knows to be owned and
// which executables are enrolled. With an error, and no other guard, g is in force as
// before; with both g is off, and not all of it could be removed.
func (g *Guard) Upgrade(c Config) (*Guard, error) {
	next, err := build(g.place, g.number+1, c, g)
	if err != nil {
		return nil, err
	}
	return next, g.giveWay()
}

// giveWay ends g where another one is in force. From then on the old one only refuses more: off
// before it goes, it does not either, whatever of it stays, or somebody has open.
func (g *Guard) giveWay() error {
	err := errors.Join(g.SetMode(Off, 0), g.takeDown())
	if g.named { // so that whoever disarms would end the other one
		err = remedy.With(err, "see that %s can be written (findmnt -T %[1]s); then restart hornetd, which removes it", g.dir)
	}
	if err = errors.Join(err, g.Close()); err != nil {
		return fmt.Errorf("guard: the old one, which the new one replaces: %w", err)
	}
	return nil
}

// build makes set n: load, fill, freeze, pin, attach, verify, name.
func build(place *os.File, n int, c Config, old *Guard) (_ *Guard, err error) {
	support, kernel, plan := probe()
	if err := support.Err(); err != nil {
		return nil, err
	}
	if err := sweep(place); err != nil {
		return nil, err
	}
	want, err := c.check(place, len(plan.hooks))
	if err == nil && want.state.Keyrings != 0 {
		err = plan.unverified
	}
	if err != nil {
		return nil, err
	}
	root, err := plan.openForFloor(old)
	if err != nil {
		return nil, err
	}
	if root == nil {
		plan.floor = nil
	}
	defer root.Close()
	want.state.Floors = uint64(len(plan.floor))
	g := &Guard{dir: place.Name(), number: n}
	if g.place, err = openIn(place, ".", unix.O_DIRECTORY); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.letGo(old), g.abandon())
		}
	}()
	if err := g.load(plan, len(want.Sealed), kernel); err != nil {
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
	// First: what is attached later the kernel asks before.
	if err := g.attachFloor(root, plan.floor); err != nil {
		return nil, err
	}
	for _, h := range plan.hooks {
		if err := g.attach(h, kernel); err != nil {
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
	if err := g.CheckDigests(c.Allow); err != nil {
		return nil, err
	}
	if err := rename(g.place, g.name(), "set-"+strconv.Itoa(n)); err != nil {
		return nil, err
	}
	g.named = true
	return g, nil
}

// typesOfKernel are those that the kernel says are its own. /sys/kernel/btf/vmlinux has them
// too, where nobody has mounted something else. The error is EPERM without CAP_SYS_ADMIN.
func typesOfKernel() (*btf.Spec, error) {
	h, err := btf.FindHandle((*btf.HandleInfo).IsVmlinux)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	return h.Spec(nil)
}

// load creates maps and programs, with room for so many digests.
func (g *Guard) load(use plan, digests int, kernel *btf.Spec) error {
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	keep := map[string]bool{controlProgram: true}
	for _, h := range use.hooks {
		keep[h.Program] = true
	}
	floor := maps.Clone(spec.Programs)
	for name := range spec.Programs {
		if !keep[name] {
			delete(spec.Programs, name)
		}
	}
	spec.Maps["sealed"].MaxEntries = uint32(max(1, digests))
	spec.Variables = nil // the library would map the state, and what is mapped cannot be frozen
	for _, m := range spec.Maps {
		m.Flags &^= unix.BPF_F_MMAPABLE // nor may anybody else
	}
	coll, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{Programs: ebpf.ProgramOptions{KernelTypes: kernel}})
	if err != nil {
		return fmt.Errorf("guard: %w", err)
	}
	g.maps, g.programs = coll.Maps, coll.Programs
	return g.loadFloor(floor, use.floor, kernel)
}

// fill writes what the guard decides by, and marks the caller.
func (g *Guard) fill(want *checked, old *Guard) error {
	if old != nil {
		was, err := readState(old.maps[stateMap])
		if err != nil {
			return fmt.Errorf("guard: state: %w", err)
		}
		if err := want.state.goesOn(was); err != nil {
			return err
		}
	}
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
	if err := g.fillNamespaces(old); err != nil {
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

// fillNamespaces enters the mount namespaces that hornetd has been in.
func (g *Guard) fillNamespaces(old *Guard) error {
	const name = "namespaces"
	if old == nil || old.maps[name] == nil { // one of an earlier build
		return nil
	}
	var number uint64
	var yes uint32
	it := old.maps[name].Iterate()
	for it.Next(&number, &yes) {
		if err := g.maps[name].Put(number, yes); err != nil {
			return fmt.Errorf("guard: mount namespace %d: %w", number, err)
		}
	}
	if err := it.Err(); err != nil {
		return fmt.Errorf("guard: mount namespaces: %w", err)
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
	now, err := bootClock()
	if err != nil {
		return err
	}
	if err := g.maps["marks"].Put(int32(fd), role{markHornetd, now}); err != nil {
		return fmt.Errorf("guard: mark of hornetd: %w", err)
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
	for _, programs := range []map[string]*ebpf.Program{g.programs, g.floor} {
		for name, p := range programs {
			info, err := p.Info()
			if err != nil {
				return nil, fmt.Errorf("guard: program %s: %w", name, err)
			}
			id, _ := info.ID()
			all = append(all, Object{Program, uint32(id)})
		}
	}
	return all, nil
}

// pinName is what a map or program is called on bpffs, which takes no dot.
func pinName(name string) string { return strings.TrimPrefix(name, ".") }

// in is the way to a pin of g that the kernel takes: through the directory that was looked
// at, whatever is mounted over its path meanwhile.
func (g *Guard) in(pin ...string) string {
	return filepath.Join(append([]string{throughFD(g.place), g.name()}, pin...)...)
}

func (g *Guard) pinObjects() error {
	for _, sub := range []string{"", "links", floorDir, "maps", "programs"} {
		if err := os.Mkdir(g.in(sub), 0o700); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	for name, m := range g.maps {
		if err := m.Pin(g.in("maps", pinName(name))); err != nil {
			return fmt.Errorf("guard: map %s: %w", name, err)
		}
	}
	for name, p := range g.programs {
		if err := p.Pin(g.in("programs", name)); err != nil {
			return fmt.Errorf("guard: program %s: %w", name, err)
		}
	}
	for name, p := range g.floor {
		if err := p.Pin(g.in(floorDir, name)); err != nil {
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
func (g *Guard) attach(h hook, kernel *btf.Spec) error {
	program := h.Program
	l, err := link.AttachLSM(link.LSMOptions{Program: g.programs[program]})
	if err != nil {
		return fmt.Errorf("guard: %s: attach: %w", program, err)
	}
	if g.links == nil {
		g.links = map[string]link.Link{}
	}
	g.links[program] = l
	if err := isAttachedTo(l, h.Name, kernel); err != nil {
		return fmt.Errorf("guard: %s: %w", program, err)
	}
	if err := l.Pin(g.in("links", program)); err != nil {
		return fmt.Errorf("guard: %s: %w", program, err)
	}
	return nil
}

// isAttachedTo returns nil if a link is to an LSM hook. The library looks for it among
// the types that /sys shows.
func isAttachedTo(l link.Link, name string, kernel *btf.Spec) error {
	want, err := hookID(name, kernel)
	if err != nil {
		return err
	}
	info, err := l.Info()
	if err != nil {
		return err
	}
	if tracing := info.Tracing(); tracing == nil || btf.TypeID(tracing.TargetBtfId) != want {
		return remedy.With(fmt.Errorf("attached to another function than bpf_lsm_%s", name), "see what is mounted over /sys/kernel/btf in hornetd's mount namespace")
	}
	return nil
}

// hookID returns the id of an LSM hook's type.
func hookID(name string, kernel *btf.Spec) (btf.TypeID, error) {
	var f *btf.Func
	if err := kernel.TypeByName("bpf_lsm_"+name, &f); err != nil {
		return 0, err
	}
	return kernel.TypeID(f)
}

// verify asks the kernel whether everything is in force, and sees that a system
// call goes by the guard.
func (g *Guard) verify() error {
	if err := g.control("arm", opWhoAmI); err != nil {
		return err
	}
	if err := errors.Join(g.checkLinks(), g.checkFloor()); err != nil {
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
	asked, floor, err := asked(g.maps[stateMap])
	if err != nil {
		return err
	}
	if !asked || !floor && len(g.floor) > 0 {
		return remedy.With(errors.New("guard: attached, but the kernel does not ask it"), "boot with bpf in lsm=; sysctl kernel.ftrace_enabled=1")
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
