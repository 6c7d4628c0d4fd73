package lsm

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// The deny matrix: who tries what, without a guard, under one that audits and one
// that enforces. The oracle is what the kernel answers to another process.

type actor struct {
	name string
	wrap []string
}

// actors are how a process of an attacker is started.
var actors = []actor{
	{"root", []string{"sh", "-c", `"$0" "$@"; exit $?`}},
	{"child", nil}, // of hornetd, running its binary
	{"copy", nil},  // of hornetd's binary
	{"capbpf", []string{"setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups",
		"--inh-caps", "-all,+bpf,+perfmon,+net_admin", "--ambient-caps", "-all,+bpf,+perfmon,+net_admin", "--bounding-set", "-all,+bpf,+perfmon,+net_admin"}},
	{"userns", []string{"unshare", "--user", "--map-root-user", "--mount"}},
	{"stolen", nil}, // with descriptors of what hornetd owns
	{"maker", nil},  // a child of hornetd that executed an enrolled file
}

// What an attacker finds. Its own was there before the guard.
type field struct {
	Guarded, Foreign string // directories of two bpffs
	Map, Prog, Link  uint32 // ids of what hornetd owns
	Cgroup           string
	PID              int // of hornetd
	Child            int // of a child of hornetd's that has executed nothing yet
	Binary           string
	Stolen           bool
}

// Descriptors that a thief has.
const (
	stolenMap = 3 + iota
	stolenProg
	stolenLink
	stolenControl
	stolenArray
)

// commandNames are those of bpf(2), in order.
var commandNames = strings.Fields(`MAP_CREATE MAP_LOOKUP_ELEM MAP_UPDATE_ELEM MAP_DELETE_ELEM MAP_GET_NEXT_KEY PROG_LOAD OBJ_PIN OBJ_GET
	PROG_ATTACH PROG_DETACH PROG_TEST_RUN PROG_GET_NEXT_ID MAP_GET_NEXT_ID PROG_GET_FD_BY_ID MAP_GET_FD_BY_ID OBJ_GET_INFO_BY_FD PROG_QUERY
	RAW_TRACEPOINT_OPEN BTF_LOAD BTF_GET_FD_BY_ID TASK_FD_QUERY MAP_LOOKUP_AND_DELETE_ELEM MAP_FREEZE BTF_GET_NEXT_ID MAP_LOOKUP_BATCH
	MAP_LOOKUP_AND_DELETE_BATCH MAP_UPDATE_BATCH MAP_DELETE_BATCH LINK_CREATE LINK_UPDATE LINK_GET_FD_BY_ID LINK_GET_NEXT_ID ENABLE_STATS
	ITER_CREATE LINK_DETACH PROG_BIND_MAP TOKEN_CREATE PROG_STREAM_READ_BY_FD PROG_ASSOC_STRUCT_OPS later_command`)

// bpf makes a call with 32-bit words of the attribute: word -> value.
func bpf(cmd int, words map[int]uint32) (int, error) {
	var attr [40]uint32
	for i, w := range words {
		attr[i] = w
	}
	r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(cmd), uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
	if errno != 0 {
		return -1, errno
	}
	return int(r), nil
}

// closing closes what a call gave, and returns its error.
func closing(fd int, err error) error {
	if err == nil {
		unix.Close(fd)
	}
	return err
}

// act is something that an attacker does, and undoes where it went through.
type act struct {
	name string
	do   func(f *field) error
}

func acts() []act {
	var all []act
	// Every command, about nothing: with a guard the answer comes before the
	// kernel has looked.
	for cmd, name := range commandNames {
		all = append(all, act{"bpf " + name, func(*field) error { return closing(bpf(cmd, map[int]uint32{0: ^uint32(0)})) }})
	}
	// Linux 7 takes a flag with the command.
	for _, cmd := range []int{unix.BPF_MAP_CREATE, unix.BPF_PROG_LOAD, unix.BPF_LINK_DETACH} {
		all = append(all, act{"bpf " + commandNames[cmd] + ", common attributes", func(*field) error {
			const commonAttrs = 1 << 16
			return closing(bpf(cmd|commonAttrs, map[int]uint32{0: ^uint32(0)}))
		}})
	}
	// What a program at an LSM hook of a cgroup is there with.
	for _, cmd := range []int{unix.BPF_PROG_ATTACH, unix.BPF_PROG_DETACH, unix.BPF_LINK_CREATE} {
		all = append(all, act{"bpf " + commandNames[cmd] + ", lsm_cgroup", func(*field) error {
			return closing(bpf(cmd, map[int]uint32{0: ^uint32(0), 1: ^uint32(0), 2: uint32(ebpf.AttachLSMCgroup)}))
		}})
	}
	all = append(all, attackLoads...)
	all = append(all, attackOwned...)
	all = append(all, attackStolen...)
	all = append(all, attackPins...)
	return inHurry(append(all, attackHornetd...))
}

func socketFilter() (*ebpf.Program, error) {
	return ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SocketFilter, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}})
}

func pinnedProgram(f *field, name string, use func(fd int) error) error {
	p, err := ebpf.LoadPinnedProgram(filepath.Join(f.Foreign, name), nil)
	if err != nil {
		return err
	}
	defer p.Close()
	return use(p.FD())
}

