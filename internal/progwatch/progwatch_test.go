package progwatch

import (
	"encoding/hex"
	"errors"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

// program loads one that does nothing.
func program(t *testing.T, result int32) *ebpf.Program {
	t.Helper()
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "progwatch_test", Type: ebpf.SocketFilter, License: "MIT",
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, result), asm.Return()}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func open(t *testing.T) *Watch {
	t.Helper()
	testenv.RequireRoot(t)
	w, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.Close)
	return w
}

// TestLoadIsHeard: with the id, the tag and the time that the kernel has of the
// program itself, and this process. Others on the host load too.
func TestLoadIsHeard(t *testing.T) {
	w := open(t)
	p := program(t, 7)
	info, err := p.Info()
	if err != nil {
		t.Fatal(err)
	}
	id, _ := info.ID()
	loaded, _ := info.LoadTime()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		all, lost, err := w.Next(time.Second)
		if err != nil || lost > 0 {
			t.Fatal(lost, err)
		}
		i := slices.IndexFunc(all, func(l Load) bool { return l.ID == uint32(id) })
		if i < 0 {
			continue
		}
		got := all[i]
		if hex.EncodeToString(got.Tag[:]) != info.Tag || got.PID != os.Getpid() || got.Thread <= 0 || got.Boot < loaded || got.Boot > loaded+5*time.Second {
			t.Errorf("heard %+v; the kernel's own: tag %s, loaded %s; pid %d", got, info.Tag, loaded, os.Getpid())
		}
		return
	}
	t.Errorf("program %d was not heard of", id)
}

// TestLossesAreCounted: nobody reads while more is loaded than there is room for.
func TestLossesAreCounted(t *testing.T) {
	w := open(t)
	const many = 3000 // a load and an unload each, and no more than 1,638 records on any processor
	for range many * len(w.rings) {
		p := program(t, 0)
		p.Close()
	}
	var heard, lost uint64
	next := func() {
		all, n, err := w.Next(time.Second)
		if err != nil {
			t.Fatal(err)
		}
		heard, lost = heard+uint64(len(all)), lost+n
	}
	next() // what there is
	// A processor tells that something did not fit before what fits next.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		t.Fatal(err)
	}
	defer unix.SchedSetaffinity(0, &all)
	for cpu := range len(all) * 64 {
		if one := (unix.CPUSet{}); all.IsSet(cpu) {
			one.Set(cpu)
			if err := unix.SchedSetaffinity(0, &one); err != nil {
				t.Fatal(err)
			}
			program(t, 1)
		}
	}
	next()
	if heard == 0 || lost == 0 {
		t.Errorf("%d heard, %d lost", heard, lost)
	}
}

// TestNextWakesUp: who waits is told when there is something.
func TestNextWakesUp(t *testing.T) {
	w := open(t)
	for all := []Load{{}}; len(all) > 0; { // what others load meanwhile is no matter
		var err error
		if all, _, err = w.Next(0); err != nil {
			t.Fatal(err)
		}
	}
	time.AfterFunc(50*time.Millisecond, func() { program(t, 0) })
	began := time.Now()
	if all, _, err := w.Next(20 * time.Second); err != nil || len(all) == 0 || time.Since(began) > 10*time.Second {
		t.Errorf("%d loads after %s, %v", len(all), time.Since(began), err)
	}
}

func TestInterrupt(t *testing.T) {
	w := open(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		time.Sleep(10 * time.Millisecond)
		w.Interrupt()
	}()
	defer func() { <-done }() // before it is closed
	for {
		_, _, err := w.Next(time.Minute)
		if errors.Is(err, os.ErrClosed) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := w.Next(time.Minute); !errors.Is(err, os.ErrClosed) {
		t.Error(err)
	}
}

func TestRanges(t *testing.T) {
	for s, want := range map[string][]int{"0": {0}, "0-2,5": {0, 1, 2, 5}, "1,3-3": {1, 3}} {
		if got, err := ranges(s); err != nil || !slices.Equal(got, want) {
			t.Errorf("%q: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "a", "1-", "-1", "0-99999"} {
		if got, err := ranges(s); err == nil {
			t.Errorf("%q: %v", s, got)
		}
	}
}
