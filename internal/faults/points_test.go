package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// calls are the system calls with which hornetd changes what outlives it or makes
// it durable, or without whose answer it would go wrong, and the errors that the
// kernel may give there.
var calls = map[string][]string{
	"bpf":             {"ENOMEM", "EPERM", "EINTR", "EAGAIN", "EMFILE", "EBUSY", "ENOSPC"},
	"mkdirat":         {"ENOSPC", "ENOMEM", "EPERM", "EIO", "EINTR"},
	"renameat2":       {"ENOSPC", "ENOMEM", "EPERM", "EIO", "EINTR", "EBUSY"},
	"renameat":        {"ENOSPC", "ENOMEM", "EPERM", "EIO", "EBUSY"},
	"linkat":          {"ENOSPC", "ENOMEM", "EPERM", "EIO", "EINTR"},
	"unlinkat":        {"ENOMEM", "EPERM", "EIO", "EINTR", "EBUSY"},
	"openat":          {"ENOMEM", "EPERM", "EIO", "EINTR", "EMFILE"},
	"openat2":         {"ENOMEM", "EPERM", "EIO", "EMFILE", "EAGAIN"},
	"getdents64":      {"ENOMEM", "EIO", "EINTR"},
	"write":           {}, // besides the ratchet, whose sync fails too, these are wake-ups of threads: no kernel refuses them
	"pwrite64":        {"ENOSPC", "EIO", "EINTR"},
	"fsync":           {"ENOSPC", "EIO", "EINTR"},
	"fdatasync":       {"ENOSPC", "EIO", "EINTR"},
	"fallocate":       {"ENOSPC", "EIO", "EINTR", "ENOMEM"},
	"ftruncate":       {"EIO", "EINTR"},
	"flock":           {"EINTR", "ENOMEM"},
	"setns":           {"ENOMEM", "EPERM", "EINTR"},
	"socket":          {"ENOMEM", "EMFILE"},
	"sendto":          {"ENOMEM", "EINTR"},
	"perf_event_open": {"ENOMEM", "EPERM", "EINTR", "EMFILE", "EBUSY"},
}

func tracing() string { return "trace=" + strings.Join(slices.Sorted(maps.Keys(calls)), ",") }

// point is a fault at the n-th call of one system call, as strace counts: in each
// thread by itself.
type point struct {
	verb  string
	call  string
	n     int
	fault string // "KILL", or the error the call ends with
}

func (p point) String() string { return fmt.Sprintf("%s: %s at %s %d", p.verb, p.fault, p.call, p.n) }

func (p point) inject() string {
	if p.fault == "KILL" {
		return fmt.Sprintf("inject=%s:signal=KILL:when=%d", p.call, p.n)
	}
	return fmt.Sprintf("inject=%s:error=%s:when=%d", p.call, p.fault, p.n)
}

// answer is what came of a verb.
type answer int

const (
	unknown answer = iota // no answer
	acknowledged
	unrecorded // done, and the error says that it is
	partly     // what failed is in world.failed
	refused
)

// verb is something that hornetd is asked for.
type verb struct {
	name string
	// prepare brings what runs to where the verb begins, and returns what is to
	// run behind it. hornetd runs before and after, but for start.
	prepare func(w *world) map[string]int
	act     func(w *world) (answer, error)
	// whole traces every thread, not only the one that makes the changes.
	whole bool
	// converges: the next start brings what is on disk.
	converges bool
	// keeps are the collections that are never to miss anything.
	keeps []string
}

// byError says what an answer means: one that does not come from hornetd is none.
func byError(err error) (answer, error) {
	var e *api.Error
	switch {
	case err == nil:
		return acknowledged, nil
	case errors.As(err, &e) && strings.Contains(e.Message, " is done, but its outcome is not on record: "):
		return unrecorded, err
	case errors.As(err, &e) && e.Kind != api.KindProtocol && !strings.HasPrefix(e.Message, "socket ") && !strings.HasPrefix(e.Message, "hornetd: "):
		return refused, err
	}
	return unknown, err
}

