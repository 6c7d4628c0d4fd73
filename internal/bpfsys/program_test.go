package bpfsys

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// loadUsing loads and closes a program that refers to m.
func loadUsing(m *ebpf.Map) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "uses_map", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Imm(asm.R0, 0),
			asm.Return(),
		},
	})
	if err != nil {
		return err
	}
	return p.Close()
}

func TestProgramInfoIsTheLibrarys(t *testing.T) {
	testenv.RequireRoot(t)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "info", Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 42), asm.Return()},
	})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	want, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ProgramInfo(p.FD())
	if err != nil {
		t.Fatal(err)
	}
	id, _ := want.ID()
	if got.ID != uint32(id) || got.Tag != want.Tag || got.Type != uint32(ebpf.SocketFilter) {
		t.Errorf("ProgramInfo = %+v, the library says id %d tag %s type %d", got, id, want.Tag, want.Type)
	}
	if typ, name, err := ProgramName(uint32(id)); typ != uint32(want.Type) || name != want.Name || err != nil {
		t.Errorf("ProgramName = %d, %q, %v, the library says %+v", typ, name, err, want)
	}
	if _, _, err := ProgramName(1 << 31); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no program: %v", err)
	}
	if _, err := ProgramInfo(0); err == nil {
		t.Error("no error for a descriptor that is no program")
	}
}

// What is refused, here for it is an LSM program of no hook, says so; what is taken the guard's
// tests load.
func TestLoadLSMCgroupRefused(t *testing.T) {
	requireRoot(t)
	insns := make([]byte, 16)
	insns[0], insns[8] = 0xb7, 0x95 // r0 = 0, exit
	if fd, err := LoadLSMCgroup("none", insns, 0); fd >= 0 || err == nil || !strings.Contains(err.Error(), "load program: ") {
		t.Errorf("loaded: %d, %v", fd, err)
	}
}
