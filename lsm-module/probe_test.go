package lsm

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// Of a bool the kernel's calling conventions define the lowest byte. The fourth argument
// is looked at behind a mask.
func TestBoolArguments(t *testing.T) {
	s := spec(t)
	for _, name := range []string{"guard_bpf", "guard_load"} {
		insns := s.Programs[name].Instructions
		at := slices.IndexFunc(insns, func(i asm.Instruction) bool {
			return i.OpCode.Class() == asm.LdXClass && i.Src == asm.R1 && i.Offset == 3*8
		})
		if at < 0 {
			t.Errorf("%s does not read its fourth argument", name)
			continue
		}
		kernel := insns[at].Dst
		next := at + 1 + slices.IndexFunc(insns[at+1:], func(i asm.Instruction) bool { return i.Dst == kernel || i.Src == kernel })
		if i := insns[next]; i.OpCode.Class() != asm.ALU64Class && i.OpCode.Class() != asm.ALUClass || i.OpCode.ALUOp() != asm.And || i.OpCode.Source() != asm.ImmSource || i.Constant != 0xff {
			t.Errorf("%s: the first that is done with its fourth argument is %v", name, i)
		}
	}
}
