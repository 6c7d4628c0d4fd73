package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Guard is one that is in force. Close lets go of it and leaves it in force.
type Guard struct {
	dir    string
	number int
	named  bool // set-N, no longer stage-N

	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	links    map[string]link.Link
}

// Status is what a guard says of itself.
type Status struct {
	Mode     Mode          // as set
	Enforces bool          // what it does now: false once the time to confirm is over
	Confirm  time.Duration // until it falls back to audit; 0 is never
	Hooks    []string      // programs in force
	Open     []string      // what is open without those that are not, on a kernel that has not their hooks
	Current  bool          // it is the guard of this build
	Calls    uint64        // of bpf(2), seen
	Refused  uint64        // what was refused
	Lost     uint64        // events for which there was no room
	// Suppressed are events not told, because their caller caused too many.
	Suppressed uint64
}

// Adopt takes up the guard in dir, also one of another build. What was being armed
// or taken down when a process died is removed. Errors are ErrNotArmed,
// ErrNotHornetd and ErrPartial; with any of them what is in force stays so.
func Adopt(dir string) (*Guard, error) {
	n, err := newest(dir)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, errors.Join(fmt.Errorf("guard: %s: %w", dir, ErrNotArmed), sweep(dir))
	}
	g := &Guard{dir: dir, number: n, named: true}
	if err := g.open(); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if err := g.checkLinks(); err != nil {
		return nil, errors.Join(remedy.With(err, "reboot, and look for who removed it"), g.Close())
	}
	if err := errors.Join(sweep(dir), g.older()); err != nil {
		return g, fmt.Errorf("guard: what an interrupted change left: %w", err)
	}
	return g, nil
}

// Look says how the guard in dir is, to anybody who may read the directory. While it
// enforces, only hornetd is told more than that it does.
func Look(dir string) (Status, error) {
	for last := 0; ; {
		n, err := newest(dir)
		if err != nil {
			return Status{}, err
		}
		s, err := look(dir, n)
		if !errors.Is(err, fs.ErrNotExist) || n == last {
			return s, err
		}
		last = n // an upgrade may have replaced it meanwhile
	}
}

func look(dir string, n int) (Status, error) {
	if n == 0 {
		return Status{}, fmt.Errorf("guard: %s: %w", dir, ErrNotArmed)
	}
	set := filepath.Join(dir, "set-"+strconv.Itoa(n))
	m, err := ebpf.LoadPinnedMap(filepath.Join(set, "maps", pinName(stateMap)), &ebpf.LoadPinOptions{ReadOnly: true})
	if errors.Is(err, unix.EPERM) { // the guard's answer: it gives its maps to hornetd only
		hooks, err := names(filepath.Join(set, "links"))
		return Status{Mode: Enforce, Enforces: true, Hooks: hooks}, err
	}
	if err != nil {
		return Status{}, fmt.Errorf("guard: state: %w", err)
	}
	defer m.Close()
	return status(m, set)
}

// Status says how it is.
func (g *Guard) Status() (Status, error) { return status(g.maps[stateMap], g.path()) }

func status(m *ebpf.Map, set string) (Status, error) {
	s, err := readState(m)
	if err != nil {
		return Status{}, fmt.Errorf("guard: state: %w", err)
	}
	inForce, err := names(filepath.Join(set, "links"))
	if err != nil {
		return Status{}, err
	}
	out, err := statusOf(s)
	if err != nil {
		return Status{}, err
	}
	out.Hooks = inForce
	for _, h := range hooks {
		if h.For != "" && !slices.Contains(out.Hooks, h.Program) {
			out.Open = append(out.Open, h.For)
		}
	}
	return out, nil
}

// statusOf is what the state says, which knows nothing of hooks.
func statusOf(s *state) (Status, error) {
	out := Status{Mode: s.Mode, Current: s.Object == objectSum, Calls: s.Calls, Refused: s.Refused, Lost: s.Lost, Suppressed: s.Suppressed}
	now, err := bootClock()
	if err != nil {
		return Status{}, err
	}
	if s.Deadline > now {
		out.Confirm = time.Duration(s.Deadline - now)
	}
	out.Enforces = s.Mode == Enforce && (s.Deadline == 0 || s.Deadline > now)
	return out, nil
}

// SetMode changes what the guard does from the next call on. With Enforce and a
// time it falls back to Audit unless Confirm comes before the time is over.
func (g *Guard) SetMode(m Mode, confirmWithin time.Duration) error {
	var deadline uint64
	if m == Enforce && confirmWithin > 0 {
		now, err := bootClock()
		if err != nil {
			return err
		}
		deadline = now + uint64(confirmWithin)
	}
	return g.control("mode "+m.String(), opMode, uint64(m), deadline)
}

// Confirm takes the time limit away from Enforce. It does nothing for a guard that
// has fallen back: SetMode it again.
func (g *Guard) Confirm() error {
	s, err := g.Status()
	if err != nil {
		return err
	}
	if s.Mode == Enforce && !s.Enforces {
		return remedy.With(errors.New("guard: too late: it has fallen back to audit"), "set the mode to enforce again")
	}
	return g.SetMode(s.Mode, 0)
}

