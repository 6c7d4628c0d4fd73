package lsm

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// What hornetd makes has an id before it has a descriptor, and is nobody else's then.
func TestMadeIsNobodys(t *testing.T) {
	guestOnly(t)
	enrolled, err := os.Open(self(t))
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	arm(t, func(c *Config) { c.Executables = []*os.File{enrolled} })
	for _, tt := range []struct {
		what, kind string
		makes      func() (string, error) // says how many
	}{
		{"map", "map", func() (string, error) { return makesOf("map") }},
		{"program", "program", func() (string, error) { return makesOf("program") }},
		{"map of what makes maps", "map", func() (string, error) {
			_, out := start(t, 0, testenv.CgroupRoot(t), self(t), "repeats", "map")
			return said(t, out), nil
		}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			cmd := child("polls", nil, tt.kind)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			var out bytes.Buffer
			cmd.Stdout, cmd.Stderr = &out, &out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			made, err := tt.makes()
			if n, _ := strconv.Atoi(made); err != nil || n < 10 {
				t.Errorf("made: %s, %v", made, err)
			}
			stdin.Close()
			if err := cmd.Wait(); err != nil || out.String() != "0\n" {
				t.Errorf("of %s, descriptors had by another: %s, %v", made, out.String(), err)
			}
		})
	}
}

// makesOf makes maps, or programs, for two seconds, and says how many. What is gone stays
// on the guard's list, of 65536, until hornetd takes it off, and nobody does so here.
func makesOf(kind string) (string, error) {
	made := 0
	for end := time.Now().Add(2 * time.Second); made < 15_000 && time.Now().Before(end); made++ {
		if kind == "map" {
			if err := childCreates(nil); err != nil {
				return "", err
			}
		} else {
			p, err := socketFilter()
			if err != nil {
				return "", err
			}
			p.Close()
		}
		runtime.Gosched()
	}
	return strconv.Itoa(made), nil
}

func childRepeats(args []string) error {
	made, err := makesOf(args[0])
	fmt.Println(made)
	return err
}

// childPolls tries to have what comes next by its id, until its input ends, and says how
// often it did.
func childPolls(args []string) error {
	done := make(chan struct{})
	go func() {
		defer close(done)
		bufio.NewReader(os.Stdin).ReadByte()
	}()
	last := func(id uint32) (uint32, error) {
		for {
			var next uint32
			var err error
			if args[0] == "map" {
				var n ebpf.MapID
				n, err = ebpf.MapGetNextID(ebpf.MapID(id))
				next = uint32(n)
			} else {
				var n ebpf.ProgramID
				n, err = ebpf.ProgramGetNextID(ebpf.ProgramID(id))
				next = uint32(n)
			}
			if errors.Is(err, fs.ErrNotExist) {
				return id, nil
			}
			if err != nil {
				return 0, err
			}
			id = next
		}
	}
	command := map[string]int{"map": unix.BPF_MAP_GET_FD_BY_ID, "program": unix.BPF_PROG_GET_FD_BY_ID}[args[0]]
	had := 0
	id, err := last(0)
	if err != nil {
		return err
	}
	for {
		select {
		case <-done:
			fmt.Println(had)
			return nil
		default:
		}
		for ahead := range uint32(3) {
			if fd, err := bpf(command, map[int]uint32{0: id + ahead}); err == nil {
				had++
				unix.Close(fd)
			}
		}
		if id, err = last(id); err != nil {
			return err
		}
	}
}

// Whoever has opened what was in force keeps nobody from anything once another is.
func TestReplacedAndHeld(t *testing.T) {
	g := arm(t, nil)
	cmd := child("holds", nil, g.path())
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil || line == "0\n" {
		t.Fatalf("links held: %q, %v", line, err)
	}
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t)})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	if err := g.SetMode(Audit, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := child("create", nil).CombinedOutput(); err != nil {
		t.Errorf("audited, and %s a map could not be made: %s", strings.TrimSpace(line), out)
	}
}

// childHolds opens the links that are pinned in a set, as far as it may, and keeps them.
func childHolds(args []string) error {
	pins, err := filepath.Glob(filepath.Join(args[0], "links", "*"))
	if err != nil {
		return err
	}
	var held []link.Link
	for _, pin := range pins {
		if l, err := link.LoadPinnedLink(pin, nil); err == nil {
			held = append(held, l)
		}
	}
	fmt.Println(len(held))
	bufio.NewReader(os.Stdin).ReadByte()
	runtime.KeepAlive(held)
	return nil
}

// Whoever is to be a child of what becomes hornetd sends it no signal.
func TestSiblingSignals(t *testing.T) {
	guestOnly(t)
	home := testenv.Cgroup(t)
	exe := self(t)
	enrolled, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	arm(t, func(c *Config) { c.Cgroup, c.Executables = home, []*os.File{enrolled} })
	begins := newFIFO(t)
	first := fmt.Sprintf("(read -r go <%[2]s; if kill -WINCH %[1]d; then echo asked; fi; if kill -USR2 %[1]d; then echo sent; else echo refused; fi) 2>/dev/null &", os.Getpid(), begins)
	p, out := startBehind(t, unix.CLONE_PARENT, first+" :", home, exe, "waits")
	defer p.Kill()
	lines := bufio.NewReader(out)
	all, err := lines.ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(begins, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	for !strings.HasSuffix(all, "sent\n") && !strings.HasSuffix(all, "refused\n") {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatalf("%q, %v", all, err)
		}
		all += line
	}
	if all != "there\nasked\nrefused\n" {
		t.Errorf("it says %q", all)
	}
}

