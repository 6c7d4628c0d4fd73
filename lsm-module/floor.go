package lsm

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
)

// The floor is what still refuses when all pins and links of the guard have gone: programs
// that BPF_PROG_ATTACH has attached to the root cgroup, where nothing but BPF_PROG_DETACH
// ends them. They are pinned all the same: by its pin hornetd finds one to detach it, which
// comes before the pin goes, and before the links do, by which the next hornetd is known.

// floorHooks are its programs, chosen as hooks are.
var floorHooks = []hook{
	{Program: "guard_floor", Name: "bpf", Args: "int, union bpf_attr *, unsigned int, bool, ..."},
	{Program: "guard_floor_old", Name: "bpf", Args: "int, union bpf_attr *, unsigned int"},
	{Program: "guard_floor_load", Name: "bpf_prog_load", Args: "struct bpf_prog *, union bpf_attr *, struct bpf_token *, bool, ...", Verdict: true},
	{Program: "guard_floor_open", Name: "file_open"},
}

const (
	floorPrefix = "guard_floor" // of the names of them all, also another build's
	floorDir    = "floor"       // of a set, with their pins
)

// noFloor is what is open without it.
const noFloor = "it has no floor: everything, once the kernel has taken away its pins while hornetd is stopped"

// chooseFloor returns which of its programs this kernel runs, or why it runs none.
func (p plan) chooseFloor(kernel *btf.Spec) ([]hook, error) {
	var f *btf.Func // kernel/bpf/cgroup.c
	if err := kernel.TypeByName("__cgroup_bpf_run_lsm_current", &f); err != nil {
		return nil, remedy.With(errors.New("guard: floor: the kernel has no LSM programs of cgroups"), "boot a kernel with CONFIG_CGROUP_BPF=y")
	}
	return p.usable(kernel, floorHooks), nil
}

// openForFloor opens the root cgroup, or returns nil where there can be no floor. One that
// replaces a guard with a floor has one.
func (p plan) openForFloor(old *Guard) (*os.File, error) {
	err := p.noFloor
	if err == nil {
		var root *os.File
		if root, err = openRootCgroup(); err == nil {
			return root, nil
		}
	}
	if old != nil && len(old.floor) > 0 {
		return nil, fmt.Errorf("guard: the one in force has a floor, and the new one would have none: %w", err)
	}
	return nil, nil
}

// rootCgroups are where cgroup2 is mounted: alone, or beside version 1.
var rootCgroups = []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}

const (
	rootCgroup   = 1    // its id, and the number of its inode
	kernfsHandle = 0xfe // the kernel's FILEID_KERNFS
)

var (
	errNoRoot = errors.New("the root cgroup cannot be opened")
	errPart   = errors.New("not the root of the hierarchy")
	// errNotTold is returned by lsmPrograms to who may not ask.
	errNotTold = errors.New("the kernel does not tell them")
)

// openRootCgroup opens the cgroup that all others are in: where only a part of the
// hierarchy is to be seen, as in a cgroup namespace, by its handle. Errors are errNoRoot.
func openRootCgroup() (*os.File, error) {
	var errs []error
	for _, dir := range rootCgroups {
		f, err := openRootFrom(dir)
		if err == nil {
			return f, nil
		}
		errs = append(errs, err)
	}
	return nil, remedy.With(fmt.Errorf("%w: %w", errNoRoot, errors.Join(errs...)), "mount cgroup2 on %s, and start hornetd with CAP_DAC_READ_SEARCH", rootCgroups[0])
}

