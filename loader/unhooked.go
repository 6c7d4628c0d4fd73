package loader

import (
	"errors"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// IsNetfilter says whether Unhooked can tell more of a link to t than the kernel
// shows.
func (t Target) IsNetfilter() bool { return t.Kind == kindNetfilter }

// Unhooked reports whether nothing is attached where the netfilter link of state
// s, recorded at t, should be. The kernel shows the same of such a link whether it
// was detached or not (bpf_nf_link_fill_link_info), so that is tried: a hook takes
// one BPF program for each priority (nf_hook_entries_grow), and refuses the same
// one again while it is there. What takes its place for that moment is the program
// that should be there. Of links of another kind it says no.
func Unhooked(s LinkState, t Target) (bool, error) {
	if s.Kind != kindNetfilter || !t.IsNetfilter() {
		return false, nil
	}
	prog, err := ebpf.NewProgramFromID(s.ProgramID)
	if err != nil {
		return false, err
	}
	defer prog.Close()
	l, err := attachInNetns(prog, &t, nil)
	if errors.Is(err, unix.EBUSY) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, l.Close()
}
