package lsm

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// largest is how many bytes an executable may have to be known by its digest.
const largest = 256 << 20

// digestsMap is not there in a guard of an older build.
const digestsMap = "digests"

// DigestOf returns the SHA-256 of an executable, which has 256 MiB at most.
func DigestOf(f *os.File) (sum [32]byte, err error) {
	h := sha256.New()
	n, err := io.Copy(h, io.NewSectionReader(f, 0, largest+1))
	if err == nil && n > largest {
		err = tooLarge(f)
	}
	return [32]byte(h.Sum(nil)), err
}

func tooLarge(f *os.File) error { return fmt.Errorf("%s: more than %d bytes", f.Name(), largest) }

// fillExecutables enters who becomes hornetd, and the identities. Which file an
// executable is only the kernel can tell, so each is enrolled for a moment, in which
// nothing is attached.
func (g *Guard) fillExecutables(want *checked, old *Guard) error {
	all, digests := map[Executable]may{}, map[Executable][32]byte{}
	if old != nil {
		enrolled, err := old.Enrolled()
		if err != nil {
			return err
		}
		for e, digest := range enrolled {
			all[e] = may{Hornetd: 1}
			digests[e] = digest
		}
	}
	for i, f := range want.Executables {
		e, err := g.enroll(f, 0)
		if err == nil && want.OwnFirst && i == 0 {
			err = g.isOwn(f.Name(), e)
		}
		if err != nil {
			return err
		}
		all[e] = may{Hornetd: 1}
		if digests[e] == ([32]byte{}) {
			if digests[e], err = DigestOf(f); err != nil {
				return fmt.Errorf("guard: executable: %w", err)
			}
		}
	}
	for _, id := range want.identities {
		if !id.is() {
			continue
		}
		var e Executable
		var err error
		if old != nil && id.SHA256 != ([32]byte{}) {
			err = g.keep(old, id.Executable)
		}
		if err == nil {
			e, err = g.enroll(id.Executable, 0)
		}
		if errors.Is(err, unix.ETXTBSY) && id.SHA256 != ([32]byte{}) {
			continue
		}
		if err != nil {
			return err
		}
		all[e] = all[e].or(id.may)
	}
	for e, m := range all {
		if err := g.maps["executables"].Put(e, m); err != nil {
			return fmt.Errorf("guard: executable: %w", err)
		}
		if digest := digests[e]; digest != ([32]byte{}) {
			if err := g.maps[digestsMap].Put(e, digest); err != nil {
				return fmt.Errorf("guard: executable: digest: %w", err)
			}
		}
	}
	return nil
}