var attackLoads = []act{
	{"load a program", func(*field) error {
		p, err := socketFilter()
		if err == nil {
			p.Close()
		}
		return err
	}},
	{"create a map", func(*field) error { return childCreates(nil) }},
	{"foreign map: update", func(f *field) error {
		m, err := ebpf.LoadPinnedMap(filepath.Join(f.Foreign, "map"), nil)
		if err != nil {
			return err
		}
		defer m.Close()
		return m.Put(uint32(0), uint64(1))
	}},
	{"foreign program: raw tracepoint", func(f *field) error {
		return pinnedProgram(f, "raw_tp", func(fd int) error {
			name := append([]byte("sys_enter"), 0)
			p := uintptr(unsafe.Pointer(&name[0]))
			err := closing(bpf(unix.BPF_RAW_TRACEPOINT_OPEN, map[int]uint32{0: uint32(p), 1: uint32(p >> 32), 2: uint32(fd)}))
			runtime.KeepAlive(name)
			return err
		})
	}},
	{"foreign program: attach to a cgroup", func(f *field) error {
		return pinnedProgram(f, "cgroup", func(fd int) error { return attachToCgroup(f, fd) })
	}},
	{"foreign program: link to a cgroup", func(f *field) error {
		return pinnedProgram(f, "cgroup", func(fd int) error {
			cg, err := unix.Open(f.Cgroup, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(cg)
			return closing(bpf(unix.BPF_LINK_CREATE, map[int]uint32{0: uint32(fd), 1: uint32(cg), 2: uint32(ebpf.AttachCGroupInetEgress)}))
		})
	}},
	{"foreign program: run", func(f *field) error {
		return pinnedProgram(f, "filter", func(fd int) error {
			data := make([]byte, 64)
			p := uintptr(unsafe.Pointer(&data[0]))
			_, err := bpf(unix.BPF_PROG_TEST_RUN, map[int]uint32{0: uint32(fd), 2: uint32(len(data)), 4: uint32(p), 5: uint32(p >> 32)})
			runtime.KeepAlive(data)
			return err
		})
	}},
	{"foreign program: SO_ATTACH_BPF", func(f *field) error {
		return pinnedProgram(f, "filter", func(fd int) error { return socketOption(unix.SO_ATTACH_BPF, fd) })
	}},
	{"foreign program: SO_ATTACH_REUSEPORT_EBPF", func(f *field) error {
		return pinnedProgram(f, "filter", func(fd int) error { return socketOption(unix.SO_ATTACH_REUSEPORT_EBPF, fd) })
	}},
	{"foreign program: PERF_EVENT_IOC_SET_BPF", func(f *field) error {
		return pinnedProgram(f, "perf", func(fd int) error {
			attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})), Config: unix.PERF_COUNT_SW_CPU_CLOCK,
				Sample: 1000, Bits: unix.PerfBitDisabled}
			event, err := unix.PerfEventOpen(&attr, 0, -1, -1, unix.PERF_FLAG_FD_CLOEXEC)
			if err != nil {
				return err
			}
			defer unix.Close(event)
			return unix.IoctlSetInt(event, unix.PERF_EVENT_IOC_SET_BPF, fd)
		})
	}},
	{"foreign program: XDP by netlink", func(f *field) error {
		return pinnedProgram(f, "xdp", func(fd int) error {
			return errors.Join(setXDP(fd), setXDP(-1))
		})
	}},
	{"foreign program: XDP behind another message", func(f *field) error {
		return pinnedProgram(f, "xdp", func(fd int) error {
			first := netlinkMessage(unix.RTM_GETLINK, unix.NLM_F_ACK, ifinfo())
			return errors.Join(netlink(append(first, xdpMessage(unix.RTM_SETLINK, nested, fd)...), 2), setXDP(-1))
		})
	}},
	{"foreign program: XDP of a new interface", func(f *field) error {
		return pinnedProgram(f, "xdp", func(fd int) error {
			return errors.Join(netlink(xdpMessage(unix.RTM_NEWLINK, nested, fd), 1), setXDP(-1))
		})
	}},
	{"foreign program: XDP without the nesting flag", func(f *field) error {
		return pinnedProgram(f, "xdp", func(fd int) error {
			return errors.Join(netlink(xdpMessage(unix.RTM_SETLINK, 0, fd), 1), setXDP(-1))
		})
	}},
	{"foreign program: XDP behind a padded attribute", func(f *field) error {
		return pinnedProgram(f, "xdp", func(fd int) error {
			alias := attr(unix.IFLA_IFALIAS, []byte("lo"))
			return errors.Join(netlink(xdpMessage(unix.RTM_SETLINK, nested, fd, alias), 1), setXDP(-1))
		})
	}},
	{"foreign program: XDP behind a padded message", func(f *field) error {
		return pinnedProgram(f, "xdp", func(fd int) error {
			first := netlinkMessage(unix.RTM_GETLINK, 0, ifinfo(), []byte{7, 0, unix.IFLA_IFNAME, 0, 'l', 'o', 0})
			return errors.Join(netlink(slices.Concat(first, []byte{0}, xdpMessage(unix.RTM_SETLINK, nested, fd)), 2), setXDP(-1))
		})
	}},
	{"more by netlink than the guard looks at", func(*field) error {
		const noop = 1
		return netlink(netlinkMessage(noop, 0, make([]byte, 4<<16)), 1)
	}},
	{"foreign program: filter, a kind without an end", func(f *field) error {
		return pinnedProgram(f, "cls", func(fd int) error { return netlink(filterMessage(unix.NLM_F_CREATE, "bpf", "", fd), 1) })
	}},
	{"foreign program: filter, its kind behind the rest", func(f *field) error {
		return pinnedProgram(f, "cls", func(fd int) error {
			b := filterMessage(unix.NLM_F_CREATE, "", "", fd)
			b = append(b, 7, 0, 1, 0, 'b', 'p', 'f')
			binary.NativeEndian.PutUint32(b, uint32(len(b)))
			return netlink(b, 1)
		})
	}},
	{"foreign program: filter by netlink", func(f *field) error {
		return pinnedProgram(f, "cls", func(fd int) error { return netlink(filterMessage(unix.NLM_F_CREATE, "bpf", "\x00", fd), 1) })
	}},
	{"foreign program: filter that names no kind", func(f *field) error {
		return pinnedProgram(f, "cls", func(fd int) error { return netlink(filterMessage(0, "", "", fd), 1) })
	}},
	{"a filter of another kind", func(f *field) error { return netlink(filterMessage(unix.NLM_F_CREATE, "bpfx", "\x00", 0), 1) }},
	{"a filter of another kind, behind its chain", func(f *field) error {
		const tcaChain = 11
		return netlink(filterMessage(unix.NLM_F_CREATE, "bpfx", "\x00", 0, attr(tcaChain, word32(0))), 1)
	}},
	{"foreign program: action by netlink", func(f *field) error {
		return pinnedProgram(f, "act", func(fd int) error { return netlink(actionMessage(fd), 1) })
	}},
	{"tun: steering", func(*field) error { return ioctl(unix.TUNSETSTEERINGEBPF) }},
	{"tun: filter", func(*field) error { return ioctl(unix.TUNSETFILTEREBPF) }},
	{"a file's generation", func(*field) error { return ioctl(fsSetVersion) }},
	{"a file's generation, of 32 bits", func(*field) error { return ioctl(fsSetVersion32) }},
	{"a file's generation, by ext4's number", func(*field) error { return ioctl(ext4SetVersion) }},
	{"a file's generation, by ext4's, of 32 bits", func(*field) error { return ioctl(ext4SetVersion32) }},
	{"tun: another ioctl", func(*field) error { return ioctl(unix.TUNSETVNETHDRSZ) }},
	{"an interface's other attributes by netlink", func(*field) error {
		return netlink(netlinkMessage(unix.RTM_NEWLINK, unix.NLM_F_ACK, ifinfo(), attr(unix.IFLA_MTU, []byte{0, 0, 1, 0})), 1)
	}},
	{"SO_ATTACH_FILTER, which is classic BPF", func(*field) error {
		s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(s)
		return unix.SetsockoptSockFprog(s, unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &unix.SockFilter{Code: unix.BPF_RET}})
	}},
}

