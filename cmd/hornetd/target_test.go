package main_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// Users of these tests. None is in /etc/passwd.
const (
	owner      = 4301
	neighbour  = 4302 // may load, and owns other things
	member     = 4303 // may load as one of the group
	crew       = 4304 // that group
	nobodyUser = 65534
)

// shownPrefix begins the names of the programs here, in place of "shown_": in the
// kernel no others have such names, though the same tests run twice.
var shownPrefix = fmt.Sprintf("s%04x_", os.Getpid()&0xffff)

// shownBy is a manifest of one program of testdata/caller.bpf.c, or calls.bpf.c, that
// is attached to what a caller shows.
func shownBy(program, keys string) string {
	s := ownShownBy(program, keys)
	for _, who := range []string{`user = "4301"`, `user = "4302"`, `group = "4304"`, `user = "65534"`} {
		s += "[[allow]]\n" + who + "\nmay = [\"status\", \"load\", \"upgrade\", \"unload\"]\n"
	}
	return s
}

// ownShownBy is that without rights, as a caller's own has none.
func ownShownBy(program, keys string) string {
	object := "caller.bpf.o"
	program = strings.Replace(program, "shown_", shownPrefix, 1)
	for _, own := range []string{"calls", "filter"} { // types that not every kernel has
		if program == shownPrefix+own {
			object = own + ".bpf.o"
		}
	}
	s := ""
	if !strings.Contains(keys, ofCaller) {
		s = "start = \"request\"\n"
	}
	return s + fmt.Sprintf("[object]\npath = %q\n[maps.calls]\nclass = \"mutable\"\n[[attach]]\nprogram = %q\n%s", object, program, keys)
}

// newShown is a host with one collection for each kind.
func newShown(t *testing.T, libc string) *testdaemon.Host { return newShownWith(t, libc, "") }

// newShownWith has more in its hornetd.toml.
func newShownWith(t *testing.T, libc, extra string) *testdaemon.Host {
	t.Helper()
	h := testdaemon.New(t, "connections_per_user = 200\n"+extra) // what is closed is forgotten in a moment only
	h.Object("caller.bpf.o", bytes.ReplaceAll(read(t, "testdata/caller.bpf.o"), []byte("shown_"), []byte(shownPrefix)))
	h.Object("calls.bpf.o", bytes.ReplaceAll(read(t, "testdata/calls.bpf.o"), []byte("shown_"), []byte(shownPrefix)))
	h.Object("filter.bpf.o", bytes.ReplaceAll(read(t, "testdata/filter.bpf.o"), []byte("shown_"), []byte(shownPrefix)))
	for _, k := range shownHere(t) {
		h.Manifest(k.name, shownBy(k.program, strings.ReplaceAll(k.keys, "LIBRARY", libc)))
	}
	h.Start()
	return h
}

const ofCaller = "target = \"caller\"\n"

// shownKind is a way to attach, and what it wants to be shown.
type shownKind struct{ name, program, keys, wants string }

// shownHere are the kinds that the running kernel has.
func shownHere(t *testing.T) (all []shownKind) {
	t.Helper()
	for _, k := range shownKinds {
		if since := map[string]string{"tcx": "BPF_TCX_INGRESS", "calls": "BPF_TRACE_UPROBE_MULTI", "filter": "BPF_NETFILTER"}[k.name]; since == "" || testenv.HasEnum(t, "bpf_attach_type", since) {
			all = append(all, k)
		}
	}
	return all
}

// here are those of some kinds that the running kernel has, by name.
func here(t *testing.T, names ...string) (all []string) {
	t.Helper()
	for _, k := range shownHere(t) {
		if slices.Contains(names, k.name) {
			all = append(all, k.name)
		}
	}
	return all
}

var shownKinds = []shownKind{
	{"xdp", "shown_xdp", ofCaller + "interface = \"lo\"\nmode = \"generic\"\n", "netns"},
	{"tcx", "shown_tcx", ofCaller + "interface = \"lo\"\n", "netns"},
	{"lookup", "shown_lookup", ofCaller, "netns"},
	{"filter", "shown_filter", ofCaller + "family = \"ipv4\"\nhook = \"input\"\npriority = -7\n", "netns"},
	{"connect", "shown_connect", ofCaller, "cgroup"},
	{"leave", "shown_leave", ofCaller, "cgroup"},
	{"call", "shown_call", ofCaller + "executable = \"LIBRARY\"\nsymbol = \"setlocale\"\n", "process"},
	{"calls", "shown_calls", ofCaller + "executable = \"LIBRARY\"\nsymbols = [\"setlocale\"]\n", "process"},
	{"exec", "shown_exec", "", ""}, // everybody's processes
}

