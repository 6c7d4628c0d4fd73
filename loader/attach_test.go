package loader

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

// attachSpec parses testdata/attach.bpf.o, with the iterator that kernels may refuse, or a
// sibling.
func attachSpec(t testing.TB, name string) *ebpf.CollectionSpec {
	t.Helper()
	parse := func(name string) *ebpf.CollectionSpec {
		spec, err := ebpf.LoadCollectionSpec(filepath.Join("testdata", name+".bpf.o"))
		if err != nil {
			t.Fatal(err)
		}
		return spec
	}
	spec := parse(name)
	if name == "attach" {
		maps.Copy(spec.Programs, parse("attach_elements").Programs)
	}
	return spec
}

// attachManifest parses TOML of [[attach]] tables. The first is on line 3.
func attachManifest(t testing.TB, toml string) manifest.Manifest {
	t.Helper()
	m, err := manifest.Parse("/etc/hornet.d/demo.toml", []byte("object = { path = \"/demo.bpf.o\" }\n\n"+toml))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// requireHook skips t if this kernel is older than what a program of the
// fixture attaches to.
func requireHook(t testing.TB, program string) {
	t.Helper()
	for prefix, c := range map[string][2]string{
		"tcx_": {"bpf_attach_type", "BPF_TCX_INGRESS"},
		"nf_":  {"bpf_attach_type", "BPF_NETFILTER"},
		"msg_": {"bpf_link_type", "BPF_LINK_TYPE_SOCKMAP"}, "stream_": {"bpf_link_type", "BPF_LINK_TYPE_SOCKMAP"}, "skb_verdict": {"bpf_link_type", "BPF_LINK_TYPE_SOCKMAP"},
	} {
		if strings.HasPrefix(program, prefix) {
			testenv.RequireEnum(t, c[0], c[1])
		}
	}
}

// running is a manifest whose links are held by their pins alone: the
// descriptors of links and programs are closed. Its maps stay open to read the
// counters.
type running struct {
	coll    counted
	targets []Target
	pins    string // directory
}

// pinned loads the programs that toml names, attaches and pins them. cgroup is the
// one whose events tracing programs count.
func pinned(t testing.TB, toml string, cgroup uint64) running {
	t.Helper()
	spec, m := attachSpec(t, "attach"), attachManifest(t, toml)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	coll := attachLoad(t, spec, m, cgroup)
	links, err := Attach(coll.Collection, targets)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	r := running{coll, targets, testenv.BPFFS(t)}
	for name, l := range links {
		if err := l.Pin(r.pin(name)); err != nil {
			t.Fatalf("pin %s: %v", name, err)
		}
	}
	if err := links.Close(); err != nil {
		t.Fatal(err)
	}
	for _, p := range coll.Programs {
		p.Close()
	}
	return r
}

// counted is a collection of attach.bpf.c.
type counted struct {
	*ebpf.Collection
	at map[string]*ebpf.VariableSpec
}

func attachLoad(t testing.TB, spec *ebpf.CollectionSpec, m manifest.Manifest, cgroup uint64) counted {
	t.Helper()
	for _, a := range m.Attach {
		requireHook(t, a.Program)
	}
	v := spec.Variables["cgroup"]
	rodata := spec.Maps[v.SectionName].Contents[0].Value.([]byte)
	binary.NativeEndian.PutUint64(rodata[v.Offset:], cgroup)
	for name := range spec.Programs {
		if !slices.ContainsFunc(m.Attach, func(a manifest.Attach) bool { return a.Program == name }) {
			delete(spec.Programs, name)
		}
	}
	// Without ebpf.Variables, whose memory outlives the collection.
	at := spec.Variables
	spec.Variables = nil
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(coll.Close)
	return counted{coll, at}
}

// patience bounds waits that end at once unless something is broken.
const patience = 20 * time.Second

func (r running) pin(name string) string { return filepath.Join(r.pins, name) }

// hits returns how often a program ran.
func hits(t testing.TB, coll counted, program string) uint64 {
	t.Helper()
	v := coll.at["hits_"+program]
	b, err := coll.Maps[v.SectionName].LookupBytes(uint32(0))
	if err != nil {
		t.Fatal(err)
	}
	return binary.NativeEndian.Uint64(b[v.Offset:])
}

// check opens each pin and compares the kernel's view with the target.
func (r running) check(t testing.TB) {
	t.Helper()
	for _, tt := range r.targets {
		l, err := link.LoadPinnedLink(r.pin(tt.Link), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Describe(l)
		if err != nil {
			t.Errorf("%s: %v", tt.Link, err)
		} else if err := s.Matches(tt); err != nil {
			t.Errorf("%s: %v", tt.Link, err)
		}
		l.Close()
	}
}

func (r running) unpin(t testing.TB) {
	t.Helper()
	for _, tt := range r.targets {
		if err := os.Remove(r.pin(tt.Link)); err != nil {
			t.Fatal(err)
		}
	}
}

// stops waits until an effect is no longer there. When a pin was the last
// reference the kernel detaches in a work queue, a moment after the unlink.
func stops(t testing.TB, what string, effect func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if !effect() {
			return
		}
	}
	t.Errorf("%s goes on after the pin is gone", what)
}

func TestAttachInterface(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	tests := map[string]struct {
		toml    string
		program string
		passes  bool
		mode    string
	}{
		"xdp":             {`program = "xdp_drop"`, "xdp_drop", false, "native"},
		"xdp generic":     {`program = "xdp_drop"` + "\n" + `mode = "generic"`, "xdp_drop", false, "generic"},
		"xdp native":      {`program = "xdp_drop"` + "\n" + `mode = "native"`, "xdp_drop", false, "native"},
		"tcx ingress":     {`program = "tcx_drop"`, "tcx_drop", false, ""},
		"tc ingress":      {`program = "tcx_any"` + "\n" + `direction = "ingress"`, "tcx_any", true, ""},
		"classifier":      {`program = "tcx_classifier"` + "\n" + `direction = "ingress"`, "tcx_classifier", true, ""},
		"tcx at the head": {`program = "tcx_in"` + "\n" + `position = "head"`, "tcx_in", true, ""},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			r := pinned(t, fmt.Sprintf("[[attach]]\ninterface = \"ve*\"\nnetns = %q\n%s\n", p.B.Netns, tt.toml), 0)
			if got := r.targets[0]; got.Ifindex != p.B.Ifindex || got.Mode != tt.mode {
				t.Errorf("target %+v, want interface number %d and mode %q", got, p.B.Ifindex, tt.mode)
			}
			want := 0
			if tt.passes {
				want = 5
			}
			if got := p.Send(t, 5); got != want {
				t.Errorf("%d of 5 datagrams arrived, want %d", got, want)
			}
			if got := hits(t, r.coll, tt.program); got != 5 {
				t.Errorf("counted %d of 5 datagrams", got)
			}
			if mode := xdpMode(t, p.B); mode != tt.mode {
				t.Errorf("ip link shows mode %q, want %q", mode, tt.mode)
			}
			r.check(t)
			r.unpin(t)
			stops(t, tt.program, func() bool {
				before := hits(t, r.coll, tt.program)
				return p.Send(t, 1) != 1 || hits(t, r.coll, tt.program) != before
			})
		})
	}
	t.Run("tcx egress", func(t *testing.T) {
		toml := ""
		for _, program := range []string{"tcx_out", "tcx_any"} {
			toml += fmt.Sprintf("[[attach]]\nprogram = %q\ninterface = \"veth0\"\nnetns = %q\n", program, p.A.Netns)
		}
		r := pinned(t, toml+"direction = \"egress\"\n", 0)
		if got := p.Send(t, 3); got != 3 || hits(t, r.coll, "tcx_out") != 3 || hits(t, r.coll, "tcx_any") != 3 {
			t.Errorf("%d of 3 arrived; counted %d and %d", got, hits(t, r.coll, "tcx_out"), hits(t, r.coll, "tcx_any"))
		}
		r.check(t)
	})
}

