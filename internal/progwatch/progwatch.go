// Package progwatch hears from the kernel which BPF programs are loaded on a host,
// whoever loads them, from Linux 5.1 on. It sees what has been done: it prevents
// nothing. Of maps, links and what is attached the kernel tells nothing here.
package progwatch

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ringBytes is the room for what is told by one processor and not read yet: 1,600
// loads. A power of two of pages.
const ringBytes = 64 << 10

// bitBPFEvent is bpf_event of struct perf_event_attr.
const bitBPFEvent = 1 << 30

// Load is a program that was loaded.
type Load struct {
	ID     uint32
	Tag    [8]byte
	PID    int           // of the process, in the pid namespace of who called Open; 0 where it is not in there
	Thread int           // of it
	Boot   time.Duration // when, since the boot, sleep included
}

// Watch hears of loads.
type Watch struct {
	rings []*ring
	poll  []unix.PollFd // of rings, in their order, and wake behind them
	wake  int           // an eventfd
}

// ring is what one processor tells.
type ring struct {
	fd   int
	mem  []byte // a page of the kernel's, and the data
	page *unix.PerfEventMmapPage
	data []byte
	buf  []byte // one reading of it
}

// Open begins to hear what is loaded on the processors that are online; a
// processor that comes later is not heard. It takes CAP_PERFMON or CAP_SYS_ADMIN.
func Open() (_ *Watch, err error) {
	w := &Watch{wake: -1}
	defer func() {
		if err != nil {
			w.Close()
		}
	}()
	if w.wake, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK); err != nil {
		return nil, fmt.Errorf("progwatch: eventfd: %w", err)
	}
	cpus, err := online()
	if err != nil {
		return nil, fmt.Errorf("progwatch: processors: %w", err)
	}
	for _, cpu := range cpus {
		r, err := openRing(cpu)
		if errors.Is(err, unix.ENODEV) {
			continue // it went offline meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("progwatch: perf event of processor %d: %w", cpu, err)
		}
		w.rings = append(w.rings, r)
		w.poll = append(w.poll, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
	}
	w.poll = append(w.poll, unix.PollFd{Fd: int32(w.wake), Events: unix.POLLIN})
	return w, nil
}

// openRing asks for what one processor tells of programs, with who did it and when.
//
// Source: perf_event_open(2), and perf_event_bpf_event in kernel/events/core.c.
func openRing(cpu int) (*ring, error) {
	attr := &unix.PerfEventAttr{
		Type:        unix.PERF_TYPE_SOFTWARE,
		Config:      unix.PERF_COUNT_SW_DUMMY,
		Size:        uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
		Sample_type: unix.PERF_SAMPLE_TID | unix.PERF_SAMPLE_TIME,
		Bits:        bitBPFEvent | unix.PerfBitSampleIDAll | unix.PerfBitWatermark | unix.PerfBitUseClockID,
		Wakeup:      1, // bytes
		Clockid:     unix.CLOCK_BOOTTIME,
	}
	fd, err := unix.PerfEventOpen(attr, -1, cpu, -1, unix.PERF_FLAG_FD_CLOEXEC)
	if err != nil {
		return nil, err
	}
	page := os.Getpagesize()
	mem, err := unix.Mmap(fd, 0, page+ringBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &ring{fd: fd, mem: mem, page: (*unix.PerfEventMmapPage)(unsafe.Pointer(&mem[0])), data: mem[page:]}, nil
}

// Next waits, at most so long, until there is something, and returns all there is:
// in the order of each processor. lost is how many records there was no room for,
// as far as the kernel has counted them; where it is not 0 there may be more. The
// error is os.ErrClosed after Interrupt.
func (w *Watch) Next(wait time.Duration) (all []Load, lost uint64, err error) {
	ms := int((wait + time.Millisecond - 1) / time.Millisecond)
	if _, err := unix.Poll(w.poll, ms); err != nil && !errors.Is(err, unix.EINTR) {
		return nil, 0, fmt.Errorf("progwatch: poll: %w", err)
	}
	if w.poll[len(w.rings)].Revents != 0 {
		return nil, 0, os.ErrClosed
	}
	for i, r := range w.rings {
		if w.poll[i].Revents&(unix.POLLHUP|unix.POLLERR) != 0 {
			w.poll[i].Fd = -1 // its processor is gone: poll(2) would not wait any more
		}
		got, n, err := parse(r.read())
		all, lost = append(all, got...), lost+n
		if err != nil {
			return all, lost, fmt.Errorf("progwatch: %w", err)
		}
	}
	return all, lost, nil
}

// Interrupt has Next return, now and ever after.
func (w *Watch) Interrupt() { unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}) }

// Close lets go of it. Nobody may be in Next.
func (w *Watch) Close() {
	for _, r := range w.rings {
		unix.Munmap(r.mem)
		unix.Close(r.fd)
	}
	if w.wake >= 0 {
		unix.Close(w.wake)
	}
	*w = Watch{wake: -1}
}

// read takes what there is out of the ring. The result is valid until the next read.
func (r *ring) read() []byte {
	size := uint64(len(r.data))
	head, tail := atomic.LoadUint64(&r.page.Data_head), r.page.Data_tail // which this process alone writes
	from, to := tail%size, head%size
	if head == tail {
		return nil
	}
	r.buf = r.buf[:0]
	if from < to {
		r.buf = append(r.buf, r.data[from:to]...)
	} else {
		r.buf = append(append(r.buf, r.data[from:]...), r.data[:to]...)
	}
	atomic.StoreUint64(&r.page.Data_tail, head) // from here on the kernel writes there
	return r.buf
}

// online reads the numbers of the processors that there are now.
func online() ([]int, error) {
	b, err := os.ReadFile("/sys/devices/system/cpu/online")
	if err != nil {
		return nil, err
	}
	return ranges(strings.TrimSpace(string(b)))
}

// ranges reads "0-3,5".
func ranges(s string) (all []int, err error) {
	for part := range strings.SplitSeq(s, ",") {
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err1 := strconv.ParseUint(first, 10, 16)
		to, err2 := strconv.ParseUint(last, 10, 16)
		if err := errors.Join(err1, err2); err != nil {
			return nil, err
		}
		for n := from; n <= to; n++ {
			all = append(all, int(n))
		}
	}
	return all, nil
}
