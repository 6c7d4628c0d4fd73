package examples

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

func TestMain(m *testing.M) { testdaemon.Main(m) }

// running is an example that hornetd runs as its manifest says.
type running struct {
	t    *testing.T
	host *testdaemon.Host
	name string
	c    api.Collection
}

// start runs hornetd with one example. The manifest is the committed one with
// pairs of old and new text replaced, as an administrator would for the host.
func start(t *testing.T, name string, replace ...string) *running {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(name, name+".toml"))
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	for i := 0; i < len(replace); i += 2 {
		if !strings.Contains(text, replace[i]) {
			t.Fatalf("%s.toml has no %q", name, replace[i])
		}
		text = strings.ReplaceAll(text, replace[i], replace[i+1])
	}
	h := testdaemon.New(t, "")
	m, err := manifest.Parse(filepath.Join(h.Manifests, name+".toml"), []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	own := filepath.Dir(m.Object.Path) == h.Manifests // else Debian's, which stays where it is
	from := m.Object.Path
	if own {
		from = filepath.Join(name, filepath.Base(m.Object.Path))
	}
	object, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if own {
		h.Object(filepath.Base(from), object)
	} else {
		h.Write("hornet.d/"+filepath.Base(from)+".p7s", h.Sign(object))
	}
	h.Manifest(name, text)
	h.Start()
	r := &running{t: t, host: h, name: name}
	r.c, err = h.Client().Get(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if r.c.State != api.StateRunning || r.c.Signature.Verdict != "ok" {
		t.Fatalf("%s is %s, %s, signature %s", name, r.c.State, r.c.Reason, r.c.Signature.Verdict)
	}
	return r
}

// kernel opens a map of the example by its id, past hornetd.
func (r *running) kernel(name string) *ebpf.Map {
	r.t.Helper()
	for _, m := range r.c.Maps {
		if m.Name == name {
			km, err := ebpf.NewMapFromID(ebpf.MapID(m.ID))
			if err != nil {
				r.t.Fatal(err)
			}
			r.t.Cleanup(func() { km.Close() })
			return km
		}
	}
	r.t.Fatalf("%s has no map %s", r.name, name)
	return nil
}

// entry reads one entry as a client sees it: JSON, decoded by BTF.
func (r *running) entry(mapName, key string) string {
	r.t.Helper()
	page, err := r.host.Client().Entries(r.t.Context(), r.name, mapName, api.EntriesOptions{})
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range page.Entries {
		if string(e.Key) == key {
			return string(e.Value)
		}
	}
	return "no entry"
}

// frozen checks that nobody can write the map any more, root and this test included.
func (r *running) frozen(name string, key, value any) {
	r.t.Helper()
	if err := r.kernel(name).Put(key, value); !errors.Is(err, unix.EPERM) {
		r.t.Errorf("write to map %s: %v, want EPERM", name, err)
	}
}

func TestExecCount(t *testing.T) {
	testenv.NoLeaks(t)
	const uid = 4242
	r := start(t, "exec-count", "min_uid = 0", "min_uid = 4242")
	for _, u := range []string{"--reuid=4242", "--reuid=4241"} {
		for range 7 {
			if err := exec.Command("setpriv", u, "--clear-groups", "true").Run(); err != nil {
				t.Fatal(err)
			}
		}
	}
	var n uint64
	if err := r.kernel("execs").Lookup(uint32(uid), &n); err != nil || n != 7 {
		t.Errorf("uid %d: %d execs, %v, want 7", uid, n, err)
	}
	if err := r.kernel("execs").Lookup(uint32(4241), &n); !errors.Is(err, ebpf.ErrKeyNotExist) {
		t.Errorf("uid 4241 is below min_uid, but counted: %v", err)
	}
	if got := r.entry("execs", "4242"); got != "7" {
		t.Errorf("client sees %s", got)
	}
	r.frozen(".rodata", uint32(0), uint32(0))
}

func TestConnCount(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup := testenv.Cgroup(t)
	r := start(t, "conn-count", `"hornet-demo"`, `"`+cgroup+`"`)
	err := testenv.InNetns(t, testenv.Netns(t), func() error {
		for _, url := range []string{"http://127.0.0.1:1234", "http://127.0.0.1:1234", "http://[::1]:4321"} {
			_ = testenv.CgroupCommand(t, cgroup, "curl", "-s", "-g", url).Run() // nobody listens
		}
		_ = exec.Command("curl", "-s", "http://127.0.0.1:999").Run() // outside the cgroup
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range map[[2]uint32]uint64{{2, 1234}: 2, {10, 4321}: 1} {
		var n uint64
		if err := r.kernel("connects").Lookup(key, &n); err != nil || n != want {
			t.Errorf("family %d port %d: %d, %v, want %d", key[0], key[1], n, err, want)
		}
	}
	if got := r.entry("connects", `{"family":"IPV4","port":1234}`); got != "2" {
		t.Errorf("client sees %s", got)
	}
	if got := r.entry("connects", `{"family":"IPV4","port":999}`); got != "no entry" {
		t.Errorf("connections outside the cgroup: %s", got)
	}
}

func TestXDPDrop(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	r := start(t, "xdp-drop",
		`"192.0.2.0/24", value = 1`, `"10.77.0.1/32", value = 7`,
		"0a4d0002", "0a4d0003", // of the test that must pass
		"c0000207", "0a4d0001", // of the one that must be dropped
		`interface = "hornet0"`, on(pair.B))
	if got := pair.Ping(t, 3); got != 0 {
		t.Errorf("%d of 3 pings from the blocked address came back", got)
	}
	var hit struct{ Packets, Bytes uint64 }
	if err := r.kernel("hits").Lookup(uint32(7), &hit); err != nil || hit.Packets != 1+3 || hit.Bytes != 34+3*98 {
		t.Errorf("rule 7: %+v, %v, want the test's packet and 3 of 98 bytes", hit, err)
	}
	if got := r.entry("hits", "7"); got != `{"packets":4,"bytes":328}` {
		t.Errorf("client sees %s", got)
	}
	r.frozen("blocked", append([]byte{32, 0, 0, 0}, pair.A.Addr.AsSlice()...), uint32(9))
}

func TestXDPDropDryRun(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	r := start(t, "xdp-drop", "dry_run = false", "dry_run = true", "XDP_DROP", "XDP_PASS",
		`"192.0.2.0/24"`, `"10.77.0.0/16"`, `interface = "hornet0"`, on(pair.B))
	if got := pair.Ping(t, 2); got != 2 {
		t.Errorf("%d of 2 pings came back from a dry run", got)
	}
	if got := r.entry("hits", "1"); !strings.HasPrefix(got, `{"packets":`) {
		t.Errorf("hits of a dry run: %s", got)
	}
}

func TestTCXCount(t *testing.T) {
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	r := start(t, "tcx-count", `interface = "hornet0"`, on(pair.B))
	if got := pair.Ping(t, 3); got != 3 {
		t.Errorf("%d of 3 pings came back", got)
	}
	for direction, name := range []string{"INGRESS", "EGRESS"} {
		var c struct{ Packets, Bytes uint64 }
		err := r.kernel("traffic").Lookup([2]uint32{uint32(direction), 0x0800}, &c)
		if err != nil || c.Packets != 3 || c.Bytes != 3*98 {
			t.Errorf("%s: %+v, %v, want 3 packets of 98 bytes", name, c, err)
		}
		if got := r.entry("traffic", `{"direction":"`+name+`","ethertype":2048}`); got != `{"packets":3,"bytes":294}` {
			t.Errorf("client sees %s", got)
		}
	}
}

// Debian's objects: alw drops what is listed, dny what is not.
func TestXDPFilter(t *testing.T) {
	found, err := filepath.Glob("/usr/lib/*/bpf/xdpfilt_alw_ip.o")
	if err != nil || len(found) == 0 {
		t.Skip("libxdp1 is not installed: run scripts/setup")
	}
	for _, tt := range []struct {
		program, address string
		back             int
	}{
		{"xdpfilt_alw_ip", "10.77.0.1", 0},
		{"xdpfilt_alw_ip", "203.0.113.9", 3},
		{"xdpfilt_dny_ip", "10.77.0.1", 3},
		{"xdpfilt_dny_ip", "203.0.113.9", 0},
	} {
		t.Run(tt.program+" lists "+tt.address, func(t *testing.T) {
			testenv.NoLeaks(t)
			pair := testenv.Veth(t)
			object := filepath.Join(filepath.Dir(found[0]), tt.program+".o")
			r := start(t, "xdp-filter",
				"/usr/lib/x86_64-linux-gnu/bpf/xdpfilt_alw_ip.o", object, "xdpfilt_alw_ip.o.p7s", tt.program+".o.p7s",
				`"xdpfilt_alw_ip"`, `"`+tt.program+`"`,
				`"203.0.113.9"`, `"`+tt.address+`"`, `interface = "hornet1"`, on(pair.B))
			if got := pair.Ping(t, 3); got != tt.back {
				t.Errorf("%d of 3 pings came back, want %d", got, tt.back)
			}
			// Each CPU starts with the flags; each match adds 64.
			var perCPU []uint64
			if err := r.kernel("filter_ipv4").Lookup([4]byte{10, 77, 0, 1}, &perCPU); err == nil {
				matches := uint64(0)
				for _, v := range perCPU {
					if v%64 != 1 {
						t.Errorf("flags are %d, want 1", v%64)
					}
					matches += v / 64
				}
				if matches != 3 {
					t.Errorf("%d matches, want 3", matches)
				}
			} else if tt.address == "10.77.0.1" {
				t.Error(err)
			}
			r.frozen("filter_ipv4", pair.B.Addr.AsSlice(), perCPU)
		})
	}
}

// on says in a manifest where the other end of the cable is.
func on(e testenv.End) string {
	return "interface = \"" + e.Name + "\"\nnetns = \"" + e.Netns + "\""
}

// TestMapFD: a program in C and one in Python, each as a user who may nothing
// else, read a ring buffer and a count with a socket and system calls alone.
func TestMapFD(t *testing.T) {
	testenv.NoLeaks(t)
	const uid = 4242
	const count = 20
	r := start(t, "map-fd", `"1000"`, `"4242"`, "min_uid = 0", "min_uid = 4242")
	binary := filepath.Join(r.host.Dir, "map_fd")
	for name, argv := range map[string][]string{
		"C":      {binary},
		"Python": {"/usr/bin/python3", "-I", r.host.Write("map_fd.py", readFile(t, "map-fd/map_fd.py"))},
	} {
		t.Run(name, func(t *testing.T) {
			if name == "C" {
				if _, err := exec.LookPath("cc"); err != nil {
					t.Skip("needs a C compiler")
				}
				if out, err := exec.Command("cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", binary, "map-fd/map_fd.c").CombinedOutput(); err != nil {
					t.Fatalf("cc: %v\n%s", err, out)
				}
			}
			if _, err := os.Stat("/usr/bin/python3"); err != nil && name == "Python" {
				t.Skip("needs Python")
			}
			stdout, stderr, exit := r.host.RunAs(uid, append(argv, r.host.Socket+"x", "1")...)
			if exit == 0 {
				t.Errorf("without a daemon: %s, %s", stdout, stderr)
			}
			stdout, stderr, exit = r.host.RunAs(uid+1, append(argv, r.host.Socket, "1")...)
			if exit != 1 || !strings.Contains(stderr, `"kind":"denied"`) {
				t.Errorf("another user: exit status %d: %s, %s", exit, stdout, stderr)
			}
			cmd := exec.CommandContext(t.Context(), "setpriv", append([]string{"--reuid=4242", "--regid=4242", "--clear-groups", "--bounding-set=-all", "--"}, append(argv, r.host.Socket, strconv.Itoa(count))...)...)
			cmd.Dir = "/"
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var complaint strings.Builder
			cmd.Stderr = &complaint
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var said []string
			for lines := bufio.NewScanner(out); lines.Scan(); {
				if said = append(said, lines.Text()); lines.Text() != "reading" {
					continue
				}
				for range count {
					if err := exec.Command("setpriv", "--reuid=4242", "--clear-groups", "true").Run(); err != nil {
						t.Error(err)
					}
				}
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v: %s\n%s", err, complaint.String(), strings.Join(said, "\n"))
			}
			var n uint64
			if err := r.kernel("execs").Lookup(uint32(uid), &n); err != nil {
				t.Fatal(err)
			}
			all := strings.Join(said, "\n")
			var told uint64 // it looked when it had read enough, and some started after that
			fmt.Sscanf(said[len(said)-1], "uid 4242 started %d programs", &told)
			if len(said) != count+2 || strings.Count(all, ", uid 4242: true\n") < count/2 || told < count/2 || told > n {
				t.Errorf("%s\nthe kernel counted %d", all, n)
			}
			t.Logf("kernel.unprivileged_bpf_disabled is %s", readFile(t, "/proc/sys/kernel/unprivileged_bpf_disabled"))
		})
	}
}

func readFile(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
