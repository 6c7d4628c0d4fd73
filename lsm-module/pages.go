package lsm

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/remedy"
)

// inUseWait is how long pages of an executable may be in use by somebody who soon lets go
// of them, as who reads it does.
const inUseWait = time.Second

// noneInUse returns nil if nobody has a page of a file which nobody has open for writing, and
// nobody may open so any more: who has the kernel write to memory that a page was mapped to
// (process_vm_writev(2), a read with O_DIRECT, io_uring) has it for as long as they like,
// without any descriptor. Such a page cannot be dropped from the page cache, and neither
// can one that a process has mapped. Each is dropped once, and what is read then is what
// the file system has. The error is ETXTBSY.
//
// Where the page cache is all there is, or is another file's (an overlay's), nothing is
// known of it, and the error nil.
func noneInUse(f *os.File) error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(f.Fd()), &st); err != nil {
		return fmt.Errorf("guard: executable %s: %w", f.Name(), err)
	}
	if slices.Contains([]int64{unix.TMPFS_MAGIC, unix.RAMFS_MAGIC, unix.OVERLAYFS_SUPER_MAGIC}, int64(st.Type)) {
		return nil
	}
	used, err := pagesInUse(f)
	if err == nil && used > 0 {
		err = remedy.With(fmt.Errorf("guard: executable %s: %d of its pages are in use, by who executes it, has it mapped or is about to write it: %w", f.Name(), used, unix.ETXTBSY),
			"end who has it (fuser -v %s); or copy it to a new file and put that in its place (cp, then mv)", f.Name())
	}
	return err
}

// pagesInUse returns how many pages of a file could not be dropped from the page cache.
func pagesInUse(f *os.File) (int, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, fmt.Errorf("guard: executable: %w", err)
	}
	size := int(info.Size())
	if size == 0 {
		return 0, nil
	}
	if size > largest {
		return 0, tooLarge(f)
	}
	// Only to ask by: nothing is read here, which would be a use of its own. (Shared, it
	// would be refused by FUSE with direct I/O.)
	pages, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ, unix.MAP_PRIVATE)
	if err != nil {
		return 0, unasked(f, "mmap", err)
	}
	defer unix.Munmap(pages)
	used := make([]bool, (size+os.Getpagesize()-1)/os.Getpagesize())
	for i := range used {
		used[i] = true
	}
	there := make([]byte, len(used))
	for deadline := time.Now().Add(inUseWait); ; time.Sleep(20 * time.Millisecond) {
		if err := flush(f); err != nil { // else what was just written stays
			return 0, unasked(f, "fsync", err)
		}
		if err := unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED); err != nil {
			return 0, unasked(f, "fadvise", err)
		}
		if err := mincore(pages, there); err != nil {
			return 0, remedy.With(fmt.Errorf("guard: executable %s: mincore: %w", f.Name(), err), "SystemCallFilter=mincore in hornetd.service, and whatever else it filters by")
		}
		n := 0
		for i := range used {
			used[i] = used[i] && there[i]&1 != 0 // back in memory, it is what was read anew
			if used[i] {
				n++
			}
		}
		if n == 0 || time.Now().After(deadline) {
			return n, nil
		}
	}
}

// flush writes to the disk what of a file is not there yet. File systems that nobody can
// write (squashfs, erofs, iso9660) have nothing to write, and no fsync(2).
func flush(f *os.File) error {
	err := unix.Fsync(int(f.Fd()))
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EROFS) {
		return nil
	}
	return err
}

// unasked is that nobody can tell which pages of a file are in use.
func unasked(f *os.File, call string, err error) error {
	return remedy.With(fmt.Errorf("guard: executable %s: %s: %w", f.Name(), call, err), "copy it to a file system of the host's own disk, and name it there")
}

// mincore is mincore(2): the lowest bit of there[i] says whether page i of what is mapped is
// in memory. Where a filter answers it and says that it was done, all are.
func mincore(pages, there []byte) error {
	for i := range there {
		there[i] = 1
	}
	_, _, errno := unix.Syscall(unix.SYS_MINCORE, uintptr(unsafe.Pointer(&pages[0])), uintptr(len(pages)), uintptr(unsafe.Pointer(&there[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
