package lsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
)

// The kernel's numbers of its keyrings for keyring_id, and that of the caller's own.
const (
	inPlatform = 2
	inSession  = unix.KEY_SPEC_SESSION_KEYRING
)

// signedProgram is what a stranger loads, and how it is signed.
type signedProgram struct {
	typ       ebpf.ProgramType
	insns     []byte
	signature []byte
	keyring   int32
}

// load is BPF_PROG_LOAD with a signature, which the library does not have.
func (p signedProgram) load() (int, error) {
	license := []byte("GPL\x00")
	attr := struct {
		typ, count     uint32
		insns, license unsafe.Pointer
		_              [3]uint32
		_              uint32
		_              uint32
		flags          uint32
		_              [104]byte
		signature      unsafe.Pointer
		signatureSize  uint32
		keyring        int32
	}{typ: uint32(p.typ), count: uint32(len(p.insns) / 8), insns: unsafe.Pointer(&p.insns[0]), license: unsafe.Pointer(&license[0]),
		signatureSize: uint32(len(p.signature)), keyring: p.keyring}
	if len(p.signature) > 0 {
		attr.signature = unsafe.Pointer(&p.signature[0])
	}
	if p.typ == ebpf.Syscall {
		attr.flags = unix.BPF_F_SLEEPABLE
	}
	r, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_LOAD, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// run returns what a loader returns: a descriptor, or an errno, negative.
func run(fd int) (int32, error) {
	var attr [20]uint32
	attr[0] = uint32(fd)
	_, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_PROG_TEST_RUN, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return 0, errno
	}
	return int32(attr[1]), nil
}

func marshal(i asm.Instructions) []byte {
	var b bytes.Buffer
	if err := i.Marshal(&b, binary.LittleEndian); err != nil {
		panic(err)
	}
	return b.Bytes()
}

// filter is a program that returns a number.
func filter(n int32) []byte { return marshal(asm.Instructions{asm.Mov.Imm(asm.R0, n), asm.Return()}) }

// loaderOf is a program that loads another one, of one type, as light skeletons do.
func loaderOf(typ ebpf.ProgramType) []byte {
	const insns, license, attr, size = -16, -24, -152, 128
	i := asm.Instructions{}
	store := func(at int16, value int64) {
		i = append(i, asm.LoadImm(asm.R1, value, asm.DWord), asm.StoreMem(asm.R10, at, asm.R1, asm.DWord))
	}
	point := func(at int16, to int32) {
		i = append(i, asm.Mov.Reg(asm.R1, asm.R10), asm.Add.Imm(asm.R1, to), asm.StoreMem(asm.R10, at, asm.R1, asm.DWord))
	}
	for at := int16(attr); at < attr+size; at += 8 {
		store(at, 0)
	}
	store(insns, 0xb7) // r0 = 0
	store(insns+8, 0x95)
	store(license, 'G'|'P'<<8|'L'<<16)
	store(attr, int64(typ)|2<<32)
	point(attr+8, insns)
	point(attr+16, license)
	return marshal(append(i, asm.Mov.Imm(asm.R1, unix.BPF_PROG_LOAD), asm.Mov.Reg(asm.R2, asm.R10), asm.Add.Imm(asm.R2, attr),
		asm.Mov.Imm(asm.R3, size), asm.FnSysBpf.Call(), asm.Return()))
}

// sign is openssl's signature, of the form that the kernel's own tools make.
func sign(dir string, insns []byte, key, cert, pass string) ([]byte, error) {
	in, out := filepath.Join(dir, "insns"), filepath.Join(dir, "sig")
	if err := os.WriteFile(in, insns, 0o600); err != nil {
		return nil, err
	}
	if text, err := exec.Command("openssl", "cms", "-sign", "-binary", "-noattr", "-nocerts", "-md", "sha256", "-outform", "DER",
		"-signer", cert, "-inkey", key, "-passin", "pass:"+pass, "-in", in, "-out", out).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("%w: %s", err, text)
	}
	return os.ReadFile(out)
}

