package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// attachTracepoint and attachUprobe open the perf event themselves. The
// library would do it too, but it remembers for ever that tracefs was not
// mounted, loads a program to find out whether there are perf_event links, and
// attaches without one, which cannot be pinned, where it believes there are not.

func attachTracepoint(prog *ebpf.Program, t Target) (link.Link, error) {
	id, err := tracepointID(t.Tracepoint)
	if err != nil {
		return nil, err
	}
	fd, err := openPerfEvent(&unix.PerfEventAttr{Type: unix.PERF_TYPE_TRACEPOINT, Config: id}, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return linkPerfEvent(prog, fd)
}

func attachUprobe(prog *ebpf.Program, t Target) (_ link.Link, err error) {
	if err := checkExecutable(t); err != nil {
		return nil, err
	}
	l, err := attachProbe(prog, uprobes, t.Executable, t.Offset, t.AttachType == "uretprobe", t.PID)
	if err != nil {
		return nil, err
	}
	// The kernel opened the path a second time. That it is the same file
	// before and after leaves no file in between but one that was put back.
	if err := checkExecutable(t); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

func attachKprobe(prog *ebpf.Program, t Target) (link.Link, error) {
	return attachProbe(prog, kprobes, t.Function, t.Offset, t.AttachType == "kretprobe", 0)
}

// explainKprobe says what the answer to opening a kprobe's event means.
func explainKprobe(function string, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT):
		return remedy.With(fmt.Errorf("this kernel has no function %s", function),
			"name one that /proc/kallsyms has; the compiler inlines and renames functions, and a module's need the module loaded")
	case errors.Is(err, unix.EADDRNOTAVAIL):
		return remedy.With(fmt.Errorf("this kernel has several functions %s", function), "name a function that there is once")
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EILSEQ):
		return remedy.With(fmt.Errorf("no probe can be there: %w", errnoOf(err)),
			"name another function, or correct the offset: it must be that of an instruction, and code that probes rely on takes none")
	}
	return err
}

// attachProbe puts a probe at an offset from what, a path or a function, for the
// process pid, or for all where it is 0.
func attachProbe(prog *ebpf.Program, device probeDevice, what string, offset uint64, returns bool, pid int) (link.Link, error) {
	attr := &unix.PerfEventAttr{Ext2: offset}
	var err error
	if attr.Type, err = device.number(); err != nil {
		return nil, err
	}
	if returns {
		if attr.Config, err = device.returnBit(); err != nil {
			return nil, err
		}
	}
	name, err := unix.BytePtrFromString(what)
	if err != nil {
		return nil, err
	}
	// The kernel reads the name during the call; pinned it cannot move.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(name)
	attr.Ext1 = uint64(uintptr(unsafe.Pointer(name)))
	fd, err := openPerfEvent(attr, pid)
	if err != nil && device.word() == "kprobe" {
		err = explainKprobe(what, err)
	}
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	return linkPerfEvent(prog, fd)
}

// checkExecutable refuses a file that is not the one that Resolve looked into.
func checkExecutable(t Target) error {
	f, err := t.OpenExecutable()
	if err != nil {
		return err
	}
	return f.Close()
}

// OpenExecutable opens the file that t probes. It refuses one that is not what Resolve
// looked into.
func (t Target) OpenExecutable() (*os.File, error) {
	x, err := openExecutable(t.Executable)
	if err != nil {
		return nil, err
	}
	if !x.is(t) {
		x.close()
		return nil, changed(t.Executable)
	}
	return x.file, nil
}

// openPerfEvent opens a perf event for the process pid, or for all where it is 0.
// That counts on one CPU only, but a program hangs on what the event is about and runs
// on all.
func openPerfEvent(attr *unix.PerfEventAttr, pid int) (fd int, err error) {
	cpu := -1
	if pid == 0 {
		pid, cpu = -1, 0
	}
	attr.Size = uint32(unsafe.Sizeof(*attr))
	attr.Sample_type, attr.Sample, attr.Wakeup = unix.PERF_SAMPLE_RAW, 1, 1
	fd, err = unix.PerfEventOpen(attr, pid, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	switch {
	case errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM):
		return 0, remedy.With(fmt.Errorf("perf event: %w", err),
			"run hornetd as root, or with CAP_PERFMON and kernel.perf_event_paranoid at most 2")
	case errors.Is(err, unix.EINVAL):
		return 0, remedy.With(fmt.Errorf("perf event: %w", err), "correct the offset: it must be that of an instruction")
	case err != nil:
		return 0, fmt.Errorf("perf event: %w", err)
	}
	return fd, nil
}

// linkPerfEvent gives the event prog. The link keeps the event; the descriptor
// is not needed any more.
func linkPerfEvent(prog *ebpf.Program, fd int) (link.Link, error) {
	l, err := rawLink(link.RawLinkOptions{Target: fd, Program: prog, Attach: ebpf.AttachPerfEvent})
	if errors.Is(err, unix.EACCES) {
		err = remedy.With(fmt.Errorf("the program reads more of its context than the tracepoint has: %w", errnoOf(err)),
			"compare it with the tracepoint's format file in tracefs")
	}
	return l, explain(err)
}

// probeDevice is where the kernel describes a kind of probe.
type probeDevice string

const (
	kprobes probeDevice = "/sys/bus/event_source/devices/kprobe"
	uprobes probeDevice = "/sys/bus/event_source/devices/uprobe"
)

// word is what such a probe is called.
func (d probeDevice) word() string { return filepath.Base(string(d)) }

// number returns the kernel's number of the perf events that these probes are.
func (d probeDevice) number() (uint32, error) {
	b, err := os.ReadFile(filepath.Join(string(d), "type"))
	if err != nil {
		return 0, remedy.With(fmt.Errorf("this kernel has no %ss: %w", d.word(), err), "use a kernel with CONFIG_%s_EVENTS", strings.ToUpper(d.word()))
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(b)), 10, 32)
	return uint32(n), err
}

// returnBit returns the flag in a probe's config that makes it one of returns.
func (d probeDevice) returnBit() (uint64, error) {
	file := filepath.Join(string(d), "format/retprobe")
	b, err := os.ReadFile(file)
	if err != nil {
		return 0, remedy.With(fmt.Errorf("%ss of returns: %w", d.word(), err), "mount all of sysfs: the kernel has the file since 4.17")
	}
	bit, ok := strings.CutPrefix(strings.TrimSpace(string(b)), "config:")
	n, err := strconv.ParseUint(bit, 10, 6)
	if !ok || err != nil {
		return 0, fmt.Errorf("%s holds %q", file, b)
	}
	return 1 << n, nil
}
