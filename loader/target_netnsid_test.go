package loader

import (
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// TestInterfaceLeft: the kernel says whether the interface still is in the namespace that
// a caller showed, and asking keeps neither there.
func TestInterfaceLeft(t *testing.T) {
	for kind, typ := range map[string]ebpf.ProgramType{kindXDP: ebpf.XDP, kindTCX: ebpf.SchedCLS} {
		t.Run(kind, func(t *testing.T) {
			if kind == kindTCX {
				testenv.RequireEnum(t, "bpf_attach_type", "BPF_TCX_INGRESS")
			}
			spec := &ebpf.ProgramSpec{Name: "p", Type: typ, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}}
			prog, err := ebpf.NewProgram(spec)
			skipRefused(t, &ebpf.CollectionSpec{Programs: map[string]*ebpf.ProgramSpec{"p": spec}}, err)
			if err != nil {
				t.Fatal(err)
			}
			coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{"p": prog}}
			defer coll.Close()

			pair := testenv.Veth(t)
			other := testenv.Netns(t)
			shown, err := os.Open(pair.A.Netns)
			if err != nil {
				t.Fatal(err)
			}
			defer shown.Close()
			inode, err := inodeOf(shown)
			if err != nil {
				t.Fatal(err)
			}
			targets := []Target{{Link: "l", Program: "p", Kind: kind, AttachType: map[string]string{kindXDP: "xdp", kindTCX: "tcx_ingress"}[kind], Mode: "generic",
				Interface: pair.A.Name, Ifindex: pair.A.Ifindex, Caller: true, NetnsInode: inode}}
			links, err := AttachShown(coll, targets, &Shown{Netns: shown})
			if err != nil {
				t.Fatal(err)
			}
			defer links.Close()
			of, err := Describe(links["l"])
			if err != nil {
				t.Fatal(err)
			}
			state, err := StateByID(uint32(of.ID))
			if err != nil {
				t.Fatal(err)
			}
			if err := targets[0].Ended(&state); err != nil {
				t.Errorf("it stays: %v", err)
			}
			testenv.IP(t, pair.A.Netns, "link", "set", pair.A.Name, "netns", other)
			if err := targets[0].Ended(&state); err == nil || !strings.Contains(err.Error(), "is not in the caller's network namespace") {
				t.Errorf("moved: %v", err)
			}
		})
	}
}

// TestNetnsID: each namespace has one number, of which the kernel forgets what it is of
// with the namespace.
func TestNetnsID(t *testing.T) {
	id := func(path string) int32 {
		t.Helper()
		f, err := os.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		id, err := netnsID(f)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	one, other := testenv.Netns(t), testenv.Netns(t)
	first := id(one)
	if again := id(one); again != first || first == id(other) || first < 1<<30 {
		t.Errorf("%d and then %d, the other one %d", first, again, id(other))
	}
	if l, err := interfaceIn(id(one), 1); err != nil || l.name != "lo" {
		t.Errorf("%+v, %v, want lo", l, err)
	}
	if _, err := interfaceIn(id(one), 99); !errors.Is(err, unix.ENODEV) {
		t.Errorf("an interface that is not there: %v", err)
	}
	gone := id(other)
	if err := unix.Unmount(other, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // as Netns will
		if err := unix.Mount("/proc/self/ns/net", other, "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
		}
	})
	var err error
	for range 500 { // the kernel takes its time
		if _, err = interfaceIn(gone, 1); errors.Is(err, unix.EINVAL) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	t.Errorf("a namespace that is not there: %v", err)
}
