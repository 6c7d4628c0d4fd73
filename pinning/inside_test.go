package pinning

import (
	"os"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// Another store's pins stay, and its links attached, whatever of it root shows in a stage
// of ours.
func TestStaysInside(t *testing.T) {
	theirs := bpffs(t)
	other := open(t, theirs)
	pair := testenv.Veth(t)
	commitXDP(t, other, "a", pair.A)
	before := tree(t, theirs)
	for _, tt := range []struct {
		how, what string // in theirs and ours
		mounted   bool
	}{
		{how: "all mounted", what: "", mounted: true},
		{how: "links mounted", what: "/links", mounted: true},
		{how: "pin mounted", what: "/links/xdp", mounted: true},
		{how: "all linked", what: ""},
		{how: "links linked", what: "/links"},
	} {
		t.Run(tt.how, func(t *testing.T) {
			root := testenv.BPFFS(t)
			s := open(t, root)
			stage := root + "/stage-0123456789abcdef"
			there, here := theirs+"/a"+tt.what, stage+tt.what
			switch {
			case tt.what == "/links/xdp":
				must(t, os.MkdirAll(stage+"/links", 0o700))
				m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
				must(t, err)
				must(t, m.Pin(here))
				must(t, m.Close())
			case tt.mounted:
				must(t, os.MkdirAll(here, 0o700))
			case tt.what != "":
				must(t, os.Mkdir(stage, 0o700))
			}
			if tt.mounted {
				must(t, unix.Mount(there, here, "", unix.MS_BIND, ""))
				t.Cleanup(func() { must(t, unix.Unmount(here, unix.MNT_DETACH)) })
			} else {
				must(t, os.Symlink(there, here))
			}
			swept, err := s.Sweep()
			if len(swept) > 0 || tt.mounted && remedy.Of(err) == "" || !tt.mounted && err != nil {
				t.Errorf("swept %q, %v", swept, err)
			}
			if diff := cmp.Diff(before, tree(t, theirs)); diff != "" {
				t.Error(diff)
			}
			if ifindex(t, other, "a") == 0 {
				t.Error("its link was detached")
			}
		})
	}
}
