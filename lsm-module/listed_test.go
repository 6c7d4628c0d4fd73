package lsm

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/btf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// Who is listed for a command uses it on what is his, and not on what hornetd owns,
// whoever gave him the descriptor.
func TestListedForOwned(t *testing.T) {
	guestOnly(t)
	s := newScene(t)
	s.lay(t)
	program, err := ebpf.NewProgram(cgroupProgram("foreign"))
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	its, err := link.AttachCgroup(link.CgroupOptions{Path: testenv.Cgroup(t), Attach: ebpf.AttachCGroupInetEgress, Program: program})
	if err != nil {
		t.Fatal(err)
	}
	defer its.Close()
	info, err := its.Info()
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := bpf(unix.BPF_LINK_GET_FD_BY_ID, map[int]uint32{0: uint32(info.ID)})
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(foreign)
	var extended [2]*ebpf.Program // the first is hornetd's
	for i := range extended {
		if extended[i], err = ebpf.NewProgram(withFunction(cgroupProgram("extended"))); err != nil {
			t.Fatal(err)
		}
		defer extended[i].Close()
	}
	extends, err := extension(extended[1])
	if err != nil {
		t.Fatal(err)
	}
	defer extends.Close()
	listed := testenv.Cgroup(t)
	toMaps := []ebpf.AttachType{ebpf.AttachSkSKBStreamParser, ebpf.AttachSkSKBStreamVerdict, ebpf.AttachSkMsgVerdict, ebpf.AttachSkSKBVerdict}
	attachments := []uint32{0, uint32(ebpf.AttachLSMCgroup), uint32(ebpf.AttachPerfEvent), uint32(ebpf.AttachTCXIngress)}
	for _, attach := range toMaps {
		attachments = append(attachments, uint32(attach))
	}
	ofProgram := []uint32{unix.BPF_LINK_CREATE, unix.BPF_PROG_BIND_MAP, unix.BPF_PROG_TEST_RUN}
	ofLink := []uint32{unix.BPF_LINK_UPDATE, unix.BPF_ITER_CREATE, unix.BPF_LINK_DETACH}
	g := arm(t, func(c *Config) {
		c.Owned = []Object{{Program, s.Prog}, {Link, s.Link}, {Map, s.Map}, {Program, programID(t, extended[0])}}
		c.Allow = []Identity{{Cgroup: listed, Commands: slices.Concat(ofProgram, ofLink, []uint32{unix.BPF_PROG_ATTACH, unix.BPF_PROG_DETACH, unix.BPF_RAW_TRACEPOINT_OPEN,
			unix.BPF_PROG_LOAD, unix.BPF_BTF_LOAD}), Programs: []uint32{uint32(ebpf.SocketFilter), uint32(ebpf.Extension)}, Attachments: attachments}}
	})
	cmd := child("tries", nil)
	cmd.ExtraFiles = s.loot(t, g.programs[controlProgram])
	for _, fd := range []int{program.FD(), foreign, extended[0].FD(), extended[1].FD(), extends.FD()} {
		copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		cmd.ExtraFiles = append(cmd.ExtraFiles, os.NewFile(uintptr(copied), "foreign"))
	}
	for _, f := range cmd.ExtraFiles {
		defer f.Close()
	}
	const foreignProg, foreignLink, stolenExtended, foreignExtended, foreignExtends = stolenArray + 1, stolenArray + 2, stolenArray + 3, stolenArray + 4, stolenArray + 5
	var wants []bool // refused
	tryTo := func(refused bool, format string, args ...any) {
		cmd.Args = append(cmd.Args, fmt.Sprintf(format, args...))
		wants = append(wants, refused)
	}
	try := func(refused bool, command, fd, attach int) { tryTo(refused, "on=%d:0=%d:2=%d", command, fd, attach) }
	for _, command := range ofProgram {
		try(true, int(command), stolenProg, 0)
		try(false, int(command), foreignProg, 0)
	}
	for _, command := range ofLink {
		try(true, int(command), stolenLink, 0)
		try(false, int(command), foreignLink, 0)
	}
	for _, command := range []int{unix.BPF_LINK_CREATE, unix.BPF_PROG_ATTACH, unix.BPF_PROG_DETACH} {
		try(true, command, foreignProg, 1) // an attach type that is not listed
		try(true, command, foreignProg, int(ebpf.AttachLSMCgroup))
	}
	try(false, unix.BPF_PROG_ATTACH, foreignProg, 0)
	try(false, unix.BPF_PROG_DETACH, foreignProg, 0)
	// Those that have the program elsewhere.
	for command, word := range map[int]int{unix.BPF_PROG_ATTACH: 1, unix.BPF_PROG_DETACH: 1, unix.BPF_LINK_UPDATE: 1, unix.BPF_RAW_TRACEPOINT_OPEN: 2} {
		for fd, refused := range map[int]bool{stolenProg: true, foreignProg: false} {
			tryTo(refused, "on=%d:%d=%d:%d=0", command, word, fd, 3-word)
		}
	}
	// What it is attached to, put in place of or bound to.
	for command, word := range map[int]int{unix.BPF_PROG_ATTACH: 0, unix.BPF_PROG_DETACH: 0, unix.BPF_LINK_CREATE: 1} {
		for _, attach := range toMaps {
			tryTo(true, "on=%d:%d=%d:2=%d", command, word, stolenMap, attach)
		}
		tryTo(false, "on=%d:%d=%d:2=%d", command, word, foreignProg, toMaps[0])
		tryTo(false, "on=%d:%d=%d:2=%d", command, word, stolenMap, ebpf.AttachTCXIngress) // to an interface that has this number
	}
	tryTo(true, "on=%d:1=%d:2=0", unix.BPF_PROG_BIND_MAP, stolenMap)
	tryTo(true, "on=%d:0=%d:1=%d", unix.BPF_LINK_CREATE, foreignExtends, stolenExtended)
	tryTo(false, "on=%d:0=%d:1=%d", unix.BPF_LINK_CREATE, foreignExtends, foreignExtended)
	tryTo(true, "extends=%d", stolenExtended)
	tryTo(false, "extends=%d", foreignExtended)
	tryTo(true, "set-bpf=%d", stolenProg)
	tryTo(false, "set-bpf=%d", foreignProg)
	dir, err := os.Open(listed)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	cmd.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for i, got := range strings.Fields(string(out)) {
		if refused := wants[i]; refused != (got == "EPERM") {
			t.Errorf("%s: %s", cmd.Args[1+i], got)
		}
	}
	told := readEvents(t, g, time.Second)
	for _, want := range []Event{
		{Deed: DeedBPF, Detail: unix.BPF_PROG_TEST_RUN, Reason: ReasonOwned, Object: Object{Program, s.Prog}},
		{Deed: DeedBPF, Detail: unix.BPF_LINK_DETACH, Reason: ReasonOwned, Object: Object{Link, s.Link}},
		{Deed: DeedBPF, Detail: unix.BPF_LINK_CREATE, Reason: ReasonType, Attach: 1},
		{Deed: DeedBPF, Detail: unix.BPF_PROG_ATTACH, Reason: ReasonType, Attach: 1},
		{Deed: DeedBPF, Detail: unix.BPF_PROG_DETACH, Reason: ReasonType, Attach: 1},
		{Deed: DeedBPF, Detail: unix.BPF_PROG_DETACH, Reason: ReasonOwned, Attach: uint32(ebpf.AttachLSMCgroup)},
		{Deed: DeedBPF, Detail: unix.BPF_PROG_DETACH, Reason: ReasonOwned, Attach: uint32(ebpf.AttachSkSKBVerdict), Object: Object{Map, s.Map}},
		{Deed: DeedProgram, Reason: ReasonOwned, Object: Object{Program, programID(t, extended[0])}},
		{Deed: DeedIoctl, Detail: unix.PERF_EVENT_IOC_SET_BPF, Reason: ReasonOwned, Attach: uint32(ebpf.AttachPerfEvent), Object: Object{Program, s.Prog}},
	} {
		if !slices.ContainsFunc(told, func(e Event) bool {
			return e.Deed == want.Deed && e.Detail == want.Detail && e.Reason == want.Reason && e.Object == want.Object && e.Attach == want.Attach
		}) {
			t.Errorf("not told: %+v", want)
		}
	}
}

