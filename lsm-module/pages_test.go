package lsm

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/internal/testenv"
)

// onDisk returns a directory of a file system that has a disk below it.
func onDisk(t *testing.T) string {
	t.Helper()
	image, dir := filepath.Join(t.TempDir(), "ext4"), t.TempDir()
	if err := errors.Join(os.WriteFile(image, nil, 0o600), os.Truncate(image, 16<<20)); err != nil {
		t.Fatal(err)
	}
	for _, argv := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, dir}} {
		if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", argv, err, out)
		}
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// readOnly returns a file of a file system that nobody can write, as fs/romfs reads it.
func readOnly(t *testing.T, content []byte) *os.File {
	t.Helper()
	const root, first, data = 32, 64, 96
	image := make([]byte, (data+len(content)+4095)/4096*4096) // in whole blocks
	put := func(at int, name string, words ...uint32) {
		for i, w := range words {
			binary.BigEndian.PutUint32(image[at+4*i:], w)
		}
		copy(image[at+16:], name)
	}
	copy(image, "-rom1fs-")
	put(8, "", uint32(len(image)))
	put(root, ".", 1, first)                        // a directory
	put(first, "one", 2|8, 0, uint32(len(content))) // a file, to be executed
	copy(image[data:], content)
	var sum uint32
	for at := 0; at < 512; at += 4 {
		sum += binary.BigEndian.Uint32(image[at:])
	}
	put(12, "", -sum)
	file, dir := filepath.Join(t.TempDir(), "romfs"), t.TempDir()
	if err := os.WriteFile(file, image, 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("mount", "-t", "romfs", "-o", "loop,ro", file, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	f, err := os.Open(filepath.Join(dir, "one"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// What is on a file system that has no fsync(2), as nobody can write it, is enrolled.
func TestEnrollReadOnly(t *testing.T) {
	guestOnly(t)
	content := bytes.Repeat([]byte("good"), 3*os.Getpagesize()/4)
	f := readOnly(t, content)
	if err := unix.Fsync(int(f.Fd())); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("fsync: %v", err)
	}
	g := arm(t, nil)
	e, err := g.Enroll(f)
	if err != nil {
		t.Fatalf("%v (%s)", err, remedy.Of(err))
	}
	if all, err := g.Enrolled(); err != nil || all[e] != sha256.Sum256(content) {
		t.Errorf("enrolled %x, %v", all[e], err)
	}
	mapped, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Munmap(mapped)
	if mapped[0] != 'g' {
		t.Error(mapped[0])
	}
	if n, err := pagesInUse(f); n == 0 || err != nil {
		t.Errorf("%d pages in use, %v", n, err)
	}
}

// What the disk refuses stays an error; that there is none is none.
func TestFlush(t *testing.T) {
	f, err := os.Open("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Fsync(int(f.Fd())); !errors.Is(err, unix.EINVAL) {
		t.Fatalf("fsync: %v", err)
	}
	if err := flush(f); err != nil {
		t.Error(err)
	}
	f.Close()
	if err := flush(f); !errors.Is(err, unix.EBADF) {
		t.Error(err)
	}
}

// uffd is what userfaultfd(2) is asked, by linux/userfaultfd.h.
const (
	uffdAPI      = 0xc018aa3f
	uffdRegister = 0xc020aa00
	uffdCopy     = 0xc028aa03
)

// childPins has the kernel write to a page of a file, and waits with what is to be written:
// the page is kept by nothing but that, until a line is read.
func childPins(args []string) error {
	page := os.Getpagesize()
	f, err := os.OpenFile(args[0], os.O_RDWR, 0)
	if err != nil {
		return err
	}
	mapped, err := unix.Mmap(int(f.Fd()), int64(page), page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return err
	}
	mapped[0] = mapped[4] // which is the same
	fd, _, errno := unix.Syscall(unix.SYS_USERFAULTFD, unix.O_CLOEXEC, 0, 0)
	if errno != 0 {
		return fmt.Errorf("userfaultfd: %w", errno)
	}
	ask := func(what string, request uintptr, about unsafe.Pointer) error {
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(about)); errno != 0 {
			return fmt.Errorf("%s: %w", what, errno)
		}
		return nil
	}
	memory := func() []byte {
		b, mapErr := unix.Mmap(-1, 0, page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		err = errors.Join(err, mapErr)
		return b
	}
	late, answer := memory(), memory()
	if err != nil {
		return err
	}
	err = errors.Join(
		ask("UFFDIO_API", uffdAPI, unsafe.Pointer(&[3]uint64{0xaa})),
		ask("UFFDIO_REGISTER", uffdRegister, unsafe.Pointer(&[4]uint64{uint64(uintptr(unsafe.Pointer(&late[0]))), uint64(page), 1})))
	if err != nil {
		return err
	}
	written := make(chan error)
	go func() {
		from := []unix.Iovec{{Base: &late[0], Len: 4}}
		_, err := unix.ProcessVMWritev(os.Getpid(), from, []unix.RemoteIovec{{Base: uintptr(unsafe.Pointer(&mapped[0])), Len: 4}}, 0)
		written <- err
	}()
	if _, err := unix.Read(int(fd), make([]byte, 32)); err != nil { // the kernel waits for what it is to write
		return err
	}
	if err := errors.Join(unix.Munmap(mapped), f.Close()); err != nil {
		return err
	}
	fmt.Println("pinned")
	bufio.NewReader(os.Stdin).ReadString('\n')
	copy(answer, "evil")
	if err := ask("UFFDIO_COPY", uffdCopy, unsafe.Pointer(&[5]uint64{uint64(uintptr(unsafe.Pointer(&late[0]))), uint64(uintptr(unsafe.Pointer(&answer[0]))), uint64(page)})); err != nil {
		return err
	}
	return <-written
}

// pin starts one that does so, and returns what has it write and end.
func pin(t *testing.T, file string) (write func()) {
	t.Helper()
	cmd := child("pins", nil, file)
	in, inErr := cmd.StdinPipe()
	out, err := cmd.StdoutPipe()
	cmd.Stderr = os.Stderr
	if err := errors.Join(inErr, err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "pinned\n" {
		t.Fatalf("%q, %v", line, err)
	}
	return func() {
		t.Helper()
		io.WriteString(in, "\n")
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
	}
}

// What somebody has the kernel write to later, without a descriptor, is not enrolled and
// not let in by its digest; what nobody has is, and stays what it was.
func TestPinnedPages(t *testing.T) {
	guestOnly(t)
	good := bytes.Repeat([]byte("good"), 3*os.Getpagesize()/4)
	sum := sha256.Sum256(good)
	install := func(t *testing.T, name string) *os.File { // nothing of it need be on the disk yet
		t.Helper()
		err := errors.Join(os.WriteFile(name+".new", good, 0o755), os.Rename(name+".new", name))
		f, openErr := os.Open(name)
		if err := errors.Join(err, openErr); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		return f
	}
	writable := func(f *os.File) bool { return exec.Command("sh", "-c", "exec 3<>"+f.Name()).Run() == nil }
	inUse := func(t *testing.T, what string, err error) {
		t.Helper()
		if !errors.Is(err, unix.ETXTBSY) || !strings.Contains(err.Error(), "pages are in use") || !strings.Contains(remedy.Of(err), "fuser -v") {
			t.Errorf("%s: %v (%s)", what, err, remedy.Of(err))
		}
	}
	stays := func(t *testing.T, what string, f *os.File) {
		t.Helper()
		if err := os.WriteFile("/proc/sys/vm/drop_caches", []byte("1"), 0); err != nil {
			t.Fatal(err)
		}
		if digestOf(t, f.Name()) != sum || writable(f) {
			t.Errorf("%s: it is not what it was, or can be written", what)
		}
	}
	dir := onDisk(t)
	g := arm(t, nil)
	one := filepath.Join(dir, "one")

	t.Run("enrolled", func(t *testing.T) {
		f := install(t, one)
		write := pin(t, one)
		if digestOf(t, one) != sum {
			t.Fatal("it is written already")
		}
		_, err := g.EnrollIf(f, func() error { t.Error("its digest is asked for"); return nil })
		inUse(t, "pinned", err)
		if all, err := g.Enrolled(); err != nil || len(all) != 0 || !writable(f) {
			t.Errorf("enrolled all the same, or not to be written: %v, %v", all, err)
		}
		write()
		if digestOf(t, one) == sum {
			t.Fatal("nothing was written")
		}
		f = install(t, one)
		e, err := g.Enroll(f)
		if err != nil {
			t.Fatal(err)
		}
		if all, err := g.Enrolled(); err != nil || all[e] != sum {
			t.Errorf("enrolled %x, %v", all[e], err)
		}
		stays(t, "enrolled", f)
		if err := g.Retire(e); err != nil {
			t.Error(err)
		}
	})

	t.Run("executed", func(t *testing.T) {
		name := filepath.Join(dir, "cat")
		if out, err := exec.Command("cp", "/bin/cat", name).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		run := func() *exec.Cmd {
			t.Helper()
			cmd := exec.Command(name)
			in, inErr := cmd.StdinPipe()
			out, err := cmd.StdoutPipe()
			if err := errors.Join(inErr, err); err != nil {
				t.Fatal(err)
			}
			testenv.Start(t, cmd)
			_, inErr = io.WriteString(in, "x")
			_, err = out.Read(make([]byte, 1)) // it runs
			if err := errors.Join(inErr, err); err != nil {
				t.Fatal(err)
			}
			return cmd
		}
		cmd := run()
		_, err = g.Enroll(f)
		inUse(t, "executed", err)
		// One that ends in time is no matter.
		time.AfterFunc(inUseWait/20, func() { cmd.Process.Kill() })
		e, err := g.Enroll(f)
		if err != nil {
			t.Fatal(err)
		}
		// What is enrolled was kept, and is enrolled again while it runs.
		run()
		if _, err := g.Enroll(f); err != nil {
			t.Error(err)
		}
		if err := g.Retire(e); err != nil {
			t.Error(err)
		}
	})

	t.Run("read all the time", func(t *testing.T) {
		f := install(t, one)
		reader := exec.Command("sh", "-c", "while :; do cat "+one+"; done >/dev/null")
		testenv.Start(t, reader)
		e, err := g.Enroll(f)
		if err != nil {
			t.Fatal(err)
		}
		if err := g.Retire(e); err != nil {
			t.Error(err)
		}
	})

	// Those that an entry lists which come new to a guard that replaces another.
	t.Run("listed", func(t *testing.T) {
		upgrade := func(f *os.File) error {
			t.Helper()
			next, err := g.Upgrade(Config{Mode: Enforce, ConfirmWithin: 2 * time.Minute, Cgroup: testenv.CgroupRoot(t),
				Allow: []Identity{{Executable: f, SHA256: sum, Signals: true}}})
			if err != nil {
				t.Fatal(err)
			}
			*g = *next
			_, err = g.Listed(f)
			return err
		}
		f := install(t, one)
		write := pin(t, one)
		if err := upgrade(f); err == nil || !writable(f) {
			t.Errorf("pinned: listed (%v), or not to be written", err)
		}
		write()
		f = install(t, one)
		if err := upgrade(f); err != nil {
			t.Errorf("not listed: %v", err)
		}
		stays(t, "listed", f)
		mapped, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_SHARED)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Munmap(mapped)
		if mapped[0] != 'g' {
			t.Error(mapped[0])
		}
		if err := upgrade(f); err != nil {
			t.Errorf("in use, and not listed any more: %v", err)
		}
	})
}
