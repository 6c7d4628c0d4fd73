package testenv

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"testing"
	"time"
)

// Pair is a veth pair whose ends are in two network namespaces.
type Pair struct {
	A, B End
}

// End is one end of a Pair.
type End struct {
	Netns   string // path of its network namespace
	Name    string // of the interface
	Ifindex int
	MAC     net.HardwareAddr
	Addr    netip.Addr // 10.77.0.1 (A) or 10.77.0.2 (B), /24
	Addr6   netip.Addr // fd77::1 (A) or fd77::2 (B), /64
}

// Veth makes two network namespaces with a veth pair between them, up and with
// addresses. B is the end to attach to: A sends to it.
func Veth(t testing.TB) Pair {
	t.Helper()
	p := Pair{
		A: End{Netns: Netns(t), Name: "veth0", Addr: netip.MustParseAddr("10.77.0.1"), Addr6: netip.MustParseAddr("fd77::1")},
		B: End{Netns: Netns(t), Name: "veth0", Addr: netip.MustParseAddr("10.77.0.2"), Addr6: netip.MustParseAddr("fd77::2")},
	}
	p.Join(t)
	return p
}

// Join makes the interfaces of a pair, as Veth does: again, where they were
// deleted.
func (p *Pair) Join(t testing.TB) {
	t.Helper()
	IP(t, p.A.Netns, "link", "add", p.A.Name, "type", "veth", "peer", "name", p.B.Name, "netns", p.B.Netns)
	for _, e := range []*End{&p.A, &p.B} {
		e.up(t)
	}
	for _, e := range []End{p.A, p.B} {
		e.runs(t)
	}
	// Both ends know each other's address beforehand: a program under test that
	// drops everything must not be mistaken for one that drops ARP.
	p.A.neighbour(t, p.B)
	p.B.neighbour(t, p.A)
}

func (e *End) up(t testing.TB) {
	t.Helper()
	IP(t, e.Netns, "addr", "add", e.Addr.String()+"/24", "dev", e.Name)
	IP(t, e.Netns, "addr", "add", e.Addr6.String()+"/64", "dev", e.Name, "nodad")
	IP(t, e.Netns, "link", "set", e.Name, "up")
	err := InNetns(t, e.Netns, func() error {
		ifi, err := net.InterfaceByName(e.Name)
		if err != nil {
			return err
		}
		e.Ifindex, e.MAC = ifi.Index, ifi.HardwareAddr
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// runs waits until an interface that is up sends. The first of a pair has a carrier when
// the second is up, and the kernel begins to send then in a work queue, and drops
// everything before (linkwatch_do_dev of net/core/link_watch.c).
func (e End) runs(t testing.TB) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		var ifi *net.Interface
		err := InNetns(t, e.Netns, func() (err error) {
			ifi, err = net.InterfaceByIndex(e.Ifindex)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if ifi.Flags&net.FlagRunning != 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s has no carrier", e.Name)
		}
	}
}

func (e End) neighbour(t testing.TB, other End) {
	t.Helper()
	for _, a := range []netip.Addr{other.Addr, other.Addr6} {
		IP(t, e.Netns, "neigh", "replace", a.String(), "lladdr", other.MAC.String(), "dev", e.Name, "nud", "permanent")
	}
}

// Ping sends n ICMP echo requests from A to B and returns how many came back.
func (p Pair) Ping(t testing.TB, n int) int {
	t.Helper()
	return p.ping(t, p.A, p.B.Addr, n)
}

// PingFromB is Ping in the other direction.
func (p Pair) PingFromB(t testing.TB, n int) int {
	t.Helper()
	return p.ping(t, p.B, p.A.Addr, n)
}

func (p Pair) ping(t testing.TB, from End, to netip.Addr, n int) int {
	t.Helper()
	back := 0
	for range n {
		err := InNetns(t, from.Netns, func() error {
			return exec.Command("ping", "-n", "-q", "-c", "1", "-W", "1", to.String()).Run()
		})
		var exit *exec.ExitError
		switch {
		case err == nil:
			back++
		case errors.As(err, &exit) && exit.ExitCode() == 1: // no answer
		default:
			t.Fatalf("ping %s: %v", to, err)
		}
	}
	return back
}

// Send sends n UDP datagrams from A to port 7777 of B and returns how many a
// socket there received. It waits for missing ones for two seconds.
func (p Pair) Send(t testing.TB, n int) int {
	t.Helper()
	to := netip.AddrPortFrom(p.B.Addr, 7777)
	var in, out *net.UDPConn
	err := errors.Join(
		InNetns(t, p.B.Netns, func() (err error) {
			in, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(to))
			return err
		}),
		InNetns(t, p.A.Netns, func() (err error) {
			out, err = net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(to))
			return err
		}),
	)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	defer out.Close()
	for range n {
		if _, err := out.Write([]byte("hornet")); err != nil {
			t.Fatalf("send: %v", err)
		}
	}
	got := 0
	for buf := make([]byte, 64); got < n; got++ {
		in.SetReadDeadline(time.Now().Add(2 * time.Second))
		if _, err := in.Read(buf); errors.Is(err, os.ErrDeadlineExceeded) {
			break
		} else if err != nil {
			t.Fatalf("receive: %v", err)
		}
	}
	return got
}
