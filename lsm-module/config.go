package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// Config is what a guard is armed with.
type Config struct {
	Mode Mode // Audit or Enforce
	// ConfirmWithin, if not 0, makes Enforce fall back to Audit unless
	// Guard.Confirm comes in time.
	ConfirmWithin time.Duration
	// Cgroup is the directory of hornetd's cgroup. The guard knows it, and those of
	// Allow, by the parent and the own name: systemd makes it anew at every start.
	Cgroup string
	// Executables become hornetd when the first process starts them in Cgroup.
	Executables []*os.File
	// OwnFirst is that the first of these is this process's, or nothing is armed, and that
	// its children execute nothing that is not enrolled.
	OwnFirst bool
	// Guarded are up to three directories of bpffs, whose contents only hornetd
	// changes; the guard's own is always among them.
	Guarded []string
	// Sealed are digests that stay what they are as long as the guard lives, with
	// numbers of the caller's choice: Guard.Sealed gives them back.
	Sealed map[[32]byte]uint32
	Allow  []Identity
	// Owned is what hornetd had before: programs, maps, links.
	Owned []Object
}

// Identity is somebody else who may do something: whoever runs an executable, or
// is in a cgroup. It is as strong as the way to it: root can run the executable
// with its own libraries, and move into the cgroup.
type Identity struct {
	Executable *os.File
	// SHA256, where it is not 0, is that of the executable's contents: one with others, or
	// that somebody can write, is not listed, and everything else is. See Guard.Listed.
	SHA256 [32]byte
	Cgroup string // or its directory, in one that is there already; or
	// Keyrings are those of the kernel whose keys vouch for a program: it may be loaded
	// by anybody, be run, and do what is listed while it runs. One entry has them.
	Keyrings []Keyring

	Commands    []uint32 // of bpf(2), below 64
	Programs    []uint32 // types that may be loaded, below 64
	Attachments []uint32 // attach types, below 64
	Signals     bool     // may end and stop hornetd
}

// Keyring is one of the kernel's that programs are verified with. What it verifies with
// a keyring that the caller names is verified by nobody.
type Keyring uint32

// The keyrings, by enum bpf_sig_keyring.
const (
	Builtin   Keyring = iota + 1 // keys that the kernel was built with
	Secondary                    // and those that root added, signed by one of them; or of the machine's owner
	Platform                     // keys of the firmware
)

// checked is a Config that has been looked at.
type checked struct {
	Config
	state      state
	places     map[place]may
	identities []checkedExecutable
}

// checkedExecutable is enrolled by the kernel, which alone knows generations.
type checkedExecutable struct {
	Identity
	may may
}

// kernelsOwn are the system calls by which hornetd knows what there is and that something is
// done: what is answered in the kernel's place could have it believe anything. Those
// whose arguments systemd has filters look at, for other settings than SystemCallFilter=,
// are not among them: clone, setns, socket, mmap and the like.
var kernelsOwn = []int{
	unix.SYS_BPF, unix.SYS_PERF_EVENT_OPEN, unix.SYS_MLOCKALL, unix.SYS_PRCTL, unix.SYS_SECCOMP, unix.SYS_LANDLOCK_CREATE_RULESET, unix.SYS_LANDLOCK_RESTRICT_SELF,
	unix.SYS_OPENAT, unix.SYS_OPENAT2, unix.SYS_CLOSE, unix.SYS_READ, unix.SYS_PREAD64, unix.SYS_WRITE, unix.SYS_PWRITE64, unix.SYS_GETDENTS64, unix.SYS_READLINKAT,
	unix.SYS_FSTAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_FSTATFS, unix.SYS_STATFS, unix.SYS_FCNTL, unix.SYS_FLOCK, unix.SYS_FSYNC, unix.SYS_FDATASYNC, unix.SYS_IOCTL,
	unix.SYS_MKDIRAT, unix.SYS_UNLINKAT, unix.SYS_RENAMEAT, unix.SYS_RENAMEAT2, unix.SYS_LINKAT,
	unix.SYS_EXECVE, unix.SYS_GETSOCKOPT, unix.SYS_RECVMSG, unix.SYS_GETRANDOM, unix.SYS_CLOCK_GETTIME,
}

