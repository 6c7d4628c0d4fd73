package main_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// heldUp is a manifest of an object that the kernel's verifier takes seconds for, which
// users may load. head is what stands before the tables, table what stands in that
// of its map.
func heldUp(cgroup, head, table string, users ...int) string {
	text := fmt.Sprintf("start = \"request\"\n%s\n[object]\npath = \"held.bpf.o\"\n[maps.connects]\nclass = \"mutable\"\n%s\n[[attach]]\nprogram = \"slow_0\"\ncgroup = %q\n", head, table, cgroup)
	for _, uid := range users {
		text += fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"status\", \"load\", \"unload\", \"upgrade\"]\n", uid)
	}
	return text
}

// attempt is how a request ended.
type attempt struct {
	c   api.Collection
	err error
}

// request asks on a goroutine of its own.
func request(ask func() (api.Collection, error)) <-chan attempt {
	done := make(chan attempt, 1)
	go func() {
		c, err := ask()
		done <- attempt{c, err}
	}()
	return done
}

// verified begins a load of name and returns when its programs are with the verifier.
func verified(t *testing.T, h *testdaemon.Host, name string, ask func() (api.Collection, error)) <-chan attempt {
	t.Helper()
	before := len(intents(t, h, name))
	done := request(ask)
	eventually(t, name+" is verified", func() bool { return len(intents(t, h, name)) > before })
	return done
}

// still wants that a request has not been answered yet.
func still(t *testing.T, done <-chan attempt) {
	t.Helper()
	select {
	case a := <-done:
		t.Fatalf("it was not held: %v", a.err)
	default:
	}
}

// left lists what of a collection is on bpffs, and stages.
func left(t *testing.T, h *testdaemon.Host, name string) []string {
	t.Helper()
	return slices.DeleteFunc(tree(t, h.BPFFS), func(pin string) bool {
		return !strings.Contains(pin, "/"+name) && !strings.Contains(pin, "/stage-")
	})
}

// recorded lists what the log says of a collection: verb, phase and kind.
func recorded(t *testing.T, h *testdaemon.Host, name string) (all []string) {
	t.Helper()
	for _, r := range auditRecords(t, h.State) {
		if r.Collection == name {
			all = append(all, strings.TrimSpace(fmt.Sprintf("%d %s %s %s", r.Caller.UID, r.Verb, r.Phase, r.Kind)))
		}
	}
	return all
}

