package loader

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/manifest"
)

// kernelManifest is a manifest of [[attach]] tables for the fixtures of this
// file, whose programs count what cgroup does.
func kernelManifest(t testing.TB, toml string, cgroup uint64) manifest.Manifest {
	t.Helper()
	return parseManifest(t, fmt.Sprintf("[variables]\ncgroup = %d\n[maps.\"*\"]\nclass = \"mutable\"\n%s\n", cgroup, toml))
}

// only removes the programs from spec that m does not attach.
func only(spec *ebpf.CollectionSpec, m manifest.Manifest, more ...string) {
	for name := range spec.Programs {
		if !slices.Contains(more, name) && !slices.ContainsFunc(m.Attach, func(a manifest.Attach) bool { return a.Program == name }) {
			delete(spec.Programs, name)
		}
	}
}

// loadKernel loads what m attaches, as the daemon does. Where the kernel refuses
// that kind of program to everybody, t is skipped: a guest counts it as failed.
func loadKernel(t testing.TB, spec *ebpf.CollectionSpec, m manifest.Manifest) *ebpf.Collection {
	t.Helper()
	p, err := NewPlan(spec, m)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	coll, _, err := tryLoad(p)
	skipRefused(t, spec, err)
	if err != nil && strings.Contains(err.Error(), "bpf_modify_return_test() is not modifiable") {
		t.Skip("this kernel lets no program change bpf_modify_return_test")
	}
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	t.Cleanup(coll.Close)
	return coll
}

func skipRefused(t testing.TB, spec *ebpf.CollectionSpec, err error) {
	t.Helper()
	if !errors.Is(err, unix.EPERM) {
		return
	}
	for _, p := range spec.Programs {
		if p.Type != ebpf.XDP {
			t.Skipf("this kernel refuses programs of type %s (EPERM)", p.Type)
		}
	}
}

// requireProbes skips t where there is nothing that kprobes hang on.
func requireProbes(t testing.TB, program string) {
	t.Helper()
	switch {
	case strings.Contains(program, "uprobes"), strings.Contains(program, "uretprobes"):
		testenv.RequireEnum(t, "bpf_attach_type", "BPF_TRACE_UPROBE_MULTI")
		return
	case program == "on_session":
		testenv.RequireEnum(t, "bpf_attach_type", "BPF_TRACE_KPROBE_SESSION")
	case !strings.Contains(program, "probe") && !strings.Contains(program, "syscall"):
		return
	}
	if _, err := os.Stat(string(kprobes)); err != nil {
		t.Skip("this kernel has no kprobes")
	}
}

// pinnedKernel loads, attaches and pins what toml says, and keeps nothing but
// the maps open. keep are programs that are not attached.
func pinnedKernel(t testing.TB, fixture, toml string, cgroup uint64, keep ...string) running {
	t.Helper()
	spec, m := openFixture(t, fixture), kernelManifest(t, toml, cgroup)
	only(spec, m, keep...)
	coll := loadKernel(t, spec, m)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	links, err := Attach(coll, targets)
	if err != nil && strings.Contains(err.Error(), "no links to several functions") {
		t.Skip("this kernel has no kprobe.multi")
	}
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	r := running{counted{coll, spec.Variables}, targets, testenv.BPFFS(t)}
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

// sleepFunction is called by BPF_PROG_TEST_RUN of fentry programs.
const sleepFunction = "bpf_fentry_test1"

// requireSleep skips t where no fentry program may sleep at sleepFunction.
func requireSleep(t testing.TB) {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceFEntry, AttachTo: sleepFunction,
		Flags: unix.BPF_F_SLEEPABLE, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if err == nil {
		p.Close()
		return
	}
	if strings.Contains(err.Error(), "is not sleepable") {
		t.Skip("this kernel lets no fentry program sleep at " + sleepFunction)
	}
}

func TestAttachFunction(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.Tracefs(t)
	lib := libc(t)
	symbols := func(list string) string { return fmt.Sprintf("executable = %q\nsymbols = [%s]", lib, list) }
	tests := map[string]struct {
		program, toml string
		denies        bool
		want          uint64 // 0: at least once
	}{
		"fentry":                 {program: "on_fentry", want: 1},
		"fentry by manifest":     {program: "fentry_any", toml: `function = "begin_new_exec"`, want: 1},
		"fentry renamed":         {program: "fentry_missing", toml: `function = "begin_new_exec"`, want: 1},
		"fexit":                  {program: "on_fexit", want: 1},
		"fmod_ret":               {program: "deny_modified", denies: true},
		"lsm":                    {program: "on_lsm"},
		"lsm denies":             {program: "deny_lsm", denies: true},
		"lsm sleepable":          {program: "deny_lsm_sleeps", denies: true},
		"kprobe":                 {program: "on_kprobe", want: 1},
		"kprobe by manifest":     {program: "kprobe_any", toml: "function = \"begin_new_exec\"", want: 1},
		"kretprobe":              {program: "on_kretprobe", want: 1},
		"ksyscall":               {program: "on_ksyscall", want: 1},
		"kretsyscall":            {program: "on_kretsyscall", toml: `function = "close"`},
		"kprobe.multi":           {program: "on_kprobes", toml: `functions = ["begin_new_exec", "security_bprm_c*"]`},
		"kprobe.multi, section":  {program: "on_kprobes", want: 1},
		"kretprobe.multi":        {program: "on_kretprobes", toml: `functions = ["begin_new_exe?"]`, want: 1},
		"kprobe.session":         {program: "on_session", want: 2},
		"uprobe.multi":           {program: "on_uprobes", toml: symbols(`"__libc_start_main", "__cxa_at*"`)},
		"uretprobe.multi":        {program: "on_uretprobes", toml: symbols(`"__cxa_at*"`)},
		"uprobe.multi sleepable": {program: "uprobes_sleep", toml: symbols(`"__libc_start_mai?"`), want: 1},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			requireProbes(t, tt.program)
			cgroup := testenv.Cgroup(t)
			r := pinnedKernel(t, "attach_kernel", fmt.Sprintf("[[attach]]\nprogram = %q\n%s\n", tt.program, tt.toml), inode(t, cgroup))
			exec := func() error {
				return testenv.CgroupCommand(t, cgroup, "/bin/true").Run()
			}
			err := exec()
			if tt.denies != errors.Is(err, unix.EPERM) || !tt.denies && err != nil {
				t.Errorf("exec: %v; denied should be %t", err, tt.denies)
			}
			if got := hits(t, r.coll, tt.program); got == 0 || tt.want > 0 && got != tt.want {
				t.Errorf("ran %d times, want %d", got, tt.want)
			}
			if err := testenv.CgroupCommand(t, testenv.Cgroup(t), "/bin/true").Run(); err != nil {
				t.Errorf("exec in another cgroup: %v", err)
			}
			r.check(t)
			r.unpin(t)
			stops(t, tt.program, func() bool {
				before := hits(t, r.coll, tt.program)
				return exec() != nil || hits(t, r.coll, tt.program) != before
			})
		})
	}
}