// By include/uapi/linux/fs.h and fs/ext4/ext4.h.
const (
	fsSetVersion     = 0x40087602
	fsSetVersion32   = 0x40047602
	ext4SetVersion   = 0x40086604
	ext4SetVersion32 = 0x40046604
)

// ioctl is one of a file that has none: a guard answers before the file does.
func ioctl(request uint) error {
	null, err := unix.Open(os.DevNull, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(null)
	return unix.IoctlSetPointerInt(null, request, 0)
}

// attachToCgroup attaches a program, and detaches it.
func attachToCgroup(f *field, fd int) error {
	cg, err := unix.Open(f.Cgroup, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(cg)
	words := map[int]uint32{0: uint32(cg), 1: uint32(fd), 2: uint32(ebpf.AttachCGroupInetEgress), 3: unix.BPF_F_ALLOW_MULTI}
	if _, err := bpf(unix.BPF_PROG_ATTACH, words); err != nil {
		return err
	}
	delete(words, 3)
	_, err = bpf(unix.BPF_PROG_DETACH, words)
	return err
}

func socketOption(option, fd int) error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	if err := unix.SetsockoptInt(s, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
		return err
	}
	return unix.SetsockoptInt(s, unix.SOL_SOCKET, option, fd)
}

func (f *field) pin(name string) string { return filepath.Join(f.Guarded, "unit", name) }

var attackOwned = []act{
	{"owned map: by id, to write", func(f *field) error { return closing(bpf(unix.BPF_MAP_GET_FD_BY_ID, map[int]uint32{0: f.Map})) }},
	{"owned map: by id, to read", func(f *field) error {
		return closing(bpf(unix.BPF_MAP_GET_FD_BY_ID, map[int]uint32{0: f.Map, 2: unix.BPF_F_RDONLY}))
	}},
	{"owned map: from its pin, to write", func(f *field) error {
		m, err := ebpf.LoadPinnedMap(f.pin("map"), nil)
		if err == nil {
			m.Close()
		}
		return err
	}},
	{"owned map: from its pin, to read", func(f *field) error {
		m, err := ebpf.LoadPinnedMap(f.pin("map"), &ebpf.LoadPinOptions{ReadOnly: true})
		if err == nil {
			m.Close()
		}
		return err
	}},
	{"owned program: by id", func(f *field) error {
		return closing(bpf(unix.BPF_PROG_GET_FD_BY_ID, map[int]uint32{0: f.Prog}))
	}},
	{"owned program: from its pin", func(f *field) error {
		p, err := ebpf.LoadPinnedProgram(f.pin("prog"), nil)
		if err == nil {
			p.Close()
		}
		return err
	}},
	{"owned link: by id", func(f *field) error {
		return closing(bpf(unix.BPF_LINK_GET_FD_BY_ID, map[int]uint32{0: f.Link}))
	}},
	{"owned link: from its pin", func(f *field) error { return closing(pinnedLink(f)) }},
	{"owned link: update, from its pin", func(f *field) error {
		fd, err := pinnedLink(f)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return updateLink(f, fd)
	}},
}

// pinnedLink returns a descriptor of the link that is pinned.
func pinnedLink(f *field) (int, error) {
	path := append([]byte(f.pin("link")), 0)
	p := uintptr(unsafe.Pointer(&path[0]))
	fd, err := bpf(unix.BPF_OBJ_GET, map[int]uint32{0: uint32(p), 1: uint32(p >> 32)})
	runtime.KeepAlive(path)
	return fd, err
}

// updateLink gives a link another program.
func updateLink(f *field, fd int) error {
	return pinnedProgram(f, "cgroup", func(program int) error {
		_, err := bpf(unix.BPF_LINK_UPDATE, map[int]uint32{0: uint32(fd), 1: uint32(program)})
		return err
	})
}

// errNotStolen is for who has no such descriptors.
var errNotStolen = errors.New("-")

func stolen(do func(f *field) error) func(f *field) error {
	return func(f *field) error {
		if !f.Stolen {
			return errNotStolen
		}
		return do(f)
	}
}

// update is about the map behind a descriptor.
func update(fd int, cmd int) error {
	key, value := new(uint32), new(uint64)
	k, v := uintptr(unsafe.Pointer(key)), uintptr(unsafe.Pointer(value))
	_, err := bpf(cmd, map[int]uint32{0: uint32(fd), 2: uint32(k), 3: uint32(k >> 32), 4: uint32(v), 5: uint32(v >> 32)})
	runtime.KeepAlive(key)
	runtime.KeepAlive(value)
	return err
}

// batch is about the stolen map.
func batch(cmd int) error {
	next, key, value := new(uint64), new(uint32), new(uint64)
	n, k, v := uintptr(unsafe.Pointer(next)), uintptr(unsafe.Pointer(key)), uintptr(unsafe.Pointer(value))
	words := map[int]uint32{4: uint32(k), 5: uint32(k >> 32), 6: uint32(v), 7: uint32(v >> 32), 8: 1, 9: stolenMap}
	if cmd == unix.BPF_MAP_LOOKUP_BATCH || cmd == unix.BPF_MAP_LOOKUP_AND_DELETE_BATCH {
		words[2], words[3] = uint32(n), uint32(n>>32)
	}
	_, err := bpf(cmd, words)
	runtime.KeepAlive(next)
	runtime.KeepAlive(key)
	runtime.KeepAlive(value)
	return err
}

var attackStolen = []act{
	{"stolen map: read", stolen(func(*field) error { return update(stolenMap, unix.BPF_MAP_LOOKUP_ELEM) })},
	{"stolen map: update", stolen(func(*field) error { return update(stolenMap, unix.BPF_MAP_UPDATE_ELEM) })},
	{"stolen map: delete", stolen(func(*field) error { return update(stolenMap, unix.BPF_MAP_DELETE_ELEM) })},
	{"stolen map: look up and delete", stolen(func(*field) error { return update(stolenMap, unix.BPF_MAP_LOOKUP_AND_DELETE_ELEM) })},
	{"stolen map: freeze, badly", stolen(func(*field) error { return update(stolenMap, unix.BPF_MAP_FREEZE) })},
	{"stolen map: read a batch", stolen(func(*field) error { return batch(unix.BPF_MAP_LOOKUP_BATCH) })},
	{"stolen map: update a batch", stolen(func(*field) error { return batch(unix.BPF_MAP_UPDATE_BATCH) })},
	{"stolen map: delete a batch", stolen(func(*field) error { return batch(unix.BPF_MAP_DELETE_BATCH) })},
	{"stolen map: look up and delete a batch", stolen(func(*field) error { return batch(unix.BPF_MAP_LOOKUP_AND_DELETE_BATCH) })},
	{"stolen map: pin elsewhere", stolen(func(f *field) error { return pinElsewhere(f, stolenMap) })},
	{"stolen map: iterate", stolen(func(f *field) error {
		return pinnedProgram(f, "iter", func(fd int) error {
			about := []uint32{stolenMap}
			p := uintptr(unsafe.Pointer(&about[0]))
			err := closing(bpf(unix.BPF_LINK_CREATE, map[int]uint32{0: uint32(fd), 2: uint32(ebpf.AttachTraceIter), 4: uint32(p), 5: uint32(p >> 32), 6: 4}))
			runtime.KeepAlive(about)
			return err
		})
	})},
	{"stolen array: map its memory", stolen(func(*field) error { return mapped(unix.PROT_READ | unix.PROT_WRITE) })},
	{"stolen array: map its memory to read", stolen(func(*field) error { return mapped(unix.PROT_READ) })},
	{"stolen program: run", stolen(func(*field) error {
		_, err := bpf(unix.BPF_PROG_TEST_RUN, map[int]uint32{0: stolenProg})
		return err
	})},
	{"stolen program: attach to a cgroup", stolen(func(f *field) error { return attachToCgroup(f, stolenProg) })},
	{"stolen program: pin elsewhere", stolen(func(f *field) error { return pinElsewhere(f, stolenProg) })},
	{"stolen link: update", stolen(func(f *field) error { return updateLink(f, stolenLink) })},
	{"stolen link: detach", stolen(func(*field) error {
		_, err := bpf(unix.BPF_LINK_DETACH, map[int]uint32{0: stolenLink, 1: 0})
		return err
	})},
	{"stolen link: pin elsewhere", stolen(func(f *field) error { return pinElsewhere(f, stolenLink) })},
	{"stolen control: mode off", stolen(func(*field) error {
		p, err := ebpf.NewProgramFromFD(mustDup(stolenControl))
		if err != nil {
			return err
		}
		defer p.Close()
		ret, err := p.Run(&ebpf.RunOptions{Context: [12]uint64{0: opMode, 1: uint64(Off), 11: opAsked}})
		if err == nil && int32(ret) < 0 {
			err = unix.Errno(-int32(ret))
		}
		return err
	})},
}

// mapped maps an array that can be.
func mapped(prot int) error {
	b, err := unix.Mmap(stolenArray, 0, os.Getpagesize(), prot, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	return unix.Munmap(b)
}

func mustDup(fd int) int {
	d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return -1
	}
	return d
}

func pinElsewhere(f *field, fd int) error {
	path := append([]byte(filepath.Join(f.Foreign, "stolen")), 0)
	p := uintptr(unsafe.Pointer(&path[0]))
	_, err := bpf(unix.BPF_OBJ_PIN, map[int]uint32{0: uint32(p), 1: uint32(p >> 32), 2: uint32(fd)})
	runtime.KeepAlive(path)
	if err == nil {
		err = os.Remove(filepath.Join(f.Foreign, "stolen"))
	}
	return err
}

var attackPins = []act{
	{"pin: unlink", func(f *field) error { return os.Remove(f.pin("unlink")) }},
	{"pin: unlink one as deep as any", func(f *field) error { return os.Remove(f.pin(deep + "/unlink")) }},
	{"pin: rename", func(f *field) error { return os.Rename(f.pin("rename"), f.pin("renamed")) }},
	{"pin: rename over", func(f *field) error { return os.Rename(filepath.Join(f.Guarded, "outside"), f.pin("over")) }},
	{"pin: rename out", func(f *field) error { return os.Rename(f.pin("out"), filepath.Join(f.Guarded, "taken")) }},
	{"pin: exchange the directory", func(f *field) error {
		unit, other := filepath.Join(f.Guarded, "unit"), filepath.Join(f.Guarded, "other")
		if err := unix.Renameat2(unix.AT_FDCWD, unit, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE); err != nil {
			return err
		}
		return unix.Renameat2(unix.AT_FDCWD, unit, unix.AT_FDCWD, other, unix.RENAME_EXCHANGE)
	}},
	{"pin: link", func(f *field) error { return os.Link(f.pin("map"), f.pin("linked")) }},
	{"pin: chmod", func(f *field) error { return os.Chmod(f.pin("map"), 0o600) }},
	{"pin: chown", func(f *field) error { return os.Chown(f.pin("map"), 0, 0) }},
	{"pin: mkdir", func(f *field) error { return os.Mkdir(f.pin("made"), 0o700) }},
	{"pin: rmdir", func(f *field) error { return os.Remove(f.pin("empty")) }},
	{"pin: symlink", func(f *field) error { return os.Symlink("map", f.pin("symbolic")) }},
	{"pin: a foreign map among them", func(f *field) error {
		m, err := ebpf.LoadPinnedMap(filepath.Join(f.Foreign, "map"), nil)
		if err != nil {
			return err
		}
		defer m.Close()
		path := append([]byte(f.pin("foreign")), 0)
		p := uintptr(unsafe.Pointer(&path[0]))
		_, err = bpf(unix.BPF_OBJ_PIN, map[int]uint32{0: uint32(p), 1: uint32(p >> 32), 2: uint32(m.FD())})
		runtime.KeepAlive(path)
		return err
	}},
	{"the same on another bpffs", func(f *field) error {
		if err := os.Mkdir(filepath.Join(f.Foreign, "d"), 0o700); err != nil {
			return err
		}
		return os.Remove(filepath.Join(f.Foreign, "d"))
	}},
	// In a mount namespace of their own, where they harm nobody if they go through;
	// what is shared there goes on to another mount.
	{"umount", below("shared", func(_ *field, top string) error { return unix.Unmount(top+"/bpf", unix.MNT_DETACH) })},
	{"umount, not lazily", below("shared", func(_ *field, top string) error { return unix.Unmount(top+"/bpf", 0) })},
	{"umount of a tree that it is in", below("shared", func(_ *field, top string) error { return unix.Unmount(top, unix.MNT_DETACH) })},
	{"mount over", below("shared", func(_ *field, top string) error { return unix.Mount("tmpfs", top+"/bpf", "tmpfs", 0, "") })},
	{"mount over a directory in it", below("shared", func(_ *field, top string) error { return unix.Mount("tmpfs", top+"/bpf/unit", "tmpfs", 0, "") })},
	{"make it private", below("shared", func(_ *field, top string) error { return unix.Mount("", top+"/bpf", "", unix.MS_PRIVATE, "") })},
	{"make it shared", below("shared", func(_ *field, top string) error { return unix.Mount("", top+"/bpf", "", unix.MS_SHARED, "") })},
	{"remount", alone(func(f *field) error { return unix.Mount("", f.Guarded, "", unix.MS_REMOUNT, "") })},
	{"move_mount", below("shared", func(f *field, top string) error {
		return unix.MoveMount(unix.AT_FDCWD, top+"/bpf", unix.AT_FDCWD, f.Foreign, 0)
	})},
	{"move_mount over it", below("shared", func(f *field, top string) error {
		return unix.MoveMount(unix.AT_FDCWD, f.Foreign, unix.AT_FDCWD, top+"/bpf", 0)
	})},
	{"move_mount of a copy that is mounted nowhere", below("shared", func(f *field, top string) error {
		copied, err := unix.OpenTree(unix.AT_FDCWD, top+"/bpf", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err != nil {
			return err
		}
		defer unix.Close(copied)
		return unix.MoveMount(copied, "", unix.AT_FDCWD, f.Foreign, unix.MOVE_MOUNT_F_EMPTY_PATH)
	})},
	// What services and containers do with their copies.
	{"own copy: umount", alone(func(f *field) error { return unix.Unmount(f.Guarded, unix.MNT_DETACH) })},
	{"own copy: umount of the tree that it is in", below("private", func(_ *field, top string) error { return unix.Unmount(top, unix.MNT_DETACH) })},
	{"own copy: mount over", alone(func(f *field) error { return unix.Mount("tmpfs", f.Guarded, "tmpfs", 0, "") })},
	{"own copy: mount over a process in /proc", alone(func(*field) error { return unix.Mount("tmpfs", "/proc/self/task", "tmpfs", 0, "") })},
	{"own copy: mount over another file of /proc", alone(func(*field) error { return unix.Mount("/dev/null", "/proc/uptime", "", unix.MS_BIND, "") })},
	{"own copy: read-only", alone(func(f *field) error {
		return unix.Mount("", f.Guarded, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, "")
	})},
}

// below runs do in a mount namespace of its own about a tree of mounts with one of
// the guarded file system in it, behind others, shared with a second tree or with none.
func below(how string, do func(f *field, top string) error) func(f *field) error {
	return alone(func(f *field) error {
		top := filepath.Join(os.TempDir(), "hornet-tree-"+strconv.Itoa(os.Getpid()))
		second := top + "-second"
		for _, dir := range []string{top, second} {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			defer os.Remove(dir)
		}
		var err error
		for _, dir := range []string{"", "/before", "/before/below"} {
			if err == nil {
				err = unix.Mount("tmpfs", top+dir, "tmpfs", 0, "")
			}
			if err == nil {
				err = os.MkdirAll(top+"/before/below", 0o755)
			}
		}
		if err == nil {
			err = os.Mkdir(filepath.Join(top, "bpf"), 0o755)
		}
		if err == nil && how == "shared" {
			err = errors.Join(unix.Mount("", top, "", unix.MS_SHARED, ""), unix.Mount(top, second, "", unix.MS_BIND, ""))
		}
		if err == nil {
			err = unix.Mount(f.Guarded, filepath.Join(top, "bpf"), "", unix.MS_BIND, "")
		}
		if err != nil {
			return err
		}
		return do(f, top)
	})
}

// alone runs do on a thread with a mount namespace of its own, which ends with it.
func alone(do func(f *field) error) func(f *field) error {
	return func(f *field) error {
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // for ever
			err := unix.Unshare(unix.CLONE_NEWNS)
			if err == nil {
				err = unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, "")
			}
			if err == nil {
				err = do(f)
			}
			result <- err
		}()
		return <-result
	}
}