// TestMeanwhile: while a user's programs are verified others have their turn, and what
// they do counts.
func TestMeanwhile(t *testing.T) {
	const a, b = stranger, stranger + 1
	ctx := context.Background()
	notThere := func(t *testing.T, h *testdaemon.Host, end attempt, kind api.Kind, message string) {
		t.Helper()
		var e *api.Error
		if !errors.As(end.err, &e) || e.Kind != kind || !strings.Contains(e.Message, message) || e.Hint == "" && kind != api.KindDenied {
			t.Errorf("it ended with %#v, want %s: %s", end.err, kind, message)
		}
		if rest := left(t, h, "held"); len(rest) > 0 {
			t.Errorf("left behind: %v", rest)
		}
		if told := recorded(t, h, "held"); told[0] != fmt.Sprintf("%d load intent", a) || !slices.Contains(told, fmt.Sprintf("%d load outcome %s", a, kind)) {
			t.Errorf("on record: %q", told)
		}
	}
	runs := func(t *testing.T, h *testdaemon.Host, end attempt) {
		t.Helper()
		must(t, end.err)
		if c := get(t, h, "held"); c.State != api.StateRunning || len(kernelLinks(t, c)) != 1 || len(c.Programs) != 3 {
			t.Errorf("%s, %d programs", c.State, len(c.Programs))
		}
	}
	unload := func(t *testing.T, c *api.Client) {
		t.Helper()
		_, err := c.Unload(ctx, "held", api.UnloadRequest{})
		must(t, err)
	}
	for _, test := range []struct {
		name   string
		config string
		head   string // of the manifest
		table  string
		// what happens meanwhile, and what is there afterwards. load is that of user a.
		meanwhile func(t *testing.T, h *testdaemon.Host, cgroup string, load <-chan attempt)
	}{
		{name: "another user loads another one", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			c, err := apiAs(t, h, b).Load(ctx, "one")
			must(t, err)
			still(t, load)
			runs(t, h, <-load)
			if len(kernelLinks(t, c)) != 2 {
				t.Error("the other one does not run")
			}
		}},
		{name: "the user unloads it", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			unload(t, apiAs(t, h, a)) // which waits
			end := <-load
			must(t, end.err)
			if rest := left(t, h, "held"); len(rest) > 0 || len(kernelLinks(t, end.c)) > 0 {
				t.Errorf("left behind: %v", rest)
			}
			want := []string{"1234 load intent", "1234 load outcome", "1234 unload intent", "1234 unload outcome"}
			if got := recorded(t, h, "held"); !slices.Equal(got, want) {
				t.Errorf("on record: %q", got)
			}
		}},
		{name: "users load it again", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			second := request(func() (api.Collection, error) { return apiAs(t, h, a).Load(ctx, "held") })
			third, err := apiAs(t, h, b).Load(ctx, "held") // which waits
			must(t, err)
			first := <-load
			runs(t, h, first)
			for _, c := range []api.Collection{third, (<-second).c} {
				if fmt.Sprint(c.Programs) != fmt.Sprint(first.c.Programs) || c.State != api.StateRunning {
					t.Errorf("another answer is %+v", c)
				}
			}
			if n := len(intents(t, h, "held")); n != 1 {
				t.Errorf("it was loaded %d times", n)
			}
		}},
		{name: "root unloads it", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			unload(t, h.Client())
			still(t, load)
			notThere(t, h, <-load, api.KindConflict, "unloaded while its programs were verified")
		}},
		{name: "root loads it", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			c, err := h.Client().Load(ctx, "held") // holds the turn until it is done
			must(t, err)
			runs(t, h, <-load)
			if now := get(t, h, "held"); fmt.Sprint(now.Programs) != fmt.Sprint(c.Programs) {
				t.Errorf("what runs is not root's: %+v", now)
			}
		}},
		{name: "the right is withdrawn", meanwhile: func(t *testing.T, h *testdaemon.Host, cgroup string, load <-chan attempt) {
			h.Manifest("held", heldUp(cgroup, "", "", b))
			_, err := reload(t, h)
			must(t, err)
			still(t, load)
			notThere(t, h, <-load, api.KindDenied, "")
		}},
		{name: "a drop-in withdraws the right", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			must(t, os.Mkdir(filepath.Join(h.Manifests, "held.toml.d"), 0o755))
			h.Write("hornet.d/held.toml.d/50.toml", []byte(fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"load\"]\n", b)))
			_, err := reload(t, h)
			must(t, err)
			still(t, load)
			notThere(t, h, <-load, api.KindDenied, "")
			if _, err := apiAs(t, h, a).Get(ctx, "held"); kindOf(err) != api.KindDenied {
				t.Errorf("the right is back: %v", err)
			}
		}},
		{name: "a drop-in narrows it", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			must(t, os.Mkdir(filepath.Join(h.Manifests, "held.toml.d"), 0o755))
			h.Write("hornet.d/held.toml.d/50.toml", []byte("[limits]\nprograms = 1\n"))
			still(t, load)
			notThere(t, h, <-load, api.KindLimit, "")
		}},
		{name: "the manifest changes", meanwhile: func(t *testing.T, h *testdaemon.Host, cgroup string, load <-chan attempt) {
			h.Manifest("held", heldUp(cgroup, "description = \"another\"", "", a))
			_, err := reload(t, h)
			must(t, err)
			still(t, load)
			notThere(t, h, <-load, api.KindConflict, "changed while its programs were verified")
		}},
		{name: "the object is revoked", config: rooted, meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			h.Revoke(fmt.Sprintf("serial = 1\n[[object]]\nsha256 = '%x'\n", sha256.Sum256(read(t, "testdata/held.bpf.o"))))
			_, err := reload(t, h)
			must(t, err)
			still(t, load)
			notThere(t, h, <-load, api.KindSignature, ": revoked: ")
		}},
		{name: "what it requires goes", head: `requires = ["one"]`, meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			_, err := h.Client().Unload(ctx, "one", api.UnloadRequest{})
			must(t, err)
			still(t, load)
			notThere(t, h, <-load, api.KindConflict, `"one" does not run`)
		}},
		{name: "its map is another's", table: `shared = "flows"`, meanwhile: func(t *testing.T, h *testdaemon.Host, cgroup string, load <-chan attempt) {
			h.Manifest("sharer", heldUp(cgroup, "", `shared = "flows"`))
			_, err := h.Client().Load(ctx, "sharer") // holds the turn until it is done
			must(t, err)
			notThere(t, h, <-load, api.KindConflict, "changed while its programs were verified")
		}},
		{name: "room is used up", config: "[limits]\ntotal_programs = 5\n", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			other := apiAs(t, h, b)
			_, err := other.Load(ctx, "one")
			must(t, err)
			if _, err := other.Load(ctx, "two"); kindOf(err) != api.KindLimit || !strings.Contains(err.Error(), "others have 5 of 5") {
				t.Errorf("what is verified does not count: %v", err)
			}
			_, err = h.Client().Load(ctx, "two") // for root only root's counts
			must(t, err)
			still(t, load)
			notThere(t, h, <-load, api.KindLimit, "others have 4 of 5")
		}},
		{name: "hornetd stops", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			h.Stop()
			if end := <-load; end.err == nil {
				t.Error("it was loaded")
			}
			if told := recorded(t, h, "held"); len(told) != 2 || !strings.HasPrefix(told[1], "1234 load outcome ") {
				t.Errorf("on record: %q", told)
			}
			if rest := left(t, h, "held"); len(rest) > 0 {
				t.Errorf("left behind: %v", rest)
			}
		}},
		{name: "hornetd is killed", meanwhile: func(t *testing.T, h *testdaemon.Host, _ string, load <-chan attempt) {
			h.Kill()
			if end := <-load; end.err == nil {
				t.Error("it was loaded")
			}
			h.Start()
			if rest := left(t, h, "held"); len(rest) > 0 {
				t.Errorf("left behind: %v", rest)
			}
			load = verified(t, h, "held", func() (api.Collection, error) { return apiAs(t, h, a).Load(ctx, "held") })
			runs(t, h, <-load)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			h := testdaemon.New(t, test.config)
			h.Object("held.bpf.o", read(t, "testdata/held.bpf.o"))
			h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
			cgroup := testenv.Cgroup(t)
			h.Start() // which has read none of the manifests
			h.Manifest("held", heldUp(cgroup, test.head, test.table, a, b))
			for _, name := range []string{"one", "two"} {
				h.Manifest(name, connCount(cgroup)+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"load\", \"unload\"]\n", b))
			}
			if test.head != "" {
				load(t, h, "one")
			}
			test.meanwhile(t, h, cgroup, verified(t, h, "held", func() (api.Collection, error) { return apiAs(t, h, a).Load(ctx, "held") }))
		})
	}
}