// TestAttachModule traces a function of a module (or a driver that is built in).
func TestAttachModule(t *testing.T) {
	testenv.NoLeaks(t)
	r := pinnedKernel(t, "attach_kernel", "[[attach]]\nprogram = \"fentry_any\"\nfunction = \"veth_open\"\n", 0)
	testenv.Veth(t)
	if hits(t, r.coll, "fentry_any") < 2 {
		t.Errorf("ran %d times for the two ends of a veth pair", hits(t, r.coll, "fentry_any"))
	}
	r.check(t)
}

// TestAttachOffset probes the second instruction of a function.
func TestAttachOffset(t *testing.T) {
	testenv.NoLeaks(t)
	requireProbes(t, "kprobe_any")
	cgroup := testenv.Cgroup(t)
	spec := openFixture(t, "attach_kernel")
	m := kernelManifest(t, "[[attach]]\nprogram = \"kprobe_any\"\nfunction = \"begin_new_exec\"\noffset = 1\n", inode(t, cgroup))
	only(spec, m)
	coll := loadKernel(t, spec, m)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatal(err)
	}
	var links Links
	for ; targets[0].Offset < 16; targets[0].Offset++ { // how long the first is depends on the kernel
		if links, err = Attach(coll, targets); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	defer links.Close()
	if err := testenv.CgroupCommand(t, cgroup, "/bin/true").Run(); err != nil {
		t.Fatal(err)
	}
	if got := hits(t, counted{coll, spec.Variables}, "kprobe_any"); got != 1 {
		t.Errorf("ran %d times", got)
	}
	if err := described(t, links[targets[0].Link]).Matches(targets[0]); err != nil {
		t.Error(err)
	}
}

// TestAttachSleepable has programs that the kernel lets sleep only at functions
// which it lists.
func TestAttachSleepable(t *testing.T) {
	testenv.NoLeaks(t)
	for _, program := range []string{"fentry_sleeps", "fexit_sleeps", "modify_sleeps"} {
		t.Run(program, func(t *testing.T) {
			requireSleep(t)
			r := pinnedKernel(t, "attach_kernel", fmt.Sprintf("[[attach]]\nprogram = %q\nfunction = %q\n[[attach]]\nprogram = \"fentry_any\"\nfunction = %q\n",
				program, sleepFunction, sleepFunction), 0)
			p := r.program(t, 1)
			call := func() {
				if _, err := p.Run(&ebpf.RunOptions{}); err != nil {
					t.Errorf("test run: %v", err)
				}
			}
			call()
			if hits(t, r.coll, program) == 0 {
				t.Error("did not run")
			}
			r.check(t)
			r.unpin(t)
			stops(t, program, func() bool {
				before := hits(t, r.coll, program)
				call()
				return hits(t, r.coll, program) != before
			})
		})
	}
}

