package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// passes and fails are healths that need no traffic.
const (
	passes = "[health]\nseconds = 1\nvariable = \"hits_dissect\"\nequals = 0\n"
	fails  = "[health]\nseconds = 1\nvariable = \"hits_dissect\"\ngrows = true\n"
	long   = "[health]\nseconds = 60\nvariable = \"hits_dissect\"\nequals = 0\n"
)

// trialOver waits until nothing is on trial any more.
func trialOver(t *testing.T, h *testdaemon.Host, name string) api.Collection {
	t.Helper()
	for range 2000 {
		if c := get(t, h, name); c.TrialUntil.IsZero() {
			return c
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Fatalf("%s is on trial still\n%s", name, h.Log())
	return api.Collection{}
}

func history(t *testing.T, h *testdaemon.Host) string {
	t.Helper()
	var all []string
	for _, e := range events(t, h, 0) {
		if e.Collection != "" {
			all = append(all, string(e.Kind))
		}
	}
	return strings.Join(all, " ")
}

// tells waits until the events of collections begin with want: one is told of
// behind what it is about.
func tells(t *testing.T, h *testdaemon.Host, want string) {
	t.Helper()
	eventually(t, "events: "+want, func() bool { return strings.HasPrefix(history(t, h), want) })
}

func upgrade(t *testing.T, h *testdaemon.Host, name string) api.Collection {
	t.Helper()
	c, err := h.Client().Upgrade(context.Background(), name)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// TestTrialThatPasses: what held is what runs, counts, and is all there is.
func TestTrialThatPasses(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	h.Manifest("mixed", mixed(pair, cgroup, 1, "upgrade = \"gap\"\n"+passes))
	h.Start()
	slow := strings.Replace(passes, "seconds = 1", "seconds = 5", 1)
	first := get(t, h, "mixed")
	if !first.TrialUntil.IsZero() {
		t.Error("a first load is on trial: there is nothing to go back to")
	}
	h.Manifest("mixed", mixed(pair, cgroup, 2, "upgrade = \"gap\"\n"+slow))
	c := upgrade(t, h, "mixed")
	if left := time.Until(c.TrialUntil); left <= 0 || left > 5*time.Second || c.Version != 2 {
		t.Errorf("version %d, on trial for %s", c.Version, left)
	}
	if out := ctl(t, h, "show", "mixed"); !strings.Contains(out, "On trial") {
		t.Errorf("show does not say that it is on trial:\n%s", out)
	}
	if got := kernelLinks(t, first); len(got) != 0 {
		t.Errorf("links of the old programs during the trial: %v", got)
	}
	if got := onBPFFS(t, h); len(got) != 2 {
		t.Errorf("during the trial on bpffs: %v", got)
	}
	// Nothing else waits.
	if _, err := h.Client().Plan(context.Background()); err != nil || get(t, h, "mixed").TrialUntil.IsZero() {
		t.Errorf("a plan during the trial: %v, and then it is over", err)
	}
	now := trialOver(t, h, "mixed")
	if now.Version != 2 || len(kernelLinks(t, now)) != 5 || len(onBPFFS(t, h)) != 1 {
		t.Errorf("afterwards: version %d, links %v, on bpffs %v", now.Version, kernelLinks(t, now), onBPFFS(t, h))
	}
	tells(t, h, "loaded replaced upgraded")
	h.Manifest("mixed", mixed(pair, cgroup, 1, passes))
	var e *api.Error
	if _, err := h.Client().Upgrade(context.Background(), "mixed"); !errors.As(err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, "rolled-back") {
		t.Errorf("upgrade to the version before: %v", err)
	}
	h.Stop()
	h.Start()
	if c := get(t, h, "mixed"); c.Version != 2 || !c.Adopted {
		t.Errorf("after a restart: version %d, adopted %t", c.Version, c.Adopted)
	}
}

// TestTrialThatFails: the version before runs again, links of every kind, and
// counts; what failed is tried again only when somebody says so.
func TestTrialThatFails(t *testing.T) {
	for name, room := range map[string]string{"gap": "upgrade = \"gap\"\n", "turns": "priorities = [10, 11]\n"} {
		t.Run(name, func(t *testing.T) {
			h, pair, cgroup := newMixed(t)
			h.Manifest("mixed", mixed(pair, cgroup, 1, room))
			h.Start()
			first := get(t, h, "mixed")
			was := byProgram(t, first)
			h.Manifest("mixed", mixed(pair, cgroup, 2, room+fails))
			if c := upgrade(t, h, "mixed"); c.Version != 2 || c.Programs[0].ID == first.Programs[0].ID {
				t.Errorf("not upgraded: %+v", c)
			}
			second := get(t, h, "mixed")
			now := trialOver(t, h, "mixed")
			if now.Version != 1 || fmt.Sprint(now.Programs) != fmt.Sprint(first.Programs) || fmt.Sprint(now.Maps) != fmt.Sprint(first.Maps) {
				t.Errorf("afterwards: %+v, before %+v", now, first)
			}
			if diff := cmp.Diff(first.Charged, now.Charged); diff != "" || now.Adopted {
				t.Errorf("adopted %t, charged before (-) and afterwards (+):\n%s", now.Adopted, diff)
			}
			links := byProgram(t, now)
			for _, program := range []string{"xdp_pass", "tcx_in", "skb_ingress"} {
				if links[program] != was[program] {
					t.Errorf("%s: %+v, before %+v", program, links[program], was[program])
				}
			}
			if links["nf_accept"].Priority != was["nf_accept"].Priority {
				t.Errorf("netfilter is at priority %d, before at %d", links["nf_accept"].Priority, was["nf_accept"].Priority)
			}
			if got := kernelLinks(t, now); len(got) != 5 || len(kernelLinks(t, second)) != 0 || len(onBPFFS(t, h)) != 1 {
				t.Errorf("links %v, of what failed %v, on bpffs %v", got, kernelLinks(t, second), onBPFFS(t, h))
			}
			tells(t, h, "loaded replaced returned")
			if !strings.Contains(now.Reason, "version 2 did not pass its trial: variable hits_dissect was 0 and is 0") || !strings.Contains(problems(t, h), "did not pass") {
				t.Errorf("reason %q, problems %s", now.Reason, problems(t, h))
			}
			keeps := func(when string) {
				t.Helper()
				if c := get(t, h, "mixed"); c.Version != 1 || !c.TrialUntil.IsZero() || !strings.Contains(c.Reason, "did not pass") {
					t.Errorf("%s: version %d, %q", when, c.Version, c.Reason)
				}
			}
			if plan, err := reload(t, h); err != nil || action(plan, "mixed") != api.ActionKeep || !strings.Contains(plan.Changes[0].Reason, "upgrade tries it again") {
				t.Errorf("reload = %+v, %v", plan, err)
			}
			keeps("after a reload")
			h.Kill()
			h.Start()
			if _, err := reload(t, h); err != nil { // behind the reproof of the start
				t.Error(err)
			}
			keeps("after a restart")
			if c := upgrade(t, h, "mixed"); c.Version != 2 || c.TrialUntil.IsZero() {
				t.Errorf("upgrade of what failed before: version %d, on trial until %s", c.Version, c.TrialUntil)
			}
			if c := trialOver(t, h, "mixed"); !c.Adopted || c.Charged.To != api.ChargedToEarlier {
				t.Errorf("what a hornetd before this one loaded is adopted: %t, charged to %+v", c.Adopted, c.Charged)
			}
			// The older one counts still: it loads from disk.
			h.Manifest("mixed", mixed(pair, cgroup, 1, room))
			unload(t, h, "mixed")
			if c := load(t, h, "mixed"); c.Version != 1 {
				t.Errorf("version %d", c.Version)
			}
			// A mended one is taken by itself.
			h.Manifest("mixed", mixed(pair, cgroup, 2, room+passes))
			if plan, err := reload(t, h); err != nil || action(plan, "mixed") != api.ActionReplace {
				t.Errorf("reload = %+v, %v", plan, err)
			}
			if c := trialOver(t, h, "mixed"); c.Version != 2 || c.Reason != "" {
				t.Errorf("version %d: %q", c.Version, c.Reason)
			}
		})
	}
}

// TestTrialByCounter looks at a map under traffic, and at what a program returns.
func TestTrialByCounter(t *testing.T) {
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	health := func(network, condition string) string {
		return blocking(pair, network, "[health]\nseconds = 2\n"+condition)
	}
	const counter = "map = \"hits\"\nkey = 7\nfield = \"packets\"\n"
	run := func(returns string) string {
		return "program = \"xdp_drop\"\ndata = \"02000000000102000000000208004500001400000000400100000a4d00020a4d0001\"\nreturns = \"" + returns + "\"\n"
	}
	h.Manifest("xdp-drop", blocking(pair, "192.0.2.0/24", ""))
	h.Start()
	for i, c := range []struct {
		condition string
		traffic   int
		passes    bool
		fast      bool
	}{
		{counter + "grows = true\n", 1, true, false},
		{counter + "grows = true\n", 0, false, false},
		{counter + "at_least = 2\n", 2, true, false},
		{counter + "at_least = 2\n", 1, false, false},
		{counter + "equals = 0\n", 0, true, false},
		{counter + "equals = 0\n", 1, false, true},
		{run("XDP_DROP"), 0, true, false},
		{run("XDP_PASS"), 0, false, true},
	} {
		if testing.Short() && !c.fast {
			continue
		}
		before := get(t, h, "xdp-drop")
		h.Manifest("xdp-drop", health(fmt.Sprintf("10.77.0.0/%d", 16+i), c.condition))
		began := time.Now()
		upgrade(t, h, "xdp-drop")
		pair.Ping(t, c.traffic)
		now := trialOver(t, h, "xdp-drop")
		took := time.Since(began)
		if passed := now.Programs[0].ID != before.Programs[0].ID; passed != c.passes {
			t.Errorf("%s with %d packets: passed %t, %q", c.condition, c.traffic, passed, now.Reason)
		}
		if c.fast && c.traffic == 0 && took > time.Second {
			t.Errorf("%s: found after %s", c.condition, took)
		}
		if show := testenv.IP(t, pair.B.Netns, "link", "show", "dev", pair.B.Name); !strings.Contains(show, "xdp") || now.Links[0].ID != before.Links[0].ID {
			t.Errorf("%s: link %d, before %d: %s", c.condition, now.Links[0].ID, before.Links[0].ID, show)
		}
	}
	// What is not in the object is refused before anything changes.
	var e *api.Error
	for _, bad := range []string{"map = \"hits\"\ngrows = true\n", "map = \"none\"\ngrows = true\n", "map = \"hits\"\nkey = 7\nfield = \"pakets\"\ngrows = true\n", "map = \"hits\"\nkey = 7\ngrows = true\n",
		"variable = \"none\"\ngrows = true\n", "program = \"none\"\nreturns = 1\n", "map = \"blocked\"\ngrows = true\n"} {
		file := h.Manifest("xdp-drop", health("10.0.0.0/8", bad))
		if _, err := reload(t, h); !errors.As(err, &e) || e.Kind != api.KindManifest || !strings.Contains(e.Message, file) || e.Hint == "" {
			t.Errorf("%s: %#v", bad, err)
		}
	}
}

// TestWhatComesDuringATrial: an unload ends both versions, another upgrade goes
// back, if it fails, to the version that was confirmed last, and one without
// [health] confirms itself.
func TestWhatComesDuringATrial(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	at := func(version int, more string) { h.Manifest("mixed", mixed(pair, cgroup, version, turns+more)) }
	at(1, "")
	h.Start()
	first := get(t, h, "mixed")

	at(2, long)
	second := upgrade(t, h, "mixed")
	at(3, fails)
	upgrade(t, h, "mixed")
	if got := onBPFFS(t, h); len(got) != 2 {
		t.Errorf("on bpffs with a second one on trial: %v", got)
	}
	now := trialOver(t, h, "mixed")
	if now.Version != 1 || fmt.Sprint(now.Programs) != fmt.Sprint(first.Programs) || len(kernelLinks(t, second)) != 0 || len(onBPFFS(t, h)) != 1 {
		t.Errorf("version %d, programs %v, on bpffs %v", now.Version, now.Programs, onBPFFS(t, h))
	}

	at(2, long)
	upgrade(t, h, "mixed")
	at(3, "")
	if c := upgrade(t, h, "mixed"); !c.TrialUntil.IsZero() || c.Version != 3 || len(onBPFFS(t, h)) != 1 {
		t.Errorf("one without health: version %d, on trial until %s, on bpffs %v", c.Version, c.TrialUntil, onBPFFS(t, h))
	}

	at(4, long)
	fourth := upgrade(t, h, "mixed")
	unload(t, h, "mixed")
	if got := onBPFFS(t, h); len(got) != 0 || len(kernelLinks(t, fourth)) != 0 {
		t.Errorf("after an unload: on bpffs %v, links %v", got, kernelLinks(t, fourth))
	}
	// The version that was on trial only does not count.
	at(3, "")
	if c := load(t, h, "mixed"); c.Version != 3 {
		t.Errorf("version %d", c.Version)
	}
}

// TestKilledDuringATrial: a start goes back from what nobody confirmed, and
// begins the trial anew; the older version still counts.
func TestKilledDuringATrial(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	first := get(t, h, "mixed")
	was := byProgram(t, first)
	h.Manifest("mixed", mixed(pair, cgroup, 2, turns+long))
	upgrade(t, h, "mixed")
	h.Kill()
	h.Start()
	tells(t, h, "returned adopted replaced")
	c := get(t, h, "mixed")
	if c.Version != 2 || c.TrialUntil.IsZero() || c.Reason != "" || byProgram(t, c)["xdp_pass"].ID != was["xdp_pass"].ID {
		t.Errorf("version %d, on trial until %s, %q", c.Version, c.TrialUntil, c.Reason)
	}
	h.Kill()
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	c = get(t, h, "mixed")
	if c.Version != 1 || fmt.Sprint(c.Programs) != fmt.Sprint(first.Programs) || len(onBPFFS(t, h)) != 1 || len(kernelLinks(t, c)) != 5 {
		t.Errorf("back at the old manifest: version %d, programs %v, before %v, on bpffs %v", c.Version, c.Programs, first.Programs, onBPFFS(t, h))
	}
	if err := os.Remove(h.Manifests + "/mixed.toml"); err != nil {
		t.Fatal(err)
	}
	if _, err := reload(t, h); err != nil {
		t.Error(err)
	}
}

// TestTrialThatCannotEnd: a start that cannot go back leaves what it would have
// gone back to for the next one.
func TestTrialThatCannotEnd(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	h.Manifest("mixed", mixed(pair, cgroup, 2, turns+long))
	second := upgrade(t, h, "mixed")
	h.Kill()
	must(t, h.TryStart("strace", "-D", "-f", "-qq", "-o", os.DevNull, "-e", "trace=linkat", "-e", "inject=linkat:error=EIO:when=1+"))
	c := get(t, h, "mixed")
	if c.Version != 2 || fmt.Sprint(c.Programs) != fmt.Sprint(second.Programs) || len(onBPFFS(t, h)) != 2 {
		t.Errorf("version %d, on bpffs %v", c.Version, onBPFFS(t, h))
	}
	h.Kill()
	h.Start()
	tells(t, h, "returned adopted replaced")
}

// TestTrialWithoutTheOther: what a version would have gone back to is gone, so it
// has passed once its time is over.
func TestTrialWithoutTheOther(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	h.Manifest("mixed", mixed(pair, cgroup, 2, turns+passes))
	upgrade(t, h, "mixed")
	must(t, os.RemoveAll(beside(t, h)))
	c := trialOver(t, h, "mixed")
	if c.Version != 2 || len(kernelLinks(t, c)) != 5 {
		t.Errorf("version %d, links %v", c.Version, kernelLinks(t, c))
	}
	tells(t, h, "loaded replaced upgraded")
	if all := recordsOf(t, h, "confirm"); len(all) != 2 {
		t.Errorf("confirmed with %d records, want its intent and its outcome", len(all))
	}
}

// TestTrialRebuilt: a version whose directory was removed goes on being on trial
// when it is made anew, and has its way back.
func TestTrialRebuilt(t *testing.T) {
	for name, c := range map[string]struct {
		health  string
		version uint64
	}{"passes": {passes, 2}, "fails": {fails, 1}} {
		t.Run(name, func(t *testing.T) {
			h, pair, cgroup := newMixed(t)
			const turns = "priorities = [10, 11]\n"
			h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
			h.Start()
			h.Manifest("mixed", mixed(pair, cgroup, 2, turns+strings.Replace(c.health, "seconds = 1", "seconds = 6", 1)))
			upgrade(t, h, "mixed")
			other := beside(t, h)
			must(t, os.RemoveAll(filepath.Join(h.BPFFS, "mixed")))
			eventually(t, "made anew, and on trial", func() bool {
				return onBPFFS(t, h)["mixed"] && !get(t, h, "mixed").TrialUntil.IsZero()
			})
			if _, err := os.Stat(other); err != nil {
				t.Errorf("the other: %v", err)
			}
			now := trialOver(t, h, "mixed")
			if now.Version != c.version || len(kernelLinks(t, now)) != 5 {
				t.Errorf("version %d, want %d; links %v", now.Version, c.version, kernelLinks(t, now))
			}
			eventually(t, "nothing of the other", func() bool { return len(onBPFFS(t, h)) == 1 })
		})
	}
}

// TestTrialConfirmedLater: what cannot be confirmed is tried again, and not five
// times a second.
func TestTrialConfirmedLater(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	h.Manifest("mixed", mixed(pair, cgroup, 2, turns+passes))
	upgrade(t, h, "mixed")
	other := beside(t, h)
	must(t, unix.Mount("tmpfs", other, "tmpfs", 0, "")) // it cannot be renamed
	t.Cleanup(func() { unix.Unmount(other, unix.MNT_DETACH) })
	time.Sleep(6 * time.Second)
	tries := len(recordsOf(t, h, "confirm")) / 2
	must(t, unix.Unmount(other, 0))
	if tries < 2 || tries > 6 {
		t.Errorf("tried to confirm %d times in 5 seconds", tries)
	}
	if c := trialOver(t, h, "mixed"); c.Version != 2 || len(onBPFFS(t, h)) != 1 {
		t.Errorf("version %d, on bpffs %v", c.Version, onBPFFS(t, h))
	}
}

// TestTrialAndLease: a lease that ended with the version on trial does not come
// back with the one before, whose record has it.
func TestTrialAndLease(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", "start = \"request\"\n"+mixed(pair, cgroup, 1, turns))
	h.Start()
	l, err := h.Client().LoadLease(t.Context(), "mixed")
	must(t, err)
	defer l.Close()
	if !bytes.Contains(recordOf(t, h, "mixed"), []byte(`"token_sha256"`)) {
		t.Fatal("the record has no lease: this shows nothing")
	}
	h.Manifest("mixed", "start = \"boot\"\n"+mixed(pair, cgroup, 2, turns+fails))
	upgrade(t, h, "mixed")
	if err := l.Wait(); kindOf(err) != api.KindConflict {
		t.Errorf("the holder is told %v", err)
	}
	if c := trialOver(t, h, "mixed"); c.Version != 1 || c.Lease != nil {
		t.Errorf("version %d, lease %+v", c.Version, c.Lease)
	}
	if record := recordOf(t, h, "mixed"); bytes.Contains(record, []byte(`"token_sha256"`)) {
		t.Errorf("its record has the lease: a start would end it: %s", record)
	}
	h.Kill()
	h.Start()
	if c := get(t, h, "mixed"); c.Version != 1 || c.Lease != nil {
		t.Errorf("after a restart: version %d, lease %+v", c.Version, c.Lease)
	}
}

// beside is the directory of what a version on trial would go back to.
func beside(t *testing.T, h *testdaemon.Host) string {
	t.Helper()
	for name := range onBPFFS(t, h) {
		if strings.HasPrefix(name, "stage-") {
			return filepath.Join(h.BPFFS, name)
		}
	}
	t.Fatalf("nothing beside it: %v", onBPFFS(t, h))
	return ""
}

// TestTrialBeforeRevoked: a kill leaves the links of the version before, which is
// revoked by the next start, so that it does not come back. It does not run on
// beside the other; and comes back when it may.
func TestTrialBeforeRevoked(t *testing.T) {
	h, pair, cgroup := newMixedWith(t, rooted)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	first := get(t, h, "mixed")
	h.Manifest("mixed", mixed(pair, cgroup, 2, turns+long))
	// The rename that gives the new version its name is done, and nothing behind it.
	cmd := tracer(t, h.PID(), "-o", os.DevNull, "-e", "inject=renameat2:delay_exit=3000000")
	go h.Client().Upgrade(context.Background(), "mixed") // killed
	eventually(t, "committed", func() bool { return onDisk(t, h, "mixed") == 2 })
	h.Kill()
	cmd.Wait()
	if got := kernelLinks(t, first); len(got) == 0 {
		t.Fatal("the version before has no link: this shows nothing")
	}
	h.Revoke("serial = 1\n[[manifest]]\nname = 'mixed'\nversion = 2\n")
	for range 2 {
		h.Start()
		c := get(t, h, "mixed")
		if got := kernelLinks(t, first); c.Version != 2 || len(kernelLinks(t, c)) != 5 || len(got) != 0 {
			t.Errorf("version %d, links %v; of the one before, which is revoked: %v", c.Version, kernelLinks(t, c), got)
		}
		if _, err := reload(t, h); err != nil {
			t.Error(err)
		}
		const want = "version 2 did not pass its trial (hornetd ended before its trial did), and runs on unconfirmed"
		if c = get(t, h, "mixed"); !strings.Contains(c.Reason, want) || !strings.Contains(c.Reason, "the revocation list") || c.Hint == "" || !strings.Contains(problems(t, h), want) {
			t.Errorf("reason %q, hint %q, problems %s", c.Reason, c.Hint, problems(t, h))
		}
		h.Kill()
	}
	h.Revoke("serial = 2\n")
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	if c := get(t, h, "mixed"); c.Version != 1 || c.Reason != "" || fmt.Sprint(c.Programs) != fmt.Sprint(first.Programs) || len(kernelLinks(t, c)) != 5 || len(onBPFFS(t, h)) != 1 {
		t.Errorf("version %d, %q, links %v, on bpffs %v", c.Version, c.Reason, kernelLinks(t, c), onBPFFS(t, h))
	}
	// What was not confirmed did not count.
	unload(t, h, "mixed")
	if c := load(t, h, "mixed"); c.Version != 1 {
		t.Errorf("version %d", c.Version)
	}
}

// TestTrialReturnedLater: what failed goes back though a call fails once, and while
// calls fail the status says that it runs on, also behind a reload.
func TestTrialReturnedLater(t *testing.T) {
	h, pair, cgroup := newMixed(t)
	const turns = "priorities = [10, 11]\n"
	h.Manifest("mixed", mixed(pair, cgroup, 1, turns))
	h.Start()
	first := get(t, h, "mixed")
	h.Manifest("mixed", mixed(pair, cgroup, 2, turns+fails))
	upgrade(t, h, "mixed")
	const want = "version 2 did not pass its trial (variable hits_dissect was 0 and is 0"
	traced(t, h, func() {
		eventually(t, "it runs on, says the status", func() bool { return strings.Contains(problems(t, h), want) })
		if _, err := reload(t, h); err != nil {
			t.Error(err)
		}
		if c := get(t, h, "mixed"); c.Version != 2 || !strings.Contains(c.Reason, want) || c.Hint == "" || !strings.Contains(problems(t, h), want) {
			t.Errorf("version %d, reason %q, problems %s", c.Version, c.Reason, problems(t, h))
		}
	}, "-o", os.DevNull, "-e", "inject=linkat:error=ENOMEM")
	eventually(t, "it went back", func() bool { return get(t, h, "mixed").Version == 1 })
	c := get(t, h, "mixed")
	if fmt.Sprint(c.Programs) != fmt.Sprint(first.Programs) || len(kernelLinks(t, c)) != 5 || len(onBPFFS(t, h)) != 1 || strings.Contains(problems(t, h), "unconfirmed") {
		t.Errorf("%+v, on bpffs %v, problems %s", c, onBPFFS(t, h), problems(t, h))
	}
	if tries := len(recordsOf(t, h, "return")) / 2; tries < 2 {
		t.Errorf("tried %d times: this shows nothing", tries)
	}
}