// TestClientGoesMeanwhile: a load for a lease ends with who wants it, another one is
// done all the same.
func TestClientGoesMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("held.bpf.o", read(t, "testdata/held.bpf.o"))
	h.Manifest("held", heldUp(testenv.Cgroup(t), "", "", stranger))
	h.Start()
	client := apiAs(t, h, stranger)
	for _, lease := range []bool{true, false} {
		ctx, leave := context.WithCancel(context.Background())
		load := verified(t, h, "held", func() (api.Collection, error) {
			if lease {
				_, err := client.LoadLease(ctx, "held")
				return api.Collection{}, err
			}
			return client.Load(ctx, "held")
		})
		leave()
		if end := <-load; !errors.Is(end.err, context.Canceled) {
			t.Fatal(end.err)
		}
		outcome := func() (last auditRecord) {
			records := auditRecords(t, h.State)
			return records[len(records)-1]
		}
		eventually(t, "it is over", func() bool { return outcome().Phase == "outcome" })
		if lease {
			if r := outcome(); r.Kind != string(api.KindUnavailable) || r.Verb != "load" {
				t.Errorf("on record: %+v", r)
			}
			if rest := left(t, h, "held"); len(rest) > 0 {
				t.Errorf("left behind: %v", rest)
			}
		} else if c := get(t, h, "held"); c.State != api.StateRunning || outcome().Kind != "" {
			t.Errorf("%s: %+v", c.State, outcome())
		}
	}
}

