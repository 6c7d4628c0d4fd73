package lsm

import (
	"bytes"
	"crypto/sha256"
	_ "embed"
	"encoding/binary"
	"fmt"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

//go:embed guard.bpf.o
var object []byte

// objectSum tells one guard.bpf.o from another.
var objectSum = sumOf(object)

func sumOf(object []byte) uint64 {
	sum := sha256.Sum256(object)
	return binary.LittleEndian.Uint64(sum[:])
}

// What guard.h has. TestLayout compares.

// Mode says what the guard does with what it would refuse.
type Mode uint32

// The modes: Off lets it through, Audit tells of it, Enforce refuses it.
const (
	Off Mode = iota
	Audit
	Enforce
)

func (m Mode) String() string {
	return name([]string{"off", "audit", "enforce"}, uint32(m))
}

// Deed is a kind of thing that was done.
type Deed uint32

const (
	DeedBPF     Deed = iota + 1 // Detail is the command of bpf(2)
	DeedMap                     // a descriptor of an owned map
	DeedProgram                 // a descriptor of an owned program, or of one that uses an owned map: Object says which
	DeedPin                     // Detail is one of pins
	DeedMount                   // Detail is one of mounts
	DeedTrace                   // Detail has the kernel's PTRACE_MODE bits
	DeedSignal                  // Detail is the signal
	DeedBinary                  // an enrolled or listed executable, opened for writing
	DeedSocket                  // Detail is the socket option
	DeedIoctl                   // Detail is the ioctl
	DeedToken                   // Detail is the command of bpf(2)
	DeedNetlink                 // Detail is the type of the message
	DeedSwitch                  // a file by which the kernel's hooks are turned off, opened for writing
	DeedSpawn                   // a child of hornetd's executed another program
	DeedProbe                   // a uprobe; Detail is the type of the perf event, or 0 by tracefs
)

func (d Deed) String() string {
	return name([]string{"", "bpf", "map", "program", "pin", "mount", "trace", "signal", "binary", "socket", "ioctl", "token", "netlink", "switch", "spawn", "probe"}, uint32(d))
}

// What is done to a pin, and to a mount.
var (
	pins   = []string{"", "unlink", "rmdir", "rename", "link", "setattr", "create", "mkdir", "symlink"}
	mounts = []string{"", "umount", "over", "move", "remount"}
)

// Reason says why a deed is not for its caller.
type Reason uint32

const (
	ReasonCaller     Reason = iota + 1 // not hornetd, and nothing allows it
	ReasonType                         // the command is allowed, the type of program or attachment is not
	ReasonOwned                        // it is hornetd's
	ReasonUnverified                   // it is allowed if the kernel has verified it, which it has not
)

func (r Reason) String() string {
	return name([]string{"", "caller", "type", "owned", "unverified"}, uint32(r))
}

// markHornetd is the mark of hornetd itself.
const markHornetd = 1

// Kind is that of an object.
type Kind uint32

const (
	Program Kind = iota + 1
	Map
	Link
)

func (k Kind) String() string {
	return name([]string{"", "program", "map", "link"}, uint32(k))
}

func name(names []string, n uint32) string {
	if n < uint32(len(names)) {
		return names[n]
	}
	return fmt.Sprint(n)
}

// Object is one of the kernel's, by its id.
type Object struct {
	Kind Kind
	ID   uint32
}

// Executable is a file as the kernel has it open.
type Executable struct {
	Inode      uint64
	Device     uint32 // the kernel's own number of the file system: 12 bits major, 20 minor
	Generation uint32
}

const (
	opWhoAmI = iota + 1
	opMode
	opEnroll
	opRetire
	opOwn
	opDisown
	opListed
	opDigest
)

// opAsked is the last argument of each.
const opAsked = 0x686f726e

const (
	ownedYes    = 1
	ownedShared = 2
	ownedGuard  = 4
)

const (
	roots = 4
	// keptMounts is how many mounts of the pins a guard notes.
	keptMounts = 8
	callWords  = 8
	nameSize   = 64
)

type root struct {
	Inode  uint64
	Device uint32
	_      uint32
}

type place struct {
	Parent uint64
	Name   [nameSize]byte
}

type may struct {
	Commands    uint64
	Programs    uint64
	Attachments uint64
	Hornetd     uint32
	Signals     uint32
}

// role is what a process is, and since when: nanoseconds of the boot clock.
type role struct {
	Is    uint64
	Since uint64
}

// state grows at its end only, and what it has keeps its meaning: a guard in force
// may be another build's.
type state struct {
	Deadline   uint64
	Calls      uint64
	Refused    uint64
	Lost       uint64
	Suppressed uint64
	Object     uint64
	Mode       Mode
	Hooks      uint32
	Last       Executable
	Namespace  uint64
	Roots      [roots]root
	Home       place
	Verified   may
	Keyrings   uint64
	Asks       [callWords]uint64
	Only       uint64
	Uprobes    uint64
	First      uint64
	Homes      uint64
	Everywhere uint64
	Floors     uint64
	FloorCalls uint64
	Made       uint64
	Noted      uint64
	Kept       [keptMounts]keptMount
}

// keptMount is one by the kernel's numbers.
type keptMount struct{ Device, Mount uint32 }

// stateMap is the compiler's map of variables; it has the state alone.
const stateMap = ".bss"

func (s *state) bytes() []byte {
	var b bytes.Buffer
	_ = binary.Write(&b, binary.NativeEndian, s) // to memory, of fixed sizes
	return b.Bytes()
}

// firstState is how long it was in the first build, firstEvent how long an event.
const (
	firstState = 216
	firstEvent = 120
)

// readState reads the state out of the map that holds it.
func readState(m *ebpf.Map) (*state, error) {
	b, err := m.LookupBytes(uint32(0))
	if err != nil {
		return nil, err
	}
	s := new(state)
	return s, decode(b, firstState, s)
}

// decode reads a structure that another build has written: what it had not is 0, what
// it has more is not read.
func decode(b []byte, first int, into any) error {
	if len(b) < first {
		return fmt.Errorf("guard: %T of %d bytes, the least is %d", into, len(b), first)
	}
	if short := binary.Size(into) - len(b); short > 0 {
		b = append(bytes.Clone(b), make([]byte, short)...)
	}
	return binary.Read(bytes.NewReader(b), binary.NativeEndian, into)
}

// kernelDevice turns the number of a device that stat(2) tells into the kernel's.
func kernelDevice(dev uint64) uint32 { return unix.Major(dev)<<20 | unix.Minor(dev) }
