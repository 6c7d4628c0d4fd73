package pinning

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"

	"github.com/hornetd/hornetd/internal/testenv"
)

func init() {
	children["commit"] = func(args []string) error {
		s, err := Open(args[0])
		if err != nil {
			return err
		}
		o, err := makeObjects()
		if err != nil {
			return err
		}
		n, _ := ParseName("a")
		st, err := s.Stage(n)
		if err != nil {
			return err
		}
		if err := stageAll(st, o); err != nil {
			o.close()
			return errors.Join(err, st.Discard())
		}
		if err := st.Commit(); err != nil {
			o.close()
			return errors.Join(err, st.Discard())
		}
		return nil
	}
	// replace takes the link "exec" over, pins "skb" a second time, drops "old"
	// and adds "new".
	children["replace"] = func(args []string) error {
		s, err := Open(args[0])
		if err != nil {
			return err
		}
		n, _ := ParseName("a")
		e, err := s.Load(n)
		if err != nil {
			return err
		}
		o, err := makeObjects()
		if err != nil {
			return err
		}
		o.links = map[string]link.Link{"new": o.links["exec"]}
		if o.links["skb"], err = e.Link("skb"); err != nil {
			o.close()
			return err
		}
		st, err := s.Restage(n)
		if err != nil {
			return err
		}
		fill := func() error {
			r := o.record(n)
			r.Version = 2
			r.Links = append(r.Links, RecordLink{Name: "exec", ID: linkOf(e.Record, "exec")})
			return errors.Join(st.PinMaps(o.maps), st.PinPrograms(o.programs), st.PinLinks(o.links),
				st.LinkExisting(e, "exec", "exec"), st.PinRecord(r))
		}
		if err := fill(); err != nil {
			o.close()
			return errors.Join(err, st.Discard())
		}
		return st.Replace()
	}
	children["remove"] = func(args []string) error {
		s, err := Open(args[0])
		if err != nil {
			return err
		}
		n, _ := ParseName("a")
		return s.Remove(n)
	}
}

func linkOf(r Record, name string) uint32 {
	for _, l := range r.Links {
		if l.Name == name {
			return l.ID
		}
	}
	return 0
}

// A kill, or an error, at any system call leaves the old state or the new one
// after a sweep, with the links that belong to it attached and no others.
func TestFaultAtEverySystemCall(t *testing.T) {
	if _, err := exec.LookPath("strace"); err != nil {
		t.Skip("strace is not installed")
	}
	for _, fault := range []string{"signal=KILL", "error=ENOMEM"} {
		for verb, check := range map[string]func(t *testing.T, before Record, after *Entry){
			"commit": func(t *testing.T, _ Record, after *Entry) {},
			"replace": func(t *testing.T, before Record, after *Entry) {
				if after == nil {
					t.Fatal("neither the old nor the new collection is there")
				}
				for _, stays := range []string{"exec", "skb"} {
					if linkOf(after.Record, stays) != linkOf(before, stays) {
						t.Errorf("link %q is another one", stays)
					}
				}
				mustHaveCgroup(t, after)
				if old := link.ID(linkOf(before, "old")); attached(old) != (after.Record.Version == 1) {
					t.Errorf("version %d, old link attached: %v", after.Record.Version, attached(old))
				}
			},
			"remove": func(t *testing.T, before Record, after *Entry) {
				if id := link.ID(linkOf(before, "exec")); attached(id) != (after != nil) {
					t.Errorf("there: %v, attached: %v", after != nil, attached(id))
				}
			},
		} {
			t.Run(fault+"/"+verb, func(t *testing.T) {
				f := faults{t: t, verb: verb, fault: fault, check: check, root: bpffs(t), cgroup: testenv.Cgroup(t), found: map[uint64]int{}}
				// strace counts each system call by itself. These are all by which
				// the store changes anything.
				step := 1
				if testing.Short() {
					step = 9
				}
				for _, call := range []string{"bpf", "mkdirat", "linkat", "renameat2", "unlinkat"} {
					n := 1
					for f.at(call, n) {
						n += step
					}
					t.Logf("%s: %d points, one in %d tried, versions found so far: %v", call, n-1, step, f.found)
				}
				if len(f.found) != 2 {
					t.Errorf("versions %v: the faults did not hit both sides of the commit", f.found)
				}
			})
		}
	}
}

