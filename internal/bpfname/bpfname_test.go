package bpfname

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf/btf"
)

// TestNames compares the lists with the running kernel's types, as far as it goes.
func TestNames(t *testing.T) {
	kernel, err := btf.LoadKernelSpec()
	if err != nil {
		t.Fatal(err)
	}
	for _, list := range []struct {
		enum, prefix string
		names        List
	}{
		{"bpf_cmd", "BPF_", Commands},
		{"bpf_map_type", "BPF_MAP_TYPE_", Maps},
		{"bpf_prog_type", "BPF_PROG_TYPE_", Programs},
		{"bpf_attach_type", "BPF_", Attachments},
	} {
		var e *btf.Enum
		if err := kernel.TypeByName(list.enum, &e); err != nil {
			t.Fatal(err)
		}
		found := 0
		for _, v := range e.Values {
			name := strings.ToLower(strings.TrimPrefix(v.Name, list.prefix))
			if n, ok := list.names.Number(name); ok {
				found++
				if uint64(n) != v.Value {
					t.Errorf("%s is %d, want %d", v.Name, n, v.Value)
				}
			}
		}
		if want := min(len(e.Values), len(list.names)) * 9 / 10; found < want {
			t.Errorf("%s: %d names are the kernel's, want %d", list.enum, found, want)
		}
	}
}
