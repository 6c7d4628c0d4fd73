package lsm

import (
	"bytes"
	"encoding/binary"
	"net"
	"slices"

	"golang.org/x/sys/unix"
)

// Messages of rtnetlink, written by hand: what an attacker sends need not be what a
// library would.

func netlinkMessage(typ uint16, flags uint16, parts ...[]byte) []byte {
	body := slices.Concat(parts...)
	h := binary.NativeEndian.AppendUint32(nil, uint32(unix.NLMSG_HDRLEN+len(body)))
	h = binary.NativeEndian.AppendUint16(h, typ)
	h = binary.NativeEndian.AppendUint16(h, unix.NLM_F_REQUEST|unix.NLM_F_ACK|flags)
	return append(append(h, make([]byte, 8)...), body...)
}

// attr is an attribute, padded with what nobody is to look at.
func attr(typ uint16, value ...[]byte) []byte {
	v := slices.Concat(value...)
	b := binary.NativeEndian.AppendUint16(nil, uint16(4+len(v)))
	b = append(binary.NativeEndian.AppendUint16(b, typ), v...)
	return append(b, bytes.Repeat([]byte{0xff}, (4-len(b)%4)%4)...)
}

func word32(n int) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func loopback() int {
	i, err := net.InterfaceByName("lo")
	if err != nil {
		return 0
	}
	return i.Index
}

// ifinfo is struct ifinfomsg of the loopback interface.
func ifinfo() []byte {
	return slices.Concat(make([]byte, 4), word32(loopback()), make([]byte, 8))
}

const nested = 0x8000 // NLA_F_NESTED

// xdpMessage has other attributes before that of XDP, which has a flag or 0.
func xdpMessage(typ, flag uint16, fd int, others ...[]byte) []byte {
	const xdpFD, xdpFlags, skbMode = 1, 3, 2
	return netlinkMessage(typ, 0, ifinfo(), slices.Concat(others...),
		attr(flag|unix.IFLA_XDP, attr(xdpFD, word32(fd)), attr(xdpFlags, word32(skbMode))))
}

func setXDP(fd int) error { return netlink(xdpMessage(unix.RTM_SETLINK, nested, fd), 1) }

// filterMessage is a filter of an interface that has no qdisc, which the kernel
// refuses after it has looked at what it is. A kind ends with a NUL, or with its
// attribute; "" is none. Others stand before it.
func filterMessage(flags uint16, kind, end string, fd int, others ...[]byte) []byte {
	const tcaKind, tcaOptions, bpfFD = 1, 2, 6
	tcmsg := slices.Concat(make([]byte, 4), word32(loopback()), make([]byte, 12))
	var named []byte
	if kind != "" {
		named = attr(tcaKind, []byte(kind), []byte(end))
	}
	return netlinkMessage(unix.RTM_NEWTFILTER, flags, tcmsg, slices.Concat(others...), named, attr(nested|tcaOptions, attr(bpfFD, word32(fd))))
}

func actionMessage(fd int) []byte {
	const tab, kind, options, bpfFD, parms = 1, 1, 2, 5, 2
	return netlinkMessage(unix.RTM_NEWACTION, unix.NLM_F_CREATE, make([]byte, 4),
		attr(nested|tab, attr(nested|1, attr(kind, []byte("bpf\x00")), attr(nested|options, attr(parms, make([]byte, 20)), attr(bpfFD, word32(fd))))))
}

// netlink sends messages as one and returns the first error of so many answers.
func netlink(b []byte, answers int) error {
	s, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 5}); err != nil {
		return err
	}
	if len(b) > 1<<16 {
		if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, 2*len(b)); err != nil {
			return err
		}
	}
	if err := unix.Sendto(s, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for answers > 0 {
		n, _, err := unix.Recvfrom(s, buffer, 0)
		if err != nil {
			return err
		}
		for rest := buffer[:n]; len(rest) >= unix.NLMSG_HDRLEN; {
			length := int(binary.NativeEndian.Uint32(rest))
			if binary.NativeEndian.Uint16(rest[4:]) == unix.NLMSG_ERROR {
				if code := int32(binary.NativeEndian.Uint32(rest[unix.NLMSG_HDRLEN:])); code != 0 {
					return unix.Errno(-code)
				}
				answers--
			}
			rest = rest[min(len(rest), (length+3)&^3):]
		}
	}
	return nil
}