// on makes a call of bpf(2), COMMAND:WORD=VALUE:WORD=VALUE, that gives nothing but those
// words: the descriptor, and the attach type, which is the third.
func on(text string) error {
	var command, one, another int
	var first, second uint32
	if _, err := fmt.Sscanf(text, "%d:%d=%d:%d=%d", &command, &one, &first, &another, &second); err != nil {
		return err
	}
	return closing(bpf(command, map[int]uint32{one: first, another: second}))
}

// withFunction gives a program its types, so that another one can take its place.
func withFunction(spec *ebpf.ProgramSpec) *ebpf.ProgramSpec {
	ctx := &btf.Pointer{Target: &btf.Struct{Name: "__sk_buff"}}
	whole := &btf.Func{Name: spec.Name, Linkage: btf.GlobalFunc,
		Type: &btf.FuncProto{Return: &btf.Int{Name: "int", Size: 4, Encoding: btf.Signed}, Params: []btf.FuncParam{{Name: "ctx", Type: ctx}}}}
	spec.Instructions[0] = btf.WithFuncMetadata(spec.Instructions[0].WithSymbol(spec.Name), whole)
	return spec
}

// extension loads a program that can take the place of another one, called "extended".
func extension(of *ebpf.Program) (*ebpf.Program, error) {
	spec := withFunction(cgroupProgram("extends"))
	spec.Type, spec.AttachType, spec.AttachTarget, spec.AttachTo = ebpf.Extension, 0, of, "extended"
	return ebpf.NewProgram(spec)
}

