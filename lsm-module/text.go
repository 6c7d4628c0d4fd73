package lsm

import (
	"fmt"
	"strings"

	"github.com/hornetd/hornetd/internal/bpfname"
)

// String says what was done: `bpf prog_load of a kprobe program "x"`.
func (e Event) String() string {
	var b strings.Builder
	b.WriteString(e.what())
	if e.Name != "" {
		fmt.Fprintf(&b, " %q", e.Name)
	}
	if e.Object.Kind != 0 {
		fmt.Fprintf(&b, ", of %s %d", e.Object.Kind, e.Object.ID)
	}
	switch e.Reason {
	case ReasonOwned:
		if e.Deed == DeedBinary || e.Deed == DeedSwitch { // hornetd's or one of [[guard.allow]]; the kernel's
			break
		}
		b.WriteString(", which is hornetd's")
	case ReasonUnverified:
		b.WriteString(": not verified by the kernel, with a key of a keyring that is allowed")
	case ReasonType:
		b.WriteString(": not of what the caller is allowed")
	}
	return b.String()
}

// ofType is empty where the type is not known.
func ofType(names bpfname.List, n uint32) string {
	if n == 0 {
		return ""
	}
	return " of type " + names.Name(n)
}

func (e Event) what() string {
	switch e.Deed {
	case DeedBPF, DeedToken:
		s := "bpf " + bpfname.Commands.Name(e.Detail)
		switch s {
		case "bpf prog_load":
			s += ofType(bpfname.Programs, e.Type)
		case "bpf map_create":
			s += ofType(bpfname.Maps, e.Type)
		case "bpf prog_attach", "bpf prog_detach", "bpf link_create":
			s += " of type " + bpfname.Attachments.Name(e.Attach)
		}
		if e.Deed == DeedToken {
			s += " by a token"
		}
		return s
	case DeedMap:
		return "a descriptor of a map" + ofType(bpfname.Maps, e.Type)
	case DeedProgram:
		return "a descriptor of a program" + ofType(bpfname.Programs, e.Type)
	case DeedPin:
		return "a change of a pin (" + name(pins, e.Detail) + ")"
	case DeedMount:
		return "a change of a mount (" + name(mounts, e.Detail) + ")"
	case DeedTrace:
		return "a look into hornetd's memory"
	case DeedSignal:
		return fmt.Sprintf("signal %d to hornetd", e.Detail)
	case DeedBinary:
		return "an executable that the guard knows opened for writing"
	case DeedSwitch:
		return "kernel.ftrace_enabled, which turns the guard's hooks off, opened for writing"
	case DeedSpawn:
		return "another program executed as a child of hornetd's (binfmt_misc)"
	case DeedProbe:
		return "a uprobe"
	case DeedSocket:
		return "a program attached to a socket"
	case DeedIoctl:
		return "a program attached by ioctl(2)"
	case DeedNetlink:
		return "a program attached by netlink"
	}
	return e.Deed.String()
}
