package main_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

//go:generate ../../scripts/bpf-compile testdata/caller.bpf.c testdata/calls.bpf.c testdata/filter.bpf.c testdata/held.bpf.c testdata/jumps.bpf.c testdata/kinds.bpf.c testdata/long.bpf.c testdata/many.bpf.c testdata/maps.bpf.c testdata/reject.bpf.c testdata/slow.bpf.c testdata/traffic.bpf.c testdata/wide.bpf.c

// run runs a command that must succeed, and returns what it printed.
func run(t testing.TB, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestOpenSSLAgrees: what hornetctl signs and hornetd loads, openssl verifies,
// and for no other object.
func TestOpenSSLAgrees(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	keys := t.TempDir()
	for _, algorithm := range []string{"ecdsa", "rsa"} {
		ctl(t, h, "keygen", "--out", keys, "--algorithm", algorithm, algorithm)
		cert := filepath.Join(keys, algorithm+".pem")
		h.Write("trust.d/"+algorithm+".pem", read(t, cert))
		object := h.Write("hornet.d/"+algorithm+".o", example(t, "conn-count/conn_count.bpf.o"))
		ctl(t, h, "sign", "--key", filepath.Join(keys, algorithm+".key"), "--cert", cert, object)
		h.Manifest(algorithm, strings.Replace(connCount(testenv.Cgroup(t)), "conn_count.bpf.o", algorithm+".o", 1))

		verify := []string{"cms", "-verify", "-binary", "-inform", "DER", "-in", object + ".p7s", "-certfile", cert, "-CAfile", cert,
			"-purpose", "any", "-out", os.DevNull, "-content"}
		run(t, "openssl", append(verify, object)...)
		other := h.Write("other", append(example(t, "conn-count/conn_count.bpf.o"), 0))
		if exec.Command("openssl", append(verify, other)...).Run() == nil {
			t.Error("openssl verified another object: this test proves nothing")
		}
	}
	h.Start()
	for _, algorithm := range []string{"ecdsa", "rsa"} {
		c := load(t, h, algorithm)
		if c.Signature.Verdict != "ok" || c.Signature.Signer.Name != algorithm || c.Object.SHA256 != sha256sum(t, c.Object.File) {
			t.Errorf("%s: %+v %+v", algorithm, c.Signature, c.Object)
		}
	}
}

// sha256sum asks coreutils.
func sha256sum(t testing.TB, path string) string {
	t.Helper()
	sum, _, _ := strings.Cut(run(t, "sha256sum", path), " ")
	return sum
}

func ctl(t testing.TB, h *testdaemon.Host, args ...string) string {
	t.Helper()
	stdout, stderr, exit := h.Ctl(args...)
	if exit != 0 {
		t.Fatalf("hornetctl %s: exit status %d: %s", strings.Join(args, " "), exit, stderr)
	}
	return stdout
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestOpenSSLSigned: objects signed with openssl alone load, in the shape that
// bpftool and the kernel use and in openssl's own with attributes.
func TestOpenSSLSigned(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	key, cert := filepath.Join(h.Dir, "rsa.key"), filepath.Join(h.Trust, "rsa.pem")
	run(t, "openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-keyout", key, "-out", cert, "-subj", "/CN=openssl", "-addext", "keyUsage=digitalSignature")
	for name, shape := range map[string][]string{
		"bpftool":    {"-noattr", "-nocerts", "-keyid", "-md", "sha256"},
		"attributes": {"-nosmimecap", "-md", "sha512"},
		"pss":        {"-nocerts", "-md", "sha256", "-keyopt", "rsa_padding_mode:pss"},
	} {
		object := h.Write("hornet.d/"+name+".o", example(t, "conn-count/conn_count.bpf.o"))
		run(t, "openssl", append([]string{"cms", "-sign", "-binary", "-in", object, "-signer", cert, "-inkey", key, "-outform", "DER", "-out", object + ".p7s"}, shape...)...)
		h.Manifest(name, strings.Replace(connCount(testenv.Cgroup(t)), "conn_count.bpf.o", name+".o", 1))
	}
	h.Start()
	for _, name := range []string{"bpftool", "attributes", "pss"} {
		if c := load(t, h, name); c.Signature.Signer.Name != "rsa" || len(kernelLinks(t, c)) != 2 {
			t.Errorf("%s: %+v", name, c.Signature)
		}
	}
}

// bpftool decodes what bpftool shows of one object.
func bpftool[T any](t testing.TB, args ...any) T {
	t.Helper()
	argv := []string{"--json"}
	for _, a := range args {
		argv = append(argv, fmt.Sprint(a))
	}
	var v T
	out := run(t, "bpftool", argv...)
	if err := json.Unmarshal([]byte(out), &v); err != nil {
		t.Fatalf("bpftool %v: %v: %s", args, err, out)
	}
	return v
}

// What bpftool shows, as far as it is compared.
type (
	toolProgram struct {
		Tag    string   `json:"tag"`
		MapIDs []uint32 `json:"map_ids"`
	}
	toolMap struct {
		BytesKey   uint32 `json:"bytes_key"`
		BytesValue uint32 `json:"bytes_value"`
		MaxEntries uint32 `json:"max_entries"`
		Frozen     int    `json:"frozen"`
	}
	toolLink struct {
		ProgramID uint32 `json:"prog_id"`
	}
)

// checkWithBpftool compares every object of a collection with what bpftool
// says of it.
func checkWithBpftool(t testing.TB, c api.Collection) {
	t.Helper()
	ids := make(map[uint32]bool)
	for _, m := range c.Maps {
		ids[m.ID] = true
		frozen := 0
		if m.Frozen {
			frozen = 1
		}
		got := bpftool[toolMap](t, "map", "show", "id", m.ID)
		if diff := cmp.Diff(toolMap{m.KeySize, m.ValueSize, m.MaxEntries, frozen}, got); diff != "" {
			t.Errorf("map %s: API (-), bpftool (+): %s", m.Name, diff)
		}
		if m.Frozen != (m.Class == "frozen") {
			t.Errorf("map %s: class %s, frozen %t", m.Name, m.Class, m.Frozen)
		}
	}
	for _, p := range c.Programs {
		got := bpftool[toolProgram](t, "prog", "show", "id", p.ID)
		if got.Tag != p.Tag {
			t.Errorf("program %s: tag %s, bpftool says %s", p.Name, p.Tag, got.Tag)
		}
		for _, id := range got.MapIDs {
			if !ids[id] {
				t.Errorf("program %s uses map %d, of which the API says nothing", p.Name, id)
			}
		}
	}
	for _, l := range c.Links {
		if got := bpftool[toolLink](t, "link", "show", "id", l.ID); got.ProgramID != l.ProgramID {
			t.Errorf("link %s: program %d, bpftool says %d", l.Name, l.ProgramID, got.ProgramID)
		}
	}
}

// TestBpftoolAgrees: bpftool sees what the API tells, and cannot write what is
// frozen.
func TestBpftoolAgrees(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	h.Start()
	c := load(t, h, "xdp-drop")
	if len(c.Programs) != 1 || len(c.Maps) != 3 || len(c.Links) != 1 {
		t.Fatalf("%+v", c)
	}
	checkWithBpftool(t, c)
	checkWithBpftool(t, get(t, h, "xdp-drop"))

	for _, m := range c.Maps {
		if m.Name != "blocked" {
			continue
		}
		// 10.77.0.1/32 is what the manifest says; 0.0.0.0/0 would drop everything.
		dump := run(t, "bpftool", "map", "lookup", "id", fmt.Sprint(m.ID), "key", "hex", "20", "00", "00", "00", "0a", "4d", "00", "01")
		if !strings.Contains(dump, "07 00 00 00") && !strings.Contains(dump, `"value": 7`) {
			t.Errorf("entry: %s", dump)
		}
		out, err := exec.Command("bpftool", "map", "update", "id", fmt.Sprint(m.ID), "key", "hex", "00", "00", "00", "00", "00", "00", "00", "00",
			"value", "hex", "01", "00", "00", "00").CombinedOutput()
		if err == nil || !strings.Contains(string(out), "not permitted") {
			t.Errorf("bpftool wrote a frozen map: %s", out)
		}
	}
}

// debianObjects is where libxdp1 keeps the objects of xdp-tools.
func debianObjects(t *testing.T) string {
	t.Helper()
	dirs, err := filepath.Glob("/usr/lib/*/bpf/xdpfilt_dny_ip.o")
	if err != nil {
		t.Fatal(err)
	}
	if len(dirs) == 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("libxdp1 is not installed")
		}
		t.Skip("libxdp1, which has the objects, is not installed (scripts/setup)")
	}
	return filepath.Dir(dirs[0])
}

