package loader

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// interfaces finds the interfaces of ns that pattern means: the one of that
// name, or all that match where it is a glob. At least one is returned, sorted
// by name.
func interfaces(ns netns, pattern string) (found []net.Interface, err error) {
	err = ns.do(func() error {
		if !strings.ContainsAny(pattern, `*?[\`) {
			index, err := ifindex(pattern)
			found = []net.Interface{{Name: pattern, Index: index}}
			if err == nil {
				return nil
			}
		}
		all, err := net.Interfaces()
		if err != nil {
			return fmt.Errorf("list interfaces%s: %w", ns, err)
		}
		found = slices.DeleteFunc(slices.Clone(all), func(i net.Interface) bool {
			ok, err := path.Match(pattern, i.Name)
			return !ok || err != nil
		})
		if len(found) == 0 {
			return noInterface(ns, pattern, all)
		}
		slices.SortFunc(found, func(a, b net.Interface) int { return strings.Compare(a.Name, b.Name) })
		return nil
	})
	return found, err
}

// noInterface says that pattern means none of all.
func noInterface(ns netns, pattern string, all []net.Interface) error {
	names := make([]string, len(all))
	for i := range all {
		names[i] = all[i].Name
	}
	const few = 12
	if len(names) > few {
		names = append(names[:few], fmt.Sprintf("%d more", len(names)-few))
	}
	err := fmt.Errorf("there is no interface %q%s", pattern, ns)
	if strings.ContainsAny(pattern, `*?[\`) {
		err = fmt.Errorf("no interface%s matches %q", ns, pattern)
	}
	return remedy.With(absent{err}, "name one that exists: %s", strings.Join(names, ", "))
}

// ifindex returns the number of the interface name in the calling thread's
// network namespace. Unlike the standard library, which lists them all, it
// costs one call and knows alternative names.
func ifindex(name string) (int, error) {
	ifr, err := unix.NewIfreq(name)
	if err != nil {
		return 0, err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFINDEX, ifr); err != nil {
		return 0, err
	}
	return int(ifr.Uint32()), nil
}

// xdpProgram returns the id of the XDP program that runs at the interface
// index of the calling thread's network namespace, 0 where there is none or the
// kernel does not say. It asks for that interface alone: a caller's namespace may have
// any number of them.
//
// Source: rtnetlink(7).
func xdpProgram(index int) uint32 {
	answer, err := askRoute(unix.RTM_GETLINK, 0, ifinfo(index))
	if err != nil || answer.Header.Type != unix.RTM_NEWLINK || len(answer.Data) < unix.SizeofIfInfomsg {
		return 0
	}
	return attrUint32(attr(answer.Data[unix.SizeofIfInfomsg:], unix.IFLA_XDP), unix.IFLA_XDP_PROG_ID)
}

// ifinfo is the struct ifinfomsg of an interface.
func ifinfo(index int) []byte {
	b := make([]byte, unix.SizeofIfInfomsg)
	binary.NativeEndian.PutUint32(b[4:], uint32(index))
	return b
}

// routeAttr is a netlink attribute: its type and 4 bytes of payload.
type routeAttr struct {
	kind  uint16
	value []byte
}

// askRoute asks the kernel one question, in the calling thread's network namespace,
// and returns the one message that answers it. The error is the kernel's word for it.
//
// Source: netlink(7), rtnetlink(7).
func askRoute(kind, flags uint16, body []byte, attrs ...routeAttr) (syscall.NetlinkMessage, error) {
	var none syscall.NetlinkMessage
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return none, err
	}
	defer unix.Close(fd)
	ask := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(body)+8*len(attrs)+unix.NLMSG_ALIGNTO)
	ask = append(ask, body...)
	for _, a := range attrs {
		ask = append(ask, make([]byte, -len(ask)&(unix.NLMSG_ALIGNTO-1))...)
		ask = binary.NativeEndian.AppendUint16(ask, uint16(unix.SizeofRtAttr+len(a.value)))
		ask = binary.NativeEndian.AppendUint16(ask, a.kind)
		ask = append(ask, a.value...)
	}
	binary.NativeEndian.PutUint32(ask, uint32(len(ask)))
	binary.NativeEndian.PutUint16(ask[4:], kind)
	binary.NativeEndian.PutUint16(ask[6:], unix.NLM_F_REQUEST|flags)
	if err := unix.Sendto(fd, ask, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return none, err
	}
	answer := make([]byte, 64<<10)
	n, _, err := unix.Recvfrom(fd, answer, unix.MSG_DONTWAIT) // the kernel has answered when the call returns
	if err != nil {
		return none, err
	}
	msgs, err := syscall.ParseNetlinkMessage(answer[:n])
	if err != nil || len(msgs) == 0 {
		return none, errors.New("netlink: no answer")
	}
	if m := msgs[0]; m.Header.Type == unix.NLMSG_ERROR && len(m.Data) >= 4 {
		if errno := -int32(binary.NativeEndian.Uint32(m.Data)); errno != 0 {
			return m, unix.Errno(errno)
		}
	}
	return msgs[0], nil
}

// attr returns the payload of the netlink attribute of a type in b, nil where
// there is none.
func attr(b []byte, want uint16) []byte {
	for len(b) >= unix.SizeofRtAttr {
		size, typ := int(binary.NativeEndian.Uint16(b)), binary.NativeEndian.Uint16(b[2:])
		if size < unix.SizeofRtAttr || size > len(b) {
			return nil
		}
		if typ&^unix.NLA_F_NESTED == want {
			return b[unix.SizeofRtAttr:size]
		}
		b = b[min(len(b), (size+unix.NLA_ALIGNTO-1)&^(unix.NLA_ALIGNTO-1)):]
	}
	return nil
}

func attrUint32(b []byte, want uint16) uint32 {
	if v := attr(b, want); len(v) == 4 {
		return binary.NativeEndian.Uint32(v)
	}
	return 0
}