// Enroll makes an executable one that becomes hornetd when the first process
// starts it in hornetd's cgroup. f is open for reading; the error is ETXTBSY while
// somebody has the file open for writing.
func (g *Guard) Enroll(f *os.File) (Executable, error) { return g.enroll(f, 0) }

// EnrollIf is Enroll where is, called while nobody can write the file any more,
// has no error. (In audit mode they can, and it is told.)
func (g *Guard) EnrollIf(f *os.File, is func() error) (Executable, error) {
	before, err := g.Enrolled()
	if err != nil {
		return Executable{}, err
	}
	e, err := g.enroll(f, 1)
	if err != nil {
		return Executable{}, err
	}
	if err := is(); err != nil {
		if slices.Contains(before, e) {
			_, again := g.Enroll(f)
			return Executable{}, errors.Join(err, again)
		}
		return Executable{}, errors.Join(err, g.Retire(e))
	}
	return g.Enroll(f)
}

func (g *Guard) enroll(f *os.File, hold uint64) (Executable, error) {
	err := g.control("executable "+f.Name(), opEnroll, uint64(f.Fd()), hold)
	if errors.Is(err, unix.ETXTBSY) {
		err = remedy.With(err, "end what writes it (fuser -v %s)", f.Name())
	}
	if err != nil {
		return Executable{}, err
	}
	s, err := readState(g.maps[stateMap])
	if err != nil {
		return Executable{}, fmt.Errorf("guard: state: %w", err)
	}
	return s.Last, nil
}

// Retire is the opposite of Enroll.
func (g *Guard) Retire(e Executable) error {
	return g.control(fmt.Sprintf("executable %d", e.Inode), opRetire, uint64(e.Generation)<<32|uint64(e.Device), e.Inode)
}

