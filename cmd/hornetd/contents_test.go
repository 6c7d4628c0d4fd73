package main_test

import (
	"errors"
	"io"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// overwrite writes into the first value of an array that is frozen, which
// freezing does not keep a map iterator from.
func overwrite(t *testing.T, m *ebpf.Map) {
	t.Helper()
	prog, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map_elem", License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMem(asm.R1, asm.R1, 24, asm.DWord), // struct bpf_iter__bpf_map_elem: meta, map, key, value
			asm.JEq.Imm(asm.R1, 0, "end"),
			asm.StoreImm(asm.R1, 0, 0x5a, asm.Byte),
			asm.Mov.Imm(asm.R0, 0).WithSymbol("end"),
			asm.Return(),
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer prog.Close()
	l, err := link.AttachIter(link.IterOptions{Program: prog, Map: m})
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.EACCES) {
		t.Skipf("this kernel keeps iterators from frozen maps: %v", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r, err := l.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := io.ReadAll(r); err != nil {
		t.Fatal(err)
	}
}

// TestFrozenMapOverwritten: a start finds what was written into a frozen map
// while no daemon was there, and sets the collection aside whole, running.
func TestFrozenMapOverwritten(t *testing.T) {
	testenv.RequireMapIterators(t)
	testenv.NoLeaks(t)
	pair := testenv.Veth(t)
	h := testdaemon.New(t, "")
	h.Object("xdp_drop.bpf.o", example(t, "xdp-drop/xdp_drop.bpf.o"))
	h.Manifest("xdp-drop", xdpDrop(pair))
	h.Start()
	before := load(t, h, "xdp-drop")
	h.Kill()
	h.Start()
	time.Sleep(300 * time.Millisecond) // what a start does behind READY
	if c := get(t, h, "xdp-drop"); c.State != api.StateRunning {
		t.Fatalf("untouched: %s %q", c.State, c.Reason)
	}
	h.Kill()
	rodata, err := ebpf.LoadPinnedMap(filepath.Join(h.BPFFS, "xdp-drop/maps/_rodata"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rodata.Close()
	if err := rodata.Put(uint32(0), make([]byte, rodata.ValueSize())); !errors.Is(err, syscall.EPERM) {
		t.Fatalf("a system call writes it: %v", err)
	}
	overwrite(t, rodata)
	h.Start()
	var reason, aside string
	for end := time.Now().Add(time.Minute); time.Now().Before(end) && reason == ""; time.Sleep(20 * time.Millisecond) {
		for dir := range onBPFFS(t, h) {
			if strings.HasPrefix(dir, "quarantine-") {
				reason, aside = get(t, h, dir).Reason, dir
			}
		}
	}
	if !strings.Contains(reason, `map ".rodata": it was frozen, and now holds something else`) {
		t.Fatalf("not set aside: %q", reason)
	}
	if got := kernelLinks(t, before); len(got) != 1 {
		t.Errorf("links %v: what is set aside runs on", got)
	}
	if _, stderr, exit := h.Ctl("recover", aside); exit != api.ExitFailure || get(t, h, aside).State != api.StateQuarantined {
		t.Errorf("recover gives it its name back: exit %d, %s", exit, stderr)
	}
}