var attackHornetd = []act{
	{"ptrace", func(f *field) error {
		result := make(chan error)
		go func() {
			runtime.LockOSThread() // for ever: it lets go when it ends
			result <- unix.PtraceSeize(f.PID)
		}()
		return <-result
	}},
	{"process_vm_readv", func(f *field) error { return memory(f, unix.SYS_PROCESS_VM_READV) }},
	{"process_vm_writev", func(f *field) error { return memory(f, unix.SYS_PROCESS_VM_WRITEV) }},
	{"pidfd_getfd", func(f *field) error {
		p, err := unix.PidfdOpen(f.PID, 0)
		if err != nil {
			return err
		}
		defer unix.Close(p)
		return closing(unix.PidfdGetfd(p, 0, 0))
	}},
	{"/proc/PID/mem", func(f *field) error {
		file, err := os.OpenFile(fmt.Sprintf("/proc/%d/mem", f.PID), os.O_RDWR, 0)
		if err == nil {
			file.Close()
		}
		return err
	}},
	{"/proc/PID/maps", func(f *field) error { _, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", f.PID)); return err }},
	{"signal 0", func(f *field) error { return unix.Kill(f.PID, 0) }},
	{"SIGHUP", func(f *field) error { return unix.Kill(f.PID, unix.SIGHUP) }},
	{"SIGCHLD", func(f *field) error { return unix.Kill(f.PID, unix.SIGCHLD) }},
	{"SIGCONT", func(f *field) error { return unix.Kill(f.PID, unix.SIGCONT) }},
	{"SIGURG", func(f *field) error { return unix.Kill(f.PID, unix.SIGURG) }},
	{"SIGWINCH", func(f *field) error { return unix.Kill(f.PID, unix.SIGWINCH) }},
	{"SIGTERM", func(f *field) error { return unix.Kill(f.PID, unix.SIGTERM) }},
	{"SIGSTOP to a child", func(f *field) error { return unix.Kill(f.Child, unix.SIGSTOP) }},
	{"SIGKILL to a child", func(f *field) error { return unix.Kill(f.Child, unix.SIGKILL) }},
	{"SIGUSR2 to a thread", func(f *field) error { return unix.Tgkill(f.PID, f.PID, unix.SIGUSR2) }},
	{"SIGUSR2 by pidfd", func(f *field) error {
		p, err := unix.PidfdOpen(f.PID, 0)
		if err != nil {
			return err
		}
		defer unix.Close(p)
		return unix.PidfdSendSignal(p, unix.SIGUSR2, nil, 0)
	}},
	{"write the binary", func(f *field) error {
		file, err := os.OpenFile(f.Binary, os.O_WRONLY, 0)
		if err == nil {
			file.Close()
		}
		return err
	}},
	{"read the binary", func(f *field) error { _, err := os.ReadFile(f.Binary); return err }},
	{"open kernel.ftrace_enabled to write", func(f *field) error {
		file, err := os.OpenFile("/proc/sys/kernel/ftrace_enabled", os.O_WRONLY, 0)
		if err == nil {
			file.Close()
		}
		return err
	}},
	{"read kernel.ftrace_enabled", func(f *field) error { _, err := os.ReadFile("/proc/sys/kernel/ftrace_enabled"); return err }},
	{"perf event of a clock", func(f *field) error {
		return closing(unix.PerfEventOpen(&unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Size: unix.PERF_ATTR_SIZE_VER5, Config: unix.PERF_COUNT_SW_CPU_CLOCK}, 0, -1, -1, 0))
	}},
	{"perf events that are like a uprobe's", func(f *field) error { return likeUprobes() }},
	{"uprobe by perf_event_open", func(f *field) error { return uprobe(f.Binary) }},
	{"uprobe by tracefs", func(f *field) error {
		file, err := os.OpenFile("/sys/kernel/tracing/uprobe_events", os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			file.Close()
		}
		return err
	}},
	{"uprobe by tracefs, with others", func(f *field) error {
		file, err := os.OpenFile("/sys/kernel/tracing/dynamic_events", os.O_WRONLY|os.O_APPEND, 0)
		if err == nil {
			file.Close()
		}
		return err
	}},
	{"chmod of the binary", func(f *field) error { return os.Chmod(f.Binary, 0o755) }},
	{"truncate the binary", func(f *field) error { return os.Truncate(f.Binary, 5) }},
}

// uprobe asks for an event of the first byte of a file.
func uprobe(file string) error {
	typ, err := uprobeType()
	if err != nil {
		return err
	}
	path := append([]byte(file), 0)
	err = closing(unix.PerfEventOpen(&unix.PerfEventAttr{Type: uint32(typ), Size: unix.PERF_ATTR_SIZE_VER5, Ext1: uint64(uintptr(unsafe.Pointer(&path[0])))}, -1, 0, -1, 0))
	runtime.KeepAlive(path)
	return err
}

// likeUprobes asks for events of a clock in which, from the sampling period on, all words
// but one could be those of a uprobe's. Each has a stack of its own: the kernel leaves there
// what it was asked for.
func likeUprobes() error {
	typ, err := uprobeType()
	if err != nil {
		return err
	}
	const at, size = 2, unix.PERF_ATTR_SIZE_VER0
	for _, other := range []struct {
		word  int
		value uint64
	}{
		{0, size<<32 | (typ + 1)}, {0, (size-1)<<32 | typ}, {0, (size+1<<12)<<32 | typ},
		{3, 1 << 32}, {4, 1 << 32}, {5, 1 << 48}, {7, 0}, {13, 1 << 48},
	} {
		attr := [16]uint64{0: 128<<32 | unix.PERF_TYPE_SOFTWARE, 1: unix.PERF_COUNT_SW_CPU_CLOCK, at: size<<32 | typ, at + 7: 1}
		attr[at+other.word] = other.value
		answer := make(chan error)
		go func() {
			runtime.LockOSThread() // for ever
			fd, _, errno := unix.Syscall6(unix.SYS_PERF_EVENT_OPEN, uintptr(unsafe.Pointer(&attr)), 0, ^uintptr(0), ^uintptr(0), 0, 0)
			if errno != 0 {
				answer <- errno
				return
			}
			answer <- unix.Close(int(fd))
		}()
		if err := <-answer; err != nil {
			return err
		}
	}
	return nil
}

// memory reads or writes one byte of hornetd's: the first of its ELF header's copy,
// which is not writable, so that a write that goes through is EFAULT.
func memory(f *field, call uintptr) error {
	local := []byte{0x7f}
	here := unix.Iovec{Base: &local[0], Len: 1}
	there := unix.RemoteIovec{Base: 0x400000, Len: 1}
	_, _, errno := unix.Syscall6(call, uintptr(f.PID), uintptr(unsafe.Pointer(&here)), 1, uintptr(unsafe.Pointer(&there)), 1, 0)
	if errno != 0 {
		return errno
	}
	return nil
}

// answer is one word for what came of an act.
func answer(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	default:
		return err.Error()
	}
}

