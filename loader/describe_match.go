package loader

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Matches says whether a link with state s is still the one that t describes,
// and whether what t names is still the same thing: an interface that was made
// anew has the name but not the link. nil means both. The program is not
// compared: t does not know its id, the collection's record does.
//
// It asks the host about t (and visits its network namespace), but changes
// nothing. Of perf_event links it can only tell as much as the kernel does.
func (s LinkState) Matches(t Target) error {
	if s.Kind != t.Kind {
		return fmt.Errorf("link %d is of kind %s, not %s", s.ID, s.Kind, t.Kind)
	}
	if s.AttachType != "" && s.AttachType != t.AttachType {
		return fmt.Errorf("link %d has attach type %s, not %s", s.ID, s.AttachType, t.AttachType)
	}
	switch s.Kind {
	case kindXDP, kindTCX:
		return s.matchesInterface(t)
	case kindNetns:
		if s.NetnsInode == 0 {
			return fmt.Errorf("link %d: its network namespace is gone", s.ID)
		}
		return s.matchesNetns(t, s.NetnsInode)
	case kindNetfilter:
		if s.Family != t.Family || s.Hook != t.Hook || s.Priority != t.Priority || s.Defrag != t.Defrag {
			return fmt.Errorf("link %d is at %s %s priority %d (defrag %t), not at %s %s priority %d (defrag %t)",
				s.ID, s.Family, s.Hook, s.Priority, s.Defrag, t.Family, t.Hook, t.Priority, t.Defrag)
		}
		return s.matchesNetns(t, t.NetnsInode)
	case kindCgroup:
		return s.matchesCgroup(t)
	case kindRawTracepoint:
		if s.Tracepoint != t.Tracepoint {
			return fmt.Errorf("link %d is at tracepoint %s, not %s", s.ID, s.Tracepoint, t.Tracepoint)
		}
	case kindPerfEvent:
		return s.matchesPerfEvent(t)
	case kindTracing:
		if s.TypeID != t.TypeID || s.ReplacesID != t.ReplacesID {
			return fmt.Errorf("link %d is at another function than %s (type %d of object %d, not type %d of %d)",
				s.ID, t.Function, s.TypeID, s.ReplacesID, t.TypeID, t.ReplacesID)
		}
	case kindKprobeMulti:
		return s.matchesMulti(t, len(t.Functions))
	case kindUprobeMulti:
		if err := s.matchesMulti(t, len(t.Offsets)); err != nil {
			return err
		}
		if len(s.Offsets) > 0 && !slices.Equal(s.Offsets, t.Offsets) {
			return fmt.Errorf("link %d is at offsets %#x of %s, not at %#x", s.ID, s.Offsets, t.Executable, t.Offsets)
		}
		return s.matchesExecutable(t)
	}
	return nil
}

// matchesMulti compares how many functions there are. Which they are the kernel
// tells of its own by address, and addresses not to everybody.
func (s LinkState) matchesMulti(t Target, count int) error {
	if s.Count != 0 && (int(s.Count) != count || s.Returns != t.Returns) {
		return fmt.Errorf("link %d is at %d functions (returns %t), not %d (returns %t)", s.ID, s.Count, s.Returns, count, t.Returns)
	}
	return nil
}

func (s LinkState) matchesInterface(t Target) error {
	if s.Ifindex == 0 {
		return fmt.Errorf("link %d: interface %s is gone", s.ID, t.Interface)
	}
	if s.Ifindex != t.Ifindex {
		return fmt.Errorf("link %d is at interface number %d, not %d (%s)", s.ID, s.Ifindex, t.Ifindex, t.Interface)
	}
	if t.Caller {
		return nil
	}
	ns, err := openNetns(t.Netns)
	if err != nil {
		return err
	}
	defer ns.close()
	if ns.inode != t.NetnsInode {
		return otherNetns(s, t, t.NetnsInode, ns)
	}
	return ns.do(func() error {
		now, err := ifindex(t.Interface)
		if err != nil {
			return fmt.Errorf("link %d: no interface is called %s now", s.ID, t.Interface)
		}
		if now != s.Ifindex {
			return fmt.Errorf("link %d is at interface number %d, but %s is number %d now", s.ID, s.Ifindex, t.Interface, now)
		}
		return nil
	})
}

// matchesNetns compares the namespace of a link with t's and with what t's path
// is now.
func (s LinkState) matchesNetns(t Target, inode uint64) error {
	if t.Caller && inode == t.NetnsInode {
		return nil
	}
	ns, err := openNetns(t.Netns)
	if err != nil {
		return err
	}
	defer ns.close()
	if inode != t.NetnsInode || ns.inode != t.NetnsInode {
		return otherNetns(s, t, inode, ns)
	}
	return nil
}

func otherNetns(s LinkState, t Target, inode uint64, now netns) error {
	return fmt.Errorf("link %d is in network namespace %d, but %s is %d now", s.ID, inode, cmp.Or(t.Netns, "hornetd's own"), now.inode)
}

func (s LinkState) matchesCgroup(t Target) error {
	if s.CgroupID == 0 {
		return fmt.Errorf("link %d: cgroup %s is gone", s.ID, t.Cgroup)
	}
	if t.Caller && s.CgroupID == t.CgroupID {
		return nil
	}
	f, err := (*Shown)(nil).cgroupOf(t)
	if err != nil {
		return err
	}
	defer f.Close()
	now, err := inodeOf(f)
	if err != nil {
		return err
	}
	if s.CgroupID != t.CgroupID || now != t.CgroupID {
		return fmt.Errorf("link %d is at cgroup %d, but %s is %d now", s.ID, s.CgroupID, t.Cgroup, now)
	}
	return nil
}

func (s LinkState) matchesPerfEvent(t Target) error {
	if t.Function != "" {
		if s.Function != "" && (s.Function != t.Function || uint32(s.Offset) != uint32(t.Offset)) {
			return fmt.Errorf("link %d is at %s+%#x, not at %s+%#x", s.ID, s.Function, s.Offset, t.Function, t.Offset)
		}
		return nil
	}
	if t.Executable == "" {
		if s.Tracepoint != "" && s.Tracepoint != path.Base(t.Tracepoint) {
			return fmt.Errorf("link %d is at tracepoint %s, not %s", s.ID, s.Tracepoint, t.Tracepoint)
		}
		return nil
	}
	if s.Executable != "" && (s.Executable != t.Executable || uint32(s.Offset) != uint32(t.Offset)) {
		return fmt.Errorf("link %d is at %s:%#x, not at %s:%#x", s.ID, s.Executable, s.Offset, t.Executable, t.Offset)
	}
	return s.matchesExecutable(t)
}

func (s LinkState) matchesExecutable(t Target) error {
	if t.Caller {
		return nil // the process has what it has
	}
	// The probe stays with the file that it was made for, though a package
	// upgrade has put another one in its place.
	if err := checkExecutable(t); err != nil {
		return fmt.Errorf("link %d: %s", s.ID, strings.TrimSpace(err.Error()))
	}
	return nil
}
