package loader

import (
	"errors"
	"fmt"
	"slices"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/remedy"
)

// Updatable says whether the program of a link of this kind can be replaced:
// id, place and order of the link stay, and no packet or call meets none of the
// two programs. For the others a new link is made beside the old one.
func Updatable(kind string) bool {
	return slices.Contains([]string{kindXDP, kindTCX, kindCgroup, kindNetns, kindIter, kindSockmap, kindStructOps}, kind)
}

// StructOps says whether links of this kind are of a map, which is attached as a
// whole, and not of a program.
func StructOps(kind string) bool { return kind == kindStructOps }

// Updatable says whether an upgrade can keep the link of t and replace only its
// program. A link that belongs to a map of the collection cannot be kept: the
// new program would see the old collection's map. A struct_ops link has no
// program, and its map can be replaced.
func (t Target) Updatable() bool {
	return StructOps(t.Kind) || t.Map == "" && Updatable(t.Kind)
}

// ErrOtherProgram is returned by Update for a link that does not run the
// program that it should.
var ErrOtherProgram = errors.New("link runs another program")

// Update replaces the program old of a link with new, in one step. The kernel
// refuses it if the link runs any other program than old: ErrOtherProgram.
func Update(l link.Link, old, new *ebpf.Program) error {
	s, err := Describe(l)
	if err != nil {
		return err
	}
	if !Updatable(s.Kind) {
		return remedy.With(fmt.Errorf("link %d: the kernel cannot replace the program of a link of kind %s", s.ID, s.Kind),
			"make a new link and remove the old one")
	}
	raw, ok := l.(interface {
		UpdateArgs(link.RawLinkUpdateOptions) error
	})
	if !ok {
		return fmt.Errorf("link %d: %T cannot be updated", s.ID, l)
	}
	err = raw.UpdateArgs(link.RawLinkUpdateOptions{New: new, Old: old, Flags: unix.BPF_F_REPLACE})
	if err == nil {
		return nil
	}
	if info, e := old.Info(); e == nil {
		if id, ok := info.ID(); ok && id != s.ProgramID {
			return fmt.Errorf("link %d: %w: %d, not %d: %w", s.ID, ErrOtherProgram, s.ProgramID, id, errnoOf(err))
		}
	}
	if errors.Is(err, unix.EINVAL) {
		return remedy.With(fmt.Errorf("link %d: the new program does not fit: %w", s.ID, errnoOf(err)),
			"give it the type and the section of the old one")
	}
	return fmt.Errorf("link %d: %w", s.ID, err)
}

// UpdateMap makes a struct_ops link use new in place of old, its map until now.
// What it is for goes on without a moment in which there is none. Where the link
// has another map than old: ErrOtherProgram.
func UpdateMap(l link.Link, old, new *ebpf.Map) error {
	s, err := Describe(l)
	if err != nil {
		return err
	}
	f, ok := l.(interface{ FD() int })
	if !ok || !StructOps(s.Kind) {
		return fmt.Errorf("link %d: a link of kind %s has no map to replace", s.ID, s.Kind)
	}
	err = bpfsys.UpdateLinkMap(f.FD(), old.FD(), new.FD())
	switch {
	case errors.Is(err, unix.EPERM):
		err = fmt.Errorf("%w: map %d: %w", ErrOtherProgram, s.MapID, err)
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		err = remedy.With(fmt.Errorf("the kernel does not put it in the place of the old one: %w", err),
			"leave the name that it has for the kernel; or give both that and the variable in the object a new name, to attach it beside the old one")
	}
	if err != nil {
		return fmt.Errorf("link %d: %w", s.ID, err)
	}
	return nil
}

// Slot names the place in the kernel that t takes where there is room for one
// program: a second one is refused until the first has left. It is "" where
// programs can be beside each other.
//
// An interface has one XDP program, whatever its mode (dev_xdp_attach); a
// netfilter hook one BPF program for each priority (nf_hook_entries_grow); a
// network namespace one flow dissector; a sockmap one program of each type. What
// is registered through a struct_ops map is for its subsystem to refuse.
func (t Target) Slot() string {
	switch {
	case t.Kind == kindXDP:
		return fmt.Sprintf("xdp of interface %d in %d", t.Ifindex, t.NetnsInode)
	case t.Kind == kindNetfilter:
		return fmt.Sprintf("netfilter %s %s %d in %d", t.Family, t.Hook, t.Priority, t.NetnsInode)
	case t.AttachType == attachTypes[ebpf.AttachFlowDissector]:
		return fmt.Sprintf("flow_dissector in %d", t.NetnsInode)
	case t.Kind == kindSockmap, StructOps(t.Kind):
		return fmt.Sprintf("%s of %s", t.AttachType, t.Map)
	}
	return ""
}

// Other returns t at the other one of its two priorities, and whether it has two.
func (t Target) Other() (Target, bool) {
	if len(t.Priorities) != 2 {
		return t, false
	}
	if t.Priority == t.Priorities[0] {
		t.Priority = t.Priorities[1]
	} else {
		t.Priority = t.Priorities[0]
	}
	return t, true
}

// Room says what a manifest can do where there is no room for the program of t
// beside the one that is in its Slot.
func (t Target) Room() string {
	switch t.Kind {
	case kindNetfilter:
		return fmt.Sprintf(`write priorities = [%d, %d] in place of priority, which versions take in turns, or upgrade = "gap" where a moment without a program does no harm`, t.Priority, t.Priority+1)
	case kindXDP:
		return `leave the mode as it is, or write upgrade = "gap" where a moment without a program does no harm`
	}
	return `write upgrade = "gap" where a moment without a program does no harm`
}