// onlyEnv has the names of acts, a line each: the others are not done.
const onlyEnv = "LSM_TEST_ONLY"

// childAttacks does everything and prints a line for each.
func childAttacks(args []string) error {
	f, err := parseField(args)
	if err != nil {
		return err
	}
	w := bufio.NewWriter(os.Stdout)
	only := os.Getenv(onlyEnv)
	for _, a := range acts() {
		if only != "" && !slices.Contains(strings.Split(only, "\n"), a.name) {
			continue
		}
		fmt.Fprintf(w, "%s\t%s\n", a.name, answer(a.do(f)))
	}
	return w.Flush()
}

func (f *field) args() []string {
	return []string{f.Guarded, f.Foreign, fmt.Sprint(f.Map), fmt.Sprint(f.Prog), fmt.Sprint(f.Link), f.Cgroup, fmt.Sprint(f.PID), f.Binary, fmt.Sprint(f.Child)}
}

func parseField(args []string) (*field, error) {
	f := &field{Guarded: args[0], Foreign: args[1], Cgroup: args[5], Binary: args[7], Stolen: os.Getenv("STOLEN") != ""}
	var numbers [5]int
	for i, at := range []int{2, 3, 4, 6, 8} {
		n, err := strconv.Atoi(args[at])
		if err != nil {
			return nil, err
		}
		numbers[i] = n
	}
	f.Map, f.Prog, f.Link, f.PID, f.Child = uint32(numbers[0]), uint32(numbers[1]), uint32(numbers[2]), numbers[3], numbers[4]
	return f, nil
}