func (w *world) load(name string) (answer, error) {
	ctx, cancel := patient()
	defer cancel()
	_, err := w.Client().Load(ctx, name)
	return byError(err)
}

// beside has a user load one collection and root another one at the same time. It is
// acknowledged where both do, and refused where none does.
func (w *world) beside(users, roots string) (answer, error) {
	ctx, cancel := patient()
	defer cancel()
	client := api.NewDialer(w.Socket, func(context.Context) (net.Conn, error) { return dialAs(user, w.Socket) })
	defer client.Close()
	loaded := make(chan error, 1)
	go func() {
		_, err := client.Load(ctx, users)
		loaded <- err
	}()
	a, err := w.load(roots)
	b, err2 := byError(<-loaded)
	w.failed = map[string]bool{}
	switch {
	case a == b:
	case a == unknown || b == unknown:
		a = unknown
	case a == refused:
		a, w.failed[roots] = partly, true
	case b == refused:
		a, w.failed[users] = partly, true
	default:
		a = unrecorded
	}
	return a, errors.Join(err, err2)
}

// user is another user than root, who may load everything.
const user = 1234

// dialAs connects as that user, from a thread that is nobody's any more afterwards.
func dialAs(uid int, path string) (net.Conn, error) {
	type dialed struct {
		conn net.Conn
		err  error
	}
	done := make(chan dialed)
	go func() {
		runtime.LockOSThread() // never unlocked
		const keep = ^uintptr(0)
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, keep, uintptr(uid), keep); errno != 0 {
			done <- dialed{nil, errno}
			return
		}
		conn, err := net.Dial("unix", path)
		done <- dialed{conn, err}
	}()
	d := <-done
	return d.conn, d.err
}

func (w *world) unload(name string) (answer, error) {
	ctx, cancel := patient()
	defer cancel()
	_, err := w.Client().Unload(ctx, name, api.UnloadRequest{})
	return byError(err)
}

// reload is acknowledged where all of it was done, refused where nothing was.
func (w *world) reload() (answer, error) {
	ctx, cancel := patient()
	defer cancel()
	plan, err := w.Client().Reload(ctx)
	a, err := byError(err)
	w.failed = map[string]bool{}
	for _, c := range plan.Changes {
		if a != acknowledged && a != unrecorded && a != partly || c.Error == nil {
			continue
		}
		switch done, _ := byError(c.Error); done {
		case unrecorded:
			a = max(a, unrecorded)
		default:
			a, w.failed[c.Collection] = partly, true
		}
		err = errors.Join(err, fmt.Errorf("%s: %w", c.Collection, c.Error))
	}
	return a, err
}

// must ends the test where something fails without a fault.
func (w *world) must(what string, a answer, err error) {
	w.t.Helper()
	if a != acknowledged {
		w.t.Fatalf("%s, without a fault: %v\n%s", what, err, w.Log())
	}
}

// ensure makes name run, by a manifest for the start that is named.
func (w *world) ensure(name, start string) {
	w.t.Helper()
	if w.is[name] != 0 && w.starts[name] == start {
		return
	}
	w.end(name)
	w.declare(name, start, 1)
	a, err := w.load(name)
	w.must("load "+name, a, err)
	w.is[name] = 1
}

// end takes name away.
func (w *world) end(name string) {
	w.t.Helper()
	if w.is[name] == 0 {
		return
	}
	a, err := w.unload(name)
	w.must("unload "+name, a, err)
	w.is[name] = 0
}

// target is what runs, with changes.
func (w *world) target(changes map[string]int) map[string]int {
	m := maps.Clone(w.is)
	maps.Copy(m, changes)
	return m
}