// shownLinks are the links of programs of these tests, and no others', in the kernel.
func shownLinks(t *testing.T) (all []*link.Info) {
	t.Helper()
	it := new(link.Iterator)
	defer it.Close()
	for it.Next() {
		info, err := it.Link.Info()
		if err != nil || info.Program == 0 {
			continue
		}
		p, err := ebpf.NewProgramFromID(info.Program)
		if err != nil {
			continue // of somebody's who is about to go
		}
		if pi, err := p.Info(); err == nil && strings.HasPrefix(pi.Name, shownPrefix) {
			all = append(all, info)
		}
		p.Close()
	}
	if err := it.Err(); errors.Is(err, unix.EAGAIN) {
		return shownLinks(t)
	} else if err != nil {
		t.Fatal(err)
	}
	return all
}

// noLinks waits until the kernel has none of them.
func noLinks(t *testing.T, what string) {
	t.Helper()
	for range 1000 {
		if len(shownLinks(t)) == 0 {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("%s: the kernel has %d links", what, len(shownLinks(t)))
}

// sleeper is a process of a user, in a shell whose children and it can be told apart
// from others of the same executable.
func sleeper(t *testing.T, uid uint32, argv ...string) *exec.Cmd {
	t.Helper()
	if len(argv) == 0 {
		argv = []string{"sleep", "600"}
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}, Pdeathsig: syscall.SIGKILL}
	testenv.Start(t, cmd)
	return cmd
}

func end(cmd *exec.Cmd) {
	cmd.Process.Kill()
	cmd.Wait()
}

func pidfdOf(t *testing.T, pid int) *os.File {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	t.Cleanup(func() { f.Close() })
	return f
}

func opened(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// spaceOf is a network namespace of a user namespace that uid made, of a process that
// lives in it.
func spaceOf(t *testing.T, uid uint32) (*exec.Cmd, *os.File) {
	t.Helper()
	cmd := sleeper(t, uid, "unshare", "-Urn", "sleep", "600")
	path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	own, err := os.Readlink("/proc/self/ns/net")
	for range 2000 {
		now, e := os.Readlink(path)
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", cmd.Process.Pid))
		if err = e; err == nil && now != own && string(comm) == "sleep\n" {
			return cmd, opened(t, path)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("unshare as uid %d: %v", uid, err)
	return nil, nil
}

func cgroupOf(t *testing.T, parent, name string, uid int) string {
	t.Helper()
	dir := filepath.Join(parent, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	if err := os.Chown(dir, uid, uid); err != nil {
		t.Fatal(err)
	}
	return dir
}

// clientOf is a client of a user, who is in more groups.
func clientOf(t *testing.T, h *testdaemon.Host, uid int, groups ...int) *api.Client {
	c := api.NewDialer(h.Socket, func(context.Context) (conn net.Conn, err error) {
		onThreadOf(t, uid, func() { conn, err = dial(h.Socket) }, groups...)
		return conn, err
	})
	t.Cleanup(c.Close)
	return c
}

// reused starts a process of root's with a number that is free.
func reused(t *testing.T, pid int) {
	t.Helper()
	for range 300 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("sleep", "600")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		if cmd.Process.Pid == pid {
			t.Cleanup(func() { end(cmd) })
			return
		}
		end(cmd)
	}
	t.Fatalf("process number %d is not to be had again", pid)
}

// shownThings are descriptors of what belongs to one user, of each kind, in each state.
type shownThings map[string]*os.File // by kind and state: "cgroup own"

// things makes those of a user. The namespace's states but the first are of one whose
// process ended: it lives as long as a descriptor.
func things(t *testing.T, parent string, uid uint32) shownThings {
	t.Helper()
	all := shownThings{}
	dir := func(state string) string {
		path := cgroupOf(t, parent, fmt.Sprintf("%s-%d", state, uid), int(uid))
		all["cgroup "+state] = opened(t, path)
		return path
	}
	dir("own")
	if err := os.Remove(dir("gone")); err != nil {
		t.Fatal(err)
	}
	again := dir("re-used")
	if err := os.Remove(again); err != nil {
		t.Fatal(err)
	}
	cgroupOf(t, parent, filepath.Base(again), 0)

	all["process own"] = pidfdOf(t, sleeper(t, uid).Process.Pid)
	for _, state := range []string{"gone", "re-used"} {
		cmd := sleeper(t, uid)
		all["process "+state] = pidfdOf(t, cmd.Process.Pid)
		end(cmd)
		if state == "re-used" {
			reused(t, cmd.Process.Pid)
		}
	}
	if uid == 0 {
		for _, state := range []string{"own", "gone", "re-used"} {
			all["netns "+state] = opened(t, testenv.Netns(t))
		}
		return all
	}
	_, all["netns own"] = spaceOf(t, uid)
	cmd, f := spaceOf(t, uid)
	all["netns gone"] = f
	end(cmd)
	cmd, f = spaceOf(t, uid)
	name := filepath.Join(t.TempDir(), "netns")
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for i, path := range []string{fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid), testenv.Netns(t)} {
		if err := unix.Mount(path, name, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		if i == 0 {
			all["netns re-used"] = opened(t, name)
			if err := unix.Unmount(name, unix.MNT_DETACH); err != nil {
				t.Fatal(err)
			}
		}
	}
	t.Cleanup(func() { unix.Unmount(name, unix.MNT_DETACH) })
	f.Close()
	end(cmd)
	return all
}

// TestTargetDecisions: who, attaching how, to what, may; and where it then is.
func TestTargetDecisions(t *testing.T) {
	testenv.NoLeaks(t)
	libc := copyOfLibc(t)
	h := newShown(t, libc)
	parent := testenv.Cgroup(t)
	subjects := []struct {
		name   string
		uid    int
		groups []int
		loads  bool // says the manifest
	}{
		{"root", 0, nil, true},
		{"owner", owner, nil, true},
		{"neighbour", neighbour, nil, true},
		{"member", member, []int{crew}, true},
		{"stranger", stranger, nil, false},
		{"member without the group", member, nil, false},
		{"overflow", nobodyUser, nil, true},
	}
	targets := []string{"own", "other's", "root's", "gone", "re-used", "of another kind", "nothing"}
	owned := map[int]shownThings{}
	for _, s := range subjects {
		if owned[s.uid] == nil {
			owned[s.uid] = things(t, parent, uint32(s.uid))
		}
	}
	others := map[int]int{0: owner, owner: neighbour, neighbour: owner, member: owner, stranger: owner, nobodyUser: owner}
	anotherKind := map[string]string{"netns": "cgroup", "cgroup": "process", "process": "netns", "": "cgroup"}

	// may is all there is to know: the manifest lets the subject load; what is shown is
	// of the kind that is asked for; it is there, and a namespace is as long as somebody
	// holds it; and it is the subject's own, or the subject is root. Whom the kernel has
	// no number for owns nothing.
	may := func(uid int, loads bool, wants, target string) bool {
		switch {
		case !loads:
			return false
		case wants == "":
			return target == "nothing"
		case target == "nothing", target == "of another kind":
			return false
		case (target == "gone" || target == "re-used") && wants != "netns":
			return false
		}
		return uid == 0 || uid != nobodyUser && target != "other's" && target != "root's"
	}

	root := h.Client()
	defer root.Close()
	before := openFDs(t, h.PID())
	cells, allowed := 0, 0
	for _, s := range subjects {
		client := clientOf(t, h, s.uid, s.groups...)
		for i, k := range shownHere(t) {
			for j, target := range targets {
				if testing.Short() && (i+j)%4 != 0 {
					continue
				}
				cells++
				what := fmt.Sprintf("%s attaches %s to %s", s.name, k.name, target)
				kind, state, of := k.wants, target, s.uid
				switch target {
				case "other's":
					state, of = "own", others[s.uid]
				case "root's":
					state, of = "own", 0
				case "of another kind":
					state, kind = "own", anotherKind[kind]
				}
				if kind == "" {
					kind = "cgroup"
				}
				file := owned[of][kind+" "+state]
				var c api.Collection
				var err error
				if target == "nothing" {
					c, err = client.Load(t.Context(), k.name)
				} else {
					c, err = loadShown(t, client, k.name, file)
				}
				want := may(s.uid, s.loads, k.wants, target)
				links := shownLinks(t)
				if (err == nil) != want {
					t.Errorf("%s: %v, want %t", what, err, want)
				}
				if err != nil {
					var e *api.Error
					if !errors.As(err, &e) || e.Hint == "" || !slices.Contains([]api.Kind{api.KindDenied, api.KindBadRequest, api.KindConflict}, e.Kind) {
						t.Errorf("%s: %#v", what, err)
					} else if s.loads && s.uid != nobodyUser && k.wants != "" && (target == "gone" || target == "re-used") && e.Kind != api.KindConflict {
						t.Errorf("%s, which is no more: %s", what, e.Kind)
					}
					if len(links) != 0 {
						t.Errorf("%s: refused, and the kernel has %d links", what, len(links))
					}
					continue
				}
				allowed++
				if len(links) != 1 || len(c.Links) != 1 || uint32(links[0].ID) != c.Links[0].ID || links[0].Type == 0 {
					t.Errorf("%s: %d links, told %+v", what, len(links), c.Links)
				} else if k.wants != "" {
					checkShown(t, what, links[0], k.name, file)
				}
				if _, err := root.Unload(t.Context(), k.name, api.UnloadRequest{}); err != nil {
					t.Fatalf("%s: unload: %v", what, err)
				}
				noLinks(t, what)
			}
		}
		client.Close()
	}
	root.Close()
	t.Logf("%d cells, %d allowed", cells, allowed)
	if all := len(subjects) * len(shownHere(t)) * len(targets); !testing.Short() && cells != all {
		t.Errorf("%d cells", cells)
	}
	if after := settledFDs(t, h.PID(), before+2); after > before+2 {
		t.Errorf("%d descriptors are open, were %d", after, before)
	}
}

// loadShown loads by a lease, which client holds until t ends, what only a lease may have.
func loadShown(t *testing.T, client *api.Client, name string, file *os.File) (api.Collection, error) {
	t.Helper()
	c, err := client.LoadTargets(t.Context(), name, file)
	if name != "filter" {
		return c, err
	}
	if err == nil {
		t.Errorf("%s is loaded without a lease", name)
	}
	lease, err := client.LoadLease(t.Context(), name, file)
	if err != nil {
		return api.Collection{}, err
	}
	t.Cleanup(func() { lease.Close() })
	return lease.Grant().Collection, nil
}

// checkShown asks the kernel whether a link is at what was shown, and nowhere else.
func checkShown(t *testing.T, what string, l *link.Info, kind string, shown *os.File) {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(int(shown.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	switch kind {
	case "xdp", "tcx":
		if got := programsIn(t, shown, kind); !slices.Equal(got, []ebpf.ProgramID{l.Program}) {
			t.Errorf("%s: in that namespace are programs %d, not %d", what, got, l.Program)
		}
	case "filter": // a hook has one BPF program for each priority
		p, err := ebpf.NewProgramFromID(l.Program)
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close()
		err = testenv.InNetns(t, fmt.Sprintf("/proc/self/fd/%d", shown.Fd()), func() error {
			again, err := link.AttachNetfilter(link.NetfilterOptions{Program: p, ProtocolFamily: link.NetfilterProtoIPv4, Hook: link.NetfilterInetLocalIn, Priority: -7})
			if err == nil {
				again.Close()
			}
			return err
		})
		if !errors.Is(err, unix.EBUSY) {
			t.Errorf("%s: the hook in that namespace is free: %v", what, err)
		}
	case "lookup":
		if got := l.NetNs().NetnsInode; uint64(got) != st.Ino {
			t.Errorf("%s: is in network namespace %d, not %d", what, got, st.Ino)
		}
	case "connect", "leave":
		if got := l.Cgroup().CgroupId; got != st.Ino {
			t.Errorf("%s: is at cgroup %d, not %d", what, got, st.Ino)
		}
	case "calls":
		number := fmt.Sprintf(`"pid":%d`, pidOf(t, shown))
		out, err := exec.Command("bpftool", "-j", "link", "show", "id", strconv.Itoa(int(l.ID))).Output()
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(out), `"pid":`) && !strings.Contains(string(out), number) { // it tells since 7.5
			t.Errorf("%s: %s, want %s", what, out, number)
		}
	}
}

// programsIn are those at the loopback interface of a network namespace, says ip(8) of
// XDP, and the kernel of tcx.
func programsIn(t *testing.T, ns *os.File, kind string) (all []ebpf.ProgramID) {
	t.Helper()
	err := testenv.InNetns(t, fmt.Sprintf("/proc/self/fd/%d", ns.Fd()), func() error {
		if kind == "tcx" {
			got, err := link.QueryPrograms(link.QueryOptions{Target: 1, Attach: ebpf.AttachTCXIngress})
			if err == nil {
				for _, p := range got.Programs {
					all = append(all, p.ID)
				}
			}
			return err
		}
		out, err := exec.Command("ip", "-d", "link", "show", "lo").CombinedOutput()
		if _, id, ok := strings.Cut(string(out), "prog/xdp id "); ok {
			id, _, _ = strings.Cut(id, " ")
			n, err := strconv.Atoi(id)
			if err != nil {
				return err
			}
			all = append(all, ebpf.ProgramID(n))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func pidOf(t *testing.T, pidfd *os.File) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", pidfd.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_, s, _ := strings.Cut(string(b), "\nPid:\t")
	s, _, _ = strings.Cut(s, "\n")
	n, err := strconv.Atoi(s)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