// keep has nobody write an executable from now on, if nobody is about to: what the old guard
// knows already was kept so. (Before there is a guard everybody could write whatever they
// liked, and nobody asks.)
func (g *Guard) keep(old *Guard, f *os.File) error {
	_, err := old.Listed(f)
	if errors.Is(err, unix.EINVAL) { // a guard of an older build does not say
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	e, err := old.enroll(f, 1)
	if err != nil {
		return err
	}
	if err := noneInUse(f); err != nil {
		return errors.Join(err, old.Retire(e))
	}
	g.held = append(g.held, e)
	return nil
}

// letGo undoes keep, where the old guard stays.
func (g *Guard) letGo(old *Guard) error {
	var errs []error
	for _, e := range g.held {
		errs = append(errs, old.Retire(e))
	}
	return errors.Join(errs...)
}

// is reports whether the file is the one that is meant.
func (id Identity) is() bool {
	if id.SHA256 == ([32]byte{}) {
		return true
	}
	digest, err := DigestOf(id.Executable)
	return err == nil && digest == id.SHA256
}

// CheckDigests looks at listed executables that are to have a digest once more, when the
// guard has come to enforce and nobody opens one for writing any more, and takes those away
// that are not what is meant. (Until then they may what is listed: no more than they could
// before. Arm and Upgrade do this.) What else lists one of these goes with it, until the next
// guard: a guard in force knows no part of what an executable may.
func (g *Guard) CheckDigests(all []Identity) error {
	for _, id := range all {
		if id.SHA256 == ([32]byte{}) {
			continue
		}
		e, err := g.Listed(id.Executable)
		if errors.Is(err, fs.ErrNotExist) || err == nil && id.is() {
			continue
		}
		if err != nil && !errors.Is(err, unix.ETXTBSY) {
			return err
		}
		enrolled, err := g.Enrolled()
		if err != nil {
			return err
		}
		if _, is := enrolled[e]; is {
			_, err = g.enrollHeld(id.Executable) // and that is all
		} else {
			err = g.Retire(e)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Listed returns what the guard knows a file by. The error is fs.ErrNotExist where it is
// neither enrolled nor one of an identity, and ETXTBSY while somebody has it open for
// writing. A guard of an older build does not know this.
func (g *Guard) Listed(f *os.File) (Executable, error) {
	err := g.control("executable "+f.Name(), opListed, uint64(f.Fd()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ETXTBSY) {
		return Executable{}, err
	}
	e, lastErr := g.last()
	return e, errors.Join(err, lastErr)
}

// EnrollIf is Enroll where is, called while nobody can write the file any more,
// has no error. (In audit mode they can, and it is told.)
func (g *Guard) EnrollIf(f *os.File, is func() error) (Executable, error) {
	before, err := g.Enrolled()
	if err != nil {
		return Executable{}, err
	}
	e, err := g.Listed(f)
	_, was := before[e]
	switch {
	case was && errors.Is(err, unix.ETXTBSY):
		return Executable{}, beingWritten(f, err)
	case was && err == nil:
		// It is not touched: for a moment hornetd's own would not be enrolled, and never
		// again by who is killed then. Nobody has been able to write it since it was.
		if err := is(); err != nil {
			return Executable{}, err
		}
		return e, g.note(f, e)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ETXTBSY), err == nil:
	case !errors.Is(err, unix.EINVAL): // a guard of an older build does not say
		return Executable{}, err
	}
	if e, err = g.enroll(f, 1); err != nil {
		return Executable{}, err
	}
	if _, was = before[e]; !was {
		err = noneInUse(f)
	}
	if err == nil {
		err = is()
	}
	switch {
	case err == nil:
		return g.enrollHeld(f)
	case was: // in a guard of an older build
		_, again := g.enrollHeld(f)
		return Executable{}, errors.Join(err, again)
	}
	return Executable{}, errors.Join(err, g.Retire(e))
}

// Enroll makes an executable one that becomes hornetd when the first process
// starts it in hornetd's cgroup. f is open for reading; the error is ETXTBSY while
// somebody has the file open for writing, or has pages of it by which it could be written.
func (g *Guard) Enroll(f *os.File) (Executable, error) {
	return g.EnrollIf(f, func() error { return nil })
}

// enrollHeld enrolls what nobody can write any more.
func (g *Guard) enrollHeld(f *os.File) (Executable, error) {
	e, err := g.enroll(f, 0)
	if err != nil {
		return e, err
	}
	if err := g.note(f, e); err != nil {
		return Executable{}, errors.Join(err, g.Retire(e))
	}
	return e, nil
}

// note has the guard keep which digest an enrolled executable has.
func (g *Guard) note(f *os.File, e Executable) error {
	if g.maps[digestsMap] == nil {
		return nil
	}
	digest, err := DigestOf(f)
	if err != nil {
		return fmt.Errorf("guard: executable: %w", err)
	}
	words := make([]uint64, len(digest)/8)
	for i := range words {
		words[i] = binary.NativeEndian.Uint64(digest[8*i:])
	}
	return g.control("executable "+f.Name(), opDigest, append(e.words(), words...)...)
}

func (g *Guard) enroll(f *os.File, hold uint64) (Executable, error) {
	err := g.control("executable "+f.Name(), opEnroll, uint64(f.Fd()), hold)
	switch {
	case errors.Is(err, unix.ETXTBSY):
		err = beingWritten(f, err)
	case errors.Is(err, unix.ENOSPC): // of the map
		err = remedy.With(err, "the guard knows 256 executables: retire those that are not hornetd any more")
	}
	if err != nil {
		return Executable{}, err
	}
	return g.last()
}

func beingWritten(f *os.File, err error) error {
	return remedy.With(err, "end what writes it (fuser -v %s)", f.Name())
}

// answersMap has, for each process, the executable that it asked the guard about last.
const answersMap = "answers"

// last is the executable that this process asked the guard about last. A guard of an older
// build does not tell what several asked apart.
func (g *Guard) last() (e Executable, err error) {
	m := g.maps[answersMap]
	if m == nil {
		s, err := readState(g.maps[stateMap])
		if err != nil {
			return Executable{}, fmt.Errorf("guard: state: %w", err)
		}
		return s.Last, nil
	}
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err != nil {
		return Executable{}, fmt.Errorf("guard: pidfd: %w", err)
	}
	defer unix.Close(fd)
	if err := m.Lookup(int32(fd), &e); err != nil {
		return Executable{}, fmt.Errorf("guard: what it was asked about: %w", err)
	}
	return e, nil
}

// words are what the guard is told of an executable.
func (e Executable) words() []uint64 {
	return []uint64{uint64(e.Generation)<<32 | uint64(e.Device), e.Inode}
}

// Retire is the opposite of Enroll, and of what an identity lists.
func (g *Guard) Retire(e Executable) error {
	return g.control(fmt.Sprintf("executable %d", e.Inode), opRetire, e.words()...)
}

// Enrolled are the executables that become hornetd, with their SHA-256 when they were
// enrolled; by a guard of an older build it is 0.
func (g *Guard) Enrolled() (map[Executable][32]byte, error) {
	all := map[Executable][32]byte{}
	var e Executable
	var m may
	it := g.maps["executables"].Iterate()
	for it.Next(&e, &m) {
		if m.Hornetd != 0 {
			all[e] = [32]byte{}
		}
	}
	if err := it.Err(); err != nil {
		return nil, fmt.Errorf("guard: executables: %w", err)
	}
	if g.maps[digestsMap] == nil {
		return all, nil
	}
	for e := range all {
		var digest [32]byte
		if err := g.maps[digestsMap].Lookup(e, &digest); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("guard: executable %d: digest: %w", e.Inode, err)
		}
		all[e] = digest
	}
	return all, nil
}

// BecomesHornetd reports whether a file is an executable that becomes hornetd. Which file
// it is the kernel says: stat(2) tells of another device on btrfs, and on some overlays.
func (g *Guard) BecomesHornetd(f *os.File) (bool, error) {
	all, err := g.Enrolled()
	if err != nil {
		return false, err
	}
	e, err := g.Listed(f)
	if errors.Is(err, unix.EINVAL) { // a guard of an older build does not say: better once too often
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return false, fmt.Errorf("guard: executable %s: %w", f.Name(), err)
		}
		for e := range all {
			if e.Inode == st.Ino {
				return true, nil
			}
		}
		return false, nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ETXTBSY) {
		return false, err
	}
	_, is := all[e]
	return is, nil
}

// isOwn returns nil if an executable is what this process executes. Which file that is the
// kernel says; /proc shows what somebody has mounted there.
func (g *Guard) isOwn(name string, e Executable) error {
	own, err := g.Self()
	if err == nil && own != e {
		err = remedy.With(fmt.Errorf("guard: executable %s: it is not what this process executes", name), "see what is mounted over /proc in hornetd's mount namespace")
	}
	return err
}

// Self returns the executable of this process, as the kernel has it.
func (g *Guard) Self() (Executable, error) {
	if err := g.control("executable", opWhoAmI); err != nil {
		return Executable{}, err
	}
	return g.last()
}
