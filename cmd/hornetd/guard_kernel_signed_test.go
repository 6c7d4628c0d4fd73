package main_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
)

// TestGuardKernelSigned: [[guard.allow]] kernel_signed reaches the guard, or where the
// kernel has no verdict is refused. lsm-module's TestVerified has what it then does.
func TestGuardKernelSigned(t *testing.T) {
	if !vmtest.InGuest() {
		t.Skip("arms the guard: only in guests")
	}
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "\n[guard]\n[[guard.allow]]\nkernel_signed = [\"platform\"]\ncommands = [\"prog_load\"]\nprograms = [\"cgroup_sock_addr\"]\n")
	h.Start()
	_, stderr, exit := h.Ctl("guard", "enforce", "--confirm-within", "10m")
	defer h.Ctl("guard", "disarm", "--reason", "the test ends")
	if !hasVerdicts(t) {
		if exit == 0 || !strings.Contains(stderr, "boot Linux 7.2 or later") {
			t.Errorf("exit %d: %s", exit, stderr)
		}
		s, err := h.Client().Status(t.Context())
		if err != nil || s.Guard.Mode == api.GuardEnforce || s.Guard.Mode == api.GuardAudit {
			t.Errorf("guard %+v, %v", s.Guard, err)
		}
		return
	}
	if exit != 0 {
		t.Fatal(stderr)
	}
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: ebpf.AttachCGroupInet4Connect, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}})
	if !errors.Is(err, unix.EPERM) {
		p.Close()
		t.Errorf("an unsigned program of a type that may be signed: %v, want EPERM", err)
	}
	onRecord(t, h, func(r guardRecord) bool {
		return r.Phase == "refusal" && strings.Contains(r.Error, "cgroup_sock_addr") && strings.Contains(r.Error, "not verified by the kernel")
	})
}

func hasVerdicts(t *testing.T) bool {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	var aux *btf.Struct
	if err := kernel.TypeByName("bpf_prog_aux", &aux); err != nil {
		t.Fatal(err)
	}
	for _, m := range aux.Members {
		if m.Name == "sig" {
			return true
		}
	}
	return false
}
