package main_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

const (
	hooks    = 3    // of traffic.bpf.c
	versions = 1024 // it has room for
)

func traffic(pair testenv.Pair, cgroup string, version int) string {
	return fmt.Sprintf(`version = %d
[object]
path = "traffic.bpf.o"
[variables]
generation = %[1]d
[maps.seen]
class = "mutable"
keep = true
[[attach]]
program = "leaves"
cgroup = %[2]q
[[attach]]
program = "arrives"
interface = %[3]q
netns = %[4]q
mode = "generic"
[[attach]]
program = "enters"
interface = %[3]q
netns = %[4]q
`, version, cgroup, pair.B.Name, pair.B.Netns)
}

// TestUpgradesUnderTraffic: datagrams pass three hooks while the programs there
// are replaced, again and again. Each hook sees each of them once: none is seen by
// no program, none by two.
func TestUpgradesUnderTraffic(t *testing.T) {
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
	testenv.NoLeaks(t)
	pair, cgroup := testenv.Veth(t), testenv.Cgroup(t)
	h := testdaemon.New(t, "")
	h.Object("traffic.bpf.o", read(t, "testdata/traffic.bpf.o"))
	h.Manifest("traffic", traffic(pair, cgroup, 0))
	h.Start()
	first := get(t, h, "traffic")

	count := 100
	switch {
	case *every:
		count = 200
	case testing.Short():
		count = 40
	}
	stop := sender(t, pair, cgroup)
	began := time.Now()
	for version := 1; version <= count; version++ {
		h.Manifest("traffic", traffic(pair, cgroup, version))
		if _, err := h.Client().Upgrade(context.Background(), "traffic"); err != nil {
			t.Fatal(err)
		}
	}
	took := time.Since(began)
	sent := stop()

	last := get(t, h, "traffic")
	if fmt.Sprint(ids(last.Links)) != fmt.Sprint(ids(first.Links)) {
		t.Errorf("links %v became %v", ids(first.Links), ids(last.Links))
	}
	var sums [hooks]uint64
	var saw [hooks]int
	for slot, n := range seenBy(t, h) {
		sums[slot/versions] += n
		if n > 0 {
			saw[slot/versions]++
		}
	}
	t.Logf("%d upgrades in %s (%s each) under %d datagrams, %.0f a second; seen by cgroup, xdp and tcx: %d, by %d versions",
		count, took.Round(time.Millisecond), (took / time.Duration(count)).Round(time.Microsecond), sent, float64(sent)/took.Seconds(), sums, saw)
	for hook, sum := range sums {
		if sum != sent {
			t.Errorf("hook %d: %d datagrams were sent and %d were seen", hook, sent, sum)
		}
		if saw[hook] < count/4 {
			t.Errorf("hook %d: only %d of %d versions saw a datagram: there was too little traffic", hook, saw[hook], count)
		}
	}
	if got := kernelLinks(t, last); len(got) != hooks || len(onBPFFS(t, h)) != 1 {
		t.Errorf("links %v, on bpffs %v", got, onBPFFS(t, h))
	}
}

// seenBy reads the map that all versions count in.
func seenBy(t *testing.T, h *testdaemon.Host) []uint64 {
	t.Helper()
	m, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, "traffic/maps/seen"), &ebpf.LoadPinOptions{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	all := make([]uint64, hooks*versions)
	for i := range all {
		if err := m.Lookup(uint32(i), &all[i]); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// sending is set in the environment of a process that TestSender is run in.
const sending = "HORNET_TEST_SENDING"

// sender starts a process in cgroup that sends from A to B, as fast as it can.
// stop ends it and returns how many datagrams it sent.
func sender(t *testing.T, pair testenv.Pair, cgroup string) (stop func() uint64) {
	t.Helper()
	to := netip.AddrPortFrom(pair.B.Addr, 7777)
	var sink *net.UDPConn // else B would answer that nobody listens
	err := testenv.InNetns(t, pair.B.Netns, func() (err error) {
		sink, err = net.ListenUDP("udp4", net.UDPAddrFromAddrPort(to))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { sink.Close() })
	cmd := testenv.CgroupCommand(t, cgroup, "/proc/self/exe", "-test.run=^TestSender$", "-test.v")
	cmd.Env = append(os.Environ(), sending+"="+to.String())
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := testenv.InNetns(t, pair.A.Netns, cmd.Start); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	wait := func(prefix string) string {
		for lines.Scan() {
			if rest, ok := strings.CutPrefix(lines.Text(), prefix); ok {
				return rest
			}
		}
		t.Fatalf("sender: no line %q: %v", prefix, lines.Err())
		return ""
	}
	wait("sending")
	return func() uint64 {
		t.Helper()
		stdin.Close()
		n, err := strconv.ParseUint(wait("sent "), 10, 64)
		io.Copy(io.Discard, stdout)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		return n
	}
}

// TestSender is the process that sends, until its standard input ends.
func TestSender(t *testing.T) {
	to := os.Getenv(sending)
	if to == "" {
		return
	}
	conn, err := net.Dial("udp4", to)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	end := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin)
		close(end)
	}()
	fmt.Println("sending")
	var sent uint64
	for b := []byte("hornet"); ; {
		select {
		case <-end:
			fmt.Printf("sent %d\n", sent)
			return
		default:
		}
		if _, err := conn.Write(b); err != nil {
			t.Fatalf("after %d: %v", sent, err)
		}
		sent++
	}
}

func ids(links []api.Link) map[string]uint32 {
	all := make(map[string]uint32)
	for _, l := range links {
		all[l.Name] = l.ID
	}
	return all
}
