package vmtest

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const (
	dep = `kernel/net/veth.ko.xz:
kernel/net/ipv4/nf_defrag_ipv4.ko.xz:
kernel/net/nf_conntrack.ko.xz: kernel/net/ipv6/nf_defrag_ipv6.ko.xz kernel/net/ipv4/nf_defrag_ipv4.ko.xz kernel/lib/libcrc32c.ko.xz
kernel/net/ipv6/nf_defrag_ipv6.ko.xz:
kernel/lib/libcrc32c.ko.xz: kernel/crypto/crc32c_generic.ko.zst
kernel/crypto/crc32c_generic.ko.zst:
a.ko: b.ko
b.ko: a.ko
`
	builtin = "kernel/drivers/virtio/virtio-pci.ko\n"
)

func TestResolveModules(t *testing.T) {
	for _, tt := range []struct{ names, want, err string }{
		{"veth", "veth", ""},
		{"veth veth", "veth", ""},
		{"virtio_pci", "", ""},
		{"virtio-pci", "", ""},
		{"nf-conntrack veth", "nf_defrag_ipv6 nf_defrag_ipv4 crc32c_generic libcrc32c nf_conntrack veth", ""},
		{"nf_defrag_ipv4 nf_conntrack", "nf_defrag_ipv4 nf_defrag_ipv6 crc32c_generic libcrc32c nf_conntrack", ""},
		{"nonesuch", "", "module nonesuch: not in this kernel"},
		{"a", "", "module a.ko: depends on itself"},
	} {
		paths, err := resolveModules(strings.Fields(tt.names), dep, builtin)
		if tt.err != "" {
			if err == nil || err.Error() != tt.err {
				t.Errorf("%s: error %v, want %s", tt.names, err, tt.err)
			}
			continue
		}
		var got []string
		for _, p := range paths {
			got = append(got, moduleName(p))
		}
		if diff := cmp.Diff(tt.want, strings.Join(got, " ")); err != nil || diff != "" {
			t.Errorf("%s: %v %s", tt.names, err, diff)
		}
	}
}
