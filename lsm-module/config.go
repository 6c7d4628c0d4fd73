package lsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
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
	Executable *os.File // or
	Cgroup     string   // its directory, in one that is there already; or
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
	file *os.File
	may  may
}

// check reads what the configuration names, and changes nothing.
func (c Config) check(dir string, hooks int) (*checked, error) {
	if c.Mode != Audit && c.Mode != Enforce {
		return nil, fmt.Errorf("guard: mode %s: a guard is armed to audit or to enforce", c.Mode)
	}
	out := &checked{Config: c, places: map[place]may{}}
	out.state.Object, out.state.Hooks = objectSum, uint32(hooks)
	if _, err := os.Stat(c.Cgroup); err != nil { // it is where the caller is
		return nil, fmt.Errorf("guard: hornetd's cgroup: %w", err)
	}
	home, err := placeOf(c.Cgroup)
	if err != nil {
		return nil, err
	}
	out.state.Home = home
	guarded := append([]string{dir}, c.Guarded...)
	if len(guarded) > roots {
		return nil, fmt.Errorf("guard: %d directories to guard, the most is %d", len(c.Guarded), roots-1)
	}
	for i, name := range guarded {
		if out.state.Roots[i], err = rootOf(name); err != nil {
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

func (c *checked) allow(id Identity) error {
	m, err := id.masks()
	if err != nil {
		return err
	}
	if len(id.Keyrings) > 0 {
		return c.vouch(id.Keyrings, m)
	}
	if id.Executable != nil {
		c.identities = append(c.identities, checkedExecutable{id.Executable, m})
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
	if len(base) >= nameSize {
		return p, fmt.Errorf("guard: cgroup %q: its name has %d bytes, the most is %d", dir, len(base), nameSize-1)
	}
	p.Parent = parent.Ino // the cgroup's id, where an inode's number has 64 bits
	copy(p.Name[:], base)
	return p, nil
}

// rootOf returns what the guard knows a directory of a bpffs by.
func rootOf(dir string) (root, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Statfs(dir, &fs), unix.Stat(dir, &st)); err != nil {
		return root{}, fmt.Errorf("guard: %q: %w", dir, err)
	}
	if fs.Type != unix.BPF_FS_MAGIC {
		return root{}, remedy.With(fmt.Errorf("guard: %s: not on a bpffs", dir), "name a directory of a bpffs")
	}
	return root{Inode: st.Ino, Device: kernelDevice(st.Dev)}, nil
}