func openRootFrom(dir string) (*os.File, error) {
	seen, err := os.OpenFile(dir, unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	err = isRootCgroup(seen)
	if err == nil {
		return seen, nil
	}
	defer seen.Close()
	if !errors.Is(err, errPart) {
		return nil, err
	}
	handle := unix.NewFileHandle(kernfsHandle, binary.NativeEndian.AppendUint64(nil, rootCgroup))
	fd, err := unix.OpenByHandleAt(int(seen.Fd()), handle, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("%s: %w; by its handle: %w", dir, errPart, err)
	}
	f := os.NewFile(uintptr(fd), dir)
	if err := isRootCgroup(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

func isRootCgroup(f *os.File) error {
	var on unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(int(f.Fd()), &on), unix.Fstat(int(f.Fd()), &st)); err != nil {
		return fmt.Errorf("%s: %w", f.Name(), err)
	}
	if on.Type != unix.CGROUP2_SUPER_MAGIC {
		return fmt.Errorf("%s: not on a cgroup2 file system", f.Name())
	}
	if st.Ino != rootCgroup {
		return fmt.Errorf("%s: %w", f.Name(), errPart)
	}
	return nil
}

// loadFloor loads its programs, which use the maps that are there. The library knows no
// LSM programs of cgroups.
func (g *Guard) loadFloor(specs map[string]*ebpf.ProgramSpec, use []hook, kernel *btf.Spec) error {
	g.floor = map[string]*ebpf.Program{}
	for _, h := range use {
		p, err := g.loadOne(specs[h.Program], h, kernel)
		if err != nil {
			return fmt.Errorf("guard: program %s: %w", h.Program, err)
		}
		g.floor[h.Program] = p
	}
	return nil
}

func (g *Guard) loadOne(spec *ebpf.ProgramSpec, h hook, kernel *btf.Spec) (*ebpf.Program, error) {
	target, err := hookID(h.Name, kernel)
	if err != nil {
		return nil, err
	}
	insns := spec.Copy().Instructions
	for i := range insns {
		ins := &insns[i]
		if name := ins.Reference(); name != "" && ins.IsLoadFromMap() {
			if err := ins.AssociateMap(g.maps[name]); err != nil {
				return nil, fmt.Errorf("map %s: %w", name, err)
			}
		}
	}
	if err := relocate(insns, spec.ByteOrder, kernel); err != nil {
		return nil, err
	}
	var code bytes.Buffer
	if err := insns.Marshal(&code, spec.ByteOrder); err != nil {
		return nil, err
	}
	fd, err := bpfsys.LoadLSMCgroup(h.Program, code.Bytes(), uint32(target))
	if err != nil {
		return nil, err
	}
	return ebpf.NewProgramFromFD(fd)
}

// relocate has instructions read the fields of the kernel's structures (CO-RE).
func relocate(insns asm.Instructions, order binary.ByteOrder, kernel *btf.Spec) error {
	var all []*btf.CORERelocation
	var of []*asm.Instruction
	for i := range insns {
		if r := btf.CORERelocationMetadata(&insns[i]); r != nil {
			all, of = append(all, r), append(of, &insns[i])
		}
	}
	fixups, err := btf.CORERelocate(all, []*btf.Spec{kernel}, order, func(t btf.Type) (btf.TypeID, error) {
		return 0, fmt.Errorf("the id of %s is asked for", t)
	})
	if err != nil {
		return err
	}
	for i, fixup := range fixups {
		if err := fixup.Apply(of[i]); err != nil {
			return err
		}
	}
	return nil
}

// attachFloor puts it in force.
func (g *Guard) attachFloor(root *os.File, use []hook) error {
	for _, h := range use {
		err := link.RawAttachProgram(link.RawAttachProgramOptions{Target: int(root.Fd()), Program: g.floor[h.Program], Attach: ebpf.AttachLSMCgroup, Flags: unix.BPF_F_ALLOW_MULTI})
		if err != nil {
			return remedy.With(fmt.Errorf("guard: %s: attach to the root cgroup: %w", h.Program, err), "see what else is attached there: bpftool cgroup show %s", root.Name())
		}
	}
	return nil
}

// checkFloor asks the kernel whether the floor that there must be is in force: by what is
// attached to the root cgroup or, where that cannot be opened, by whether it asks it.
func (g *Guard) checkFloor() error {
	s, err := readState(g.maps[stateMap])
	if err != nil {
		return fmt.Errorf("guard: state: %w", err)
	}
	if len(g.floor) != int(s.Floors) {
		return fmt.Errorf("guard: %w: %d programs of the floor, not %d", ErrPartial, len(g.floor), s.Floors)
	}
	if s.Floors == 0 {
		return nil
	}
	there, err := onRootCgroup()
	if errors.Is(err, errNoRoot) || errors.Is(err, errNotTold) {
		asked, floor, err := asked(g.maps[stateMap])
		if err == nil && asked && !floor {
			err = fmt.Errorf("guard: %w: the kernel does not ask its floor", ErrPartial)
		}
		return err
	}
	if err != nil {
		return err
	}
	for name, p := range g.floor {
		info, err := bpfsys.ProgramInfo(p.FD())
		if err != nil {
			return fmt.Errorf("guard: %s: %w", name, err)
		}
		if !slices.Contains(there, info.ID) {
			return fmt.Errorf("guard: %w: %s is not attached to the root cgroup", ErrPartial, name)
		}
	}
	return nil
}

// adoptFloor is checkFloor where a guard is taken up.
func (g *Guard) adoptFloor() error {
	err := g.checkFloor()
	if !errors.Is(err, ErrPartial) {
		return err
	}
	if s, stateErr := g.Status(); stateErr != nil || s.Enforces {
		return errors.Join(err, stateErr)
	}
	g.holed = true
	return nil
}

// onRootCgroup returns the ids of the root cgroup's programs at LSM hooks.
func onRootCgroup() ([]uint32, error) {
	root, err := openRootCgroup()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	return lsmPrograms(root)
}

// lsmPrograms returns the ids of a cgroup's programs at LSM hooks. Of the root's all that is in
// force is its own; that is what the library asks for as Linux 6.1 wants it.
func lsmPrograms(cgroup *os.File) ([]uint32, error) {
	all, err := link.QueryPrograms(link.QueryOptions{Target: int(cgroup.Fd()), Attach: ebpf.AttachLSMCgroup, QueryFlags: unix.BPF_F_QUERY_EFFECTIVE})
	if errors.Is(err, unix.EPERM) || errors.Is(err, ebpf.ErrNotSupported) { // so the library takes what is refused
		return nil, remedy.With(fmt.Errorf("guard: programs of the root cgroup: %w: %w", errNotTold, err), "start hornetd with CAP_NET_ADMIN, which that takes before Linux 6.9")
	}
	if err != nil {
		return nil, fmt.Errorf("guard: programs of the root cgroup: %w", err)
	}
	var ids []uint32
	for _, p := range all.Programs {
		ids = append(ids, uint32(p.ID))
	}
	return ids, nil
}

// endFloor detaches what a set has of the floor. Its pins stay.
func endFloor(set *os.File) error {
	return eachFloor(set, func(_ string, p *ebpf.Program) error {
		defer p.Close()
		return detachFloor(p)
	})
}

// endFloor does the same by descriptors.
func (g *Guard) endFloor() error {
	var errs []error
	for _, p := range g.floor {
		errs = append(errs, detachFloor(p))
	}
	return errors.Join(errs...)
}

// detachFloor detaches one that is attached: for another the kernel could take what is there,
// where somebody has put that in its place. Where it does not tell what there is, that is
// risked: a floor that may be attached is to be detached by whoever attached it.
func detachFloor(p *ebpf.Program) error {
	root, err := openRootCgroup()
	if err != nil {
		return err
	}
	defer root.Close()
	info, err := bpfsys.ProgramInfo(p.FD())
	if err != nil {
		return fmt.Errorf("guard: floor: %w", err)
	}
	there, err := lsmPrograms(root)
	untold := errors.Is(err, errNotTold)
	if !untold && (err != nil || !slices.Contains(there, info.ID)) {
		return err
	}
	err = link.RawDetachProgram(link.RawDetachProgramOptions{Target: int(root.Fd()), Program: p, Attach: ebpf.AttachLSMCgroup})
	if untold && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)) { // it is not attached, or nothing is to its hook
		return nil
	}
	if err != nil {
		return remedy.With(fmt.Errorf("guard: floor: detach program %d from the root cgroup: %w", info.ID, err), "bpftool cgroup detach %s lsm_cgroup id %d, and the next that is armed removes it", root.Name(), info.ID)
	}
	return nil
}

// eachFloor calls f with every program of the floor that is pinned in a set. A set of an
// earlier build has none.
func eachFloor(set *os.File, f func(name string, p *ebpf.Program) error) error {
	d, err := openIn(set, floorDir, unix.O_DIRECTORY)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	return each(set, floorDir, func(name, path string) error {
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return err
		}
		return f(name, p)
	})
}