// Enrolled are the executables that become hornetd.
func (g *Guard) Enrolled() ([]Executable, error) {
	var all []Executable
	var e Executable
	var m may
	it := g.maps["executables"].Iterate()
	for it.Next(&e, &m) {
		if m.Hornetd != 0 {
			all = append(all, e)
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("guard: executables: %w", err)
	}
	return all, nil
}

// Sealed gives back Config.Sealed.
func (g *Guard) Sealed() (map[[32]byte]uint32, error) {
	all := map[[32]byte]uint32{}
	var sum [32]byte
	var number uint32
	it := g.maps["sealed"].Iterate()
	for it.Next(&sum, &number) {
		all[sum] = number
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("guard: sealed digests: %w", err)
	}
	return all, nil
}

// Own protects an object. What hornetd creates, and links that it pins, the guard
// sees for itself.
func (g *Guard) Own(o Object) error {
	return g.control(fmt.Sprintf("own %s %d", o.Kind, o.ID), opOwn, uint64(o.Kind), uint64(o.ID), ownedYes)
}

// Share lets whoever has a descriptor of a map write it, because hornetd gives it
// away for that. It still cannot be frozen, pinned or opened by id.
func (g *Guard) Share(id uint32) error {
	return g.control(fmt.Sprintf("share map %d", id), opOwn, uint64(Map), uint64(id), ownedYes|ownedShared)
}

// Disown is the opposite. The kernel gives an id again only after two thousand
// million others, but there is room for 65536.
func (g *Guard) Disown(o Object) error {
	return g.control(fmt.Sprintf("disown %s %d", o.Kind, o.ID), opDisown, uint64(o.Kind), uint64(o.ID))
}

// Owned are all objects that are protected, those that have gone among them.
func (g *Guard) Owned() ([]Object, error) {
	all, err := g.owned()
	return slices.Collect(maps.Keys(all)), err
}

// owned has the bits of each, too.
func (g *Guard) owned() (map[Object]uint32, error) {
	all := map[Object]uint32{}
	var o Object
	var how uint32
	it := g.maps["owned"].Iterate()
	for it.Next(&o, &how) {
		all[o] = how
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("guard: owned objects: %w", err)
	}
	return all, nil
}

// Disarm ends the guard and closes g.
func (g *Guard) Disarm() error {
	if err := g.SetMode(Off, 0); err != nil {
		return err
	}
	return g.takeDown()
}

// Close lets go of the guard, which stays in force.
func (g *Guard) Close() error {
	var errs []error
	for _, l := range g.links {
		errs = append(errs, l.Close())
	}
	for _, p := range g.programs {
		p.Close()
	}
	for _, m := range g.maps {
		m.Close()
	}
	g.links, g.programs, g.maps = nil, nil, nil
	return errors.Join(errs...)
}

// control asks the guard to change something; it does so for hornetd only.
func (g *Guard) control(what string, op uint64, args ...uint64) error {
	// More than any build's reads: the kernel refuses less, and this is the most it takes.
	context := [12]uint64{op}
	copy(context[1:], args)
	ret, err := g.programs[controlProgram].Run(&ebpf.RunOptions{Context: context})
	if err == nil && int32(ret) < 0 {
		err = unix.Errno(-int32(ret))
	}
	if errors.Is(err, unix.EPERM) {
		return notHornetd(fmt.Errorf("guard: %s: %w", what, ErrNotHornetd))
	}
	if err != nil {
		return fmt.Errorf("guard: %s: %w", what, err)
	}
	return nil
}

func notHornetd(err error) error {
	return remedy.With(err, "start an enrolled hornetd as a service, or reboot")
}

func (g *Guard) path() string {
	if g.named {
		return filepath.Join(g.dir, "set-"+strconv.Itoa(g.number))
	}
	return filepath.Join(g.dir, "stage-"+strconv.Itoa(g.number))
}

// open opens what is pinned.
func (g *Guard) open() error {
	g.maps, g.programs, g.links = map[string]*ebpf.Map{}, map[string]*ebpf.Program{}, map[string]link.Link{}
	err := each(filepath.Join(g.path(), "programs"), func(name, path string) error {
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if errors.Is(err, unix.EPERM) {
			return notHornetd(fmt.Errorf("%w: %w", ErrNotHornetd, err))
		}
		g.programs[name] = p
		return err
	})
	if err != nil {
		return err
	}
	if g.programs[controlProgram] == nil {
		return fmt.Errorf("guard: %w: no program %s", ErrPartial, controlProgram)
	}
	if err := g.control("adopt", opWhoAmI); err != nil {
		return err
	}
	err = each(filepath.Join(g.path(), "maps"), func(name, path string) error {
		m, err := ebpf.LoadPinnedMap(path, &ebpf.LoadPinOptions{ReadOnly: name != eventsMap})
		if name == pinName(stateMap) {
			name = stateMap
		}
		g.maps[name] = m
		return err
	})
	if err != nil {
		return err
	}
	for _, name := range []string{stateMap, "executables", "sealed", "owned", eventsMap} {
		if g.maps[name] == nil {
			return fmt.Errorf("guard: %w: no map %s", ErrPartial, name)
		}
	}
	return each(filepath.Join(g.path(), "links"), func(name, path string) error {
		l, err := link.LoadPinnedLink(path, nil)
		if err == nil {
			g.links[name] = l
		}
		return err
	})
}

// each calls f with every pin in a directory.
func each(dir string, f func(name, path string) error) error {
	all, err := names(dir)
	if err != nil {
		return err
	}
	for _, name := range all {
		if err := f(name, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("guard: %s: %w", filepath.Join(dir, name), err)
		}
	}
	return nil
}

func names(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all, nil
}

// numbered returns the directories PREFIXn with their numbers.
func numbered(dir, prefix string) (map[int]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	all := map[int]string{}
	for _, e := range entries {
		if s, ok := strings.CutPrefix(e.Name(), prefix); ok {
			if n, err := strconv.Atoi(s); err == nil && n > 0 {
				all[n] = filepath.Join(dir, e.Name())
			}
		}
	}
	return all, nil
}

// newest returns the number of the guard in force, or 0.
func newest(dir string) (int, error) {
	sets, err := numbered(dir, "set-")
	most := 0
	for n := range sets {
		most = max(most, n)
	}
	return most, err
}

// sweep removes stages.
func sweep(dir string) error {
	stages, err := numbered(dir, "stage-")
	if err != nil {
		return err
	}
	var errs []error
	for _, path := range stages {
		errs = append(errs, remove(path))
	}
	return errors.Join(errs...)
}

// older removes the sets that g has replaced.
func (g *Guard) older() error {
	sets, err := numbered(g.dir, "set-")
	if err != nil {
		return err
	}
	var errs []error
	for n, path := range sets {
		if n != g.number {
			errs = append(errs, remove(path))
		}
	}
	return errors.Join(errs...)
}

// remove removes a set, links first: they are what is in force.
func remove(set string) error {
	for _, sub := range []string{"links", "programs", "maps"} {
		if err := os.RemoveAll(filepath.Join(set, sub)); err != nil {
			return fmt.Errorf("guard: %w", err)
		}
	}
	if err := os.Remove(set); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("guard: %w", err)
	}
	return nil
}

// takeDown removes g and closes it. It is a stage first: whatever is left of it when
// this process dies is nobody's guard, and the next one sweeps it away.
func (g *Guard) takeDown() error {
	if g.named {
		set := g.path()
		g.named = false
		if err := os.Rename(set, g.path()); err != nil {
			return errors.Join(fmt.Errorf("guard: %w", err), g.Close())
		}
	}
	return errors.Join(remove(g.path()), g.Close())
}

// abandon undoes an arming that went wrong.
func (g *Guard) abandon() error {
	if g.programs == nil {
		return nil
	}
	return g.takeDown()
}

// bootClock is the guard's clock, in nanoseconds: it counts while the machine sleeps.
func bootClock() (uint64, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0, fmt.Errorf("guard: clock: %w", err)
	}
	return uint64(ts.Nano()), nil
}
