package loader

import (
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/features"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// withCapabilities runs fn on a thread of its own that has only these.
func withCapabilities(t *testing.T, caps []int, fn func()) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		err := unix.Capget(&header, &data[0])
		if err == nil {
			data[0].Effective, data[1].Effective = 0, 0
			for _, c := range caps {
				data[c/32].Effective |= 1 << (c % 32)
			}
			err = unix.Capset(&header, &data[0])
		}
		if err == nil {
			fn()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func TestMissingCapabilityIsNamed(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "plain", "")
	ms, err := p.CreateMaps(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ms.Close()
	withCapabilities(t, []int{unix.CAP_BPF}, func() {
		_, err := LoadPrograms(p, ms, nil, nil)
		wantEPERM(t, err, `program "plain": load a program of type XDP`, "lacks CAP_NET_ADMIN")
	})
	withCapabilities(t, nil, func() {
		_, err := planFixture(t, "maps", goodEntries).CreateMaps(nil)
		wantEPERM(t, err, `map "events": create a RingBuf`, "lacks CAP_BPF")
	})
}

func wantEPERM(t *testing.T, err error, says ...string) {
	t.Helper()
	wantError(t, err, says...)
	if err == nil || !errors.Is(err, unix.EPERM) || strings.Contains(err.Error()+remedy.Of(err), "MEMLOCK") {
		t.Errorf("error %v", err)
	}
}

// A type that this kernel refuses although every capability is there.
func TestRefusedType(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "plain", "")
	spec := p.spec.Programs["plain"].Copy()
	spec.Type, spec.AttachType, spec.AttachTo = ebpf.Tracing, ebpf.AttachTraceFEntry, "tcp_connect"
	spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
	spec.Instructions[0] = spec.Instructions[0].WithSymbol("plain")
	p.spec.Programs = map[string]*ebpf.ProgramSpec{"plain": spec}
	coll, _, err := tryLoad(p)
	if err == nil {
		coll.Close()
		t.Skip("this kernel loads fentry programs: nothing is refused")
	}
	wantEPERM(t, err, "load a program of type Tracing", "the kernel forbids it to everybody")
}

// What the library cannot find in the kernel is named once, with a remedy.
func TestMissingTarget(t *testing.T) {
	requireKernel(t)
	p := planFixture(t, "plain", "")
	spec := p.spec.Programs["plain"].Copy()
	spec.Type, spec.AttachType, spec.AttachTo = ebpf.Tracing, ebpf.AttachTraceRawTp, "no_such_tracepoint"
	p.spec.Programs = map[string]*ebpf.ProgramSpec{"plain": spec}
	_, _, err := tryLoad(p)
	wantError(t, err, `program "plain": load: attach `, "no_such_tracepoint")
	if strings.Count(err.Error(), "program ") != 1 {
		t.Errorf("error %q", err)
	}
}

// The kernel is asked which capability each type wants.
func TestProgramCapabilities(t *testing.T) {
	requireKernel(t)
	all := []int{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_PERFMON}
	for typ := ebpf.SocketFilter; typ <= ebpf.Netfilter; typ++ {
		if errors.Is(loadTrivial(t, typ, all), unix.EPERM) {
			t.Logf("%s: this kernel refuses it to everybody", typ)
			continue
		}
		if errors.Is(features.HaveProgramType(typ), ebpf.ErrNotSupported) {
			t.Logf("%s: this kernel does not have it", typ)
			continue
		}
		needed := programCapabilities(typ)
		if errors.Is(loadTrivial(t, typ, needed), unix.EPERM) {
			t.Errorf("%s: %v is not enough", typ, names2(needed))
		}
		for i, c := range needed {
			less := append(append([]int{}, needed[:i]...), needed[i+1:]...)
			if c == unix.CAP_BPF {
				continue // CAP_BPF alone is asked for by almost all, and some types go without
			}
			if !errors.Is(loadTrivial(t, typ, less), unix.EPERM) {
				t.Errorf("%s: %s is not needed", typ, capabilityNames[c])
			}
		}
	}
}

func names2(caps []int) (names []string) {
	for _, c := range caps {
		names = append(names, capabilityNames[c])
	}
	return names
}

// loadTrivial loads a program that only returns; whether it verifies depends
// on the type, but the capabilities are looked at before.
func loadTrivial(t *testing.T, typ ebpf.ProgramType, caps []int) (err error) {
	t.Helper()
	withCapabilities(t, caps, func() {
		var p *ebpf.Program
		p, err = ebpf.NewProgramWithOptions(&ebpf.ProgramSpec{
			Type: typ, License: "GPL", Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
		}, ebpf.ProgramOptions{LogDisabled: true})
		if err == nil {
			p.Close()
		}
	})
	return err
}

func TestMapCapabilities(t *testing.T) {
	requireKernel(t)
	for typ := range kinds {
		needed := mapCapabilities(typ)
		if err := createTrivial(t, typ, needed, 0); errors.Is(err, unix.EPERM) {
			t.Errorf("%s: %v is not enough: %v", typ, names2(needed), err)
		}
		if len(needed) > 1 {
			if err := createTrivial(t, typ, needed[:1], 0); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: CAP_BPF alone is enough: %v", typ, err)
			}
		}
	}
}

// The kernel is asked which types take BPF_F_RDONLY_PROG. An empty map of each
// type must be possible, or the answer means nothing.
func TestReadOnlyTypes(t *testing.T) {
	requireKernel(t)
	all := []int{unix.CAP_BPF, unix.CAP_NET_ADMIN, unix.CAP_SYS_ADMIN}
	for typ, kind := range kinds {
		if errors.Is(features.HaveMapType(typ), ebpf.ErrNotSupported) {
			t.Logf("%s: this kernel does not have it", typ)
			continue
		}
		if err := createTrivial(t, typ, all, 0); err != nil {
			if typ != ebpf.StructOpsMap { // it wants the type information of a kernel structure
				t.Errorf("%s: %v", typ, err)
			}
			continue
		}
		err := createTrivial(t, typ, all, unix.BPF_F_RDONLY_PROG)
		switch {
		case kind.readOnly && err != nil:
			t.Errorf("%s does not take the flag: %v", typ, err)
		case !kind.readOnly && kind.entries && err == nil && typ != ebpf.HashOfMaps:
			t.Errorf("%s takes the flag", typ) // programs cannot write a hash of maps either way
		}
	}
}

// createTrivial creates the smallest map of a type.
func createTrivial(t *testing.T, typ ebpf.MapType, caps []int, flags uint32) (err error) {
	t.Helper()
	spec := &ebpf.MapSpec{Type: typ, KeySize: 4, ValueSize: 4, MaxEntries: 1, Flags: flags}
	switch typ {
	case ebpf.LPMTrie:
		spec.KeySize, spec.Flags = 8, flags|unix.BPF_F_NO_PREALLOC
	case ebpf.RingBuf, ebpf.UserRingbuf:
		spec.KeySize, spec.ValueSize, spec.MaxEntries = 0, 0, 4096
	case ebpf.Queue, ebpf.Stack, ebpf.BloomFilter:
		spec.KeySize = 0
	case ebpf.ArrayOfMaps, ebpf.HashOfMaps:
		spec.InnerMap = &ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	case ebpf.Arena:
		spec.KeySize, spec.ValueSize, spec.Flags = 0, 0, flags|unix.BPF_F_MMAPABLE
	}
	withCapabilities(t, caps, func() {
		var m *ebpf.Map
		if m, err = ebpf.NewMap(spec); err == nil {
			m.Close()
		}
	})
	return err
}