func programID(t *testing.T, p *ebpf.Program) uint32 {
	t.Helper()
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	return uint32(id)
}

// attaches tries to attach what is no program in a way that is not a command of bpf(2).
func attaches(how string) error {
	const none = -1
	switch how {
	case "socket":
		return socketOption(unix.SO_ATTACH_BPF, none)
	case "reuseport":
		return socketOption(unix.SO_ATTACH_REUSEPORT_EBPF, none)
	case "xdp":
		return setXDP(none)
	case "new-xdp":
		return netlink(xdpMessage(unix.RTM_NEWLINK, nested, none), 1)
	case "filter":
		return netlink(filterMessage(unix.NLM_F_CREATE, "bpf", "\x00", none), 1)
	case "action":
		return netlink(actionMessage(none), 1)
	case "xdp-and-filter":
		return netlink(append(xdpMessage(unix.RTM_SETLINK, nested, none), filterMessage(unix.NLM_F_CREATE, "bpf", "\x00", none)...), 2)
	case "filter-and-xdp":
		return netlink(append(filterMessage(unix.NLM_F_CREATE, "bpf", "\x00", none), xdpMessage(unix.RTM_SETLINK, nested, none)...), 2)
	case "uprobe":
		return uprobe("/bin/sh")
	case "tracefs":
		return try("open", "/sys/kernel/tracing/uprobe_events", 0)
	default:
		return ioctl(unix.TUNSETFILTEREBPF)
	}
}

