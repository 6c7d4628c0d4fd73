package testenv

import (
	"slices"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// RequireEnum skips t if the running kernel does not know a constant of its
// user interface, say "BPF_NETFILTER" of "bpf_attach_type": the kernel's own
// type information tells what it has, whatever its version. The guests of
// internal/vmtest know which kernels have it, and count a skip there as failed.
func RequireEnum(t testing.TB, enum, value string) {
	t.Helper()
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatalf("types of the kernel: %v", err)
	}
	var e *btf.Enum
	if err := kernel.TypeByName(enum, &e); err == nil &&
		slices.ContainsFunc(e.Values, func(v btf.EnumValue) bool { return v.Name == value }) {
		return
	}
	t.Skipf("this kernel has no %s", value)
}
