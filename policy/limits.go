package policy

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// Limits bound what one manifest may create. 0 allows none.
type Limits struct {
	Memory   uint64 // bytes of map keys and values
	Maps     int
	Programs int
	CPUs     int // copies that per-CPU maps have; 0: as many as this host can have
}

// Check holds what the object really asks for, which is a fact, against the
// limits of the policy and the manifest, before anything is created. g must be
// a Grant to load m, to upgrade to it or to run it. The error is ErrDenied or ErrLimit.
func (g Grant) Check(m manifest.Manifest, spec *ebpf.CollectionSpec) error {
	if g.verb != Load && g.verb != Upgrade && g.verb != Run || g.digest != m.Digest {
		return fmt.Errorf("collection %q: nobody was allowed to load it: %w", m.Name, ErrDenied)
	}
	cpus, err := g.limits.cpus()
	if err != nil {
		return fmt.Errorf("collection %q: %w", m.Name, err)
	}
	need := measure(m, spec, cpus)
	for _, l := range []limit{
		{"programs", "programs", uint64(len(spec.Programs)), uint64(max(g.limits.Programs, 0)), uint64(m.Limits.Programs), ""},
		{"maps", "maps", uint64(need.maps), uint64(max(g.limits.Maps, 0)), uint64(m.Limits.Maps), ""},
		{"memory", "bytes of maps", need.bytes, g.limits.Memory, m.Limits.Memory, need.largest()},
	} {
		if err := l.check(m); err != nil {
			return err
		}
	}
	return nil
}

// Memory returns how many bytes of keys and values the maps of spec take, with
// the sizes that m gives them, on this host; those are counted too that the kernel
// keeps in reserve. It is math.MaxUint64 if that does
// not fit into 64 bits.
func Memory(m manifest.Manifest, spec *ebpf.CollectionSpec) (uint64, error) {
	cpus, err := Limits{}.cpus()
	if err != nil {
		return 0, err
	}
	return measure(m, spec, cpus).bytes, nil
}

// Beside returns the most that the kernel takes for the maps of spec beside what
// Memory counts, in bytes: an estimate, and more than it really is.
func Beside(m manifest.Manifest, spec *ebpf.CollectionSpec) (uint64, error) {
	cpus, err := Limits{}.cpus()
	if err != nil {
		return 0, err
	}
	return measure(m, spec, cpus).beside, nil
}

// Loose returns how many of the bytes that Memory counts the kernel charges to no cgroup:
// values that are preallocated for each CPU.
func Loose(m manifest.Manifest, spec *ebpf.CollectionSpec) (uint64, error) {
	cpus, err := Limits{}.cpus()
	if err != nil {
		return 0, err
	}
	return measure(m, spec, cpus).loose, nil
}

// Grows reports whether a map of spec has an element for each task, socket, inode or
// cgroup that comes: what it will take no definition says, and Memory counts one.
func Grows(spec *ebpf.CollectionSpec) bool {
	for _, ms := range spec.Maps {
		switch ms.Type {
		case ebpf.TaskStorage, ebpf.SkStorage, ebpf.InodeStorage, ebpf.CgroupStorage:
			return true
		}
	}
	return false
}

func (l Limits) cpus() (uint64, error) {
	if l.CPUs > 0 {
		return uint64(l.CPUs), nil
	}
	n, err := ebpf.PossibleCPU()
	return uint64(n), err
}

// limit is one thing that is bounded twice.
type limit struct {
	key, what   string
	need        uint64
	policy, own uint64 // own is the manifest's, 0 where it names none
	detail      string
}

// check compares the need with the narrower of both bounds.
func (l limit) check(m manifest.Manifest) error {
	if l.own > 0 && l.own <= l.policy && l.need > l.own {
		return remedy.With(m.Errorf("limits."+l.key, "the object needs %d %s, more than %d%s: %w", l.need, l.what, l.own, l.detail, ErrLimit),
			"raise limits.%s in the manifest, or make the object smaller", l.key)
	}
	if l.need > l.policy {
		return remedy.With(fmt.Errorf("collection %q: the object needs %d %s, more than %d%s: %w", m.Name, l.need, l.what, l.policy, l.detail, ErrLimit),
			"raise [limits] %s in hornetd.toml, or make the object smaller", l.key)
	}
	return nil
}