// Who may load programs of a type may attach them by other calls than bpf(2), and none
// of another type.
func TestListedToAttach(t *testing.T) {
	guestOnly(t)
	some, others := testenv.Cgroup(t), testenv.Cgroup(t)
	load := []uint32{unix.BPF_PROG_LOAD}
	arm(t, func(c *Config) {
		c.Allow = []Identity{
			{Cgroup: some, Commands: load, Programs: []uint32{uint32(ebpf.SocketFilter), uint32(ebpf.XDP)}},
			{Cgroup: others, Commands: append(load, unix.BPF_LINK_CREATE), Programs: []uint32{uint32(ebpf.SkReuseport), uint32(ebpf.SchedCLS)},
				Attachments: []uint32{uint32(ebpf.AttachPerfEvent)}},
		}
	})
	for _, tt := range []struct {
		cgroup, may, not string
	}{
		{some, "socket xdp new-xdp", "reuseport filter action xdp-and-filter filter-and-xdp ioctl uprobe tracefs"},
		{others, "reuseport filter action ioctl uprobe tracefs", "socket xdp new-xdp xdp-and-filter filter-and-xdp"},
	} {
		var tries []string
		for how := range strings.FieldsSeq(tt.may + " " + tt.not) {
			tries = append(tries, "attaches="+how)
		}
		_, out := start(t, 0, tt.cgroup, self(t), "tries", tries...)
		for i, got := range strings.Fields(said(t, out)) {
			if refused := i >= len(strings.Fields(tt.may)); refused != (got == "EPERM") {
				t.Errorf("who may attach by %s: %s: %s", tt.may, tries[i], got)
			}
		}
	}
	for _, how := range []string{"uprobe", "tracefs"} {
		if got := answer(attaches(how)); got == "EPERM" {
			t.Errorf("hornetd: %s: %s", how, got)
		}
	}
}

// What hornetd makes is its own from the first moment, a link from its pin on; what it
// only looks at stays whose it is.
func TestMadeIsOwned(t *testing.T) {
	guestOnly(t)
	before, err := ebpf.NewProgram(cgroupProgram("before"))
	if err != nil {
		t.Fatal(err)
	}
	defer before.Close()
	foreign := newMap(t)
	bpffs := testenv.BPFFS(t)
	arm(t, nil)
	for _, command := range []struct {
		number int
		id     uint32
	}{{unix.BPF_PROG_GET_FD_BY_ID, programID(t, before)}, {unix.BPF_MAP_GET_FD_BY_ID, mapID(t, foreign)}} {
		if err := closing(bpf(command.number, map[int]uint32{0: command.id})); err != nil {
			t.Fatal(err)
		}
	}
	made, err := ebpf.NewProgram(cgroupProgram("made"))
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	its, err := link.AttachCgroup(link.CgroupOptions{Path: testenv.Cgroup(t), Attach: ebpf.AttachCGroupInetEgress, Program: made})
	if err != nil {
		t.Fatal(err)
	}
	defer its.Close()
	info, err := its.Info()
	if err != nil {
		t.Fatal(err)
	}
	tries := []string{fmt.Sprint("program=", programID(t, before)), fmt.Sprint("write=", mapID(t, foreign)), fmt.Sprint("program=", programID(t, made)),
		fmt.Sprint("write=", mapID(t, newMap(t))), fmt.Sprint("link=", info.ID)}
	look := func(want string) {
		t.Helper()
		out, err := child("tries", nil, tries...).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != want {
			t.Errorf("%v: %s (%v), want %s", tries, got, err, want)
		}
	}
	look("ok ok EPERM EPERM ok")
	if err := its.Pin(filepath.Join(bpffs, "link")); err != nil {
		t.Fatal(err)
	}
	look("ok ok EPERM EPERM EPERM")
}

