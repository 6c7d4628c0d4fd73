package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
)

// MapMaker makes maps, in order. With an error it returns those that were made before
// it, so that their number says which one it is about; the caller closes them in any
// case. An error that is about a map wraps the kernel's errno; others are about the
// maker, and passed on as they are.
type MapMaker interface {
	Make(specs []*ebpf.MapSpec) ([]*ebpf.Map, error)
}

// makerHere makes them in this process.
type makerHere struct{}

func (makerHere) Make(specs []*ebpf.MapSpec) (made []*ebpf.Map, err error) {
	for _, spec := range specs {
		m, err := ebpf.NewMap(spec)
		if err != nil {
			return made, err
		}
		made = append(made, m)
	}
	return made, nil
}

// create has the named maps of the plan made.
func (ms *Maps) create(maker MapMaker, names []string) (err error) {
	if len(names) == 0 {
		return nil
	}
	specs := make([]*ebpf.MapSpec, len(names))
	for i, name := range names {
		spec := *ms.plan.spec.Maps[name]
		spec.Name = kernelName(ms.plan.m.Name, name)
		specs[i] = &spec
	}
	made, err := maker.Make(specs)
	for i, m := range made {
		ms.byName[names[i]] = m
	}
	_, here := maker.(makerHere)
	var errno unix.Errno
	switch {
	case err != nil && (here || errors.As(err, &errno)):
		failed := min(len(made), len(names)-1)
		return fmt.Errorf("map %q: %w", names[failed], explainCreate(names[failed], specs[failed], err))
	case err != nil || here:
		return err
	}
	return ms.compare(names, specs)
}

func explainCreate(name string, spec *ebpf.MapSpec, err error) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return explainEPERM(fmt.Sprintf("create a %s", spec.Type), mapCapabilities(spec.Type), err)
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.E2BIG):
		return remedy.With(fmt.Errorf("create: %w: %d entries of %d bytes", unwrapAll(err), spec.MaxEntries, spec.KeySize+spec.ValueSize),
			"lower max_entries below [maps.%s]", name)
	}
	if inner := errors.Unwrap(err); inner != nil {
		err = inner // without "creating map: "
	}
	return remedy.With(err, "compare its definition in the object with what a %s takes on this kernel", spec.Type)
}

// compare holds what was made elsewhere against what was asked for, as the kernel
// describes it: each a map of its own, of that shape and name, and not frozen.
func (ms *Maps) compare(names []string, specs []*ebpf.MapSpec) error {
	byID := make(map[uint32]string, len(names))
	for i, name := range names {
		m, spec := ms.byName[name], specs[i]
		if m == nil {
			return fmt.Errorf("map %q: it was not made", name)
		}
		if err := spec.Compatible(m); err != nil {
			return fmt.Errorf("map %q: not what was asked for: %w", name, err)
		}
		info, err := bpfsys.MapInfo(m.FD())
		if err != nil {
			return fmt.Errorf("map %q: %w", name, err)
		}
		frozen, err := bpfsys.Frozen(m.FD())
		switch other, twice := byID[info.ID]; {
		case err != nil:
			return fmt.Errorf("map %q: %w", name, err)
		case twice:
			return fmt.Errorf("map %q: not what was asked for: it is map %q", name, other)
		case info.Name != spec.Name[:min(len(spec.Name), unix.BPF_OBJ_NAME_LEN-1)]:
			return fmt.Errorf("map %q: not what was asked for: its name is %q, not %q", name, info.Name, spec.Name)
		case info.Extra != spec.MapExtra:
			return fmt.Errorf("map %q: not what was asked for: map_extra is %d, not %d", name, info.Extra, spec.MapExtra)
		case frozen:
			return fmt.Errorf("map %q: not what was asked for: it is frozen", name)
		}
		byID[info.ID] = name
	}
	return nil
}
