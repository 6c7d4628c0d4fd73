package pinning

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"os/exec"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
	"github.com/hornetd/hornetd/internal/testenv"
)

// bpftool, which knows nothing of hornetd, reads the record.
func TestRecordIsReadableWithBpftool(t *testing.T) {
	if _, err := exec.LookPath("bpftool"); err != nil {
		t.Skip("bpftool is not installed")
	}
	root := bpffs(t)
	s := open(t, root)
	commit(t, s, "a")
	out, err := exec.Command("bpftool", "-j", "map", "dump", "pinned", root+"/a/record").Output()
	must(t, err)
	var dump []struct{ Value []string }
	must(t, json.Unmarshal(out, &dump))
	b, err := hex.DecodeString(strings.ReplaceAll(strings.Join(dump[0].Value, ""), "0x", ""))
	must(t, err)
	r, err := decodeRecord(b)
	must(t, err)
	if diff := cmp.Diff(load(t, s, "a").Record, r); diff != "" {
		t.Error(diff)
	}
	if out, err := exec.Command("bpftool", "map", "show", "pinned", root+"/a/record").Output(); err != nil || !strings.Contains(string(out), "frozen") {
		t.Errorf("bpftool says %s, %v", out, err)
	}
}

// Neither user space nor a program can write the record.
func TestRecordCannotBeWritten(t *testing.T) {
	root := bpffs(t)
	commit(t, open(t, root), "a")
	m, err := ebpf.LoadPinnedMap(root+"/a/record", nil)
	must(t, err)
	defer m.Close()
	if err := m.Put(uint32(0), make([]byte, m.ValueSize())); !errors.Is(err, unix.EPERM) {
		t.Errorf("write = %v, want EPERM", err)
	}
	p, err := counter(m)
	if err == nil {
		p.Close()
	}
	if !errors.Is(err, unix.EACCES) {
		t.Errorf("a program that writes it: %v, want EACCES", err)
	}
}

// Where the kernel has exclusive maps, a program cannot even read the record,
// and no iterator can be let loose on it.
func TestRecordIsExclusive(t *testing.T) {
	root := bpffs(t)
	commit(t, open(t, root), "a")
	m, err := ebpf.LoadPinnedMap(root+"/a/record", nil)
	must(t, err)
	defer m.Close()
	plain, err := newRecordMap([]byte("x"), withoutExclusive)
	must(t, err)
	defer plain.Close()

	if fd, err := bpfsys.CreateMap(bpfsys.MapAttr{Type: uint32(ebpf.Array), KeySize: 4, ValueSize: 1, MaxEntries: 1, ExclProgHash: &[32]byte{1}}); err != nil {
		t.Skipf("this kernel has no exclusive maps: %v", err)
	} else {
		unix.Close(fd)
	}
	if err := readFrom(m); !errors.Is(err, unix.EACCES) {
		t.Errorf("a program that reads the record: %v, want EACCES", err)
	}
	if err := readFrom(plain); err != nil {
		t.Errorf("the same program on a map that is not exclusive: %v", err)
	}
	t.Run("iterator", func(t *testing.T) {
		testenv.RequireMapIterators(t)
		if err := iterate(t, m); !errors.Is(err, unix.EPERM) {
			t.Errorf("an iterator over the record: %v, want EPERM", err)
		}
		if err := iterate(t, plain); err != nil {
			t.Errorf("an iterator over a map that is not exclusive: %v", err)
		}
	})
}

// On an older kernel the record is frozen and read-only for programs.
func TestRecordWithoutExclusiveMaps(t *testing.T) {
	testenv.RequireRoot(t)
	testenv.NoLeaks(t)
	m, err := newRecordMap([]byte("12345678"), withoutExclusive)
	must(t, err)
	defer m.Close()
	if frozen, err := bpfsys.Frozen(m.FD()); err != nil || !frozen {
		t.Errorf("frozen: %v, %v", frozen, err)
	}
	p, err := counter(m)
	if err == nil {
		p.Close()
	}
	if !errors.Is(err, unix.EACCES) {
		t.Errorf("a program that writes it: %v, want EACCES", err)
	}
}

// withoutExclusive makes maps as a kernel before 6.18 does.
func withoutExclusive(a bpfsys.MapAttr) (int, error) {
	if a.ExclProgHash != nil {
		return -1, errors.ErrUnsupported
	}
	return bpfsys.CreateMap(a)
}

// readFrom loads a program that reads m.
func readFrom(m *ebpf.Map) error {
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL", Instructions: asm.Instructions{
		asm.LoadMapValue(asm.R1, m.FD(), 0),
		asm.LoadMem(asm.R0, asm.R1, 0, asm.Byte),
		asm.Return(),
	}})
	if err != nil {
		return err
	}
	return p.Close()
}

// iterate attaches a map iterator to m.
func iterate(t *testing.T, m *ebpf.Map) error {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{
		Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map_elem", License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()},
	})
	must(t, err)
	defer p.Close()
	it, err := link.AttachIter(link.IterOptions{Program: p, Map: m})
	if err != nil {
		return err
	}
	return it.Close()
}