// What is told of what is refused.
func TestDeeds(t *testing.T) {
	guestOnly(t)
	s := newScene(t)
	s.lay(t)
	binary, err := os.Open(s.Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	g := arm(t, func(c *Config) {
		c.Guarded = []string{s.Guarded}
		c.Executables = []*os.File{binary}
		c.Owned = []Object{{Map, s.Map}, {Program, s.Prog}, {Link, s.Link}}
	})
	uprobes, err := uprobeType()
	if err != nil {
		t.Fatal(err)
	}
	theMap, theProgram, theLink := Object{Map, s.Map}, Object{Program, s.Prog}, Object{Link, s.Link}
	want := map[string]Event{
		"bpf PROG_ATTACH":                         {Deed: DeedBPF, Detail: unix.BPF_PROG_ATTACH, Reason: ReasonCaller},
		"foreign program: SO_ATTACH_BPF":          {Deed: DeedSocket, Detail: unix.SO_ATTACH_BPF, Reason: ReasonCaller},
		"foreign program: PERF_EVENT_IOC_SET_BPF": {Deed: DeedIoctl, Detail: unix.PERF_EVENT_IOC_SET_BPF, Reason: ReasonCaller, Attach: uint32(ebpf.AttachPerfEvent)},
		"foreign program: XDP by netlink":         {Deed: DeedNetlink, Detail: unix.RTM_SETLINK, Reason: ReasonCaller},
		"foreign program: filter by netlink":      {Deed: DeedNetlink, Detail: unix.RTM_NEWTFILTER, Reason: ReasonCaller},
		"foreign program: action by netlink":      {Deed: DeedNetlink, Detail: unix.RTM_NEWACTION, Reason: ReasonCaller},
		"owned map: by id, to write":              {Deed: DeedMap, Reason: ReasonOwned, Object: theMap, Type: uint32(ebpf.Array), Name: "test"},
		"owned program: by id":                    {Deed: DeedProgram, Reason: ReasonOwned, Object: theProgram, Type: uint32(ebpf.CGroupSKB), Name: "owned"},
		"owned link: by id":                       {Deed: DeedBPF, Detail: unix.BPF_LINK_GET_FD_BY_ID, Reason: ReasonOwned, Object: theLink},
		"stolen map: update":                      {Deed: DeedBPF, Detail: unix.BPF_MAP_UPDATE_ELEM, Reason: ReasonOwned, Object: theMap},
		"stolen map: update a batch":              {Deed: DeedBPF, Detail: unix.BPF_MAP_UPDATE_BATCH, Reason: ReasonOwned, Object: theMap},
		"stolen link: pin elsewhere":              {Deed: DeedBPF, Detail: unix.BPF_OBJ_PIN, Reason: ReasonOwned, Object: theLink},
		"pin: unlink":                             {Deed: DeedPin, Detail: 1, Reason: ReasonOwned, Name: "unlink"},
		"pin: rename":                             {Deed: DeedPin, Detail: 3, Reason: ReasonOwned, Name: "rename"},
		"pin: rename over":                        {Deed: DeedPin, Detail: 3, Reason: ReasonOwned, Name: "outside"}, // which is guarded, too
		"pin: link":                               {Deed: DeedPin, Detail: 4, Reason: ReasonOwned, Name: "map"},
		"pin: chmod":                              {Deed: DeedPin, Detail: 5, Reason: ReasonOwned, Name: "map"},
		"pin: mkdir":                              {Deed: DeedPin, Detail: 7, Reason: ReasonOwned, Name: "made"},
		"pin: rmdir":                              {Deed: DeedPin, Detail: 2, Reason: ReasonOwned, Name: "empty"},
		"pin: symlink":                            {Deed: DeedPin, Detail: 8, Reason: ReasonOwned, Name: "symbolic"},
		"pin: a foreign map among them":           {Deed: DeedPin, Detail: 6, Reason: ReasonOwned, Name: "foreign"},
		"umount":                                  {Deed: DeedMount, Detail: 1, Reason: ReasonOwned},
		"mount over":                              {Deed: DeedMount, Detail: 2, Reason: ReasonOwned},
		"remount":                                 {Deed: DeedMount, Detail: 4, Reason: ReasonOwned},
		"move_mount":                              {Deed: DeedMount, Detail: 3, Reason: ReasonOwned},
		"move_mount over it":                      {Deed: DeedMount, Detail: 2, Reason: ReasonOwned},
		"pidfd_getfd":                             {Deed: DeedTrace, Detail: ptraceModeAttachRealcreds, Reason: ReasonOwned},
		"SIGTERM":                                 {Deed: DeedSignal, Detail: uint32(unix.SIGTERM), Reason: ReasonOwned},
		"write the binary":                        {Deed: DeedBinary, Reason: ReasonOwned},
		"open kernel.ftrace_enabled to write":     {Deed: DeedSwitch, Reason: ReasonOwned},
		"uprobe by perf_event_open":               {Deed: DeedProbe, Detail: uint32(uprobes), Reason: ReasonCaller},
		"uprobe by tracefs":                       {Deed: DeedProbe, Reason: ReasonCaller},
	}
	cmd := child("attacks", nil, s.args()...)
	cmd.Env = append(cmd.Env, "STOLEN=1", quickEnv+"=", onlyEnv+"="+strings.Join(slices.Collect(maps.Keys(want)), "\n"))
	cmd.ExtraFiles = s.loot(t, g.programs[controlProgram])
	for _, f := range cmd.ExtraFiles {
		defer f.Close()
	}
	readEvents(t, g, 10*time.Millisecond)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	var told []Event
	for _, e := range readEvents(t, g, time.Second) {
		e = Event{Deed: e.Deed, Detail: e.Detail, Reason: e.Reason, Object: e.Object, Type: e.Type, Attach: e.Attach, Name: e.Name, PID: e.PID}
		if e.PID == uint32(cmd.Process.Pid) && !slices.Contains(told, e) { // twice: that it is undone is refused, too
			told = append(told, e)
		}
	}
	for name, e := range want {
		e.PID = uint32(cmd.Process.Pid)
		if !slices.Contains(told, e) {
			t.Errorf("%s: not told as %#v", name, e)
		}
	}
	if t.Failed() {
		t.Logf("told: %#v", told)
	}
}

// ptraceModeAttachRealcreds is what the kernel asks for where a descriptor is taken.
const ptraceModeAttachRealcreds = 0x12

// A program of 32 bits asks another function of the kernel's, which has its own hook.
func TestCompatIoctl(t *testing.T) {
	guestOnly(t)
	if runtime.GOARCH != "amd64" {
		t.Skip("the program is for x86")
	}
	name := filepath.Join(t.TempDir(), "ioctl32")
	if err := os.WriteFile(name, ioctl32(unix.TUNSETSTEERINGEBPF), 0o755); err != nil {
		t.Fatal(err)
	}
	status := func() unix.Errno {
		err := exec.Command(name).Run()
		if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
			return unix.Errno(exit.ExitCode())
		}
		t.Fatal(err)
		return 0
	}
	if got := status(); got != unix.ENOTTY {
		t.Errorf("without a guard: %s, want ENOTTY", unix.ErrnoName(got))
	}
	arm(t, nil)
	if got := status(); got != unix.EPERM {
		t.Errorf("with one: %s, want EPERM", unix.ErrnoName(got))
	}
}