// scene is a field with what hornetd holds of it.
type scene struct {
	field
	m     *ebpf.Map
	array *ebpf.Map // that can be mapped
	prog  *ebpf.Program
	link  link.Link
	copy  string
	maker string // an enrolled one
}

func newScene(t *testing.T) *scene {
	s := &scene{field: field{Guarded: testenv.BPFFS(t), Foreign: testenv.BPFFS(t), Cgroup: testenv.Cgroup(t), PID: os.Getpid()}}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Chmod(s.Foreign, 0o777))
	s.m = newMap(t)
	var err error
	s.prog, err = ebpf.NewProgram(cgroupProgram("owned"))
	must(err)
	t.Cleanup(func() { s.prog.Close() })
	s.attach(t)
	t.Cleanup(func() { s.link.Close() })
	s.foreign(t)
	mi, err := s.m.Info()
	must(err)
	pi, err := s.prog.Info()
	must(err)
	mid, _ := mi.ID()
	pid, _ := pi.ID()
	s.Map, s.Prog = uint32(mid), uint32(pid)
	s.array, err = ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1, Flags: unix.BPF_F_MMAPABLE})
	must(err)
	t.Cleanup(func() { s.array.Close() })

	dir := t.TempDir()
	must(os.Chmod(dir, 0o755))
	must(os.Chmod(filepath.Dir(dir), 0o755))
	s.Binary, s.copy = filepath.Join(dir, "binary"), filepath.Join(dir, "copy")
	must(os.WriteFile(s.Binary, []byte("ELF 1"), 0o755))
	exe, err := os.ReadFile("/proc/self/exe")
	must(err)
	must(os.WriteFile(s.copy, exe, 0o755))
	return s
}

