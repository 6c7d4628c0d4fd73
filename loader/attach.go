package loader

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Links are attached programs by Target.Link. Whoever gets them closes them.
type Links map[string]link.Link

// Close closes the links' descriptors. A link that is not pinned ends with it,
// and its program is detached.
func (ls Links) Close() error {
	var errs []error
	for _, name := range slices.Backward(slices.Sorted(maps.Keys(ls))) {
		if err := ls[name].Close(); err != nil {
			errs = append(errs, fmt.Errorf("link %q: close: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

// Attach attaches the programs of coll to ts, in their order. From its first
// success on programs run. On error all that was attached is detached again.
//
// What was looked up by Resolve is looked up once more, and anything that is
// another one now (interface, cgroup, file) is refused. Attach sets in ts what
// only shows then: the mode that the driver took in place of "auto", TypeID and
// ReplacesID of a function of another program, and the number of a caller's network
// namespace.
func Attach(coll *ebpf.Collection, ts []Target) (Links, error) { return AttachShown(coll, ts, nil) }

// AttachShown is Attach where some of ts are what a caller shows. Without that, a
// cgroup is found by its path and a process by its number, if they still are the same,
// and a network namespace is not.
func AttachShown(coll *ebpf.Collection, ts []Target, shown *Shown) (_ Links, err error) {
	links := make(Links, len(ts))
	defer func() {
		if err != nil {
			links.Close()
		}
	}()
	for i := range ts {
		t := &ts[i]
		if _, ok := links[t.Link]; ok {
			return nil, fmt.Errorf("link %q: two targets have this name", t.Link)
		}
		prog := coll.Programs[t.Program]
		if prog == nil && !StructOps(t.Kind) {
			return nil, fmt.Errorf("attach %s to %s: the collection has no such program", t.Program, t)
		}
		l, err := attach(coll, prog, t, shown)
		if t.Caller && t.PID == 0 && errors.Is(err, ErrAbsent) { // of a process it is the executable that is absent
			err = changedHands{err, ErrEnded}
		}
		if err != nil {
			return nil, fmt.Errorf("attach %s: %w", strings.TrimPrefix(t.Program+" to "+t.String(), " to "), err)
		}
		links[t.Link] = l
	}
	return links, nil
}

func attach(coll *ebpf.Collection, prog *ebpf.Program, t *Target, shown *Shown) (link.Link, error) {
	switch t.Kind {
	case kindXDP, kindTCX, kindNetns, kindNetfilter:
		return attachInNetns(prog, t, shown)
	case kindCgroup:
		return attachCgroup(prog, *t, shown)
	case kindRawTracepoint:
		return attachRawTracepoint(prog, *t)
	case kindPerfEvent:
		switch {
		case t.Executable != "":
			return inProcess(*t, func() (link.Link, error) { return attachUprobe(prog, *t) })
		case t.Function != "":
			return attachKprobe(prog, *t)
		}
		return attachTracepoint(prog, *t)
	case kindIter:
		return attachIter(coll, prog, *t)
	case kindSockmap:
		return attachSockmap(coll, prog, *t)
	case kindTracing:
		if t.Replaces != "" {
			return attachReplacement(coll, prog, t)
		}
		return attachFunction(prog, *t)
	case kindKprobeMulti:
		return attachKprobes(prog, *t)
	case kindUprobeMulti:
		return inProcess(*t, func() (link.Link, error) { return attachUprobes(prog, *t) })
	case kindStructOps:
		return attachStructOps(coll, *t)
	}
	return nil, fmt.Errorf("links of kind %q are not known", t.Kind)
}

func attachInNetns(prog *ebpf.Program, t *Target, shown *Shown) (l link.Link, err error) {
	ns, err := shown.netnsOf(*t)
	if err != nil {
		return nil, err
	}
	defer ns.close()
	if ns.inode != t.NetnsInode {
		return nil, changed("the network namespace")
	}
	if t.Caller && t.Ifindex != 0 {
		if err := t.findsAgain(ns); err != nil {
			return nil, err
		}
	}
	err = ns.do(func() (err error) {
		switch t.Kind {
		case kindXDP:
			l, err = attachXDP(prog, t)
		case kindTCX:
			l, err = attachTCX(prog, *t)
		case kindNetns:
			l, err = attachNetns(prog, ns, t.AttachType)
		case kindNetfilter:
			l, err = attachNetfilter(prog, *t)
		}
		if err != nil && t.Interface != "" && checkInterface(*t) != nil {
			err = changed("the interface") // which the kernel tells as EINVAL
		}
		return err
	})
	return l, err
}

// changed refuses a target that is not what Resolve found.
func changed(what string) error {
	return remedy.With(absent{fmt.Errorf("%s was replaced after it had been looked up", what)}, "load again")
}

func checkInterface(t Target) error {
	if index, err := ifindex(t.Interface); err != nil || index != t.Ifindex {
		return changed("the interface")
	}
	return nil
}

// attachXDP tries the driver first and the generic hook where the driver has
// no XDP. The kernel does the same by itself for flags 0, but then nobody knows
// which it took, and a driver that refuses this program alone ends the attempt.
func attachXDP(prog *ebpf.Program, t *Target) (link.Link, error) {
	if err := checkInterface(*t); err != nil {
		return nil, err
	}
	modes := []string{t.Mode}
	if t.Mode == "auto" {
		modes = []string{"native", "generic"}
	}
	var refused error
	for _, mode := range modes {
		l, err := link.AttachXDP(link.XDPOptions{Program: prog, Interface: t.Ifindex, Flags: xdpFlags[mode]})
		if err == nil {
			t.Mode = mode
			return l, nil
		}
		if errors.Is(err, unix.EBUSY) || errors.Is(err, unix.EEXIST) {
			return nil, xdpTaken(t.Interface, xdpProgram(t.Ifindex), err)
		}
		err = fmt.Errorf("%s mode: %w", mode, errnoOf(err))
		if refused != nil {
			err = fmt.Errorf("%w; %w", refused, err)
		}
		refused = err
	}
	if t.Mode == "native" {
		return nil, remedy.With(refused, `write mode = "auto" or "generic": the driver has no XDP, or not for this program`)
	}
	return nil, remedy.With(refused, "look into the kernel's log for the reason; a large MTU and LRO are common ones")
}

var xdpFlags = map[string]link.XDPAttachFlags{
	"native":  link.XDPDriverMode,
	"generic": link.XDPGenericMode,
}

// xdpTaken says that an interface runs a program already, whose id is 0 where
// nobody can tell. err is the kernel's word for that, if it was asked.
func xdpTaken(name string, id uint32, err error) error {
	who := "another program"
	if id != 0 {
		who = fmt.Sprintf("program %d", id)
	}
	taken := fmt.Errorf("%s runs there already, and an interface has one XDP program", who)
	if err != nil {
		taken = fmt.Errorf("%w: %w", taken, errnoOf(err))
	}
	return remedy.With(taken, "find who attached it (bpftool net show, bpftool link show) and detach it, or ip link set dev %s xdp off", name)
}

func attachTCX(prog *ebpf.Program, t Target) (link.Link, error) {
	if err := checkInterface(t); err != nil {
		return nil, err
	}
	at := link.Tail()
	if t.Position == "head" {
		at = link.Head()
	}
	l, err := link.AttachTCX(link.TCXOptions{
		Interface: t.Ifindex,
		Program:   prog,
		Attach:    attachTypeOf(t.AttachType),
		Anchor:    at,
	})
	if errors.Is(err, unix.ERANGE) {
		err = remedy.With(fmt.Errorf("as many programs as the kernel takes are attached already: %w", errnoOf(err)),
			"detach some (bpftool net show)")
	}
	return l, explain(err)
}

func attachNetns(prog *ebpf.Program, ns netns, attachType string) (link.Link, error) {
	l, err := rawLink(link.RawLinkOptions{Target: int(ns.file.Fd()), Program: prog, Attach: attachTypeOf(attachType)})
	if errors.Is(err, unix.E2BIG) || errors.Is(err, unix.EEXIST) {
		err = remedy.With(fmt.Errorf("the namespace has as many programs of this type as the kernel takes: %w", errnoOf(err)),
			"detach the other one (bpftool link show)")
	}
	return l, explain(err)
}

// The kernel's numbers: enum nf_inet_hooks, BPF_F_NETFILTER_IP_DEFRAG (which
// the library has as 0).
const netfilterDefrag = 1

var (
	netfilterHooks = map[string]link.NetfilterInetHook{
		"prerouting":  link.NetfilterInetPreRouting,
		"input":       link.NetfilterInetLocalIn,
		"forward":     link.NetfilterInetForward,
		"output":      link.NetfilterInetLocalOut,
		"postrouting": link.NetfilterInetPostRouting,
	}
	netfilterFamilies = map[string]link.NetfilterProtocolFamily{
		"ipv4": link.NetfilterProtoIPv4,
		"ipv6": link.NetfilterProtoIPv6,
	}
)

func attachNetfilter(prog *ebpf.Program, t Target) (link.Link, error) {
	opts := link.NetfilterOptions{
		Program:        prog,
		ProtocolFamily: netfilterFamilies[t.Family],
		Hook:           netfilterHooks[t.Hook],
		Priority:       t.Priority,
	}
	if t.Defrag {
		opts.NetfilterFlags = netfilterDefrag
	}
	l, err := link.AttachNetfilter(opts)
	if errors.Is(err, unix.EBUSY) {
		err = remedy.With(fmt.Errorf("another program has this hook and priority, and there can be one: %w", errnoOf(err)),
			"write another priority")
	}
	return l, explain(err)
}

func attachCgroup(prog *ebpf.Program, t Target, shown *Shown) (link.Link, error) {
	f, err := shown.cgroupOf(t)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if id, err := inodeOf(f); err != nil || id != t.CgroupID {
		return nil, changed("the cgroup")
	}
	// Not link.AttachCgroup: where links are missing it attaches without one.
	l, err := rawLink(link.RawLinkOptions{Target: int(f.Fd()), Program: prog, Attach: attachTypeOf(t.AttachType)})
	switch {
	case errors.Is(err, unix.EPERM):
		err = remedy.With(fmt.Errorf("a program that allows no other beside it is attached here or above: %w", errnoOf(err)),
			"find it with bpftool cgroup tree and detach it; if there is none, run hornetd with CAP_NET_ADMIN")
	case errors.Is(err, unix.E2BIG):
		err = remedy.With(fmt.Errorf("as many programs as the kernel takes are attached already: %w", errnoOf(err)),
			"detach some (bpftool cgroup show)")
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENODEV):
		err = remedy.With(absent{fmt.Errorf("the cgroup is gone: %w", errnoOf(err))}, "make it, and load again")
	}
	return l, explain(err)
}

func attachRawTracepoint(prog *ebpf.Program, t Target) (l link.Link, err error) {
	if prog.Type() == ebpf.Tracing {
		l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: ebpf.AttachTraceRawTp})
	} else {
		l, err = link.AttachRawTracepoint(link.RawTracepointOptions{Name: t.Tracepoint, Program: prog})
	}
	switch {
	case errors.Is(err, unix.ENOENT):
		err = remedy.With(fmt.Errorf("this kernel has no tracepoint %s", t.Tracepoint),
			"name one of those in /sys/kernel/tracing/available_events, without its group; a module's need the module loaded")
	case errors.Is(err, unix.EINVAL):
		err = remedy.With(fmt.Errorf("the program reads more arguments than the tracepoint has: %w", errnoOf(err)),
			"compare it with the tracepoint's TP_PROTO")
	}
	return l, explain(err)
}

func attachIter(coll *ebpf.Collection, prog *ebpf.Program, t Target) (link.Link, error) {
	opts := link.IterOptions{Program: prog}
	if t.Map != "" {
		if opts.Map = coll.Maps[t.Map]; opts.Map == nil {
			return nil, fmt.Errorf("the collection has no map %q", t.Map)
		}
	}
	l, err := link.AttachIter(opts)
	if err == nil {
		return l, nil
	}
	switch {
	case errors.Is(err, unix.EINVAL):
		err = remedy.With(fmt.Errorf("map %q is of a type that this iterator does not walk: %w", t.Map, errnoOf(err)),
			"name a map of a type that it takes")
	case errors.Is(err, unix.EACCES):
		err = remedy.With(fmt.Errorf("the program reads or writes more than a key or a value of map %q has: %w", t.Map, errnoOf(err)),
			"compare the sizes in the program with the map's")
	}
	return nil, explain(err)
}

func attachSockmap(coll *ebpf.Collection, prog *ebpf.Program, t Target) (link.Link, error) {
	m := coll.Maps[t.Map]
	if m == nil {
		return nil, fmt.Errorf("the collection has no map %q", t.Map)
	}
	l, err := rawLink(link.RawLinkOptions{Target: m.FD(), Program: prog, Attach: attachTypeOf(t.AttachType)})
	switch {
	case errors.Is(err, unix.EBUSY):
		err = remedy.With(fmt.Errorf("map %q has a program of this type: %w", t.Map, errnoOf(err)),
			"attach one program of a type to a map")
	case errors.Is(err, unix.EINVAL):
		err = remedy.With(fmt.Errorf("this kernel has no links to sockmaps: %w", errnoOf(err)),
			"use a kernel of 6.10 or later")
	}
	return l, explain(err)
}

// rawLink makes a link as the library's own functions do where these have side
// effects. The result is of the library's type for the kind of link.
func rawLink(opts link.RawLinkOptions) (link.Link, error) {
	raw, err := link.AttachRawLink(opts)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	fd, err := unix.FcntlInt(uintptr(raw.FD()), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate link: %w", err)
	}
	return link.NewFromFD(fd)
}

// explain gives the refusals that all hooks share their reason.
func explain(err error) error {
	switch {
	case err == nil || remedy.Of(err) != "":
		return err
	case errors.Is(err, unix.EPERM):
		return remedy.With(err, "run hornetd as root, or with CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN; a security module may refuse it too")
	case errors.Is(err, link.ErrNotSupported):
		return remedy.With(err, "use a newer kernel; loader/README.md says which attach type needs which")
	}
	return err
}

// errnoOf returns the kernel's answer in err without the words around it.
func errnoOf(err error) error {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return errno
	}
	return err
}

// attachTypeOf is the reverse of attachTypes.
func attachTypeOf(name string) ebpf.AttachType {
	for t, n := range attachTypes {
		if n == name {
			return t
		}
	}
	return 1 << 16 // none: the kernel refuses it
}