// xdpMode asks ip(8) which XDP hook of an interface has a program.
func xdpMode(t testing.TB, e testenv.End) string {
	t.Helper()
	out := testenv.IP(t, e.Netns, "-details", "link", "show", e.Name)
	switch {
	case strings.Contains(out, " xdpgeneric "):
		return "generic"
	case strings.Contains(out, " xdp "):
		return "native"
	}
	return ""
}

// TestAttachXDPFallback has a driver without XDP and one that refuses large
// packets.
func TestAttachXDPFallback(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	testenv.IP(t, p.A.Netns, "link", "set", "veth0", "mtu", "9000")
	for _, e := range []testenv.End{{Netns: p.B.Netns, Name: "lo"}, {Netns: p.B.Netns, Name: "veth0"}} {
		r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"xdp_pass\"\ninterface = %q\nnetns = %q\n", e.Name, e.Netns), 0)
		if mode := xdpMode(t, e); mode != "generic" || r.targets[0].Mode != "generic" {
			t.Errorf("%s: ip link shows mode %q, target %q; want generic", e.Name, mode, r.targets[0].Mode)
		}
		r.check(t)
	}
}

// TestAttachTCXPosition asks the kernel for the order.
func TestAttachTCXPosition(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	toml := ""
	for _, a := range []string{`program = "tcx_in"`, "program = \"tcx_any\"\ndirection = \"ingress\"\nposition = \"tail\"", "program = \"tcx_drop\"\nposition = \"head\""} {
		toml += fmt.Sprintf("[[attach]]\n%s\ninterface = \"veth0\"\nnetns = %q\n", a, p.B.Netns)
	}
	r := pinned(t, toml, 0)
	var want []ebpf.ProgramID
	for _, i := range []int{2, 0, 1} {
		l, err := link.LoadPinnedLink(r.pin(r.targets[i].Link), nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := Describe(l)
		if err != nil {
			t.Fatal(err)
		}
		want = append(want, s.ProgramID)
		l.Close()
	}
	var got []ebpf.ProgramID
	err := testenv.InNetns(t, p.B.Netns, func() error {
		q, err := link.QueryPrograms(link.QueryOptions{Target: p.B.Ifindex, Attach: ebpf.AttachTCXIngress})
		for i := range q.Programs {
			got = append(got, q.Programs[i].ID)
		}
		return err
	})
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("order %v, %v; want %v", got, err, want)
	}
}