// TestXDPTools: objects that nobody here wrote, filled from the manifest, do
// to the listed address what they are for, and only to that one. alw passes
// what is not listed, dny drops what is not listed.
func TestXDPTools(t *testing.T) {
	testenv.NoLeaks(t)
	dir := debianObjects(t)
	pair := testenv.Veth(t)
	const second = "10.77.0.9"
	testenv.IP(t, pair.A.Netns, "addr", "add", second+"/24", "dev", pair.A.Name)
	testenv.IP(t, pair.B.Netns, "neigh", "replace", second, "lladdr", pair.A.MAC.String(), "dev", pair.B.Name, "nud", "permanent")
	h := testdaemon.New(t, "")
	for _, policy := range []string{"alw", "dny"} {
		name := "xdpfilt_" + policy + "_ip"
		h.Write("hornet.d/"+name+".p7s", h.Sign(read(t, filepath.Join(dir, name+".o"))))
		h.Manifest(policy, fmt.Sprintf(`
start = "request"
[object]
path = "%s/%s.o"
signature = "%[2]s.p7s"
[maps.filter_ipv4]
class = "frozen"
program_writes = true
entries = [ { key = "%s", value = 3 } ]
[maps."*"]
class = "mutable"
[[attach]]
program = "%[2]s"
interface = "%[4]s"
netns = "%[5]s"
mode = "generic"
`, dir, name, second, pair.B.Name, pair.B.Netns))
	}
	h.Start()
	ping := func(from string) bool {
		err := testenv.InNetns(t, pair.A.Netns, func() error {
			return exec.Command("ping", "-n", "-q", "-c", "1", "-W", "1", "-I", from, pair.B.Addr.String()).Run()
		})
		return err == nil
	}
	for _, test := range []struct {
		policy          string
		listed, another bool // whether it comes through
	}{{"alw", false, true}, {"dny", true, false}} {
		if !ping(second) || !ping(pair.A.Addr.String()) {
			t.Fatal("no answer without a program")
		}
		c := load(t, h, test.policy)
		checkWithBpftool(t, c)
		if got := ping(second); got != test.listed {
			t.Errorf("%s: ping from the listed address: answered %t, want %t", test.policy, got, test.listed)
		}
		if got := ping(pair.A.Addr.String()); got != test.another {
			t.Errorf("%s: ping from another address: answered %t, want %t", test.policy, got, test.another)
		}
		if _, err := h.Client().Unload(context.Background(), test.policy, api.UnloadRequest{}); err != nil {
			t.Fatal(err)
		}
	}
}