// check reads what the configuration names, and changes nothing.
func (c Config) check(dir *os.File, hooks int) (*checked, error) {
	if c.Mode != Audit && c.Mode != Enforce {
		return nil, fmt.Errorf("guard: mode %s: a guard is armed to audit or to enforce", c.Mode)
	}
	out := &checked{Config: c, places: map[place]may{}}
	out.state.Object, out.state.Hooks = objectSum, uint32(hooks)
	for _, call := range kernelsOwn {
		out.state.Asks[call/64] |= 1 << (call % 64)
	}
	if c.OwnFirst {
		out.state.Only = 1
	}
	var err error
	if out.state.Uprobes, err = uprobeType(); err != nil {
		return nil, err
	}
	if _, err := os.Stat(c.Cgroup); err != nil { // it is where the caller is
		return nil, fmt.Errorf("guard: hornetd's cgroup: %w", err)
	}
	if out.state.Home, err = placeOf(c.Cgroup); err != nil {
		return nil, err
	}
	if len(c.Guarded) >= roots {
		return nil, fmt.Errorf("guard: %d directories to guard, the most is %d", len(c.Guarded), roots-1)
	}
	if out.state.Roots[0], err = rootOf(dir.Name(), throughFD(dir)); err != nil {
		return nil, err
	}
	for i, name := range c.Guarded {
		if out.state.Roots[1+i], err = rootOf(name, name); err != nil {
			return nil, err
		}
	}
	for _, id := range c.Allow {
		if err := out.allow(id); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// uprobeType returns the type of perf events that are uprobes, which the kernel gives
// when it boots; 0 is that it has none.
func uprobeType() (uint64, error) {
	const file = "/sys/bus/event_source/devices/uprobe/type"
	text, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("guard: %w", err)
	}
	n, err := strconv.ParseUint(strings.TrimSpace(string(text)), 10, 32)
	if err != nil {
		return 0, fmt.Errorf("guard: %s: %w", file, err)
	}
	return n, nil
}

func (c *checked) allow(id Identity) error {
	m, err := id.masks()
	if err != nil {
		return err
	}
	if len(id.Keyrings) > 0 {
		return c.vouch(id.Keyrings, m)
	}
	if id.Executable != nil {
		c.identities = append(c.identities, checkedExecutable{id, m})
		return nil
	}
	p, err := placeOf(id.Cgroup)
	if err != nil {
		return err
	}
	c.places[p] = c.places[p].or(m)
	return nil
}

func (c *checked) vouch(keyrings []Keyring, m may) error {
	if c.state.Keyrings != 0 {
		return errors.New("guard: two entries for what the kernel has verified, the most is one")
	}
	for _, k := range keyrings {
		if k < Builtin || k > Platform {
			return fmt.Errorf("guard: keyring %d: not one of the kernel's own", k)
		}
		c.state.Keyrings |= 1 << k
	}
	c.state.Verified = m
	return nil
}

func (m may) or(n may) may {
	return may{m.Commands | n.Commands, m.Programs | n.Programs, m.Attachments | n.Attachments, m.Hornetd | n.Hornetd, m.Signals | n.Signals}
}

func (id Identity) masks() (may, error) {
	var m may
	if id.Signals {
		m.Signals = 1
	}
	for _, list := range []struct {
		what   string
		values []uint32
		mask   *uint64
	}{{"command", id.Commands, &m.Commands}, {"program type", id.Programs, &m.Programs}, {"attach type", id.Attachments, &m.Attachments}} {
		for _, n := range list.values {
			if n > 63 {
				return may{}, fmt.Errorf("guard: %s %d: must be below 64", list.what, n)
			}
			*list.mask |= 1 << n
		}
	}
	return m, nil
}

// goesOn has a guard go on where the one that it replaces ends. What that was told when it
// was armed counts: what is to be seen now another may have mounted.
func (s *state) goesOn(was *state) error {
	for i, r := range was.Roots {
		if r != (root{}) && s.Roots[i] != r {
			return remedy.With(errors.New("guard: its pins, or the store's, are not where they were when it was armed"), "see what is mounted over them (findmnt), and take it away")
		}
	}
	s.Calls, s.Refused, s.Lost, s.Suppressed = was.Calls, was.Refused, was.Lost, was.Suppressed
	s.First, s.Homes, s.Everywhere = was.First, was.Homes, was.Everywhere
	if was.Uprobes != 0 {
		s.Uprobes = was.Uprobes
	}
	return nil
}

// placeOf returns what the guard knows a cgroup by. It need not be there yet, as that
// of a service that starts later is not; its parent must be.
func placeOf(dir string) (place, error) {
	var p place
	dir = filepath.Clean(dir)
	up := filepath.Dir(dir)
	var st, parent unix.Stat_t
	if err := unix.Stat(up, &parent); err != nil {
		err = fmt.Errorf("guard: cgroup %q: its parent: %w", dir, err)
		return p, remedy.With(err, "name a cgroup in one that is there when hornetd starts, as %s is", "/sys/fs/cgroup/system.slice")
	}
	on := up
	switch err := unix.Stat(dir, &st); {
	case err == nil && parent.Dev != st.Dev: // the root cgroup, which has no name
		on = dir
	case err != nil && !errors.Is(err, unix.ENOENT):
		return p, fmt.Errorf("guard: cgroup %q: %w", dir, err)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(on, &fs); err != nil {
		return p, fmt.Errorf("guard: cgroup %q: %w", dir, err)
	}
	if fs.Type != unix.CGROUP2_SUPER_MAGIC {
		return p, remedy.With(fmt.Errorf("guard: %s: not on a cgroup2 file system", dir), "name a directory below /sys/fs/cgroup")
	}
	if on == dir {
		return p, nil
	}
	base := filepath.Base(dir)
	// The guard reads what is left of a longer name, which has one byte more than this.
	if most := nameSize - 2; len(base) > most {
		return p, remedy.With(fmt.Errorf("guard: cgroup %q: its name has %d bytes, the most is %d", dir, len(base), most), "give it a shorter name")
	}
	p.Parent = parent.Ino // the cgroup's id, where an inode's number has 64 bits
	copy(p.Name[:], base)
	return p, nil
}

// rootOf returns what the guard knows a directory of a bpffs by, to which path leads.
func rootOf(dir, path string) (root, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(path, &fs), unix.Stat(path, &st)); err != nil {
		return root{}, fmt.Errorf("guard: %q: %w", dir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return root{}, remedy.With(fmt.Errorf("guard: %s: not on a bpffs", dir), "name a directory of a bpffs")
	}
	return root{Inode: st.Ino, Device: kernelDevice(st.Dev)}, nil
}