// TestRatchetMeanwhile: a newer version that came meanwhile, and went, refuses the older
// one.
func TestRatchetMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("held.bpf.o", read(t, "testdata/held.bpf.o"))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	old := "instances = \"web[0-9]\"\nversion = 1\n" + strings.Replace(heldUp(cgroup, "", "", stranger), "start = \"request\"\n", "", 1)
	h.Manifest("held@", old)
	h.Start()
	load := verified(t, h, "held@web1", func() (api.Collection, error) {
		return apiAs(t, h, stranger).Load(context.Background(), "held@web1")
	})
	h.Manifest("held@", "instances = \"web[0-9]\"\nversion = 2\n"+strings.Replace(connCount(cgroup), "start = \"request\"\n", "", 1))
	_, err := h.Client().Load(context.Background(), "held@web2")
	must(t, err)
	h.Manifest("held@", old)
	still(t, load)
	var e *api.Error
	if end := <-load; !errors.As(end.err, &e) || e.Kind != api.KindSignature || !strings.Contains(e.Message, "rolled-back") {
		t.Errorf("it ended with %v", end.err)
	}
	if rest := left(t, h, "held@web1"); len(rest) > 0 {
		t.Errorf("left behind: %v", rest)
	}
}

// TestUpgradeMeanwhile: what an upgrade is to take the place of may be repaired
// while the new version is verified, but not be another one by then.
func TestUpgradeMeanwhile(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		name      string
		meanwhile func(t *testing.T, h *testdaemon.Host)
		want      api.Kind
	}{
		{"its link is repaired", func(t *testing.T, h *testdaemon.Host) {
			pins, err := filepath.Glob(filepath.Join(h.BPFFS, "held/links/*"))
			must(t, err)
			must(t, os.Remove(pins[0]))
			eventually(t, "it is repaired", func() bool { return slices.Contains(recorded(t, h, "held"), "0 repair outcome") })
		}, ""},
		{"it is unloaded", func(t *testing.T, h *testdaemon.Host) {
			_, err := h.Client().Unload(ctx, "held", api.UnloadRequest{})
			must(t, err)
		}, api.KindConflict},
		{"root upgrades it", func(t *testing.T, h *testdaemon.Host) {
			_, err := h.Client().Upgrade(ctx, "held")
			must(t, err)
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			testenv.NoLeaks(t)
			h := testdaemon.New(t, "")
			h.Object("held.bpf.o", read(t, "testdata/held.bpf.o"))
			h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
			cgroup := testenv.Cgroup(t)
			h.Manifest("held", connCount(cgroup)+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"upgrade\"]\n", stranger))
			h.Start()
			before := load(t, h, "held")
			h.Manifest("held", heldUp(cgroup, "", "", stranger))
			upgrade := verified(t, h, "held", func() (api.Collection, error) { return apiAs(t, h, stranger).Upgrade(ctx, "held") })
			test.meanwhile(t, h)
			if end := <-upgrade; kindOf(end.err) != test.want {
				t.Errorf("it ended with %v", end.err)
			}
			now := get(t, h, "held")
			switch {
			case test.name == "it is unloaded":
				if rest := left(t, h, "held"); len(rest) > 0 {
					t.Errorf("left behind: %v", rest)
				}
			case now.State != api.StateRunning || len(now.Programs) != 3 || len(kernelLinks(t, now)) != 1:
				t.Errorf("%s with %d programs", now.State, len(now.Programs))
			}
			if n := len(kernelLinks(t, before)); n != 0 {
				t.Errorf("%d links of the old version run", n)
			}
		})
	}
}

