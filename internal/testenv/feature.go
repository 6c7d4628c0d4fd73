package testenv

import (
	"errors"
	"slices"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// RequireEnum skips t if the running kernel does not know a constant of its
// user interface, say "BPF_NETFILTER" of "bpf_attach_type": the kernel's own
// type information tells what it has, whatever its version. The guests of
// internal/vmtest know which kernels have it, and count a skip there as failed.
func RequireEnum(t testing.TB, enum, value string) {
	t.Helper()
	if !HasEnum(t, enum, value) {
		t.Skipf("this kernel has no %s", value)
	}
}

// HasEnum says whether the running kernel knows a constant of its user interface.
func HasEnum(t testing.TB, enum, value string) bool {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatalf("types of the kernel: %v", err)
	}
	var e *btf.Enum
	return kernel.TypeByName(enum, &e) == nil &&
		slices.ContainsFunc(e.Values, func(v btf.EnumValue) bool { return v.Name == value })
}

// RequireMapIterators skips t where the kernel refuses iterators that walk a map, which
// can write one that is frozen, to everybody.
func RequireMapIterators(t testing.TB) {
	t.Helper()
	RequireRoot(t)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map_elem", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	if errors.Is(err, unix.EPERM) {
		t.Skip("this kernel refuses iterators of maps (EPERM)")
	}
	if err != nil {
		t.Fatalf("an iterator of a map: %v", err)
	}
	p.Close()
}

// RequirePrograms skips t if the running kernel refuses programs of a type to
// everybody, whatever they do, which only loading one shows: fentry for Tracing,
// file_open for LSM.
func RequirePrograms(t testing.TB, types ...ebpf.ProgramType) {
	t.Helper()
	RequireRoot(t)
	for _, typ := range types {
		spec := &ebpf.ProgramSpec{Type: typ, AttachType: ebpf.AttachTraceFEntry, AttachTo: "begin_new_exec", License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}}
		if typ == ebpf.LSM {
			spec.AttachType, spec.AttachTo = ebpf.AttachLSMMac, "file_open"
		}
		p, err := ebpf.NewProgram(spec)
		if errors.Is(err, unix.EPERM) {
			t.Skipf("this kernel refuses programs of type %s (EPERM)", typ)
		}
		if err != nil {
			t.Fatalf("a program of type %s: %v", typ, err)
		}
		p.Close()
	}
}