// ioctl32 is a program for i386 that ends with what the ioctl of /dev/null answers.
func ioctl32(request uint32) []byte {
	const base, exit, open, ioctl = 0x08048000, 1, 5, 54
	var h elf.Header32
	var p elf.Prog32
	code := base + uint32(unsafe.Sizeof(h)) + uint32(unsafe.Sizeof(p))
	le := binary.LittleEndian.AppendUint32
	call := []byte{0xcd, 0x80}
	text := slices.Concat([]byte("/dev/null\x00"),
		le([]byte{0xbb}, code), []byte{0x31, 0xc9}, le([]byte{0xb8}, open), call, // ebx, ecx, eax
		[]byte{0x89, 0xc3, 0x31, 0xd2}, le([]byte{0xb9}, request), le([]byte{0xb8}, ioctl), call, // ebx = eax, edx = 0
		[]byte{0xf7, 0xd8, 0x89, 0xc3}, le([]byte{0xb8}, exit), call) // -eax
	h = elf.Header32{Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS32), byte(elf.ELFDATA2LSB), byte(elf.EV_CURRENT)},
		Type: uint16(elf.ET_EXEC), Machine: uint16(elf.EM_386), Version: uint32(elf.EV_CURRENT), Entry: code + uint32(len("/dev/null\x00")),
		Phoff: uint32(unsafe.Sizeof(h)), Ehsize: uint16(unsafe.Sizeof(h)), Phentsize: uint16(unsafe.Sizeof(p)), Phnum: 1}
	size := code - base + uint32(len(text))
	p = elf.Prog32{Type: uint32(elf.PT_LOAD), Vaddr: base, Filesz: size, Memsz: size, Flags: uint32(elf.PF_R | elf.PF_X), Align: 0x1000}
	var b bytes.Buffer
	for _, part := range []any{h, p, text} {
		if err := binary.Write(&b, binary.LittleEndian, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}
