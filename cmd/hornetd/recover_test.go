package main_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/signing"
)

// TestKilledAtEverySystemCallOfAReplacement: whenever it dies, the interface is
// never without a program, the link stays the same one, and the next daemon
// ends with the new manifest, adopted or replaced, and nothing in quarantine.
func TestKilledAtEverySystemCallOfAReplacement(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	networks := []string{"10.77.0.0/24", "192.0.2.0/24"}
	h.Manifest("xdp-drop", blocking(pair, networks[0], ""))
	h.Start()
	id := get(t, h, "xdp-drop").Links[0].ID

	// Every point of a replacement is a bpf, rename, mkdir, unlink, link or
	// sync call; those of the start are not traced.
	rounds := 0
	for _, syscall := range []string{"bpf", "renameat2", "mkdirat", "linkat", "unlinkat", "fdatasync"} {
		for n := 1; ; n++ {
			if testing.Short() && n > 2 {
				break
			}
			rounds++
			h.Manifest("xdp-drop", blocking(pair, networks[rounds%2], ""))
			cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", fmt.Sprintf("inject=%s:signal=KILL:when=%d", syscall, n))
			_, err := reload(t, h)
			survived := err == nil
			if survived {
				h.Kill()
			} else {
				h.Wait()
			}
			cmd.Wait()
			if show := testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name); !strings.Contains(show, "xdp") {
				t.Fatalf("%s %d: no program on the interface after the kill", syscall, n)
			}
			h.Start()
			c := get(t, h, "xdp-drop")
			if c.State != api.StateRunning || c.Links[0].ID != id || c.Reason != "" {
				t.Fatalf("%s %d: %s %q with link %d, before %d\n%s", syscall, n, c.State, c.Reason, c.Links[0].ID, id, h.Log())
			}
			if got := kernelLinks(t, c); !got[id] {
				t.Fatalf("%s %d: the link does not run the program of the answer: %v", syscall, n, got)
			}
			if left := onBPFFS(t, h); len(left) != 1 {
				t.Fatalf("%s %d: on bpffs: %v", syscall, n, left)
			}
			if survived {
				break // there are fewer than n such calls
			}
		}
	}
	if !testing.Short() && rounds < 40 {
		t.Errorf("only %d kills", rounds)
	}
}

// two is a collection with two programs on the same hook of the same cgroup,
// and maps of which one is kept.
func two(cgroup, more string) string {
	return fmt.Sprintf(`
[object]
path = "conn_count.bpf.o"
[maps.connects]
class = "mutable"
keep = true
[[attach]]
program = "connect4"
cgroup = %q
[[attach]]
program = "connect6"
cgroup = %q
`, cgroup, cgroup) + more
}

func TestMissingPinIsRepairedAtStart(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("two", two(testenv.Cgroup(t), ""))
	h.Start()
	before := get(t, h, "two")
	h.Kill()
	if err := os.Remove(filepath.Join(h.BPFFS, "two/maps/connects")); err != nil {
		t.Fatal(err)
	}
	h.Start()
	after := get(t, h, "two")
	if after.State != api.StateRunning || !after.Adopted || after.Reason != "" {
		t.Errorf("%s, adopted %t: %q", after.State, after.Adopted, after.Reason)
	}
	var told []api.EventKind
	for e, err := range h.Client().Events(context.Background(), api.EventsOptions{}) {
		if err != nil {
			t.Fatal(err)
		}
		told = append(told, e.Kind)
	}
	if i := slices.Index(told, api.EventRepaired); i < 0 || i > slices.Index(told, api.EventStarted) {
		t.Errorf("not repaired before it was ready: %v", told)
	}
	pinned, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, "two/maps/connects"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer pinned.Close()
	info, err := pinned.Info()
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := info.ID(); !slices.ContainsFunc(before.Maps, func(m api.Map) bool { return m.Name == "connects" && m.ID == uint32(id) }) {
		t.Errorf("map %d is pinned, before: %+v", id, before.Maps)
	}
	if got := kernelLinks(t, before); len(got) != 2 {
		t.Errorf("links: %v", got)
	}
}