func TestAttachSkLookup(t *testing.T) {
	testenv.NoLeaks(t)
	ns := testenv.Netns(t)
	r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"redirect\"\nnetns = %q\n", ns), 0)
	dial := func() (err error) {
		return testenv.InNetns(t, ns, func() error {
			c, err := net.Dial("tcp4", "127.0.0.1:7007")
			if err == nil {
				c.Close()
			}
			return err
		})
	}
	err := testenv.InNetns(t, ns, func() error {
		l, err := listenTCP()
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		return putSocket(r.coll.Maps["sockets"], 0, l.(*net.TCPListener))
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(); err != nil {
		t.Errorf("nobody listens on the port, and the program did not redirect: %v", err)
	}
	if hits(t, r.coll, "redirect") == 0 {
		t.Error("the program did not run")
	}
	r.check(t)
	r.unpin(t)
	stops(t, "redirect", func() bool { return dial() == nil })
	if err := dial(); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial after the pin is gone: %v", err)
	}
}

// listenTCP listens with plain TCP: Go prefers MPTCP, which sockmaps refuse.
func listenTCP() (net.Listener, error) {
	var c net.ListenConfig
	c.SetMultipathTCP(false)
	return c.Listen(context.Background(), "tcp4", "127.0.0.1:0")
}

// putSocket puts a socket into a sockmap.
func putSocket(m *ebpf.Map, key uint32, c syscall.Conn) error {
	raw, err := c.SyscallConn()
	if err != nil {
		return err
	}
	var put error
	err = raw.Control(func(fd uintptr) { put = m.Put(key, uint64(fd)) })
	return errors.Join(err, put)
}

