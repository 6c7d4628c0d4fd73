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
	place  *os.File // that directory, whatever is mounted over its path by now
	number int
	named  bool // set-N, no longer stage-N
	holed  bool // without all of its floor

	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	floor    map[string]*ebpf.Program
	links    map[string]link.Link

	held []Executable // that the guard which it is to replace has nobody write for its sake
}

// Status is what a guard says of itself.
type Status struct {
	Mode     Mode          // as set
	Enforces bool          // what it does now: false once the time to confirm is over
	Confirm  time.Duration // until it falls back to audit; 0 is never
	Hooks    []string      // programs in force
	Open     []string      // what is open without those that are not, on a kernel that has not their hooks
	Current  bool          // it is the guard of this build
	Asked    bool          // the kernel asks it
	Floor    bool          // and its floor, which no pin holds
	Holed    bool          // of that something had gone when Adopt took it up; Upgrade makes another
	Calls    uint64        // of bpf(2), seen
	Refused  uint64        // what was refused
	Lost     uint64        // events for which there was no room
	// Suppressed are events not told, because their caller caused too many.
	Suppressed uint64
}

// Adopt takes up the guard in dir, also one of another build. It changes nothing: what
// was being armed or taken down when a process died stays until Tidy. Errors are
// ErrNotArmed, ErrNotHornetd and ErrPartial. One that does not enforce may have lost its
// floor, which is anybody's to detach then: see Status.Holed.
func Adopt(dir string) (*Guard, error) {
	place, err := openPlace(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("guard: %s: %w", dir, ErrNotArmed)
	}
	if err != nil {
		return nil, err
	}
	g := &Guard{dir: dir, place: place, named: true}
	if g.number, err = newest(place); err != nil {
		return nil, errors.Join(err, g.Close())
	}
	if g.number == 0 {
		return nil, errors.Join(fmt.Errorf("guard: %s: %w", dir, ErrNotArmed), g.Close())
	}
	err = g.open()
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("guard: %w: %w", ErrPartial, err)
	}
	if err == nil {
		err = g.checkPlace()
	}
	if err == nil {
		err = errors.Join(g.checkLinks(), g.adoptFloor())
	}
	if errors.Is(err, ErrPartial) {
		err = remedy.With(err, "reboot, and look for who removed it")
	}
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Tidy removes what was being armed, replaced or taken down when a process died, from
// where g was taken up. Whoever calls it has seen that this is where the guard that is in
// force belongs: with Pinned, InForce and what is sealed.
func (g *Guard) Tidy() error {
	if err := errors.Join(sweep(g.place), older(g.place, g.number)); err != nil {
		return fmt.Errorf("guard: what an interrupted change left: %w", err)
	}
	return nil
}