// TestQuarantineNeverRunsTwice: what does not match its record keeps running
// where it is, and its manifest does not attach everything a second time.
func TestQuarantineNeverRunsTwice(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	h.Manifest("two", two(cgroup, ""))
	h.Start()
	before := get(t, h, "two")
	h.Kill()
	// Something of nobody's in a directory of ours.
	if err := os.Mkdir(filepath.Join(h.BPFFS, "two/links/foreign"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.Start()
	list, err := h.Client().List(context.Background())
	if err != nil || len(list) != 2 {
		t.Fatalf("list = %+v, %v", list, err)
	}
	var dir string
	for _, c := range list {
		switch {
		case c.State == api.StateQuarantined:
			dir = c.Name
		case c.State != api.StateFailed || !strings.Contains(c.Reason, "quarantine-"):
			t.Errorf("%s: %s %q", c.Name, c.State, c.Reason)
		}
	}
	show, _, _ := h.RunAs(0, "bpftool", "cgroup", "show", cgroup)
	if n := strings.Count(show, "connect4"); n != 1 {
		t.Errorf("connect4 is attached %d times:\n%s", n, show)
	}
	_, err = h.Client().Load(context.Background(), "two")
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindConflict || !strings.Contains(e.Hint, dir) {
		t.Errorf("load beside the quarantine: %#v", err)
	}
	if _, err := h.Client().Unload(context.Background(), dir, api.UnloadRequest{Force: true}); err != nil {
		t.Fatal(err)
	}
	if got := kernelLinks(t, before); len(got) != 0 {
		t.Errorf("links after unload --force: %v", got)
	}
	if c := load(t, h, "two"); c.State != api.StateRunning {
		t.Errorf("load after it: %+v", c)
	}
}

// TestSeveralProgramsOnOneHook: each keeps its own link over a replacement.
func TestSeveralProgramsOnOneHook(t *testing.T) {
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("attach.bpf.o", example(t, "../loader/testdata/attach.bpf.o"))
	text := func(version int) string {
		s := fmt.Sprintf("version = %d\n[object]\npath = \"attach.bpf.o\"\n[maps.\"*\"]\nclass = \"mutable\"\n", version)
		for _, program := range []string{"tcx_in", "tcx_any"} {
			s += fmt.Sprintf("[[attach]]\nprogram = %q\ninterface = %q\nnetns = %q\n", program, pair.B.Name, pair.B.Netns)
		}
		return s + "direction = \"ingress\"\n" // of tcx_any: its section says none
	}
	h.Manifest("tcx", text(1))
	h.Start()
	ids := func() map[string]uint32 {
		out := make(map[string]uint32)
		for _, l := range get(t, h, "tcx").Links {
			out[l.Program] = l.ID
		}
		return out
	}
	before := ids()
	if len(before) != 2 {
		t.Fatalf("links: %v", before)
	}
	for version := 2; version < 4; version++ {
		h.Manifest("tcx", text(version))
		if plan, err := reload(t, h); err != nil || !plan.Changes[0].Done {
			t.Fatalf("reload = %+v, %v", plan, err)
		}
		if after := ids(); fmt.Sprint(after) != fmt.Sprint(before) {
			t.Errorf("links %v became %v", before, after)
		}
	}
}

// TestTestsLeaveKeptMapsAlone: a test of what is to come must not write into
// what runs, whether it fails or passes.
func TestTestsLeaveKeptMapsAlone(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	keep := func(more string) string {
		return strings.Replace(blocking(pair, "10.77.0.0/24", more), "[maps.hits]", "[maps.hits]\nkeep = true\n", 1)
	}
	h.Manifest("xdp-drop", keep(""))
	h.Start()
	pair.Ping(t, 1)
	h.Manifest("xdp-drop", keep(`
[[test]]
program = "xdp_drop"
data = "02000000000102000000000208004500001400000000400100000a4d00020a4d0001"
returns = "XDP_PASS"
`))
	plan, err := reload(t, h)
	if err != nil || plan.Changes[0].Error == nil || !strings.Contains(plan.Changes[0].Error.Message, "XDP_DROP") {
		t.Errorf("reload = %+v, %v", plan, err)
	}
	if got := hits(t, h); got != `{"packets":1,"bytes":98}` {
		t.Errorf("hits = %s: the test wrote into the live map", got)
	}
	h.Manifest("xdp-drop", keep(`
[[test]]
program = "xdp_drop"
data = "02000000000102000000000208004500001400000000400100000a4d00020a4d0001"
returns = "XDP_DROP"
`))
	if plan, err := reload(t, h); err != nil || !plan.Changes[0].Done {
		t.Errorf("reload = %+v, %v", plan, err)
	}
	if got := hits(t, h); got != `{"packets":1,"bytes":98}` {
		t.Errorf("hits = %s: a test that passes wrote into the live map too", got)
	}
}

// TestRefusedReloadLeavesTrustAlone: whom to trust changes with everything else
// or not at all.
func TestRefusedReloadLeavesTrustAlone(t *testing.T) {
	h := testdaemon.New(t, "")
	h.Start()
	_, cert, err := signing.Keygen("newcomer", "ecdsa")
	if err != nil {
		t.Fatal(err)
	}
	h.Write("trust.d/newcomer.pem", cert)
	broken := h.Manifest("broken", "nonsense = true\n")
	signers := func() int {
		s, err := h.Client().Status(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		return len(s.Signers)
	}
	if _, err := reload(t, h); err == nil {
		t.Fatal("the broken manifest was accepted")
	}
	if n := signers(); n != 1 {
		t.Errorf("%d signers after a refused reload", n)
	}
	if err := os.Remove(broken); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, h); err != nil {
		t.Fatal(err)
	}
	if n := signers(); n != 2 {
		t.Errorf("%d signers after a reload", n)
	}
}

// quarantined has a directory of h's that runs set aside, for something of
// nobody's in it, which is at the returned path.
func quarantined(t *testing.T, h *testdaemon.Host, name string) (dir, foreign string) {
	t.Helper()
	h.Kill()
	if err := os.Mkdir(filepath.Join(h.BPFFS, name, "links/foreign"), 0o700); err != nil {
		t.Fatal(err)
	}
	h.Start()
	for entry := range onBPFFS(t, h) {
		if strings.HasPrefix(entry, "quarantine-") {
			dir = entry
		}
	}
	if dir == "" {
		t.Fatal("nothing is in quarantine")
	}
	return dir, filepath.Join(h.BPFFS, dir, "links/foreign")
}

// TestQuarantineBesideAStage: what a kill in the middle of an upgrade left is swept
// by a start that puts the collection into quarantine, and takes no link from it.
func TestQuarantineBesideAStage(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "10.77.0.0/24", ""))
	h.Start()
	before := get(t, h, "xdp-drop")
	h.Kill()
	pins, err := filepath.Glob(filepath.Join(h.BPFFS, "xdp-drop/links/*"))
	if err != nil || len(pins) != 1 {
		t.Fatalf("links %v, %v", pins, err)
	}
	stage := filepath.Join(h.BPFFS, "stage-0123456789abcdef")
	must(t, os.MkdirAll(stage+"/links", 0o700))
	must(t, os.Link(pins[0], stage+"/links/"+filepath.Base(pins[0])))
	dir, _ := quarantined(t, h, "xdp-drop")
	if left := onBPFFS(t, h); len(left) != 1 || !left[dir] {
		t.Errorf("on bpffs: %v", left)
	}
	if show := testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name); !strings.Contains(show, "xdp") || len(kernelLinks(t, before)) != 1 {
		t.Errorf("the program no longer runs: links %v, %s", kernelLinks(t, before), show)
	}
}