// TestAttachFlowDissector lets a packet socket of a fanout group ask for the
// hash of a packet, for which the kernel dissects it.
func TestAttachFlowDissector(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	err := testenv.InNetns(t, p.B.Netns, func() error {
		const all = unix.ETH_P_ALL>>8 | unix.ETH_P_ALL<<8&0xff00
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		if err != nil {
			return err
		}
		t.Cleanup(func() { unix.Close(fd) })
		return unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_FANOUT, 77|unix.PACKET_FANOUT_HASH<<16)
	})
	if err != nil {
		t.Fatal(err)
	}
	r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"dissect\"\nnetns = %q\n", p.B.Netns), 0)
	p.Send(t, 3)
	if n := hits(t, r.coll, "dissect"); n < 3 {
		t.Errorf("dissected %d of 3 packets", n)
	}
	r.check(t)
	r.unpin(t)
	stops(t, "dissect", func() bool {
		before := hits(t, r.coll, "dissect")
		p.Send(t, 1)
		return hits(t, r.coll, "dissect") != before
	})
}

func TestAttachNetfilter(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	r := pinned(t, fmt.Sprintf(`
[[attach]]
program = "nf_accept"
family = "ipv4"
hook = "prerouting"
priority = -100
netns = %[1]q
[[attach]]
program = "nf_drop"
family = "ipv4"
hook = "input"
netns = %[1]q
`, p.B.Netns), 0)
	if got := p.Ping(t, 1); got != 0 {
		t.Errorf("%d pings came through", got)
	}
	if hits(t, r.coll, "nf_drop") != 1 || hits(t, r.coll, "nf_accept") != 1 {
		t.Errorf("counted %d at input and %d at prerouting, want 1 and 1", hits(t, r.coll, "nf_drop"), hits(t, r.coll, "nf_accept"))
	}
	r.check(t)
	r.unpin(t)
	stops(t, "nf_drop", func() bool { return p.Ping(t, 1) == 0 })
}

// TestAttachNetfilterDefrag sends one datagram in two fragments: with defrag the
// program sees them as one.
func TestAttachNetfilterDefrag(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	for _, defrag := range []bool{false, true} {
		r := pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"nf_accept\"\nfamily = \"ipv4\"\nhook = \"prerouting\"\nnetns = %q\ndefrag = %t\n", p.B.Netns, defrag), 0)
		err := testenv.InNetns(t, p.A.Netns, func() error {
			c, err := net.Dial("udp4", p.B.Addr.String()+":9")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write(make([]byte, 2000)) // the MTU is 1500
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if want := map[bool]uint64{false: 2, true: 1}[defrag]; hits(t, r.coll, "nf_accept") != want {
			t.Errorf("defrag %t: the program saw %d packets, want %d", defrag, hits(t, r.coll, "nf_accept"), want)
		}
		r.check(t)
		r.unpin(t)
	}
}

func TestAttachCgroup(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup, ns := testenv.Cgroup(t), testenv.Netns(t)
	relative, err := filepath.Rel(testenv.CgroupRoot(t), cgroup)
	if err != nil {
		t.Fatal(err)
	}
	unix := false // sockets
	programs := []string{
		"skb_ingress", "skb_egress", "sock_create", "sock", "sock_release", "post_bind4", "post_bind6", "bind4", "bind6",
		"connect4", "connect6", "connect_unix", "sendmsg4", "sendmsg6", "sendmsg_unix", "recvmsg4", "recvmsg6", "recvmsg_unix",
		"getpeername4", "getpeername6", "getpeername_unix", "getsockname4", "getsockname6", "getsockname_unix",
		"getsockopt", "setsockopt", "sysctl", "device", "sock_ops", "skb_any",
	}
	t.Run("unix", func(t *testing.T) { testenv.RequireEnum(t, "bpf_attach_type", "BPF_CGROUP_UNIX_CONNECT"); unix = true })
	if !unix {
		programs = slices.DeleteFunc(programs, func(p string) bool { return strings.HasSuffix(p, "_unix") })
	}
	toml := ""
	for i, p := range programs {
		path := relative
		if i%2 == 0 {
			path = cgroup
		}
		toml += fmt.Sprintf("[[attach]]\nprogram = %q\ncgroup = %q\n", p, path)
	}
	r := pinned(t, toml+"direction = \"egress\"\n", 0)
	activity := func() error {
		out, err := attachHelper(t, ns, cgroup)
		if err != nil {
			err = fmt.Errorf("%w: %s", err, out)
		}
		return err
	}
	if err := activity(); err != nil {
		t.Error(err)
	}
	for _, p := range programs {
		if hits(t, r.coll, p) == 0 {
			t.Errorf("%s did not run", p)
		}
	}
	r.check(t)
	r.unpin(t)
	stops(t, "device", func() bool {
		before := hits(t, r.coll, "device")
		if err := activity(); err != nil {
			t.Fatal(err)
		}
		return hits(t, r.coll, "device") != before
	})
	before := make([]uint64, len(programs))
	for i, p := range programs {
		before[i] = hits(t, r.coll, p)
	}
	if err := activity(); err != nil {
		t.Error(err)
	}
	for i, p := range programs {
		if hits(t, r.coll, p) != before[i] {
			t.Errorf("%s runs after its pin is gone", p)
		}
	}
}