// ownKey makes a key, and puts its certificate where this thread's loads find it.
func ownKey(dir string) (key, cert string, err error) {
	key, cert = filepath.Join(dir, "own.key"), filepath.Join(dir, "own.pem")
	if text, err := exec.Command("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=own", "-addext", "subjectKeyIdentifier=hash",
		"-keyout", key, "-out", cert).CombinedOutput(); err != nil {
		return "", "", fmt.Errorf("%w: %s", err, text)
	}
	text, err := os.ReadFile(cert)
	if err != nil {
		return "", "", err
	}
	block, _ := pem.Decode(text)
	if _, err := unix.KeyctlJoinSessionKeyring("lsm-test"); err != nil {
		return "", "", err
	}
	_, err = unix.AddKey("asymmetric", "own", block.Bytes, unix.KEY_SPEC_SESSION_KEYRING)
	return key, cert, err
}

// childSigned is root, and nobody to the guard. Of what it says for each try, which it
// makes twice, the first is before the guard is armed.
func childSigned(args []string) error {
	runtime.LockOSThread() // keyrings are a thread's, and so is a run
	dir := args[0]
	key, cert, err := ownKey(dir)
	if err != nil {
		return err
	}
	type how struct{ key, cert, pass string }
	own, platform := how{key, cert, ""}, how{vmtest.UEFIKey, vmtest.UEFICert, "snakeoil"}
	prepare := func(typ ebpf.ProgramType, insns []byte, by how, keyring int32) signedProgram {
		p := signedProgram{typ, insns, nil, keyring}
		if by.key != "" && err == nil {
			p.signature, err = sign(dir, insns, by.key, by.cert, by.pass)
		}
		return p
	}
	loader := loaderOf(ebpf.SocketFilter)
	programs := map[string]signedProgram{
		"unsigned":        prepare(ebpf.SocketFilter, filter(1), how{}, 0),
		"own keyring":     prepare(ebpf.SocketFilter, filter(1), own, inSession),
		"own key":         prepare(ebpf.SocketFilter, filter(1), own, inPlatform),
		"unsigned loader": prepare(ebpf.Syscall, loader, how{}, 0),
		"own loader":      prepare(ebpf.Syscall, loader, own, inSession),
	}
	if _, statErr := os.Stat(vmtest.UEFIKey); statErr == nil {
		programs["verified"] = prepare(ebpf.SocketFilter, filter(1), platform, inPlatform)
		programs["other program"] = prepare(ebpf.SocketFilter, filter(1), platform, inPlatform)
		copy(programs["other program"].insns, filter(2))
		programs["other type"] = prepare(ebpf.CGroupDevice, filter(1), platform, inPlatform)
		programs["verified loader"] = prepare(ebpf.Syscall, loader, platform, inPlatform)
		programs["loader of others"] = prepare(ebpf.Syscall, loaderOf(ebpf.CGroupDevice), platform, inPlatform)
	}
	if err != nil {
		return err
	}
	old, err := programs["unsigned loader"].load() // which others had before there was a guard
	if err != nil {
		return err
	}
	lines := bufio.NewReader(os.Stdin)
	for {
		for name, p := range programs {
			fd, err := p.load()
			fmt.Printf("%s: %s\n", name, answer(err))
			if err == nil && p.typ == ebpf.Syscall {
				fmt.Printf("%s runs: %s\n", name, outcome(fd))
				fmt.Printf("old loader after %s: %s\n", name, outcome(old))
			}
		}
		fmt.Printf("old loader: %s\n", outcome(old))
		fmt.Println("done")
		if _, err := lines.ReadString('\n'); err != nil {
			return nil
		}
	}
}

// outcome says what became of a loader, and of what it loads.
func outcome(loader int) string {
	got, err := run(loader)
	switch {
	case err != nil:
		return answer(err)
	case got < 0:
		return "loads " + answer(unix.Errno(-got))
	}
	unix.Close(int(got))
	return "loads ok"
}