var verbs = []verb{
	{
		name: "load",
		prepare: func(w *world) map[string]int {
			w.end(subject)
			w.declare(subject, "request", 1)
			return w.target(map[string]int{subject: 1})
		},
		act:   func(w *world) (answer, error) { return w.load(subject) },
		keeps: []string{bystander},
	}, {
		name: "upgrade",
		prepare: func(w *world) map[string]int {
			w.ensure(subject, "boot")
			w.declare(subject, "boot", 3-w.is[subject])
			return w.target(map[string]int{subject: 3 - w.is[subject]})
		},
		act:       func(w *world) (answer, error) { return w.reload() },
		converges: true,
		keeps:     []string{bystander, subject},
	}, {
		// A user's load gives its turn away while the kernel verifies it, for a load
		// of root's.
		name: "beside",
		prepare: func(w *world) map[string]int {
			w.end(subject)
			w.end(comes)
			w.declare(comes, "request", 1)
			w.declare(subject, "request", 1)
			return w.target(map[string]int{subject: 1, comes: 1})
		},
		act:   func(w *world) (answer, error) { return w.beside(subject, comes) },
		whole: true,
		keeps: []string{bystander},
	}, {
		name: "unload",
		prepare: func(w *world) map[string]int {
			w.ensure(subject, "request")
			return w.target(map[string]int{subject: 0})
		},
		act:   func(w *world) (answer, error) { return w.unload(subject) },
		keeps: []string{bystander},
	}, {
		name: "reload",
		prepare: func(w *world) map[string]int {
			w.ensure(subject, "boot")
			w.declare(subject, "boot", 3-w.is[subject])
			fresh, old := comes, goes
			if w.is[comes] != 0 {
				fresh, old = goes, comes
			}
			w.ensure(old, "boot")
			w.undeclare(old)
			w.declare(fresh, "boot", 2)
			return w.target(map[string]int{subject: 3 - w.is[subject], fresh: 2, old: 0})
		},
		act:       func(w *world) (answer, error) { return w.reload() },
		whole:     true,
		converges: true,
		keeps:     []string{bystander, subject},
	}, {
		// What a start finds is a replacement that was killed before its commit,
		// so that links are to be switched back; then it is made anew, and another
		// collection is loaded.
		name: "start",
		prepare: func(w *world) map[string]int {
			w.ensure(subject, "boot")
			w.end(comes)
			w.declare(subject, "boot", 3-w.is[subject])
			w.declare(comes, "boot", 1)
			tracer := w.trace("-e", point{call: "renameat2", n: 1, fault: "KILL"}.inject())
			if a, err := w.reload(); a != unknown {
				w.t.Fatalf("not killed before the commit: %v", err)
			}
			w.Wait()
			tracer.Wait()
			return w.target(map[string]int{subject: 3 - w.is[subject], comes: 1})
		},
		whole:     true,
		converges: true,
		keeps:     []string{bystander, subject},
	}, {
		name: "stop",
		prepare: func(w *world) map[string]int { // so that the ratchet is to be written
			w.ensure(subject, "request")
			w.end(subject)
			w.ensure(subject, "request")
			return w.target(nil)
		},
		act: func(w *world) (answer, error) {
			w.Signal(syscall.SIGTERM)
			return unknown, nil
		},
		whole: true,
		keeps: []string{bystander, subject},
	},
}

// owner is the thread of hornetd that makes the changes, by the name it has. After
// loads that were aside there is another one for a moment, which ends.
func (w *world) owner() int {
	w.t.Helper()
	var owners []int
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/comm", w.PID()))
		owners = owners[:0]
		for _, path := range threads {
			if b, _ := os.ReadFile(path); string(b) == "owner\n" {
				tid, _ := strconv.Atoi(filepath.Base(filepath.Dir(path)))
				owners = append(owners, tid)
			}
		}
		if len(owners) == 1 {
			return owners[0]
		}
	}
	w.t.Fatalf("hornetd has %d threads named owner", len(owners))
	return 0
}

