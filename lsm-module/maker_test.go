package lsm

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// childMakes makes a map, loads types, loads a program, pins its map in a directory and
// asks for a token of no file system, and says of each what came of it.
func childMakes(args []string) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	made := answer(err)
	types, err := btf.NewBuilder([]btf.Type{&btf.Int{Name: "k", Size: 4}}, nil)
	if err != nil {
		return err
	}
	raw, err := types.Marshal(nil, nil)
	if err != nil {
		return err
	}
	at := uintptr(unsafe.Pointer(unsafe.SliceData(raw)))
	typed := answer(closing(bpf(unix.BPF_BTF_LOAD, map[int]uint32{0: uint32(at), 1: uint32(at >> 32), 4: uint32(len(raw))})))
	runtime.KeepAlive(raw)
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
	loaded := answer(err)
	if err == nil {
		p.Close()
	}
	pinned := "none"
	if m != nil {
		pinned = answer(m.Pin(filepath.Join(args[0], "mine")))
	}
	token := "asked"
	if err := closing(bpf(tokenCreate, map[int]uint32{1: ^uint32(0)})); errors.Is(err, unix.EPERM) {
		token = "EPERM"
	}
	fmt.Println(made, typed, loaded, pinned, token)
	return nil
}

// A process of its own program that hornetd starts makes maps and loads types, and
// nothing else; what it makes is hornetd's, so that it cannot even pin it.
func TestMakesMaps(t *testing.T) {
	guestOnly(t)
	home, elsewhere, dir := testenv.Cgroup(t), testenv.Cgroup(t), testenv.BPFFS(t)
	exe := self(t)
	copied := copyOf(t, exe)
	enrolled, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	defer enrolled.Close()
	arm(t, func(c *Config) {
		c.Cgroup = home
		c.Executables = []*os.File{enrolled}
	})
	const refused = "EPERM EPERM EPERM none EPERM"
	for _, tt := range []struct {
		what   string
		flags  uintptr
		cgroup string
		exe    string
		want   string
	}{
		{"a child of hornetd", 0, elsewhere, exe, "ok ok EPERM EPERM asked"},
		{"a child of somebody else", unix.CLONE_PARENT, elsewhere, exe, refused},
		{"a child of another executable", 0, elsewhere, copied, refused},
	} {
		t.Run(tt.what, func(t *testing.T) {
			_, out := start(t, tt.flags, tt.cgroup, tt.exe, "makes", dir)
			if got := said(t, out); got != tt.want {
				t.Errorf("it may %s, want %s", got, tt.want)
			}
		})
	}
	// Whoever becomes hornetd may have had children before.
	t.Run("a child from before it was hornetd", func(t *testing.T) {
		begins, ends := newFIFO(t), newFIFO(t)
		before := "(read -r go <" + begins + "; " + childEnv + "=makes " + exe + " " + dir + "; echo >" + ends + ") & :"
		_, out := startBehind(t, unix.CLONE_PARENT, before, home, exe, "stays", ends)
		lines := bufio.NewReader(out)
		is, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(begins, []byte("go\n"), 0); err != nil {
			t.Fatal(err)
		}
		if got := is + said(t, lines); got != "ok\n"+refused {
			t.Errorf("hornetd, and it, may %s", got)
		}
	})
}

// childStays says whether it is hornetd, and is there until somebody writes to the FIFO.
func childStays(args []string) error {
	fmt.Println(answer(childCreates(nil)))
	_, err := os.ReadFile(args[0])
	return err
}
