package lsm

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// The first process may leave a root file system, and nothing of the guard with it.
func TestMountsOfTheFirstProcess(t *testing.T) {
	guestOnly(t)
	bpffs, second := testenv.BPFFS(t), t.TempDir()
	if err := unix.Mount(bpffs, second, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(second, unix.MNT_DETACH) })
	g := armIn(t, filepath.Join(bpffs, "guard"), nil)
	// The first mount of it stays, so that the tree with the second may go.
	for _, tt := range []struct {
		mount string
		flags int
		want  string
	}{{second, 0, "EPERM"}, {second, unix.MNT_DETACH, "ok"}, {bpffs, unix.MNT_DETACH, "EPERM"}} {
		out, err := child("steered", nil, tt.mount, fmt.Sprint(tt.flags)).CombinedOutput()
		if got := strings.TrimSpace(string(out)); err != nil || got != tt.want {
			t.Errorf("unmounting %s, flags %d: %s, %v, want %s", tt.mount, tt.flags, got, err, tt.want)
		}
	}
	if s, err := Look(g.dir); err != nil || !s.Enforces {
		t.Errorf("its pins: %+v, %v", s, err)
	}
}

var _ = func() bool { children["steered"] = childSteered; return true }()

// childSteered has the first process call umount2(2), as its tracer.
func childSteered(args []string) error {
	flags, err := strconv.ParseUint(args[1], 0, 32)
	if err != nil {
		return err
	}
	runtime.LockOSThread()
	stop := func() error {
		var ws unix.WaitStatus
		_, err := unix.Wait4(1, &ws, unix.WALL, nil)
		return err
	}
	var regs unix.PtraceRegs
	err = errors.Join(unix.PtraceSeize(1), unix.PtraceInterrupt(1), stop(), unix.PtraceGetRegs(1, &regs))
	if err != nil {
		return err
	}
	// In a call, it goes on behind the two bytes of the instruction; no signal's handler
	// writes that far below its stack.
	at := uintptr(regs.Rsp-4096) &^ 7
	insn := make([]byte, 2)
	_, err = unix.PtracePeekText(1, uintptr(regs.Rip-2), insn)
	if err == nil && string(insn) != "\x0f\x05" {
		err = fmt.Errorf("the first process is not in a system call but at %x", insn)
	}
	steered := regs
	steered.Rip, steered.Rax, steered.Orig_rax = regs.Rip-2, unix.SYS_UMOUNT2, ^uint64(0)
	steered.Rdi, steered.Rsi = uint64(at), flags
	for _, do := range []func() error{
		func() error { _, err := unix.PtracePokeData(1, at, append([]byte(args[0]), 0)); return err },
		func() error { return unix.PtraceSetRegs(1, &steered) },
		func() error { return unix.PtraceSingleStep(1) },
		stop,
		func() error { return unix.PtraceGetRegs(1, &steered) },
	} {
		if err == nil {
			err = do()
		}
	}
	if err := errors.Join(err, unix.PtraceSetRegs(1, &regs), unix.PtraceDetach(1)); err != nil {
		return err
	}
	var result error
	if ret := int64(steered.Rax); ret < 0 {
		result = unix.Errno(-ret)
	}
	fmt.Println(answer(result))
	return nil
}