// trace attaches strace to the owner's thread and waits until it holds it. With
// "-f" among args it holds every thread.
func (w *world) trace(args ...string) *exec.Cmd {
	w.t.Helper()
	pid := w.owner()
	if slices.Contains(args, "-f") {
		pid = w.PID()
	}
	if !slices.Contains(args, "-o") {
		args = append(args, "-o", os.DevNull)
	}
	cmd := exec.Command("strace", append([]string{"-p", strconv.Itoa(pid), "-e", tracing()}, args...)...)
	stderr, err := cmd.StderrPipe()
	if err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		if strings.Contains(lines.Text(), "attached") {
			go func() {
				for lines.Scan() {
				}
			}()
			return cmd
		}
	}
	w.t.Fatalf("strace: not attached to %d", pid)
	return nil
}

func detach(tracer *exec.Cmd) {
	tracer.Process.Signal(os.Interrupt)
	tracer.Wait()
}

// run does the verb under strace. hornetd runs afterwards or not.
func (v verb) run(w *world, args ...string) (a answer, err error, alive bool) {
	if v.act == nil {
		wrapper := []string{"strace", "-D", "-f", "-qq", "--seccomp-bpf", "-e", tracing()}
		if !slices.Contains(args, "-o") {
			wrapper = append(wrapper, "-o", os.DevNull)
		}
		err = w.TryStart(append(wrapper, args...)...)
		return unknown, err, err == nil
	}
	if v.whole {
		args = append(args, "-f")
	}
	tracer := w.trace(args...)
	a, err = v.act(w)
	kills := slices.ContainsFunc(args, func(arg string) bool { return strings.Contains(arg, "signal=KILL") })
	if alive = w.alive(kills || v.name == "stop", a); alive {
		detach(tracer)
	} else {
		tracer.Wait()
	}
	return a, err, alive
}

// alive says whether hornetd still runs; one that ends, or did not answer and so
// may be about to, is waited for.
func (w *world) alive(ending bool, a answer) bool {
	if a != unknown {
		return true
	}
	limit := 300 * time.Millisecond
	if ending {
		limit = 20 * time.Second
	}
	for end := time.Now().Add(limit); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if w.ended() {
			w.Wait()
			return false
		}
	}
	return true
}

// ended is that the process is gone, or only its status is left.
func (w *world) ended() bool {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", w.PID()))
	rest := string(b[bytes.LastIndexByte(b, ')')+1:])
	return err != nil || strings.HasPrefix(rest, " Z") || strings.HasPrefix(rest, " X")
}

// count runs the verb without a fault and returns how often each system call was
// made by the thread that makes it most.
func (v verb) count(w *world) map[string]int {
	w.t.Helper()
	file := filepath.Join(w.Dir, "trace-"+v.name)
	after := v.prepare(w)
	a, err, alive := v.run(w, "-o", file)
	if v.act != nil && v.name != "stop" {
		w.must(v.name, a, err)
	}
	if v.act == nil { // strace holds it
		w.Kill()
		alive = false
	}
	if !alive {
		w.Start()
	}
	w.is = after
	b, err := os.ReadFile(file)
	if err != nil {
		w.t.Fatal(err)
	}
	perThread, most := map[string]int{}, map[string]int{}
	for line := range strings.Lines(string(b)) {
		tid, rest := "", line
		if first, more, ok := strings.Cut(line, " "); ok && strings.Trim(first, "0123456789") == "" {
			tid, rest = first, more
		}
		call, _, ok := strings.Cut(strings.TrimSpace(rest), "(")
		if _, known := calls[call]; !ok || !known {
			continue
		}
		perThread[tid+call]++
		most[call] = max(most[call], perThread[tid+call])
	}
	return most
}