// TestRecover: what is in order again gets its name back untouched, and what is
// not is replaced without a gap.
func TestRecover(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	h.Manifest("two", two(cgroup, ""))
	h.Start()
	before := get(t, h, "two")

	dir, foreign := quarantined(t, h, "two")
	for _, none := range []string{"two", "quarantine-0-two", "quarantine-"} {
		if _, stderr, exit := h.Ctl("recover", none); exit != api.ExitFailure {
			t.Errorf("recover %s: exit %d, %s", none, exit, stderr)
		}
	}
	if err := os.Remove(foreign); err != nil {
		t.Fatal(err)
	}
	if _, stderr, exit := h.CtlAs(4242, "recover", dir); exit != api.ExitDenied {
		t.Errorf("as another user: exit %d, %s", exit, stderr)
	}
	ctl(t, h, "recover", dir)
	c := get(t, h, "two")
	if c.State != api.StateRunning || !cmp.Equal(kernelLinks(t, c), kernelLinks(t, before)) {
		t.Errorf("in order again: %s %q, links %v, were %v", c.State, c.Reason, kernelLinks(t, c), kernelLinks(t, before))
	}
	if left := onBPFFS(t, h); len(left) != 1 || !left["two"] {
		t.Errorf("on bpffs: %v", left)
	}

	dir, _ = quarantined(t, h, "two")
	ctl(t, h, "recover", dir)
	c = get(t, h, "two")
	if c.State != api.StateRunning || c.Adopted || len(kernelLinks(t, c)) != len(before.Links) {
		t.Errorf("loaded anew: %s %q, links %v", c.State, c.Reason, kernelLinks(t, c))
	}
	if got := kernelLinks(t, before); len(got) != 0 {
		t.Errorf("what was in quarantine still runs: links %v", got)
	}
	if left := onBPFFS(t, h); len(left) != 1 || !left["two"] {
		t.Errorf("on bpffs: %v", left)
	}
}

