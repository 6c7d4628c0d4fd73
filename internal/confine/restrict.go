package confine

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// layer takes something from this process.
type layer struct {
	name string
	take func() error
}

// layers are what restrict does, in order.
var layers = []layer{
	{"memory", beFirst},
	{"descriptors", closeOthers},
	{"resource limits", limitResources},
	{"capabilities", func() error { return keepCapabilities(0) }},
	{"Landlock", denyFiles},
	{"system calls", func() error { return denyCalls(nil) }},
}

// KeepMaps confines this process like Serve, but for what making maps takes: the
// capabilities for that, and bpf(2) to make one and to load the types of its keys
// and values. It may write and pass descriptors on at 3. Its memory is bounded by
// its cgroup. last is what it does while it has files.
func KeepMaps(last func() error) error {
	capabilities, err := mapCapabilities()
	if err != nil {
		return err
	}
	return take([]layer{
		{"memory", beFirst},
		{"descriptors", closeOthers}, // the runtime's too, so before it needs any
		{"files", last},
		{"capabilities", func() error { return keepCapabilities(capabilities) }},
		{"Landlock", denyFiles},
		{"system calls", func() error {
			return denyCalls([]call{
				{unix.SYS_BPF, 0, ^uint32(0), unix.BPF_MAP_CREATE},
				{unix.SYS_BPF, 0, ^uint32(0), unix.BPF_BTF_LOAD},
				{number: unix.SYS_SENDMSG},
			})
		}},
	})
}

// restrict takes from this process, for good, everything but computing and the
// descriptors that it has. The user stays root, because changing it takes a
// capability that hornetd does not have in its unit; what root owns is kept from
// it by the system calls that it no longer has.
//
// Most of this belongs to threads, and the runtime has made some by now: each call
// is made by all of them (syscall.AllThreadsSyscall), and those that come later
// inherit it. Nothing hostile has been seen yet by any.
func restrict() error { return take(layers) }

func take(layers []layer) error {
	for _, layer := range layers {
		if err := layer.take(); err != nil {
			return fmt.Errorf("%s: %w", layer.name, err)
		}
	}
	return nil
}

// beFirst makes this process the first to be killed when memory is short. hornetd is
// among the last, and a process inherits that.
func beFirst() error {
	const file = "/proc/self/oom_score_adj"
	fd, err := unix.Open(file, unix.O_WRONLY|unix.O_CLOEXEC, 0) // an os.File would make the runtime open two of its own
	if err == nil {
		_, err = unix.Write(fd, []byte("1000"))
		unix.Close(fd)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	return nil
}

// closeOthers closes what is not in the process's list: the runtime keeps the files
// of its cgroup open, to follow the number of processors that it may use. With a
// number set it no longer looks.
func closeOthers() error {
	runtime.GOMAXPROCS(2)
	return unix.CloseRange(objectFD+1, ^uint(0), 0)
}

// descriptors is how many there may be: two more than there are, for the runtime,
// which makes an epoll of its own when it needs a timer.
const descriptors = objectFD + 3

func limitResources() error {
	// The runtime reserves more than a GiB of addresses, most of which it never
	// uses, so the limit counts from there; RLIMIT_DATA counts what is used.
	reserved, err := addressSpace()
	if err != nil {
		return err
	}
	type limit struct {
		resource int
		value    uint64
	}
	limits := []limit{
		{unix.RLIMIT_AS, reserved + maxMemory},
		{unix.RLIMIT_DATA, maxMemory},
		{unix.RLIMIT_CPU, maxCPU},
		{unix.RLIMIT_NOFILE, descriptors},
		{unix.RLIMIT_FSIZE, 0},
		{unix.RLIMIT_CORE, 0},
	}
	if unix.Getuid() == 0 {
		// Another user's may be more already, which would keep the runtime from its
		// threads. Root is exempt: denyCalls is what stops it from forking.
		limits = append(limits, limit{unix.RLIMIT_NPROC, 64})
	}
	for _, l := range limits {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.value, Max: l.value}); err != nil {
			return err
		}
	}
	return nil
}

// addressSpace returns how many bytes of addresses this process has. An os.File
// would make the runtime open two descriptors of its own.
func addressSpace() (uint64, error) {
	const file = "/proc/self/statm"
	fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	defer unix.Close(fd)
	b := make([]byte, 128)
	n, err := unix.Read(fd, b)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	first, _, _ := strings.Cut(string(b[:n]), " ")
	pages, err := strconv.ParseUint(first, 10, 32)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", file, err)
	}
	return pages * uint64(unix.Getpagesize()), nil
}

// mapCapabilities are those of this process that making maps takes: CAP_BPF, for what
// the verifier may assume of them CAP_PERFMON, and for maps of sockets and interfaces
// CAP_NET_ADMIN. hornetd has CAP_SYS_ADMIN in the place of the first two in its unit;
// the filter of system calls leaves it no other use.
func mapCapabilities() (uint64, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return 0, fmt.Errorf("capabilities: %w", err)
	}
	const own = 1<<unix.CAP_BPF | 1<<unix.CAP_PERFMON
	permitted := uint64(have[0].Permitted) | uint64(have[1].Permitted)<<32
	if permitted&own == own {
		return permitted & (own | 1<<unix.CAP_NET_ADMIN), nil
	}
	return permitted & (1<<unix.CAP_SYS_ADMIN | 1<<unix.CAP_NET_ADMIN), nil
}

// keepCapabilities empties all sets but of those in kept, and keeps an exec from
// filling them again. The bounding set can only be emptied by who has CAP_SETPCAP,
// which hornetd has not in its unit; with no_new_privs nothing comes from it.
func keepCapabilities(kept uint64) error {
	if err := everyThread(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0); err != nil {
		return err
	}
	for c := uintptr(0); ; c++ {
		err := everyThread(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, c, 0)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
			break // the last one, or not ours to drop
		}
		if err != nil {
			return err
		}
	}
	if err := everyThread(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	low, high := uint32(kept), uint32(kept>>32)
	sets := [2]unix.CapUserData{{Effective: low, Permitted: low}, {Effective: high, Permitted: high}}
	if err := everyThread(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&sets)), 0); err != nil {
		return err
	}
	// Nobody but who may trace anything looks into it, itself included.
	return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
}

// denyFiles keeps every file and directory from this process, where the kernel
// has Landlock: a ruleset that handles all rights and allows none.
func denyFiles() error {
	// The rights that each version knows; a later one knows those before it.
	rights := []uint64{0, 1<<13 - 1, 1<<14 - 1, 1<<15 - 1, 1<<15 - 1, 1<<16 - 1}
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	switch {
	case errno == unix.ENOSYS || errno == unix.EOPNOTSUPP:
		return nil
	case errno != 0:
		return errno
	}
	handled := rights[min(int(version), len(rights)-1)] // struct landlock_ruleset_attr, as the first version had it
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&handled)), unsafe.Sizeof(handled), 0)
	if errno != 0 {
		return errno
	}
	defer unix.Close(int(fd))
	return everyThread(unix.SYS_LANDLOCK_RESTRICT_SELF, fd, 0, 0)
}

// everyThread makes a system call in all threads of this process. The runtime
// knows them all where none can be made by C code, as in what make builds.
func everyThread(call, a, b, c uintptr) error {
	switch _, _, errno := syscall.AllThreadsSyscall6(call, a, b, c, 0, 0, 0); errno {
	case 0:
		return nil
	case syscall.ENOTSUP:
		return errors.New("this program was built with cgo: build it with CGO_ENABLED=0, as make does")
	default:
		return errno
	}
}