// points returns every point of a verb.
func (v verb) points(most map[string]int) (ps []point) {
	for _, call := range slices.Sorted(maps.Keys(most)) {
		for n := 1; n <= most[call]; n++ {
			for _, fault := range append([]string{"KILL"}, calls[call]...) {
				ps = append(ps, point{v.name, call, n, fault})
			}
		}
	}
	return ps
}

// try runs a verb with a fault and returns what was wrong, before and after
// another two starts.
func (v verb) try(w *world, p point) (wrong []string) {
	w.t.Helper()
	after := v.prepare(w)
	before := maps.Clone(w.is)
	inv, _ := w.kernel.look()
	tally := w.begin(v.keeps...)
	logged := w.logSize()
	a, err, alive := v.run(w, "-e", p.inject())

	either := expect{}
	for name := range after {
		either[name] = []int{before[name], after[name]}
	}
	may := either
	switch {
	case a == acknowledged:
		may = exactly(after)
		if v.name != "stop" && !w.recorded(logged, "outcome", w.serialOf(v)) {
			wrong = append(wrong, "I4: acknowledged, and there is no record of it")
		}
	case a == unrecorded:
		may = exactly(after)
	case a == partly:
		may = exactly(after)
		for name := range w.failed {
			may[name] = []int{before[name]}
		}
	case a == refused:
		may = exactly(before)
	}
	note := func(stage string, v []string) {
		for _, s := range v {
			wrong = append(wrong, stage+": "+s)
		}
	}
	if errors.Is(err, context.DeadlineExceeded) || alive && v.name == "stop" {
		alive = false
		note("answer", []string{"I7: it does not come\n" + w.stacks()})
	}
	if alive {
		at := settled
		if a != refused {
			at = done
		}
		_, v := w.kernel.wait(may, at)
		note(fmt.Sprintf("after the answer (%v)", err), v)
		if a != unknown && w.logged(logged, func(r logRecord) bool { return r.Verb == "repair" }) {
			note(fmt.Sprintf("after the answer (%v)", err), []string{"I5: what was done or undone had to be repaired"})
		}
		w.Kill()
	}
	left, broke := w.kernel.wait(may, broken)
	if v.act != nil && len(changed(inv, left)) > 0 && !w.recorded(logged, "intent", 0) {
		broke = append(broke, "I4: something changed and there is no record of the intent")
	}
	note(fmt.Sprintf("before the start (%v)", err), broke)
	note("before the start", tally.violations())

	said := w.Log()
	defer func() {
		if len(wrong) > 0 {
			wrong = append(wrong, "hornetd said: "+said)
		}
	}()
	if err := w.TryStart(); err != nil {
		note("start", []string{"I7: " + err.Error() + "\n" + w.Log()})
		return wrong
	}
	if v.converges {
		may = exactly(after)
	}
	first, started := w.kernel.wait(may, settled)
	note("after the start", started)
	note("after the start", tally.violations())
	if slices.Contains(v.keeps, subject) {
		note("after the start", sameLinks(inv, first))
	}
	w.Kill()
	if err := w.TryStart(); err != nil {
		note("second start", []string{"I7: " + err.Error() + "\n" + w.Log()})
		return wrong
	}
	second, again := w.kernel.wait(may, settled)
	note("after the second start", again)
	note("after the second start", changed(first, second))
	for name := range after {
		w.is[name], _ = w.kernel.collection(second, name, nil, settled)
	}
	return wrong
}

// sameLinks wants the links that are exchanged in place to be the same ones.
func sameLinks(before, after inventory) (v []string) {
	for p, o := range before.pins {
		if strings.HasPrefix(p, subject+"/links/") && !strings.Contains(p, "_raw") && after.pins[p] != o {
			v = append(v, fmt.Sprintf("I5: %s was %s, is %s", p, o, after.pins[p]))
		}
	}
	return v
}

func (w *world) logPath() string { return filepath.Join(w.State, "audit", "audit.jsonl") }

