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
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// mixed attaches programs of the loader's fixture to hooks of every kind of
// upgrade: xdp, tcx and cgroup can be updated, raw_tp is attached beside, and
// netfilter has no room. more is what the netfilter [[attach]] says of that.
func mixed(pair testenv.Pair, cgroup string, version int, more string) string {
	return fmt.Sprintf(`
version = %d
[object]
path = "attach.bpf.o"
[maps."*"]
class = "mutable"
[[attach]]
program = "xdp_pass"
interface = %[2]q
netns = %[3]q
[[attach]]
program = "tcx_in"
interface = %[2]q
netns = %[3]q
[[attach]]
program = "skb_ingress"
cgroup = %[4]q
[[attach]]
program = "raw_exec"
[[attach]]
program = "nf_accept"
family = "ipv4"
hook = "input"
netns = %[3]q
`, version, pair.B.Name, pair.B.Netns, cgroup) + more
}

func newMixed(t *testing.T) (*testdaemon.Host, testenv.Pair, string) {
	t.Helper()
	return newMixedWith(t, "")
}

// newMixedWith is newMixed with more in hornetd.toml.
func newMixedWith(t *testing.T, config string) (*testdaemon.Host, testenv.Pair, string) {
	t.Helper()
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
	testenv.RequireEnum(t, "bpf_link_type", "BPF_LINK_TYPE_NETFILTER")
	testenv.NoLeaks(t)
	h := testdaemon.New(t, config)
	h.Object("attach.bpf.o", example(t, "../loader/testdata/attach.bpf.o"))
	return h, testenv.Veth(t), testenv.Cgroup(t)
}

// kernelLink is what bpftool shows of a link.
type kernelLink struct {
	ID        uint32 `json:"id"`
	ProgramID uint32 `json:"prog_id"`
	Priority  int32  `json:"-"` // of netfilter, which this bpftool may not know
}

// byProgram asks bpftool for the links of c, and checks that each runs what c
// says it does.
func byProgram(t *testing.T, c api.Collection) map[string]kernelLink {
	t.Helper()
	all := make(map[string]kernelLink)
	for _, l := range c.Links {
		k := bpftool[kernelLink](t, "link", "show", "id", l.ID)
		if k.ProgramID != l.ProgramID {
			t.Errorf("link %s runs program %d, not %d", l.Name, k.ProgramID, l.ProgramID)
		}
		if l.Kind == "netfilter" {
			k.Priority = priorityOf(t, l.ID)
		}
		all[l.Program] = k
	}
	return all
}

// priorityOf asks the kernel for the priority of a netfilter link.
func priorityOf(t *testing.T, id uint32) int32 {
	t.Helper()
	l, err := link.NewFromID(link.ID(id))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	info, err := l.Info()
	if err != nil {
		t.Fatal(err)
	}
	return info.Netfilter().Priority
}

// hows returns what a plan says of the links, by program.
func hows(p api.Plan) map[string]api.LinkAction {
	out := make(map[string]api.LinkAction)
	for _, c := range p.Changes {
		for _, l := range c.Links {
			out[l.Program] = l.Action
		}
	}
	return out
}

// TestUpgradeOfEveryKind: plan says what becomes of each link, and the kernel has
// it so afterwards.
func TestUpgradeOfEveryKind(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	was := byProgram(t, get(t, h, "mixed"))
	for version := 2; version <= 4; version++ {
		h.Manifest("mixed", mixed(pair, cgroup, version, turns))
		plan, err := h.Client().Plan(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]api.LinkAction{"xdp_pass": api.LinkUpdate, "tcx_in": api.LinkUpdate, "skb_ingress": api.LinkUpdate,
			"raw_exec": api.LinkBeside, "nf_accept": api.LinkBeside}
		if got := hows(plan); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("plan: %v, want %v", got, want)
		}
		if plan, err = reload(t, h); err != nil || !plan.Changes[0].Done || fmt.Sprint(hows(plan)) != fmt.Sprint(want) {
			t.Fatalf("reload = %+v, %v", plan, err)
		}
		now := byProgram(t, get(t, h, "mixed"))
		for program, how := range want {
			if same := now[program].ID == was[program].ID; same != (how == api.LinkUpdate) {
				t.Errorf("version %d: %s: link %d, before %d, and plan said %s", version, program, now[program].ID, was[program].ID, how)
			}
		}
		if now["nf_accept"].Priority == was["nf_accept"].Priority {
			t.Errorf("version %d: netfilter is at priority %d still", version, now["nf_accept"].Priority)
		}
		was = now
	}
	h.Stop()
	h.Start()
	if c := get(t, h, "mixed"); !c.Adopted || c.Reason != "" {
		t.Errorf("after a restart: adopted %t, %q", c.Adopted, c.Reason)
	}
	if got := byProgram(t, get(t, h, "mixed")); fmt.Sprint(got) != fmt.Sprint(was) {
		t.Errorf("after a restart: %v, before %v", got, was)
	}
}

