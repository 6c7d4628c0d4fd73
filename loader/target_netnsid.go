package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// netnsID returns the number that the network namespace of f has in the calling
// thread's, and gives it one if it has none. Interfaces in there can be asked for by
// that, and it keeps nothing alive: the kernel forgets it with the namespace. The kernel
// gives out the lowest number that is free, so that what it is of may change; these
// are taken at random from the upper half, and get to nobody else.
//
// Source: ip-netns(8), set; rtnl_net_newid in net/core/net_namespace.c.
func netnsID(f *os.File) (int32, error) {
	fd := binary.NativeEndian.AppendUint32(nil, uint32(f.Fd()))
	for {
		const general = unix.NLMSG_ALIGNTO // struct rtgenmsg is one byte
		answer, err := askRoute(unix.RTM_GETNSID, 0, make([]byte, general), routeAttr{unix.NETNSA_FD, fd})
		if err != nil {
			return 0, fmt.Errorf("number of the network namespace: %w", err)
		}
		now := attr(answer.Data[min(general, len(answer.Data)):], unix.NETNSA_NSID)
		if len(now) != 4 {
			return 0, errors.New("number of the network namespace: the kernel's answer has none")
		}
		if id := int32(binary.NativeEndian.Uint32(now)); id != unix.NETNSA_NSID_NOT_ASSIGNED {
			return id, nil
		}
		id := binary.NativeEndian.AppendUint32(nil, 1<<30|rand.Uint32N(1<<30-1))
		_, err = askRoute(unix.RTM_NEWNSID, unix.NLM_F_ACK, make([]byte, general), routeAttr{unix.NETNSA_FD, fd}, routeAttr{unix.NETNSA_NSID, id})
		if err != nil && !errors.Is(err, unix.EEXIST) { // it got one meanwhile, or another has that one
			return 0, fmt.Errorf("number for the network namespace: %w", err)
		}
	}
}

// interfaceIn asks for the interface index of the network namespace that has the number
// id in the calling thread's. The error is ENODEV where there is no such interface, and
// EINVAL where there is no such namespace.
func interfaceIn(id int32, index int) (netLink, error) {
	answer, err := askRoute(unix.RTM_GETLINK, 0, ifinfo(index), routeAttr{unix.IFLA_TARGET_NETNSID, binary.NativeEndian.AppendUint32(nil, uint32(id))})
	if err != nil {
		return netLink{}, fmt.Errorf("interface %d of network namespace %d: %w", index, id, err)
	}
	_, l, ok := readLink(answer)
	if !ok {
		return netLink{}, errors.New("the kernel's answer is no interface")
	}
	return l, nil
}

// findsAgain sets by which number of ns the interface of t can be asked for later, and
// asks, so that nothing is attached that could not be seen to leave.
func (t *Target) findsAgain(ns netns) error {
	id, err := netnsID(ns.file)
	if err == nil {
		t.NetnsID = &id
		_, err = interfaceIn(id, t.Ifindex)
	}
	switch {
	case errors.Is(err, unix.ENODEV):
		return changed("the interface")
	case err != nil:
		return remedy.With(err, "run hornetd with CAP_NET_ADMIN")
	}
	return nil
}

// left returns why the interface of t, at which the link in state s is, is not in the
// network namespace any more that the caller showed: programs go with it where it is
// moved, and where the kernel moves it, as it does with a card whose namespace ends.
func (t Target) left(s LinkState) error {
	if t.Ifindex == 0 || t.NetnsID == nil { // of no interface, or the record of an older hornetd
		return nil
	}
	moved := fmt.Errorf("interface %s is not in the caller's network namespace %d any more", t.Interface, t.NetnsInode)
	if s.Ifindex != t.Ifindex { // its number was taken where it went
		return moved
	}
	l, err := interfaceIn(*t.NetnsID, t.Ifindex)
	switch {
	case errors.Is(err, unix.EINVAL): // the namespace has ended, and its links are about to
		return t.isGone()
	case errors.Is(err, unix.ENODEV):
		return moved
	case err != nil:
		return nil // which says nothing of it
	case t.Kind == kindXDP && !slices.Contains(l.xdp, uint32(s.ProgramID)):
		// Another interface has its number, or an upgrade was between the questions.
		if now, err := StateByID(uint32(s.ID)); err == nil && now.ProgramID == s.ProgramID {
			return moved
		}
	case t.Kind == kindTCX && t.inOwn(s):
		return moved
	}
	return nil
}

// inOwn reports whether a tcx link is in hornetd's own network namespace, and t's is
// another. Of another's namespaces nobody tells which tcx programs are in there.
func (t Target) inOwn(s LinkState) bool {
	own, err := openNetns("")
	if err != nil {
		return false
	}
	defer own.close()
	if own.inode == t.NetnsInode {
		return false
	}
	found, err := link.QueryPrograms(link.QueryOptions{Target: t.Ifindex, Attach: attachTypeOf(t.AttachType)})
	return err == nil && slices.ContainsFunc(found.Programs, func(p link.AttachedProgram) bool {
		id, ok := p.LinkID()
		return ok && id == s.ID
	})
}