// kinds are the programs of testdata/kinds.bpf.c, ordered by their index in
// its map, each with the keys of its [[attach]].
var kinds = []struct{ program, keys string }{
	{"on_xdp", onInterface + "mode = \"generic\"\n"},
	{"on_tcx_ingress", onInterface},
	{"on_tcx_egress", onInterface},
	{"on_skb_ingress", onCgroup},
	{"on_skb_egress", onCgroup},
	{"on_sock_create", onCgroup},
	{"on_sock_release", onCgroup},
	{"on_post_bind4", onCgroup},
	{"on_post_bind6", onCgroup},
	{"on_bind4", onCgroup},
	{"on_bind6", onCgroup},
	{"on_connect4", onCgroup},
	{"on_connect6", onCgroup},
	{"on_sendmsg4", onCgroup},
	{"on_sendmsg6", onCgroup},
	{"on_recvmsg4", onCgroup},
	{"on_recvmsg6", onCgroup},
	{"on_getpeername4", onCgroup},
	{"on_getpeername6", onCgroup},
	{"on_getsockname4", onCgroup},
	{"on_getsockname6", onCgroup},
	{"on_getsockopt", onCgroup},
	{"on_setsockopt", onCgroup},
	{"on_sysctl", onCgroup},
	{"on_device", onCgroup},
	{"on_sock_ops", onCgroup},
	{"on_raw_tp", ""},
	{"on_tp_btf", ""},
	{"on_tracepoint", ""},
	{"on_uprobe", onFunction},
	{"on_uretprobe", onFunction},
	{"on_sk_lookup", "netns = \"NETNS\"\n"},
	{"on_netfilter", "netns = \"NETNS\"\nfamily = \"ipv4\"\nhook = \"input\"\npriority = -7\n"},
	{"on_iter", ""},
}