func cgroupProgram(name string) *ebpf.ProgramSpec {
	return &ebpf.ProgramSpec{Name: name, Type: ebpf.CGroupSKB, AttachType: ebpf.AttachCGroupInetEgress, License: "GPL",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 1), asm.Return()}}
}

// foreign pins what somebody else had before.
func (s *scene) foreign(t *testing.T) {
	t.Helper()
	specs := map[string]*ebpf.ProgramSpec{
		"cgroup": cgroupProgram("foreign"),
		"xdp":    {Type: ebpf.XDP}, "cls": {Type: ebpf.SchedCLS}, "act": {Type: ebpf.SchedACT},
		"filter": {Type: ebpf.SocketFilter}, "raw_tp": {Type: ebpf.RawTracepoint}, "perf": {Type: ebpf.PerfEvent},
		"iter": {Type: ebpf.Tracing, AttachType: ebpf.AttachTraceIter, AttachTo: "bpf_map_elem"},
	}
	for name, spec := range specs {
		spec.License = "GPL"
		if spec.Instructions == nil {
			spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 0), asm.Return()}
		}
		p, err := ebpf.NewProgram(spec)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if err := errors.Join(p.Pin(filepath.Join(s.Foreign, name)), os.Chmod(filepath.Join(s.Foreign, name), 0o666), p.Close()); err != nil {
			t.Fatal(err)
		}
	}
	m := newMap(t)
	if err := errors.Join(m.Pin(filepath.Join(s.Foreign, "map")), os.Chmod(filepath.Join(s.Foreign, "map"), 0o666)); err != nil {
		t.Fatal(err)
	}
}

// attach makes a new link: a thief may have detached the last one.
func (s *scene) attach(t *testing.T) {
	t.Helper()
	if s.link != nil {
		s.link.Close()
	}
	var err error
	s.link, err = link.AttachCgroup(link.CgroupOptions{Path: s.Cgroup, Attach: ebpf.AttachCGroupInetEgress, Program: s.prog})
	if err != nil {
		t.Fatal(err)
	}
	info, err := s.link.Info()
	if err != nil {
		t.Fatal(err)
	}
	s.Link = uint32(info.ID)
}

// deep is below the directory of a unit: the deepest that the guard protects.
const deep = "2/3/4/5/6"

// lay puts the pins where an attacker looks for them, whatever the last one did.
func (s *scene) lay(t *testing.T) {
	t.Helper()
	for _, name := range []string{"unit", "other", "outside", "taken"} {
		if err := os.RemoveAll(filepath.Join(s.Guarded, name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Mkdir(filepath.Join(s.Guarded, "unit"), 0o700), os.Mkdir(filepath.Join(s.Guarded, "other"), 0o700), os.Mkdir(s.pin("empty"), 0o700), os.MkdirAll(s.pin(deep), 0o700)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"map", "unlink", "rename", "over", "out", "../outside", deep + "/unlink"} {
		c, err := s.m.Clone()
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.Pin(s.pin(name)), c.Close()); err != nil {
			t.Fatal(err)
		}
	}
	c, err := s.prog.Clone()
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.Pin(s.pin("prog")), c.Close()); err != nil {
		t.Fatal(err)
	}
	s.attach(t)
	l, err := link.NewFromID(link.ID(s.Link))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(l.Pin(s.pin("link")), l.Close()); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Binary, []byte("ELF 1"), 0o755); err != nil {
		t.Fatal(err)
	}
}