// TestRecoverBusy: where a hook takes one program only, the one in quarantine
// stays until somebody says that it may go.
func TestRecoverBusy(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	h.Start()
	before := load(t, h, "xdp-drop")
	dir, _ := quarantined(t, h, "xdp-drop")
	if _, stderr, exit := h.Ctl("recover", dir); exit != api.ExitFailure || !strings.Contains(stderr, "hornetctl unload --force "+dir+" && hornetctl load xdp-drop") {
		t.Errorf("exit %d, %s", exit, stderr)
	}
	if got := kernelLinks(t, before); len(got) != 1 {
		t.Fatalf("what is in quarantine has links %v", got)
	}
	if _, err := h.Client().Load(context.Background(), "xdp-drop"); err == nil {
		t.Error("loaded beside what is in quarantine")
	}
	ctl(t, h, "unload", "--force", dir)
	load(t, h, "xdp-drop")
}

// TestQuarantineWithoutDirectory: what was in quarantine and has lost its directory can
// be ended like the rest, with what somebody else holds of it.
func TestQuarantineWithoutDirectory(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	h.Start()
	before := load(t, h, "xdp-drop")
	dir, _ := quarantined(t, h, "xdp-drop")
	held, err := link.NewFromID(link.ID(before.Links[0].ID))
	must(t, err)
	defer held.Close()
	must(t, os.RemoveAll(filepath.Join(h.BPFFS, dir)))
	ctl(t, h, "unload", "--force", dir)
	if c := load(t, h, "xdp-drop"); len(kernelLinks(t, c)) != 1 || strings.Contains(problems(t, h), dir) {
		t.Errorf("links %v, problems %s", kernelLinks(t, c), problems(t, h))
	}
}