// program opens the program of a link.
func (r running) program(t testing.TB, i int) *ebpf.Program {
	t.Helper()
	l, err := link.LoadPinnedLink(r.pin(r.targets[i].Link), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	p, err := ebpf.NewProgramFromID(described(t, l).ProgramID)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func described(t testing.TB, l link.Link) LinkState {
	t.Helper()
	s, err := Describe(l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// TestAttachModifyReturn lets the kernel call a function whose result a program
// changes.
func TestAttachModifyReturn(t *testing.T) {
	testenv.NoLeaks(t)
	r := pinnedKernel(t, "attach_kernel", "[[attach]]\nprogram = \"modify_unmodifiable\"\nfunction = \"bpf_modify_return_test\"\n", 0)
	p := r.program(t, 0)
	result := func() int16 { // the low half; later kernels add another function's
		got, err := p.Run(&ebpf.RunOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return int16(got)
	}
	changed := result()
	r.check(t)
	r.unpin(t)
	stops(t, "fmod_ret", func() bool { return result() == changed })
	const own, programs = 4, -1
	if got := result() - changed; got != own-programs {
		t.Errorf("the program changed the result by %d, want %d", -got, programs-own)
	}
}

// TestAttachReplace puts a program in the place of a function of one that runs.
func TestAttachReplace(t *testing.T) {
	testenv.NoLeaks(t)
	p := testenv.Veth(t)
	toml := fmt.Sprintf("[[attach]]\nprogram = \"guarded\"\ninterface = \"veth0\"\nnetns = %q\n[[attach]]\nprogram = \"verdict_drop\"\nreplaces = \"guarded\"\n", p.B.Netns)
	r := pinnedKernel(t, "attach_kernel", toml, 0)
	if r.targets[0].Program != "verdict_drop" || r.targets[0].Function != "verdict" || r.targets[0].ReplacesID == 0 {
		t.Errorf("first target %+v, want what is replaced before it runs", r.targets[0])
	}
	if got := p.Send(t, 3); got != 0 || hits(t, r.coll, "verdict_drop") != 3 {
		t.Errorf("%d of 3 datagrams arrived, %d were counted", got, hits(t, r.coll, "verdict_drop"))
	}
	r.check(t)
	if err := os.Remove(r.pin(r.targets[0].Link)); err != nil {
		t.Fatal(err)
	}
	stops(t, "the replacement", func() bool { return p.Send(t, 1) == 0 })
	if mode := xdpMode(t, p.B); mode == "" {
		t.Error("the program whose function it was is gone too")
	}
}

const opsManifest = "[maps.\"*\"]\nclass = \"mutable\"\n[[attach]]\nmap = \"steady\"\n"

// TestAttachStructOps lets a connection use a congestion control made of programs.
func TestAttachStructOps(t *testing.T) {
	testenv.NoLeaks(t)
	testenv.RequireEnum(t, "bpf_attach_type", "BPF_STRUCT_OPS")
	spec, m := openFixture(t, "attach_ops"), parseManifest(t, opsManifest)
	coll := loadKernel(t, spec, m)
	targets, err := Resolve(spec, m, nil)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	links, err := Attach(coll, targets)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	r := running{counted{coll, spec.Variables}, targets, testenv.BPFFS(t)}
	if err := links["steady"].Pin(r.pin("steady")); err != nil {
		t.Fatal(err)
	}
	info, err := coll.Maps["steady"].Info()
	if err != nil {
		t.Fatal(err)
	}
	if id, _ := info.ID(); described(t, links["steady"]).MapID != id {
		t.Errorf("link %+v, want one of map %d", described(t, links["steady"]), id)
	}
	links.Close()
	for _, p := range coll.Programs {
		p.Close()
	}
	ns := testenv.Netns(t)
	talk := func() error {
		return testenv.InNetns(t, ns, func() error { return talkWith("hornet_steady") })
	}
	if err := talk(); err != nil {
		t.Error(err)
	}
	if init, avoid := hits(t, r.coll, "cc_init"), hits(t, r.coll, "cc_avoid"); init == 0 || avoid == 0 {
		t.Errorf("counted %d connections and %d acknowledgements", init, avoid)
	}
	r.check(t)
	r.unpin(t)
	stops(t, "the congestion control", func() bool { return !errors.Is(talk(), unix.ENOENT) })
}

// talkWith sends some data over a connection with a congestion control.
func talkWith(control string) error {
	l, err := listenTCP()
	if err != nil {
		return err
	}
	defer l.Close()
	d := net.Dialer{Control: func(_, _ string, c syscall.RawConn) (err error) {
		e := c.Control(func(fd uintptr) { err = unix.SetsockoptString(int(fd), unix.IPPROTO_TCP, unix.TCP_CONGESTION, control) })
		return errors.Join(e, err)
	}}
	d.SetMultipathTCP(false)
	a, err := d.Dial("tcp4", l.Addr().String())
	if err != nil {
		return err
	}
	defer a.Close()
	b, err := l.Accept()
	if err != nil {
		return err
	}
	defer b.Close()
	if _, err := a.Write(make([]byte, 64<<10)); err != nil {
		return err
	}
	b.SetReadDeadline(time.Now().Add(patience))
	_, err = io.ReadFull(b, make([]byte, 64<<10))
	return err
}