// TestNoRoomIsRefused: a reload that would leave a moment without a program
// changes nothing, also of what else there is, until the manifest says that it may.
func TestNoRoomIsRefused(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("mixed", mixed(pair, cgroup, 1, "priority = 10\n"))
	h.Start()
	before := get(t, h, "mixed")
	was := byProgram(t, before)

	file := h.Manifest("mixed", mixed(pair, cgroup, 2, "priority = 10\n"))
	h.Manifest("other", two(testenv.Cgroup(t), ""))
	_, err := reload(t, h)
	var e *api.Error
	if !errors.As(err, &e) || e.Kind != api.KindManifest || !strings.Contains(e.Message, file+":20: attach[4]") || !strings.Contains(e.Hint, "priorities = [10, 11]") {
		t.Errorf("reload: %#v", err)
	}
	if _, err := h.Client().Upgrade(context.Background(), "mixed"); !errors.As(err, &e) || e.Kind != api.KindManifest {
		t.Errorf("upgrade: %v", err)
	}
	if got := byProgram(t, get(t, h, "mixed")); fmt.Sprint(got) != fmt.Sprint(was) {
		t.Errorf("links after the refusal: %v, before %v", got, was)
	}
	if got := onBPFFS(t, h); len(got) != 1 {
		t.Errorf("on bpffs after the refusal: %v", got)
	}
	if text := string(read(t, filepath.Join(h.State, "audit/audit.jsonl"))); strings.Contains(text, `"phase":"intent","verb":"upgrade"`) {
		t.Error("the refused upgrade has an intent on record")
	}

	h.Manifest("mixed", mixed(pair, cgroup, 2, "priority = 10\nupgrade = \"gap\"\n"))
	if out, _, _ := h.Ctl("plan"); !strings.Contains(out, "gap: the old one goes first") {
		t.Errorf("plan does not say that there is a gap:\n%s", out)
	}
	plan, err := reload(t, h)
	if err != nil || hows(plan)["nf_accept"] != api.LinkGap {
		t.Fatalf("reload = %+v, %v", plan, err)
	}
	now := byProgram(t, get(t, h, "mixed"))
	if now["nf_accept"].ID == was["nf_accept"].ID || now["nf_accept"].Priority != 10 || now["xdp_pass"].ID != was["xdp_pass"].ID {
		t.Errorf("links %v became %v", was, now)
	}
	if got := kernelLinks(t, before); len(got) != 0 {
		t.Errorf("links of the old programs: %v", got)
	}
	gaps := slices.DeleteFunc(events(t, h, 0), func(e api.Event) bool { return e.Kind != api.EventReplaced })
	if len(gaps) != 1 || !strings.Contains(gaps[0].Message, "had no program for") {
		t.Errorf("events of a replacement: %+v", gaps)
	}
	if text := string(read(t, filepath.Join(h.State, "audit/audit.jsonl"))); strings.Count(text, "priority 10 in "+pair.B.Netns+" had no program for ") != 1 {
		t.Error("the gap is not in the audit log once")
	}
	t.Log(gaps)
}

// TestStatisticsAddUp: the kernel counts the runs of each program, and an upgrade
// makes new programs. The kernel's counts, of every version, are the oracle.
func TestStatisticsAddUp(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	stats, err := ebpf.EnableStats(unix.BPF_STATS_RUN_TIME)
	if err != nil {
		t.Fatal(err)
	}
	defer stats.Close()
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", blocking(pair, "192.0.0.0/24", ""))
	h.Start()
	var before uint64
	for version := 1; ; version++ {
		pair.Send(t, 20)
		c := get(t, h, "xdp-drop")
		kernel := bpftool[struct {
			RunCount uint64 `json:"run_cnt"`
		}](t, "prog", "show", "id", c.Programs[0].ID).RunCount
		// Between two looks, and before an upgrade, a packet of the host's own may come.
		if got := c.Programs[0].RunCount; kernel < 20 || got > before+kernel+uint64(5*version) || got+5 < before+kernel {
			t.Errorf("version %d: %d runs, want %d before and %d now", version, got, before, kernel)
		}
		if c.Programs[0].RunTimeNS == 0 {
			t.Errorf("version %d: no time", version)
		}
		before += kernel
		more := ""
		if version == 3 { // goes back: of this one it has its own runs and those of the other
			more = "[health]\nseconds = 2\nmap = \"hits\"\nkey = 99\nfield = \"packets\"\nat_least = 1\n"
		}
		h.Manifest("xdp-drop", blocking(pair, fmt.Sprintf("192.0.%d.0/24", version), more))
		upgrade(t, h, "xdp-drop")
		if version == 3 {
			pair.Send(t, 20)
			failed := get(t, h, "xdp-drop").Programs[0].RunCount
			back := trialOver(t, h, "xdp-drop").Programs[0].RunCount
			if failed < before+20 || back < failed || back > failed+10 {
				t.Errorf("%d runs before, %d on trial, %d when it was back", before, failed, back)
			}
			// From here on the kernel's own count is of more than one version.
			return
		}
	}
}