// TestAttachCgroupDeny refuses connect(2) to one cgroup and its children only.
func TestAttachCgroupDeny(t *testing.T) {
	testenv.NoLeaks(t)
	denied, free, ns := testenv.Cgroup(t), testenv.Cgroup(t), testenv.Netns(t)
	pinned(t, fmt.Sprintf("[[attach]]\nprogram = \"connect4_deny\"\ncgroup = %q\n", denied), 0)
	out, err := attachHelper(t, ns, denied)
	if err == nil || !strings.Contains(out, "tcp4: dial tcp4 127.0.0.1:") || !strings.Contains(out, "operation not permitted") {
		t.Errorf("in the cgroup: %v: %s", err, out)
	}
	if out, err := attachHelper(t, ns, free); err != nil {
		t.Errorf("in another cgroup: %v: %s", err, out)
	}
}

// attachHelper runs TestAttachHelper in a network namespace and a cgroup.
func attachHelper(t testing.TB, ns, cgroup string) (out string, err error) {
	t.Helper()
	cmd := testenv.CgroupCommand(t, cgroup, "/proc/self/exe", "-test.run=^TestAttachHelper$")
	cmd.Env = append(os.Environ(), "HORNETD_ATTACH_HELPER=1")
	err = testenv.InNetns(t, ns, func() error {
		b, err := cmd.CombinedOutput()
		out = string(b)
		return err
	})
	return out, err
}

// TestAttachHelper is no test: it is what a process in a cgroup does, so that
// every cgroup hook has something to see.
func TestAttachHelper(t *testing.T) {
	if os.Getenv("HORNETD_ATTACH_HELPER") == "" {
		return
	}
	for network, addr := range map[string]string{"4": "127.0.0.1:0", "6": "[::1]:0"} {
		if err := talkTCP("tcp"+network, addr); err != nil {
			t.Errorf("tcp%s: %v", network, err)
		}
		if err := talkUDP("udp"+network, addr); err != nil {
			t.Errorf("udp%s: %v", network, err)
		}
	}
	if err := talkUnix(t.TempDir()); err != nil {
		t.Errorf("unix: %v", err)
	}
	if _, err := os.ReadFile("/proc/sys/kernel/ostype"); err != nil {
		t.Error(err)
	}
	if _, err := os.ReadFile("/dev/null"); err != nil {
		t.Error(err)
	}
}

func talkTCP(network, addr string) error {
	l, err := net.Listen(network, addr)
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial(network, l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	s, err := l.Accept()
	if err != nil {
		return err
	}
	defer s.Close()
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return err
	}
	var sock error
	err = raw.Control(func(fd uintptr) {
		_, e1 := unix.Getpeername(int(fd))
		_, e2 := unix.Getsockname(int(fd))
		_, e3 := unix.GetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF)
		e4 := unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
		sock = errors.Join(e1, e2, e3, e4)
	})
	return errors.Join(err, sock)
}

func talkUDP(network, addr string) error {
	in, err := net.ListenPacket(network, addr)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := net.ListenPacket(network, addr)
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.WriteTo([]byte("hornet"), in.LocalAddr()); err != nil {
		return err
	}
	in.SetReadDeadline(time.Now().Add(patience))
	_, _, err = in.ReadFrom(make([]byte, 16))
	return err
}