// serialOf is the version that the record of a verb has, 0 where any does.
func (w *world) serialOf(v verb) int {
	if v.name == "load" {
		return w.serial
	}
	return 0
}

// recorded looks in the audit log, from an offset, for an intent or for the outcome
// of something that worked.
func (w *world) recorded(from int64, phase string, version int) bool {
	return w.logged(from, func(r logRecord) bool {
		return r.Phase == phase && r.Kind == "" && (version == 0 || r.Version == version)
	})
}

type logRecord struct {
	Phase, Verb, Kind string
	Version           int
}

// logged reports whether the audit log has a record like that from an offset on.
func (w *world) logged(from int64, like func(logRecord) bool) bool {
	b, err := os.ReadFile(w.logPath())
	if err != nil || int64(len(b)) < from {
		return false
	}
	for line := range bytes.Lines(b[from:]) {
		var r logRecord
		if json.Unmarshal(line, &r) == nil && like(r) {
			return true
		}
	}
	return false
}

// sample is about how many points are tried where not all are: as many of each
// verb, but there are fewer of stop.
const sample = 378

// TestPoints tries a fault at every system call of every verb, or at some.
func TestPoints(t *testing.T) {
	testenv.NoLeaks(t)
	w := newWorld(t)
	byVerb := map[string][]point{}
	total := 0
	for _, v := range verbs {
		if !matches(*only, v.name) {
			continue
		}
		most := v.count(w)
		byVerb[v.name] = v.points(most)
		total += len(byVerb[v.name])
		t.Logf("%-8s %4d points: %v", v.name, len(byVerb[v.name]), most)
	}
	random := seeded(t)
	tried, failed := 0, 0
	began := time.Now()
	for _, v := range verbs {
		ps := byVerb[v.name]
		if len(ps) == 0 {
			continue
		}
		if *only != "" {
			ps = slices.DeleteFunc(ps, func(p point) bool { return !matches(*only, p.verb, p.fault, p.call) })
		} else if !*all {
			// As many of each verb, and half of them kills.
			random.Shuffle(len(ps), func(i, j int) { ps[i], ps[j] = ps[j], ps[i] })
			slices.SortStableFunc(ps, func(a, b point) int { return rank(a) - rank(b) })
			kills := slices.IndexFunc(ps, func(p point) bool { return p.fault != "KILL" })
			n := sample / len(verbs)
			ps = append(ps[:min(kills, n/2):kills], ps[kills:][:min(n-n/2, len(ps)-kills)]...)
		}
		start := time.Now()
		for _, p := range ps {
			tried++
			if wrong := v.try(w, p); len(wrong) > 0 {
				failed++
				t.Errorf("%s:\n\t%s", p, strings.Join(wrong, "\n\t"))
				if failed > 20 || *first {
					t.Fatal("and so on")
				}
				w.recoverFrom()
			}
		}
		t.Logf("%-8s %4d points tried in %.0f s", v.name, len(ps), time.Since(start).Seconds())
	}
	t.Logf("%d of %d points tried in %.0f s: %d violated an invariant", tried, total, time.Since(began).Seconds(), failed)
}

func rank(p point) int {
	if p.fault == "KILL" {
		return 0
	}
	return 1
}

// matches compares words with those of a filter.
func matches(filter string, words ...string) bool {
	want := strings.Fields(filter)
	for i := range min(len(want), len(words)) {
		if want[i] != words[i] {
			return false
		}
	}
	return true
}

// recoverFrom begins anew behind a violation: an empty root, and the bystander.
func (w *world) recoverFrom() {
	w.t.Helper()
	w.Kill()
	w.newBPFFS()
	for _, name := range []string{subject, comes, goes} {
		os.Remove(filepath.Join(w.Manifests, name+".toml"))
	}
	w.declare(bystander, "boot", 1)
	w.Start()
	w.is = map[string]int{bystander: 1}
}