// Tidy removes from dir, where there is no guard, what was being armed or taken down when
// a process died.
func Tidy(dir string) error {
	place, err := openPlace(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer place.Close()
	n, err := newest(place)
	if err == nil && n > 0 {
		err = fmt.Errorf("guard: %s: %w", dir, ErrArmed)
	}
	if err == nil {
		err = sweep(place)
	}
	if err != nil {
		return fmt.Errorf("guard: what an interrupted change left: %w", err)
	}
	return nil
}

// Look says how the guard in dir is, to anybody who may read the directory. While it
// enforces, only hornetd is told more than that it does.
func Look(dir string) (Status, error) {
	for last := 0; ; {
		n, err := newestIn(dir)
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
		if err != nil {
			return Status{}, err
		}
		floor, err := names(filepath.Join(set, floorDir))
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		return Status{Mode: Enforce, Enforces: true, Asked: true, Hooks: hooks, Floor: len(floor) > 0}, err
	}
	if err != nil {
		return Status{}, fmt.Errorf("guard: state: %w", err)
	}
	defer m.Close()
	return status(m, set)
}

// Status says how it is.
func (g *Guard) Status() (Status, error) {
	s, err := status(g.maps[stateMap], g.in())
	s.Holed = g.holed
	return s, err
}

func status(m *ebpf.Map, set string) (Status, error) {
	asked, floor, err := asked(m)
	if err != nil {
		return Status{}, err
	}
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
	out.Hooks, out.Asked, out.Floor = inForce, asked, floor
	if !floor {
		out.Open = append(out.Open, noFloor)
	}
	if !asked {
		out.Open = append(out.Open, "the kernel does not ask the guard: everything (sysctl kernel.ftrace_enabled=1)")
	}
	for _, h := range hooks {
		if h.For != "" && !slices.Contains(out.Hooks, h.Program) {
			out.Open = append(out.Open, h.For)
		}
	}
	return out, nil
}

// asked reports whether the kernel calls the guard and its floor, which count calls of
// bpf(2), and so the second look here. With kernel.ftrace_enabled=0 it does not.
func asked(m *ebpf.Map) (guard, floor bool, err error) {
	before, err := readState(m)
	if err != nil {
		return false, false, fmt.Errorf("guard: state: %w", err)
	}
	after, err := readState(m)
	if err != nil {
		return false, false, fmt.Errorf("guard: state: %w", err)
	}
	return after.Calls != before.Calls, after.FloorCalls != before.FloorCalls, nil
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
	var deadline, within uint64 // the former for a guard of an older build
	if m == Enforce && confirmWithin > 0 {
		now, err := bootClock()
		if err != nil {
			return err
		}
		within = uint64(confirmWithin)
		deadline = now + within
	}
	return g.control("mode "+m.String(), opMode, uint64(m), deadline, within)
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

// Made is how many objects the guard has seen hornetd make.
func (g *Guard) Made() (uint64, error) {
	s, err := readState(g.maps[stateMap])
	if err != nil {
		return 0, fmt.Errorf("guard: state: %w", err)
	}
	return s.Made, nil
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

// Disarm ends the guard and closes g. With an error that is not ErrLeft g is open and where
// it was: as before, or, where Status says so, off. It can be disarmed again, or have a mode.
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
	for _, programs := range []map[string]*ebpf.Program{g.programs, g.floor} {
		for _, p := range programs {
			p.Close()
		}
	}
	for _, m := range g.maps {
		m.Close()
	}
	if g.place != nil {
		g.place.Close()
	}
	g.place, g.links, g.programs, g.floor, g.maps = nil, nil, nil, nil, nil
	return errors.Join(errs...)
}

// control asks the guard to change something; it does so for hornetd only.
func (g *Guard) control(what string, op uint64, args ...uint64) error {
	context := [12]uint64{0: op, 11: opAsked}
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
	return remedy.With(err, "start an enrolled hornetd as a service, with CAP_SYS_ADMIN and no SystemCallFilter= but its unit's, or reboot")
}

func (g *Guard) path() string { return filepath.Join(g.dir, g.name()) }

func (g *Guard) name() string {
	if g.named {
		return "set-" + strconv.Itoa(g.number)
	}
	return "stage-" + strconv.Itoa(g.number)
}

// open opens what is pinned.
func (g *Guard) open() error {
	g.maps, g.programs, g.floor, g.links = map[string]*ebpf.Map{}, map[string]*ebpf.Program{}, map[string]*ebpf.Program{}, map[string]link.Link{}
	set, err := openIn(g.place, g.name(), unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer set.Close()
	err = each(set, "programs", func(name, path string) error {
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
	if err := eachFloor(set, func(name string, p *ebpf.Program) error {
		g.floor[name] = p
		return nil
	}); err != nil {
		return err
	}
	err = each(set, "maps", func(name, path string) error {
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
	return each(set, "links", func(name, path string) error {
		l, err := link.LoadPinnedLink(path, nil)
		if err == nil {
			g.links[name] = l
		}
		return err
	})
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

// numbered returns the names PREFIXn in a guard's directory by their numbers.
func numbered(place *os.File, prefix string) (map[int]string, error) {
	d, err := openIn(place, ".", unix.O_DIRECTORY) // as it is now, from its beginning
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, fmt.Errorf("guard: %w", err)
	}
	all := map[int]string{}
	for _, name := range names {
		if s, ok := strings.CutPrefix(name, prefix); ok {
			if n, err := strconv.Atoi(s); err == nil && n > 0 {
				all[n] = name
			}
		}
	}
	return all, nil
}

// newest returns the number of the guard in force, or 0.
func newest(place *os.File) (int, error) {
	sets, err := numbered(place, "set-")
	most := 0
	for n := range sets {
		most = max(most, n)
	}
	return most, err
}

func newestIn(dir string) (int, error) {
	place, err := openPlace(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer place.Close()
	return newest(place)
}

// sweep removes stages.
func sweep(place *os.File) error {
	stages, err := numbered(place, "stage-")
	if err != nil {
		return err
	}
	var errs []error
	for _, name := range stages {
		errs = append(errs, remove(place, name))
	}
	return errors.Join(errs...)
}

// older removes the sets that set n has replaced.
func older(place *os.File, n int) error {
	sets, err := numbered(place, "set-")
	if err != nil {
		return err
	}
	var errs []error
	for is, name := range sets {
		if is < n {
			errs = append(errs, remove(place, name))
		}
	}
	return errors.Join(errs...)
}

// takeDown removes g and closes it; where it cannot even be named a stage it is not closed.
// It is a stage first: whatever is left of it when this process dies is nobody's guard, and the
// next one sweeps it away.
func (g *Guard) takeDown() error {
	if g.named {
		set := g.name()
		g.named = false
		if err := rename(g.place, set, g.name()); err != nil {
			g.named = true
			return remedy.With(fmt.Errorf("guard: it is off, and its pins stay: %w", err), "see that %s can be written (findmnt -T %[1]s); then disarm it again", g.dir)
		}
	}
	if err := g.endFloor(); err != nil { // of which somebody may have removed the pins
		return errors.Join(fmt.Errorf("guard: %w: %w", ErrLeft, err), g.Close())
	}
	err := remove(g.place, g.name())
	if err != nil {
		err = fmt.Errorf("guard: %w: %w", ErrLeft, err)
	}
	return errors.Join(err, g.Close())
}

// abandon undoes an arming that went wrong.
func (g *Guard) abandon() error {
	if g.programs == nil {
		return g.Close()
	}
	_ = g.SetMode(Off, 0) // what cannot be removed does nothing then; what does not know this process yet is off
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