// TestRunMeanwhile: bundles that callers bring are verified aside like what is on disk, and
// count for their rule meanwhile. What lies on disk of one is what runs.
func TestRunMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	const owner, name = 1000, "u1000-held"
	ctx := context.Background()
	h := testdaemon.New(t, "[limits]\nuser_verifier_jobs = 2\n"+mayRun)
	h.Start()
	cgroup := testenv.Cgroup(t)
	brings := func(text, file string, object []byte) func() (api.Collection, error) {
		return func() (api.Collection, error) {
			return apiAs(t, h, owner).Run(ctx, strings.TrimSuffix(file, ".bpf.o"), api.Bundle{Manifest: []byte(text), Object: object, Signature: h.Sign(object)})
		}
	}
	object := read(t, "testdata/held.bpf.o")
	run := verified(t, h, name, brings(heldUp(cgroup, "", ""), "held.bpf.o", object))
	var e *api.Error
	if _, err := brings(connCount(cgroup), "conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))(); !errors.As(err, &e) || e.Kind != api.KindLimit || !strings.Contains(e.Message, "the user runs 1 already") {
		t.Errorf("a second one, of one that the rule lets run: %v", err)
	}
	_, err := reload(t, h)
	must(t, err)
	still(t, run)
	if on := lies(t, h); on != "" {
		t.Errorf("on disk before it runs: %q", on)
	}
	first := <-run
	must(t, first.err)
	if on := lies(t, h); on != name || len(kernelLinks(t, first.c)) != 1 {
		t.Errorf("on disk: %q", on)
	}

	run = verified(t, h, name, brings(heldUp(cgroup, "description = \"another\"", ""), "held.bpf.o", object))
	_, err = h.Client().Unload(ctx, name, api.UnloadRequest{})
	must(t, err)
	still(t, run)
	if end := <-run; kindOf(end.err) != api.KindConflict {
		t.Errorf("it ended with %v", end.err)
	}
	if rest := left(t, h, name); len(rest) > 0 || lies(t, h) != "" {
		t.Errorf("left behind: %v, %q", rest, lies(t, h))
	}
}

// TestTargetMeanwhile: what the caller showed is no more theirs when its programs are verified,
// whether others had the turn or not.
func TestTargetMeanwhile(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	h.Object("held.bpf.o", read(t, "testdata/held.bpf.o"))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	parent := testenv.Cgroup(t)
	h.Manifest("one", connCount(parent))
	h.Manifest("held", strings.Replace(heldUp("DIR", "", "", stranger), "cgroup = \"DIR\"\n", ofCaller, 1))
	h.Start()
	for _, others := range []bool{false, true} {
		dir := cgroupOf(t, parent, fmt.Sprintf("others-%t", others), stranger)
		shown := opened(t, dir)
		load := verified(t, h, "held", func() (api.Collection, error) {
			return clientOf(t, h, stranger).LoadTargets(context.Background(), "held", shown)
		})
		must(t, os.Chown(dir, 0, 0))
		if others {
			_, err := h.Client().Load(context.Background(), "one")
			must(t, err)
		}
		still(t, load)
		if end := <-load; kindOf(end.err) != api.KindDenied {
			t.Errorf("others %t: it ended with %v", others, end.err)
		}
		if rest := left(t, h, "held"); len(rest) > 0 {
			t.Errorf("left behind: %v", rest)
		}
	}
}