// faults is one verb that is run again and again, with a fault somewhere else
// each time.
type faults struct {
	t            *testing.T
	verb, fault  string
	check        func(t *testing.T, before Record, after *Entry)
	root, cgroup string
	found        map[uint64]int // version -> times
}

// at runs the verb with a fault at the nth time it makes a system call, and
// reports whether it came to that.
func (f *faults) at(call string, n int) bool {
	f.t.Helper()
	trace := f.t.TempDir() + "/trace"
	before := prepare(f.t, f.root, f.verb, f.cgroup)
	err := child(f.verb, []string{"strace", "-f", "-qq", "-o", trace, "-e", "trace=" + call,
		"-e", fmt.Sprintf("inject=%s:%s:when=%d", call, f.fault, n)}, f.root).Run()
	log, _ := os.ReadFile(trace)
	f.found[settle(f.t, f.root, before, f.check)]++
	if f.t.Failed() {
		f.t.Fatalf("at %s number %d:\n%s", call, n, log)
	}
	return err != nil || bytes.Contains(log, []byte("INJECTED"))
}

// attachCgroup attaches a program to a cgroup. Unlike the others, its link is
// of a kind that can be detached while it has descriptors and pins.
func attachCgroup(path string) (link.Link, error) {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "pass", Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetIngress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()},
	})
	if err != nil {
		return nil, err
	}
	defer p.Close()
	return link.AttachCgroup(link.CgroupOptions{Path: path, Attach: ebpf.AttachCGroupInetIngress, Program: p})
}

// mustHaveCgroup checks that nobody detached the link "skb".
func mustHaveCgroup(t *testing.T, e *Entry) {
	t.Helper()
	l, err := e.Link("skb")
	must(t, err)
	defer l.Close()
	info, err := l.Info()
	must(t, err)
	if info.Cgroup().CgroupId == 0 {
		t.Error("the link \"skb\" was detached")
	}
}

// prepare commits version 1 where verb needs it.
func prepare(t *testing.T, root, verb, cgroup string) Record {
	t.Helper()
	if verb == "commit" {
		return Record{}
	}
	s := open(t, root)
	defer s.Close()
	o := newObjects(t)
	defer o.close()
	var err error
	o.links["old"], err = attachTo(o.programs["count"], "sched_process_exit")
	must(t, err)
	o.links["skb"], err = attachCgroup(cgroup)
	must(t, err)
	st, err := s.Stage(name(t, "a"))
	must(t, err)
	must(t, errors.Join(st.PinMaps(o.maps), st.PinPrograms(o.programs), st.PinLinks(o.links)))
	r := o.record(name(t, "a"))
	r.Version = 1
	must(t, st.PinRecord(r))
	must(t, st.Commit())
	return r
}

// settle starts as the daemon does, checks what is there, and clears it away.
// It returns the version found, 0 if there is none.
func settle(t *testing.T, root string, before Record, check func(*testing.T, Record, *Entry)) uint64 {
	t.Helper()
	s := open(t, root)
	defer s.Close()
	_, err := s.Sweep()
	must(t, err)
	names, err := s.Entries()
	must(t, err)
	if len(names) == 0 {
		if got := tree(t, root); len(got) != 0 {
			t.Errorf("left %q", got)
		}
		check(t, before, nil)
		return 0
	}
	e := load(t, s, "a")
	defer e.Close()
	if len(e.Missing)+len(e.Foreign) != 0 {
		t.Errorf("missing %q, foreign %q", e.Missing, e.Foreign)
	}
	for _, l := range e.Record.Links {
		if !attached(link.ID(l.ID)) {
			t.Errorf("link %q (%d) is not attached", l.Name, l.ID)
		}
	}
	if got := tree(t, root); slices.ContainsFunc(got, func(s string) bool { return s[:1] != "a" }) {
		t.Errorf("beside it there is %q", got)
	}
	check(t, before, e)
	must(t, s.Remove(name(t, "a")))
	if diff := cmp.Diff([]string(nil), tree(t, root)); diff != "" {
		t.Error(diff)
	}
	if e.Record.Version == 0 {
		return 1 // the verb "commit" numbers nothing
	}
	return e.Record.Version
}
