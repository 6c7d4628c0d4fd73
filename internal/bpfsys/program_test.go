package bpfsys

import (
	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
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