// TestVerifierJobs: so many users' loads are verified at a time, of one user one; who
// waits for that keeps nobody else waiting, and no change of their own.
func TestVerifierJobs(t *testing.T) {
	testenv.NoLeaks(t)
	ctx := context.Background()
	const a, b, c = stranger, stranger + 1, stranger + 2
	h := testdaemon.New(t, "")
	h.Object("held.bpf.o", read(t, "testdata/held.bpf.o"))
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	cgroup := testenv.Cgroup(t)
	for _, name := range []string{"a1", "a2", "b1", "c1"} {
		h.Manifest(name, heldUp(cgroup, "", "", a, b, c))
	}
	h.Manifest("one", connCount(cgroup)+fmt.Sprintf("[[allow]]\nuser = \"%d\"\nmay = [\"load\", \"unload\"]\n", a))
	h.Start()
	load(t, h, "one")
	most := watchOwners(t, h)
	loads := map[string]<-chan attempt{}
	ask := func(uid int, name string) func() (api.Collection, error) {
		return func() (api.Collection, error) { return apiAs(t, h, uid).Load(ctx, name) }
	}
	loads["a1"] = verified(t, h, "a1", ask(a, "a1"))
	loads["a2"] = request(ask(a, "a2"))
	loads["b1"] = verified(t, h, "b1", ask(b, "b1"))
	loads["c1"] = request(ask(c, "c1"))
	eventually(t, "all wait", func() bool {
		all := limitsOf(t, h, 0)
		return slices.Contains(all, "1234: api.changes_per_user 2 of 2") && slices.Contains(all, "1236: api.changes_per_user 1 of 2")
	})
	for uid, want := range map[int][]string{
		0: {"limits.total_verifier_jobs 2 of 2", "1234: limits.user_verifier_jobs 1 of 1", "1235: limits.user_verifier_jobs 1 of 1"},
		c: {"1236: limits.user_verifier_jobs 0 of 1"},
	} {
		all := limitsOf(t, h, uid)
		for _, line := range want {
			if !slices.Contains(all, line) {
				t.Errorf("uid %d is not told %q: %q", uid, line, all)
			}
		}
	}
	// Root waits for no user's, and one place that is free is the next user's who waits.
	_, err := h.Client().Unload(ctx, "one", api.UnloadRequest{})
	must(t, err)
	_, err = h.Client().Unload(ctx, "b1", api.UnloadRequest{})
	must(t, err)
	if end := <-loads["b1"]; kindOf(end.err) != api.KindConflict {
		t.Errorf("b1 ended with %v", end.err)
	}
	eventually(t, "c1 is verified", func() bool { return len(intents(t, h, "c1")) == 1 })
	for _, name := range []string{"a1", "a2", "c1"} {
		if end := <-loads[name]; end.err != nil || len(kernelLinks(t, end.c)) != 1 {
			t.Errorf("%s: %v", name, end.err)
		}
	}
	var order []string
	for _, r := range auditRecords(t, h.State) {
		if strings.HasPrefix(r.Collection, "a") && r.Verb == "load" {
			order = append(order, r.Collection+" "+r.Phase)
		}
	}
	if want := []string{"a1 intent", "a1 outcome", "a2 intent", "a2 outcome"}; !slices.Equal(order, want) {
		t.Errorf("one user's: %q", order)
	}
	if busy, seen := most(); busy > 2 || seen < 2 {
		t.Errorf("%d threads were with the verifier at once, of %d in the kernel", busy, seen)
	}
}

// watchOwners looks how much time threads that make changes spend in the kernel, by its
// own count. It returns the most that were busy there at once, and the most that were
// there at all: on a busy host one that verifies gets little.
func watchOwners(t *testing.T, h *testdaemon.Host) (most func() (busy, seen int)) {
	t.Helper()
	quit, answer := make(chan struct{}), make(chan [2]int)
	pid := h.PID()
	go func() {
		var n [2]int
		last, looked := map[string]int{}, time.Now()
		for {
			select {
			case <-quit:
				answer <- n
				return
			case <-time.After(100 * time.Millisecond):
			}
			now, busy, seen := map[string]int{}, 0, 0
			// Who looks late sees what one after the other did.
			late := time.Since(looked) > 150*time.Millisecond
			looked = time.Now()
			threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
			for _, path := range threads {
				b, _ := os.ReadFile(path)
				_, rest, ok := bytes.Cut(b, []byte(" (owner) "))
				if fields := strings.Fields(string(rest)); ok && len(fields) > 12 {
					now[path], _ = strconv.Atoi(fields[12]) // stime, in hundredths of a second
					if was, known := last[path]; known && now[path] > was {
						seen++
						if !late && now[path]-was > 1 {
							busy++
						}
					}
				}
			}
			n, last = [2]int{max(n[0], busy), max(n[1], seen)}, now
		}
	}()
	return func() (busy, seen int) {
		close(quit)
		n := <-answer
		return n[0], n[1]
	}
}