// TestXDPChangesItsMode: an interface has one XDP program, whatever its mode.
func TestXDPChangesItsMode(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	in := func(mode, more string) string {
		return strings.Replace(blocking(pair, "10.77.0.0/24", more), `mode = "generic"`, fmt.Sprintf("mode = %q", mode), 1)
	}
	h.Manifest("xdp-drop", in("native", ""))
	h.Start()
	var e *api.Error
	h.Manifest("xdp-drop", in("generic", ""))
	if _, err := reload(t, h); !errors.As(err, &e) || !strings.Contains(e.Hint, "leave the mode as it is") {
		t.Errorf("reload: %#v", err)
	}
	if show := testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name); strings.Contains(show, "xdpgeneric") {
		t.Errorf("the refused mode is in force: %s", show)
	}
	h.Manifest("xdp-drop", in("generic", "upgrade = \"gap\"\n"))
	if plan, err := reload(t, h); err != nil || !plan.Changes[0].Done {
		t.Fatalf("reload = %+v, %v", plan, err)
	}
	if show := testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name); !strings.Contains(show, "xdpgeneric") {
		t.Errorf("not in generic mode: %s", show)
	}
}

// TestUpgradeOfOne: what is on disk is read and verified again for one collection,
// and for whom the manifest lets.
func TestUpgradeOfOne(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	const uid = 12345
	text := func(version int, may string) string {
		return fmt.Sprintf("version = %d\n", version) + two(cgroup, fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [%s]\n", uid, may))
	}
	h.Manifest("a", text(1, `"status", "load"`))
	h.Manifest("b", text(1, `"status"`))
	h.Start()
	a, b := get(t, h, "a"), get(t, h, "b")

	if got := ctl(t, h, "upgrade", "a"); !strings.Contains(got, "a: running") {
		t.Errorf("upgrade of what is the same: %s", got)
	}
	if got := get(t, h, "a"); got.Programs[0].ID != a.Programs[0].ID {
		t.Error("what is the same was replaced")
	}
	h.Manifest("b", text(2, `"status"`))
	h.Manifest("a", text(2, `"status", "load"`))
	if _, stderr, exit := h.CtlAs(uid, "upgrade", "a"); exit == 0 || !strings.Contains(stderr, "may not upgrade") {
		t.Errorf("upgrade without the right: exit status %d: %s", exit, stderr)
	}
	h.Manifest("a", text(2, `"status", "upgrade"`))
	if stdout, stderr, exit := h.CtlAs(uid, "upgrade", "a"); exit != 0 {
		t.Errorf("upgrade with the right: exit status %d: %s%s", exit, stdout, stderr)
	}
	now := get(t, h, "a")
	if now.Version != 2 || now.Programs[0].ID == a.Programs[0].ID || now.LoadedBy.UID != uid {
		t.Errorf("after the upgrade: version %d, by %+v", now.Version, now.LoadedBy)
	}
	for _, l := range a.Links {
		if !kernelLinks(t, now)[l.ID] {
			t.Errorf("link %s (%d) does not run the new program", l.Name, l.ID)
		}
	}
	if got := get(t, h, "b"); got.Version != 1 || got.Programs[0].ID != b.Programs[0].ID {
		t.Error("the other one was replaced too")
	}
	// As for a load: older versions, bad signatures.
	var e *api.Error
	h.Manifest("a", text(1, `"status"`))
	if _, err := h.Client().Upgrade(context.Background(), "a"); !errors.As(err, &e) || e.Kind != api.KindSignature {
		t.Errorf("upgrade to an older version: %v", err)
	}
	h.Manifest("a", text(3, `"status"`))
	h.Write("hornet.d/conn_count.bpf.o", append(example(t, "conn-count/conn_count.bpf.o"), 0))
	if _, err := h.Client().Upgrade(context.Background(), "a"); !errors.As(err, &e) || e.Kind != api.KindSignature {
		t.Errorf("upgrade to a tampered object: %v", err)
	}
	if got := get(t, h, "a"); got.Version != 2 || got.Programs[0].ID != now.Programs[0].ID {
		t.Error("a refused upgrade changed something")
	}
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	unload(t, h, "a")
	if _, err := h.Client().Upgrade(context.Background(), "a"); !errors.As(err, &e) || e.Kind != api.KindConflict || !strings.Contains(e.Hint, "load a") {
		t.Errorf("upgrade of what does not run: %#v", err)
	}
	if err := os.Remove(h.Manifests + "/b.toml"); err != nil {
		t.Fatal(err)
	}
	if _, err := h.Client().Upgrade(context.Background(), "b"); !errors.As(err, &e) || e.Kind != api.KindNotFound {
		t.Errorf("upgrade without a manifest: %#v", err)
	}
	// The version of an upgrade is remembered by the log alone.
	h.Kill()
	h.Manifest("a", text(1, `"status"`))
	h.Start()
	if _, err := h.Client().Load(context.Background(), "a"); !errors.As(err, &e) || e.Kind != api.KindSignature {
		t.Errorf("load of an older version than was upgraded to: %v", err)
	}
}