// TestVerified: what the kernel has verified with a keyring that was allowed may be
// loaded, and load while it runs, within the types that were listed. What was verified
// with a keyring of the caller's may not, nor anything unsigned. On the host this boots a
// guest whose kernel has a key of the firmware's; other guests try the rest.
func TestVerified(t *testing.T) {
	if testing.Short() {
		guestOnly(t)
	}
	if !vmtest.In(t, "7.3", func(g *vmtest.Guest) { g.UEFI = true }) {
		return
	}
	testenv.RequireRoot(t)
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	vouch := Identity{Keyrings: []Keyring{Platform}, Commands: []uint32{unix.BPF_PROG_LOAD, unix.BPF_PROG_TEST_RUN},
		Programs: []uint32{uint32(ebpf.SocketFilter), uint32(ebpf.Syscall)}}
	if verdicts(kernel) != nil {
		_, err := Arm(filepath.Join(testenv.BPFFS(t), "guard"), Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Allow: []Identity{vouch}})
		if err == nil || !strings.Contains(remedy.Of(err), "boot Linux 7.2 or later") {
			t.Errorf("%v, remedy %q", err, remedy.Of(err))
		}
		return
	}
	place := testenv.Cgroup(t)
	cmd := child("signed", []string{"sh", "-c", `echo $$ >"$1/cgroup.procs" && exec "$0" "$2"`}, place, t.TempDir())
	cmd.Stderr = os.Stderr
	in, err1 := cmd.StdinPipe()
	out, err2 := cmd.StdoutPipe()
	if err := errors.Join(err1, err2, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewReader(out)
	answers := func() map[string]string {
		all := map[string]string{}
		for {
			line, err := lines.ReadString('\n')
			if err != nil {
				t.Fatal(err)
			}
			if line == "done\n" {
				return all
			}
			name, got, _ := strings.Cut(strings.TrimSpace(line), ": ")
			all[name] = got
		}
	}
	_, err = os.Stat(vmtest.UEFIKey)
	uefi := err == nil
	t.Logf("with a key in the platform keyring: %v", uefi)
	check := func(when string, want map[string]string) {
		t.Helper()
		got := answers()
		for name, w := range want {
			if !uefi && slices.ContainsFunc([]string{"verified", "other", "loader of others"}, func(s string) bool { return strings.Contains(name, s) }) {
				continue
			}
			if got[name] != w {
				t.Errorf("%s: %s: %q, want %q", when, name, got[name], w)
			}
		}
	}
	check("without a guard", map[string]string{"unsigned": "ok", "own keyring": "ok", "own key": "ENOKEY", "old loader": "loads ok", "own loader runs": "loads ok",
		"verified": "ok", "other program": "EKEYREJECTED", "other type": "ok", "verified loader runs": "loads ok", "loader of others runs": "loads ok"})

	allow := []Identity{vouch}
	g := arm(t, func(c *Config) { c.Allow = allow })
	fmt.Fprintln(in)
	check("with one", map[string]string{"unsigned": "EPERM", "own keyring": "EPERM", "own key": "ENOKEY", "unsigned loader": "EPERM", "own loader": "EPERM", "old loader": "EPERM",
		"verified": "ok", "other program": "EKEYREJECTED", "other type": "EPERM", "verified loader runs": "loads ok", "old loader after verified loader": "EPERM",
		"loader of others runs": "loads EPERM"})
	told := map[Reason]bool{}
	for _, e := range readEvents(t, g, time.Second) {
		if e.Deed == DeedBPF && e.Detail == unix.BPF_PROG_LOAD {
			told[e.Reason] = true
		}
	}
	if !told[ReasonUnverified] || uefi && !told[ReasonType] {
		t.Errorf("told %v", told)
	}

	// Whoever may run programs may run others than verified ones, which then load nothing.
	allow = append(allow, Identity{Cgroup: place, Commands: []uint32{unix.BPF_PROG_TEST_RUN}})
	next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: time.Minute, Cgroup: testenv.CgroupRoot(t), Allow: allow})
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	fmt.Fprintln(in)
	want := map[string]string{"unsigned": "EPERM", "own loader": "EPERM", "old loader": "loads EPERM", "verified": "ok",
		"verified loader runs": "loads ok", "old loader after verified loader": "loads EPERM"}
	check("listed to run", want)
	g.loseLinks(t)
	fmt.Fprintln(in)
	check("on the floor of it", want)
}