func talkUnix(dir string) error {
	l, err := net.Listen("unix", filepath.Join(dir, "stream"))
	if err != nil {
		return err
	}
	defer l.Close()
	c, err := net.Dial("unix", l.Addr().String())
	if err != nil {
		return err
	}
	defer c.Close()
	raw, err := c.(*net.UnixConn).SyscallConn()
	if err != nil {
		return err
	}
	var names error
	err = raw.Control(func(fd uintptr) {
		_, e1 := unix.Getpeername(int(fd))
		_, e2 := unix.Getsockname(int(fd))
		names = errors.Join(e1, e2)
	})
	if err := errors.Join(err, names); err != nil {
		return err
	}
	in, err := net.ListenPacket("unixgram", filepath.Join(dir, "in"))
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := net.ListenPacket("unixgram", filepath.Join(dir, "out"))
	if err != nil {
		return err
	}
	defer out.Close()
	if _, err := out.WriteTo([]byte("hornet"), in.LocalAddr()); err != nil {
		return err
	}
	in.SetReadDeadline(time.Now().Add(patience))
	_, _, err = in.ReadFrom(make([]byte, 16))
	return err
}

// libc returns the C library's path, which the dynamic programs here use.
func libc(t testing.TB) string {
	t.Helper()
	out, err := exec.Command("ldd", "/bin/true").Output()
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(out)) {
		if _, rest, ok := strings.Cut(line, "libc.so.6 => "); ok {
			path, err := filepath.EvalSymlinks(strings.Fields(rest)[0])
			if err != nil {
				t.Fatal(err)
			}
			return path
		}
	}
	t.Fatalf("no C library in %q", out)
	return ""
}

func TestAttachTracing(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	lib := libc(t)
	// __libc_start_main runs once per process. It has two versions, one of them
	// for old programs only. It never returns; __cxa_atexit does.
	probe := func(program, symbol string) string {
		return fmt.Sprintf("program = %q\nexecutable = %q\nsymbol = %q", program, lib, symbol)
	}
	offset := func() string {
		x, err := openExecutable(lib)
		if err != nil {
			t.Fatal(err)
		}
		defer x.close()
		n, err := x.offset("__libc_start_main", 0)
		if err != nil {
			t.Fatal(err)
		}
		return fmt.Sprintf("program = \"on_entry\"\nexecutable = %q\noffset = %d", lib, n)
	}
	tests := map[string]struct {
		toml, program string
		want          uint64 // 0: at least once
	}{
		"raw_tp":             {`program = "raw_exec"`, "raw_exec", 1},
		"raw_tp by manifest": {"program = \"raw_any\"\ntracepoint = \"sched_process_exit\"", "raw_any", 1},
		"raw_tp renamed":     {"program = \"raw_exec\"\ntracepoint = \"sched_process_exit\"", "raw_exec", 1},
		"tp_btf":             {`program = "btf_exec"`, "btf_exec", 1},
		"tracepoint":         {`program = "tp_exec"`, "tp_exec", 1},
		"tp by manifest":     {"program = \"tp_any\"\ntracepoint = \"sched/sched_process_exit\"", "tp_any", 1},
		"uprobe":             {probe("on_entry", "__libc_start_main"), "on_entry", 1},
		"uprobe by offset":   {offset(), "on_entry", 1},
		"sleepable uprobe":   {probe("on_entry_sleepable", "__libc_start_main"), "on_entry_sleepable", 1},
		"uretprobe":          {probe("on_return", "__cxa_atexit"), "on_return", 0},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cgroup := testenv.Cgroup(t)
			r := pinned(t, "[[attach]]\n"+tt.toml+"\n", inode(t, cgroup))
			exec := func() {
				t.Helper()
				if out, err := testenv.CgroupCommand(t, cgroup, "/bin/true").CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			exec()
			got := hits(t, r.coll, tt.program)
			if got == 0 || tt.want > 0 && got != tt.want {
				t.Errorf("ran %d times, want %d", got, tt.want)
			}
			r.check(t)
			r.unpin(t)
			stops(t, tt.program, func() bool {
				before := hits(t, r.coll, tt.program)
				exec()
				return hits(t, r.coll, tt.program) != before
			})
		})
	}
}