const (
	onInterface = "interface = \"INTERFACE\"\nnetns = \"NETNS\"\n"
	onCgroup    = "cgroup = \"CGROUP\"\n"
	onFunction  = "executable = \"LIBRARY\"\nsymbol = \"setlocale\"\n"
)

// TestEveryKindOfAttachment: one collection attaches a program in every way
// there is. The kernel has a link for each, and each runs when what it hangs
// on happens.
func TestEveryKindOfAttachment(t *testing.T) {
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_NETFILTER")
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	pair, cgroup, libc := testenv.Veth(t), testenv.Cgroup(t), copyOfLibc(t)
	h := testdaemon.New(t, "")
	h.Object("kinds.bpf.o", read(t, "testdata/kinds.bpf.o"))
	manifest := "start = \"request\"\n[object]\npath = \"kinds.bpf.o\"\n[maps.calls]\nclass = \"mutable\"\n"
	var programs []string
	for _, k := range kinds {
		programs = append(programs, k.program)
		manifest += fmt.Sprintf("[[attach]]\nprogram = %q\n", k.program) + k.keys
	}
	h.Manifest("kinds", strings.NewReplacer("INTERFACE", pair.B.Name, "NETNS", pair.B.Netns, "CGROUP", cgroup, "LIBRARY", libc).Replace(manifest))
	h.Start()

	c := load(t, h, "kinds")
	checkWithBpftool(t, c)
	checkAttached(t, c, programs)
	happen(t, c, pair, cgroup, libc)
	for i, n := range callsOf(t, c) {
		if i < len(programs) && n == 0 {
			t.Errorf("%s was never called", programs[i])
		}
	}

	h.Kill()
	h.Start()
	adopted := get(t, h, "kinds")
	if adopted.State != api.StateRunning || !adopted.Adopted || adopted.Reason != "" {
		t.Errorf("after a restart: %s: %s", adopted.State, adopted.Reason)
	}
	if diff := cmp.Diff(c.Links, adopted.Links, cmpopts.SortSlices(func(a, b api.Link) bool { return a.Name < b.Name })); diff != "" {
		t.Errorf("links before (-) and after (+) a restart: %s", diff)
	}
	if _, err := h.Client().Unload(context.Background(), "kinds", api.UnloadRequest{}); err != nil {
		t.Fatal(err)
	}
	if got := kernelLinks(t, c); len(got) != 0 {
		t.Errorf("after the unload: %v", got)
	}
}

// checkAttached wants one link for each program, in the API's view and in the
// kernel's.
func checkAttached(t *testing.T, c api.Collection, programs []string) {
	t.Helper()
	var loaded, attached []string
	for _, p := range c.Programs {
		loaded = append(loaded, p.Name)
	}
	for _, l := range c.Links {
		attached = append(attached, l.Program)
	}
	sorted := cmpopts.SortSlices(strings.Compare)
	if diff := cmp.Diff(programs, loaded, sorted); diff != "" {
		t.Errorf("listed here (-), in the object (+): %s", diff)
	}
	if diff := cmp.Diff(programs, attached, sorted); diff != "" {
		t.Errorf("listed here (-), attached (+): %s", diff)
	}
	if got := kernelLinks(t, c); len(got) != len(programs) {
		t.Errorf("the kernel has %d links, want %d", len(got), len(programs))
	}
}

