package loader

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// notSupported is the kernel's ENOTSUPP, which user space has no name for.
const notSupported = unix.Errno(524)

// attachFunction attaches to the function of the kernel that the program was
// loaded for.
func attachFunction(prog *ebpf.Program, t Target) (l link.Link, err error) {
	if prog.Type() == ebpf.LSM {
		l, err = link.AttachLSM(link.LSMOptions{Program: prog})
	} else {
		l, err = link.AttachTracing(link.TracingOptions{Program: prog, AttachType: attachTypeOf(t.AttachType)})
	}
	return l, explainFunction(prog.Type(), err)
}

// explainFunction says what err means of a program of this type.
func explainFunction(typ ebpf.ProgramType, err error) error {
	switch {
	case errors.Is(err, unix.E2BIG):
		err = remedy.With(fmt.Errorf("as many programs as the kernel takes are attached already: %w", errnoOf(err)),
			"detach some (bpftool link show)")
	case errors.Is(err, unix.EBUSY):
		err = remedy.With(fmt.Errorf("something else changes the function: %w", errnoOf(err)),
			"find out what: a live patch (/sys/kernel/livepatch) or a program (bpftool link show), and remove it")
	case !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) && !errors.Is(err, notSupported) && !errors.Is(err, link.ErrNotSupported):
	case typ == ebpf.LSM:
		err = remedy.With(fmt.Errorf("this kernel calls no programs at the hook: %w", errnoOf(err)),
			"use a kernel with CONFIG_BPF_LSM and CONFIG_DYNAMIC_FTRACE_WITH_DIRECT_CALLS, which arm64 has since 6.4; or name another hook")
	default:
		err = remedy.With(fmt.Errorf("this kernel does not trace the function: %w", errnoOf(err)),
			"name one of those in available_filter_functions of tracefs")
	}
	return explain(err)
}

// attachReplacement puts prog in the place of a function of another program of
// the collection, for which it was loaded.
func attachReplacement(coll *ebpf.Collection, prog *ebpf.Program, t *Target) (link.Link, error) {
	target := coll.Programs[t.Replaces]
	if target == nil {
		return nil, fmt.Errorf("the collection has no program %q", t.Replaces)
	}
	l, err := link.AttachFreplace(nil, "", prog)
	if errors.Is(err, unix.EBUSY) {
		err = remedy.With(fmt.Errorf("another program has its place already: %w", errnoOf(err)), "replace a function once")
	}
	if err != nil {
		return nil, explain(err)
	}
	s, err := Describe(l)
	if err != nil {
		l.Close()
		return nil, err
	}
	t.TypeID, t.ReplacesID = s.TypeID, s.ReplacesID
	return l, nil
}

func attachKprobes(prog *ebpf.Program, t Target) (link.Link, error) {
	opts := link.KprobeMultiOptions{Symbols: t.Functions, Session: t.AttachType == "trace_kprobe_session"}
	attach := link.KprobeMulti
	if t.Returns {
		attach = link.KretprobeMulti
	}
	l, err := attach(prog, opts)
	switch {
	case errors.Is(err, unix.ESRCH), errors.Is(err, fs.ErrNotExist):
		err = changed("a function")
	case errors.Is(err, unix.EINVAL):
		err = remedy.With(fmt.Errorf("the kernel does not take all of them: %w", errnoOf(err)), "name fewer functions, and find the one")
	case errors.Is(err, link.ErrNotSupported):
		err = remedy.With(errors.New("this kernel has no links to several functions"),
			"use a kernel with CONFIG_FPROBE and of 6.10 for kprobe.session; or write kprobe, for one function each")
	}
	return l, explain(err)
}

func attachUprobes(prog *ebpf.Program, t Target) (link.Link, error) {
	if err := checkExecutable(t); err != nil {
		return nil, err
	}
	x, err := link.OpenExecutable(t.Executable)
	if err != nil {
		return nil, err
	}
	attach := x.UprobeMulti
	if t.Returns {
		attach = x.UretprobeMulti
	}
	l, err := attach(nil, prog, &link.UprobeMultiOptions{Addresses: t.Offsets, PID: uint32(t.PID)})
	if err != nil {
		return nil, explain(err)
	}
	if err := checkExecutable(t); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func attachStructOps(coll *ebpf.Collection, t Target) (link.Link, error) {
	m := coll.Maps[t.Map]
	if m == nil {
		return nil, fmt.Errorf("the collection has no map %q", t.Map)
	}
	l, err := link.AttachStructOps(link.StructOpsOptions{Map: m})
	switch {
	case errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY):
		err = remedy.With(fmt.Errorf("another one has its name: %w", errnoOf(err)),
			"give it another name in the object, or find who has this one (bpftool struct_ops show)")
	case errors.Is(err, unix.EINVAL):
		err = remedy.With(fmt.Errorf("the kernel does not take it: %w", errnoOf(err)),
			"use a kernel of 6.4 or later, and fill in all that its subsystem asks for")
	}
	return l, explain(err)
}