func inode(t testing.TB, path string) uint64 {
	t.Helper()
	return stat(t, path).Ino
}

// device returns the number of the device that a file is on.
func device(t testing.TB, path string) uint64 {
	t.Helper()
	return stat(t, path).Dev
}

func stat(t testing.TB, path string) (st unix.Stat_t) {
	t.Helper()
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return st
}

// A pinned iterator is a file: reading it runs the program.
func TestAttachIter(t *testing.T) {
	testenv.NoLeaks(t)
	r := pinned(t, "[[attach]]\nprogram = \"tasks\"\n", 0)
	b, err := os.ReadFile(r.pin("tasks"))
	if n := bytes.Count(b, []byte("task\n")); err != nil || n < 2 || len(b) != 5*n {
		t.Errorf("%d lines in %q, %v", n, b, err)
	}
	r.check(t)
}

func TestAttachIterOfMap(t *testing.T) {
	testenv.RequireMapIterators(t)
	testenv.NoLeaks(t)
	r := pinned(t, "[[attach]]\nprogram = \"elements\"\nmap = \"walked\"\n", 0)
	for i := range uint32(3) {
		if err := r.coll.Maps["walked"].Put(i, uint64('a'+i)); err != nil {
			t.Fatal(err)
		}
	}
	b, err := os.ReadFile(r.pin("elements-walked"))
	if want := "a\x00\x00\x00\x00\x00\x00\x00b\x00\x00\x00\x00\x00\x00\x00c\x00\x00\x00\x00\x00\x00\x00"; err != nil || string(b) != want {
		t.Errorf("elements %q, %v; want %q", b, err, want)
	}
	r.check(t)
	l, err := link.LoadPinnedLink(r.pin("elements-walked"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := Describe(l)
	if err != nil {
		t.Fatal(err)
	}
	info, _ := r.coll.Maps["walked"].Info()
	if id, _ := info.ID(); s.MapID != id || s.Iterator != "bpf_map_elem" {
		t.Errorf("iterator %q over map %d, want bpf_map_elem over %d", s.Iterator, s.MapID, id)
	}
}

func TestAttachSockmap(t *testing.T) {
	testenv.NoLeaks(t)
	ns := testenv.Netns(t)
	tests := map[string][]string{ // programs at one map
		"sk_msg":                {"msg_pass"},
		"stream_verdict":        {"stream_verdict"},
		"verdict":               {"skb_verdict"},
		"stream_parser+verdict": {"stream_parser", "stream_verdict"},
	}
	for name, programs := range tests {
		t.Run(name, func(t *testing.T) {
			toml := ""
			for _, p := range programs {
				toml += fmt.Sprintf("[[attach]]\nprogram = %q\nmap = \"sockets\"\n", p)
			}
			r := pinned(t, toml, 0)
			r.check(t)
			talk := func() {
				t.Helper()
				err := testenv.InNetns(t, ns, func() error { return talkOver(r.coll.Maps["sockets"]) })
				if err != nil {
					t.Fatal(err)
				}
			}
			talk()
			for _, p := range programs {
				if hits(t, r.coll, p) == 0 {
					t.Errorf("%s did not run", p)
				}
			}
			r.unpin(t)
			stops(t, name, func() bool {
				before := hits(t, r.coll, programs[0])
				talk()
				return hits(t, r.coll, programs[0]) != before
			})
		})
	}
}

// talkOver sends a word over a TCP connection both of whose ends are in m.
func talkOver(m *ebpf.Map) error {
	l, err := listenTCP()
	if err != nil {
		return err
	}
	defer l.Close()
	a, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		return err
	}
	defer b.Close()
	if err := putSocket(m, 0, a.(*net.TCPConn)); err != nil {
		return err
	}
	if err := putSocket(m, 1, b.(*net.TCPConn)); err != nil {
		return err
	}
	if _, err := a.Write([]byte("hornet")); err != nil {
		return err
	}
	b.SetReadDeadline(time.Now().Add(patience))
	_, err = io.ReadFull(b, make([]byte, 6))
	return err
}
