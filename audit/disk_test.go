package audit

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// ext4 mounts a new ext4 of the given size in a loop device.
func ext4(t *testing.T, bytes int64) (dir, image string) {
	t.Helper()
	testenv.RequireRoot(t)
	if _, err := exec.LookPath("mkfs.ext4"); err != nil {
		t.Skip("mkfs.ext4 is not installed")
	}
	tmp := t.TempDir()
	image, dir = tmp+"/image", tmp+"/mnt"
	must(t, os.WriteFile(image, nil, 0o600))
	must(t, os.Truncate(image, bytes))
	run(t, "mkfs.ext4", "-q", "-m", "0", image)
	must(t, os.Mkdir(dir, 0o700))
	mountLoop(t, image, dir)
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir, image
}

func mountLoop(t *testing.T, image, dir string) {
	t.Helper()
	run(t, "mount", "-o", "loop", image, dir)
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

func tmpfs(t *testing.T, options string) string {
	t.Helper()
	testenv.RequireRoot(t)
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, options))
	t.Cleanup(func() { unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// fill takes all the space there is.
func fill(t *testing.T, path string) {
	t.Helper()
	f, err := os.Create(path)
	must(t, err)
	defer f.Close()
	for size := 1 << 20; size > 0; size /= 2 {
		for err = nil; err == nil; {
			_, err = f.Write(make([]byte, size))
		}
		if !errors.Is(err, unix.ENOSPC) {
			t.Fatal(err)
		}
	}
	if err := f.Sync(); err != nil && !errors.Is(err, unix.ENOSPC) {
		t.Fatal(err)
	}
}

// The disk fills. Loads stop first; what was kept lasts for unloads and
// outcomes; and when there is room again, everything goes on.
func TestFullDisk(t *testing.T) {
	for what, mount := range map[string]func(t *testing.T) string{
		"ext4":  func(t *testing.T) string { dir, _ := ext4(t, 8<<20); return dir },
		"tmpfs": func(t *testing.T) string { return tmpfs(t, "size=4m") },
	} {
		t.Run(what, func(t *testing.T) {
			mnt := mount(t)
			small := space{reserve: 64 << 10, slack: 32 << 10}
			l, err := open(mnt+"/audit", small)
			must(t, err)
			defer l.Close()
			text := strings.Repeat("e", 4000)
			intent := Record{Phase: Intent, Verb: "load", Error: text}
			good := uint64(0)
			ok := func(r Record) {
				t.Helper()
				if _, err := l.Append(r); err != nil {
					t.Fatalf("record %d: %v", good+1, err)
				}
				good++
			}
			refused := func(r Record) {
				t.Helper()
				_, err := l.Append(r)
				if !errors.Is(err, ErrFull) || !errors.Is(err, unix.ENOSPC) || remedy.Of(err) == "" {
					t.Fatalf("%s of %s = %v, want ErrFull with a remedy", r.Phase, r.Verb, err)
				}
			}

			ok(intent)
			fill(t, mnt+"/filler")
			// What is allocated beyond the reserve is still there for loads.
			for range 2 * small.slack / 4000 {
				if _, err := l.Append(intent); err != nil {
					break
				}
				good++
			}
			refused(intent)
			refused(Record{Phase: Refusal, Verb: VerbUnload, Error: text})
			refused(Record{Phase: Refusal, Verb: VerbReload, Error: text})
			refused(Record{Phase: Note, Verb: "start", Error: text})

			// The reserve, to within a record and a block of its bytes.
			began := l.size
			for l.size-began < small.reserve-16<<10 {
				ok(Record{Phase: Outcome, Verb: "load", Error: text})
				ok(Record{Phase: Intent, Verb: VerbUnload, Error: text})
				ok(Record{Phase: Intent, Verb: VerbReload, Error: text})
			}
			refused(intent)

			// And when that is gone as well, an error and no torn line.
			for err = nil; err == nil; {
				if _, err = l.Append(Record{Phase: Outcome, Verb: "load", Error: text}); err == nil {
					good++
				}
			}
			refused(Record{Phase: Outcome, Verb: "load", Error: text})
			if diff := cmp.Diff(upTo(good), seqs(t, l, 1)); diff != "" {
				t.Fatal(diff)
			}
			if fi, err := os.Stat(mnt + "/audit/" + fileName); err != nil || fi.Size() != l.size {
				t.Errorf("%d bytes on disk, want %d, %v", fi.Size(), l.size, err)
			}

			must(t, os.Remove(mnt+"/filler"))
			ok(intent)
			must(t, l.Close())
			l, err = open(mnt+"/audit", small)
			must(t, err)
			defer l.Close()
			if (l.Recovered() != Recovery{}) {
				t.Errorf("recovered %+v", l.Recovered())
			}
			if diff := cmp.Diff(upTo(good), seqs(t, l, 1)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

// A disk that is full from the start, with no room for the reserve at all.
func TestOpenOnAFullDisk(t *testing.T) {
	mnt := tmpfs(t, "size=1m")
	l, err := Open(mnt + "/audit")
	must(t, err)
	defer l.Close()
	if _, err := l.Append(Record{Phase: Intent, Verb: "load"}); !errors.Is(err, ErrFull) {
		t.Errorf("intent = %v, want ErrFull", err)
	}
	if _, err := l.Append(Record{Phase: Intent, Verb: VerbUnload}); err != nil {
		t.Errorf("unload = %v", err)
	}
}

// Room for the reserve but not for more at once is room enough.
func TestReserveWithoutSlack(t *testing.T) {
	l, err := open(tmpfs(t, "size=1m")+"/audit", space{reserve: 256 << 10, slack: 4 << 20})
	must(t, err)
	defer l.Close()
	appendN(t, l, 3)
}

// The reserve is kept on disk, by blocks behind the end of the file.
func TestReserveIsAllocated(t *testing.T) {
	mnt, _ := ext4(t, 32<<20)
	l := openLog(t, mnt+"/audit")
	for _, what := range []string{"opened", "one record later"} {
		var st unix.Stat_t
		must(t, unix.Fstat(int(l.file.Fd()), &st))
		if got := st.Blocks * 512; got < l.size+defaultSpace.reserve || st.Size != l.size {
			t.Errorf("%s: %d bytes allocated, size %d, want %d", what, got, st.Size, l.size)
		}
		appendN(t, l, 1)
	}
}

// What is taken away after a failed write takes the blocks behind it along:
// they are kept again.
func TestReserveIsKeptAfterAFailure(t *testing.T) {
	mnt, _ := ext4(t, 32<<20)
	l := openLog(t, mnt+"/audit")
	appendN(t, l, 1)
	l.fail()
	var st unix.Stat_t
	must(t, unix.Fstat(int(l.file.Fd()), &st))
	if got := st.Blocks * 512; got < l.size+defaultSpace.reserve || l.dirty {
		t.Errorf("%d bytes allocated, dirty: %v", got, l.dirty)
	}
}

// A write fails half done, and so does taking its half away. That is made up
// for before the next record, which is shorter.
func TestUndoIsTriedAgain(t *testing.T) {
	dir := logDir(t)
	l := openLog(t, dir)
	appendN(t, l, 1)
	file := l.file
	readOnly, err := os.Open(file.Name())
	must(t, err)
	defer readOnly.Close()

	l.file = readOnly
	if _, err := l.Append(Record{Phase: Outcome, Verb: "load"}); err == nil {
		t.Fatal("written to a file that cannot be written")
	}
	l.file = file
	_, err = file.WriteAt(make([]byte, 4000), l.size) // the half
	must(t, err)
	appendN(t, l, 1)
	if fi, err := os.Stat(file.Name()); err != nil || fi.Size() != l.size {
		t.Errorf("%d bytes, want %d, %v", fi.Size(), l.size, err)
	}
	must(t, l.Close())
	l = openLog(t, dir)
	if (l.Recovered() != Recovery{}) {
		t.Errorf("recovered %+v", l.Recovered())
	}
	if diff := cmp.Diff(upTo(2), seqs(t, l, 1)); diff != "" {
		t.Error(diff)
	}
}

// Where the file system cannot allocate, free space is looked at instead.
func TestReserveWithoutAllocation(t *testing.T) {
	l, err := open(tmpfs(t, "size=1m")+"/audit", space{reserve: 256 << 10})
	must(t, err)
	defer l.Close()
	if err := l.roomOnDisk(100); err != nil {
		t.Error(err)
	}
	if err := l.roomOnDisk(600 << 10); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("roomOnDisk = %v, want ENOSPC", err)
	}
}

// Power is cut: the file system stops without writing its journal. Whatever
// Append acknowledged is there.
func TestPowerCut(t *testing.T) {
	dir, image := ext4(t, 32<<20)
	for cut := range 3 {
		l, err := Open(dir + "/audit")
		must(t, err)
		had := l.next - 1
		if had != uint64(7*cut) {
			t.Fatalf("cut %d: %d records, want %d", cut, had, 7*cut)
		}
		appendN(t, l, 7)
		must(t, os.WriteFile(dir+"/not-synced", make([]byte, 1<<16), 0o600))
		shutdown(t, dir)
		l.Close()
		must(t, unix.Unmount(dir, 0))
		mountLoop(t, image, dir)
		if fi, err := os.Stat(dir + "/not-synced"); err == nil && fi.Size() > 0 {
			t.Fatal("what was not synced is there: the cut was none")
		}
	}
	if got := seqs(t, openLog(t, dir+"/audit"), 1); len(got) != 21 {
		t.Errorf("%d records, want 21", len(got))
	}
}

// shutdown is ioctl EXT4_IOC_SHUTDOWN with EXT4_GOING_FLAGS_NOLOGFLUSH.
func shutdown(t *testing.T, dir string) {
	t.Helper()
	d, err := os.Open(dir)
	must(t, err)
	defer d.Close()
	flags := uint32(2)
	const ioctl = 0x8004587d
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, d.Fd(), ioctl, uintptr(unsafe.Pointer(&flags))); errno != 0 {
		t.Skipf("this kernel cannot cut the power of an ext4: %v", errno)
	}
}

// A log on a file system that goes away fails clearly and for good.
func TestBrokenDisk(t *testing.T) {
	dir, _ := ext4(t, 32<<20)
	l := openLog(t, filepath.Join(dir, "audit"))
	appendN(t, l, 1)
	shutdown(t, dir)
	for range 3 {
		if r, err := l.Append(Record{Phase: Outcome, Verb: "load"}); err == nil {
			t.Fatalf("record %d was acknowledged", r.Seq)
		}
	}
}