// TestQuarantineIsRevoked: what is set aside runs on, and is in reach of the
// revocation list as what is not.
func TestQuarantineIsRevoked(t *testing.T) {
	testenv.NoLeaks(t)
	for _, policy := range []string{"keep", "unload"} {
		t.Run(policy, func(t *testing.T) {
			h := testdaemon.New(t, rooted+fmt.Sprintf("revoked = %q\n", policy))
			dev := signer(t, h, "second")
			object := example(t, "conn-count/conn_count.bpf.o")
			h.Write("hornet.d/conn_count.bpf.o", object)
			h.Write("hornet.d/conn_count.bpf.o.p7s", dev.sign(t, object))
			h.Manifest("two", two(testenv.Cgroup(t), ""))
			h.Start()
			before := get(t, h, "two")
			dir, foreign := quarantined(t, h, "two")
			h.Revoke(fmt.Sprintf("serial = 1\n[[key]]\nid = %q\n", dev.keyID(t)))
			if _, err := reload(t, h); err != nil {
				t.Log(err)
			}
			if policy == "unload" {
				if got := kernelLinks(t, before); len(got) != 0 || len(onBPFFS(t, h)) != 0 {
					t.Errorf("it runs on: links %v, %v", got, onBPFFS(t, h))
				}
				return
			}
			if got := problems(t, h); !strings.Contains(got, "revoked") {
				t.Errorf("status says %q", got)
			}
			if err := os.Remove(foreign); err != nil {
				t.Fatal(err)
			}
			if _, stderr, exit := h.Ctl("recover", dir); exit != api.ExitFailure || !strings.Contains(stderr, "revoked") {
				t.Errorf("recover: exit %d, %s", exit, stderr)
			}
			ctl(t, h, "unload", "--force", dir)
		})
	}
}

// TestAnotherSignerBeginsAnew: what one signer's programs counted is not handed
// to another's that comes under the same name.
func TestAnotherSignerBeginsAnew(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	object := example(t, "conn-count/conn_count.bpf.o")
	h.Object("conn_count.bpf.o", object)
	m := two(testenv.Cgroup(t), "")
	h.Manifest("two", m)
	h.Start()
	id := mapID(t, h, "two")
	other := signer(t, h, "other")
	h.Write("hornet.d/conn_count.bpf.o.p7s", other.sign(t, object))
	h.Manifest("two", "description = \"another's\"\n"+m)
	plan, err := reload(t, h)
	if err != nil || plan.Changes[0].Error == nil || !strings.Contains(plan.Changes[0].Error.Message, `maps.connects: its contents are those of what signer "dev" signed (object), and this is signer "other"`) {
		t.Errorf("reload: %+v, %v", plan, err)
	}
	if got := mapID(t, h, "two"); got != id {
		t.Errorf("map %d, was %d", got, id)
	}
	unload(t, h, "two")
	load(t, h, "two")
}

// TestCollectionMountedOver: what is mounted over the directory of a collection is not
// that collection; a start leaves both alone and says so, and one without the mount adopts.
func TestCollectionMountedOver(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	h.Manifest("two", two(cgroup, ""))
	h.Start()
	before := get(t, h, "two")
	h.Kill()
	dir := filepath.Join(h.BPFFS, "two")
	must(t, unix.Mount(testenv.BPFFS(t), dir, "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	h.Start()
	if c := get(t, h, "two"); c.State == api.StateRunning || !strings.Contains(c.Reason, "something is mounted there") {
		t.Errorf("two is %s: %s", c.State, c.Reason)
	}
	if n := len(kernelLinks(t, before)); n != len(before.Links) {
		t.Errorf("%d links of %d", n, len(before.Links))
	}
	h.Kill()
	must(t, unix.Unmount(dir, 0))
	h.Start()
	if c := get(t, h, "two"); c.State != api.StateRunning {
		t.Errorf("without the mount, two is %s: %s", c.State, c.Reason)
	}
}