// attack lets an actor try everything: act -> answer.
func (s *scene) attack(t *testing.T, actor string, wrap []string, control *ebpf.Program) map[string]string {
	t.Helper()
	s.lay(t)
	var err error
	if s.Child, err = fork(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Kill(s.Child, unix.SIGKILL); err != nil {
			t.Fatal(err) // it would be waited for in vain
		}
		if _, err := unix.Wait4(s.Child, nil, 0, nil); err != nil {
			t.Error(err)
		}
	}()
	cmd := child("attacks", wrap, s.args()...)
	switch actor {
	case "copy":
		cmd.Path, cmd.Args[0] = s.copy, s.copy
	case "maker":
		cmd.Path, cmd.Args[0] = s.maker, s.maker
	case "stolen":
		cmd.Env = append(cmd.Env, "STOLEN=1")
		cmd.ExtraFiles = s.loot(t, control)
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	for _, f := range cmd.ExtraFiles {
		f.Close()
	}
	if err != nil {
		t.Fatalf("%s: %v: %s", actor, err, stderr.String())
	}
	answers := map[string]string{}
	for line := range strings.Lines(string(out)) {
		name, word, _ := strings.Cut(strings.TrimSpace(line), "\t")
		answers[name] = word
	}
	return answers
}

// loot are descriptors that got away.
func (s *scene) loot(t *testing.T, control *ebpf.Program) []*os.File {
	t.Helper()
	if control == nil {
		control = s.prog // before there is a guard
	}
	lid, err := bpf(unix.BPF_LINK_GET_FD_BY_ID, map[int]uint32{0: s.Link})
	if err != nil {
		t.Fatal(err)
	}
	var files []*os.File
	for _, fd := range []int{s.m.FD(), s.prog.FD(), lid, control.FD(), s.array.FD()} {
		d, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, os.NewFile(uintptr(d), "loot"))
	}
	unix.Close(lid)
	return files
}

// cell says what the guard changes.
func cell(off, enforced string) string {
	switch {
	case off == "-":
		return "-"
	case enforced == off && off == "ok":
		return "may"
	case enforced == off:
		return "kernel" // refuses it, or has nothing to do
	case enforced == "EPERM", enforced == "EACCES": // the latter is what /proc makes of it
		return "denied"
	default:
		return off + "/" + enforced
	}
}

func TestDenyMatrix(t *testing.T) {
	guestOnly(t)
	ignored := make(chan os.Signal, 64)
	signal.Notify(ignored, unix.SIGTERM, unix.SIGUSR2, unix.SIGHUP)
	defer signal.Stop(ignored)
	s := newScene(t)
	s.maker = copyOf(t, self(t))
	run := func(g *Guard) map[string]map[string]string {
		all := map[string]map[string]string{}
		for _, a := range actors {
			var control *ebpf.Program
			if g != nil {
				control = g.programs[controlProgram]
			}
			all[a.name] = s.attack(t, a.name, a.wrap, control)
		}
		return all
	}
	if quick() {
		all := actors
		defer func() { actors = all }()
		actors = slices.DeleteFunc(slices.Clone(all), func(a actor) bool { return a.name != "root" && a.name != "stolen" })
	}
	off := run(nil)

	binary, err := os.Open(s.Binary)
	if err != nil {
		t.Fatal(err)
	}
	defer binary.Close()
	maker, err := os.Open(s.maker)
	if err != nil {
		t.Fatal(err)
	}
	defer maker.Close()
	g := arm(t, func(c *Config) {
		c.Mode, c.ConfirmWithin = Audit, 0
		c.Guarded = []string{s.Guarded}
		c.Executables = []*os.File{binary, maker}
		c.Owned = []Object{{Map, s.Map}, {Program, s.Prog}, {Link, s.Link}, {Map, mapID(t, s.array)}}
	})
	var audit map[string]map[string]string
	if !quick() {
		audit = run(g)
	}
	for a := range audit {
		for _, act := range acts() {
			if got, want := audit[a][act.name], off[a][act.name]; got != want && act.name != "stolen control: mode off" {
				t.Errorf("audit mode changes an answer: %s, %s: %s instead of %s", a, act.name, got, want)
			}
		}
	}
	if err := g.SetMode(Enforce, 30*time.Minute); err != nil {
		t.Fatal(err)
	}
	enforce := run(g)
	compareTable(t, off, enforce)
}

// compareTable holds what came against testdata/deny.txt.
func compareTable(t *testing.T, off, enforce map[string]map[string]string) {
	t.Helper()
	var b strings.Builder
	fmt.Fprintf(&b, "%-48s", "act")
	for _, a := range actors {
		fmt.Fprintf(&b, " %-8s", a.name)
	}
	for _, act := range acts() {
		fmt.Fprintf(&b, "\n%-48s", act.name)
		for _, a := range actors {
			fmt.Fprintf(&b, " %-8s", cell(off[a.name][act.name], enforce[a.name][act.name]))
		}
	}
	got := trimLines(b.String())
	want, err := os.ReadFile("testdata/deny.txt")
	if err != nil {
		t.Error(err)
	}
	if wants := part(ofKernel(t, trimLines(string(want)))); !slices.Equal(got, wants) {
		for i, line := range got {
			if i >= len(wants) || wants[i] != line {
				t.Errorf("%s", line)
			}
		}
		t.Logf("all of it:\n%s", strings.Join(got, "\n"))
		for _, act := range acts() {
			for _, a := range actors {
				t.Logf("raw %s, %s: %s, %s", act.name, a.name, off[a.name][act.name], enforce[a.name][act.name])
			}
		}
	}
}

// part leaves what is about the actors and the acts, of a table whose first line names all
// actors.
func part(table []string) (lines []string) {
	names := strings.Fields(table[0])[1:]
	if !quick() {
		return table
	}
	row := regexp.MustCompile(fmt.Sprintf(`^(.*?)((?: +\S+){%d})$`, len(names)))
	some := acts()
	for i, line := range table {
		parts := row.FindStringSubmatch(line)
		if i > 0 && !slices.ContainsFunc(some, func(a act) bool { return a.name == parts[1] }) {
			continue
		}
		line = fmt.Sprintf("%-48s", parts[1])
		for _, a := range actors {
			line += fmt.Sprintf(" %-8s", strings.Fields(parts[2])[slices.Index(names, a.name)])
		}
		lines = append(lines, strings.TrimRight(line, " "))
	}
	return lines
}

// ofKernel applies lines "@6.1 ROW", which stand behind the row that they replace
// on a kernel, and leaves out comments.
func ofKernel(t *testing.T, lines []string) []string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	release := unix.ByteSliceToString(u.Release[:])
	var all []string
	for _, line := range lines {
		version, row, special := strings.Cut(strings.TrimPrefix(line, "@"), " ")
		switch {
		case strings.HasPrefix(line, "#"):
		case !strings.HasPrefix(line, "@"):
			all = append(all, line)
		case special && strings.HasPrefix(release, version+"."):
			all[len(all)-1] = row
		}
	}
	return all
}

func trimLines(s string) []string {
	var all []string
	for line := range strings.Lines(s) {
		if line = strings.TrimRight(line, " \n"); line != "" {
			all = append(all, line)
		}
	}
	return all
}