// copyOfLibc is a library whose functions nobody calls who does not want to.
func copyOfLibc(t *testing.T) string {
	t.Helper()
	found, err := filepath.Glob("/lib/*/libc.so.6")
	if err != nil || len(found) == 0 {
		t.Fatalf("libc: %v, %v", found, err)
	}
	path := filepath.Join(t.TempDir(), "libc.so.6")
	if err := os.WriteFile(path, read(t, found[0]), 0o755); err != nil {
		t.Fatal(err)
	}
	return path
}

// callsOf reads the counters from the kernel.
func callsOf(t *testing.T, c api.Collection) []uint64 {
	t.Helper()
	for _, info := range c.Maps {
		if info.Name != "calls" {
			continue
		}
		m, err := ebpf.NewMapFromID(ebpf.MapID(info.ID))
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		calls := make([]uint64, m.MaxEntries())
		for i := range calls {
			if err := m.Lookup(uint32(i), &calls[i]); err != nil {
				t.Fatal(err)
			}
		}
		return calls
	}
	t.Fatal("no map calls")
	return nil
}

// happen makes happen what the programs hang on: packets, the system calls of
// a process in the cgroup (see TestInCgroup), a call of setlocale, and the
// reading of an iterator.
func happen(t *testing.T, c api.Collection, pair testenv.Pair, cgroup, libc string) {
	t.Helper()
	if pair.Ping(t, 1) != 1 {
		t.Error("no answer to a ping")
	}
	err := testenv.InNetns(t, pair.B.Netns, func() error {
		cmd := testenv.CgroupCommand(t, cgroup, os.Args[0], "-test.run=^TestInCgroup$", "-test.v")
		cmd.Env = append(os.Environ(), inCgroup+"=1")
		out, err := cmd.CombinedOutput()
		if err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	cmd := exec.Command("/bin/true", "argument") // else it has no need of setlocale
	cmd.Env = []string{"LD_LIBRARY_PATH=" + filepath.Dir(libc)}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("true: %v: %s", err, out)
	}
	for _, l := range c.Links {
		if l.Program == "on_iter" {
			iterate(t, l.ID)
		}
	}
}

func iterate(t *testing.T, id uint32) {
	t.Helper()
	l, err := link.NewFromID(link.ID(id))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	it, ok := l.(*link.Iter)
	if !ok {
		t.Fatalf("link %d is a %T", id, l)
	}
	r, err := it.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Fatal(err)
	}
}

// inCgroup is set in the environment of a process that TestInCgroup is run in.
const inCgroup = "HORNET_TEST_IN_CGROUP"

// TestInCgroup is the process that TestEveryKindOfAttachment starts in a
// cgroup. It does there what cgroup programs are asked about.
func TestInCgroup(t *testing.T) {
	if os.Getenv(inCgroup) == "" {
		return
	}
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		tcpToItself(t, address)
		udpToItself(t, address)
	}
	read(t, "/proc/sys/kernel/ostype")
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

func tcpToItself(t *testing.T, address string) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	conn, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	peer, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer peer.Close()
	exchange(t, conn.Write, peer.Read)
}

func udpToItself(t *testing.T, address string) {
	t.Helper()
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	exchange(t, func(b []byte) (int, error) { return conn.WriteTo(b, conn.LocalAddr()) }, func(b []byte) (int, error) {
		n, _, err := conn.ReadFrom(b) // who wants to know from whom is who the program is asked about
		return n, err
	})
}

// exchange sends a byte one way and reads it on the other.
func exchange(t *testing.T, write, read func([]byte) (int, error)) {
	t.Helper()
	b := []byte{'h'}
	if _, err := write(b); err != nil {
		t.Fatal(err)
	}
	if _, err := read(b); err != nil {
		t.Fatal(err)
	}
}