// Nothing of what the mount namespace shows decides what a guard is made of.
func TestArmInAStrangersView(t *testing.T) {
	guestOnly(t)
	exe := self(t)
	copied, err := os.Open(copyOf(t, exe))
	if err != nil {
		t.Fatal(err)
	}
	defer copied.Close()
	own, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	dir := filepath.Join(testenv.BPFFS(t), "guard")
	c := Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Executables: []*os.File{copied}, OwnFirst: true}
	if g, err := Arm(dir, c); err == nil || !strings.Contains(err.Error(), "not what this process executes") {
		if g != nil {
			g.Disarm()
		}
		t.Errorf("as hornetd, another file: %v", err)
	}

	// Types of a kernel that has other structures.
	const types = "/sys/kernel/btf/vmlinux"
	b, err := os.ReadFile(types)
	if err != nil {
		t.Fatal(err)
	}
	fake := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(fake, bytes.ReplaceAll(b, []byte("\x00s_dev\x00"), []byte("\x00s_dov\x00")), 0o644); err != nil {
		t.Fatal(err)
	}
	mountFile(t, fake, types)
	c.Executables = []*os.File{own}
	g, err := Arm(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { g.Disarm() }()
	if out, err := child("tries", nil, "remove="+filepath.Join(g.path(), "links", "guard_exec")).CombinedOutput(); err != nil || string(out) != "EPERM\n" {
		t.Errorf("its pins are removed: %v: %s", err, out)
	}

	// Uprobes are what they were for the one before.
	number := filepath.Join(t.TempDir(), "type")
	if err := os.WriteFile(number, []byte("77\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, err := readState(g.maps[stateMap])
	if err != nil {
		t.Fatal(err)
	}
	mountFile(t, number, "/sys/bus/event_source/devices/uprobe/type")
	next, err := g.Upgrade(c)
	if err != nil {
		t.Fatal(err)
	}
	g = next
	if after, err := readState(g.maps[stateMap]); err != nil || before.Uprobes == 0 || after.Uprobes != before.Uprobes {
		t.Errorf("the type of uprobes is %d, and %d behind an upgrade (%v)", before.Uprobes, after.Uprobes, err)
	}
}

// mountFile has another file in its place until the test ends.
func mountFile(t *testing.T, file, place string) {
	t.Helper()
	if err := unix.Mount(file, place, "", unix.MS_BIND, ""); err != nil {
		t.Fatalf("mount %s: %v", place, err)
	}
	t.Cleanup(func() { unix.Unmount(place, unix.MNT_DETACH) })
}

// A child of hornetd's executes hornetd, and nothing that has the kernel execute another.
func TestSpawn(t *testing.T) {
	guestOnly(t)
	exe := self(t)
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\ntrue\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, name := range []string{exe, script} {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		files = append(files, f)
	}
	g := arm(t, func(c *Config) { c.Executables, c.OwnFirst = files, true })
	for what, tt := range map[string]struct {
		cmd  *exec.Cmd
		want error
	}{
		"itself":                         {child("tries", nil), nil},
		"another program":                {exec.Command("/bin/true"), unix.EPERM},
		"another by what is enrolled":    {exec.Command(script), unix.EPERM},
		"another by what it has started": {child("runs", nil, "/bin/true"), nil},
	} {
		if err := tt.cmd.Run(); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", what, err, tt.want)
		}
	}
	told := readEvents(t, g, time.Second)
	if !slices.ContainsFunc(told, func(e Event) bool { return e.Deed == DeedSpawn && e.Reason == ReasonCaller && e.Refused }) {
		t.Errorf("not told: %+v", told)
	}
}

// A program that the kernel refuses hornetd is nobody's, and neither is what comes to lie
// where it was.
func TestGivenUp(t *testing.T) {
	listed := testenv.Cgroup(t)
	arm(t, func(c *Config) {
		c.Allow = []Identity{{Cgroup: listed, Commands: []uint32{unix.BPF_PROG_LOAD}, Programs: []uint32{uint32(ebpf.SocketFilter)}}}
	})
	const times = 100
	for range times {
		p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Reg(asm.R0, asm.R5), asm.Return()}})
		if err == nil {
			p.Close()
			t.Fatal("the kernel takes a program that reads what it has not written")
		}
	}
	_, out := start(t, 0, listed, self(t), "tries", slices.Repeat([]string{"filter"}, times)...)
	if got, want := said(t, out), strings.TrimSpace(strings.Repeat("ok ", times)); got != want {
		t.Errorf("programs of who is listed: %s", got)
	}
}
