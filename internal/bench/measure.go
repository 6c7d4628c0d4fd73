package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// warmUp is how many rounds are thrown away: the first ones read files from
// disk and grow heaps.
const warmUp = 5

// auditBytes is about what one audit record of a load takes.
const auditBytes = 700

// result is what one workload gave.
type result struct {
	at        []point
	ready     map[int]samples // collections running -> exec to READY
	rssIdle   float64         // KiB
	rssLoaded float64         // with the largest count, loaded by this process
	rssAdopt  float64         // with the largest count, adopted by this process
}

// point is the loads with a number of collections already running.
type point struct {
	running                         int
	floor, hornetd, unload, bpftool samples
	sync                            samples // one fdatasync each
}

// measure runs one workload through all counts.
func measure(ctx context.Context, progress io.Writer, w *world, l workload, opt options) (_ *result, err error) {
	most := opt.running[len(opt.running)-1]
	h, err := newHost(w, l, opt.hornetd, most+spares)
	if err != nil {
		return nil, err
	}
	defer h.close()
	r := &result{ready: make(map[int]samples)}
	if r.ready[0], err = starts(ctx, h, 0, opt.starts); err != nil {
		return nil, err
	}
	if r.rssIdle, err = h.rss(ctx, opt.settle); err != nil {
		return nil, err
	}
	filled := 0
	for _, n := range opt.running {
		fmt.Fprintf(progress, "%s: %d running\n", l.name, n)
		if err := h.fill(ctx, filled, n); err != nil {
			return nil, err
		}
		filled = n
		p, err := contest(ctx, h, l, n, opt.rounds)
		if err != nil {
			return nil, err
		}
		r.at = append(r.at, p)
	}
	if r.rssLoaded, err = h.rss(ctx, opt.settle); err != nil {
		return nil, err
	}
	if r.ready[most], err = starts(ctx, h, most, opt.starts); err != nil {
		return nil, err
	}
	if r.rssAdopt, err = h.rss(ctx, opt.settle); err != nil {
		return nil, err
	}
	return r, clear(ctx, h, most)
}

// clear unloads everything, so that the next workload starts from nothing.
func clear(ctx context.Context, h *host, n int) error {
	for i := range n {
		if err := daemon(h.client, i).undo(); err != nil {
			return err
		}
	}
	return h.expect(ctx, 0)
}

// starts kills and starts the daemon, which adopts running collections. The
// last one is left running.
func starts(ctx context.Context, h *host, running, times int) (samples, error) {
	var s samples
	for range times {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		h.kill()
		took, err := h.start()
		if err != nil {
			return nil, err
		}
		if err := h.expect(ctx, running); err != nil {
			return nil, err
		}
		s = append(s, took)
	}
	return s, nil
}

// settle waits for an RCU grace period, so that what the kernel still has to
// free is not the next contender's.
func settle() {
	const global = 1 // MEMBARRIER_CMD_GLOBAL, membarrier(2)
	unix.Syscall(unix.SYS_MEMBARRIER, global, 0, 0)
}

// contest lets the contenders load in turns, in another order each round: one
// must not always come behind the same other.
func contest(ctx context.Context, h *host, l workload, running, rounds int) (p point, err error) {
	p.running = running
	fd, err := os.OpenFile(filepath.Join(h.dir, "state", "bench-sync"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return p, err
	}
	defer fd.Close()
	// Preallocated, as the audit log is.
	if err := unix.Fallocate(int(fd.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, 16<<20); err != nil {
		return p, fmt.Errorf("fallocate: %w", err)
	}
	last := h.targets - 1
	turns := []turn{
		{contender: bare(l, last), load: &p.floor},
		{contender: daemon(h.client, last-1), load: &p.hornetd, undo: &p.unload},
		{contender: bpftool(l, last-2), load: &p.bpftool},
		{contender: durable(fd), load: &p.sync},
	}
	for round := range warmUp + rounds {
		for _, i := range rand.Perm(len(turns)) {
			if ctx.Err() != nil {
				return p, ctx.Err()
			}
			if err := turns[i].take(round >= warmUp); err != nil {
				return p, err
			}
			settle()
		}
	}
	return p, nil
}

// turn is a contender and where its times go.
type turn struct {
	contender
	load, undo *samples
}

func (t turn) take(keep bool) error {
	loaded, err := t.timed(t.contender.load)
	if err != nil {
		// What a half-finished load left is of no use to anybody.
		return errors.Join(fmt.Errorf("%s: load: %w", t.name, err), t.contender.undo())
	}
	undone, err := t.timed(t.contender.undo)
	if err != nil {
		return fmt.Errorf("%s: undo: %w", t.name, err)
	}
	if !keep {
		return nil
	}
	*t.load = append(*t.load, loaded)
	if t.undo != nil {
		*t.undo = append(*t.undo, undone)
	}
	return nil
}

// timed calls f, in a goroutine of its own where the contender is a client.
// The main one is tied to its thread, and every wait of a goroutine that is
// costs two switches of threads that an ordinary client does not pay.
func (t turn) timed(f func() error) (time.Duration, error) {
	if !t.client {
		began := time.Now()
		err := f()
		return time.Since(began), err
	}
	var took time.Duration
	done := make(chan error)
	go func() {
		began := time.Now()
		err := f()
		took = time.Since(began)
		done <- err
	}()
	err := <-done
	return took, err
}

// durable is one audit record's worth of write and fdatasync, on the same
// filesystem: a load waits for two, and no design that promises a record can
// be faster.
func durable(f *os.File) contender {
	record := make([]byte, auditBytes)
	return contender{
		name: "fdatasync",
		load: func() error {
			if _, err := f.Write(record); err != nil {
				return err
			}
			return unix.Fdatasync(int(f.Fd()))
		},
		undo: func() error { return nil },
	}
}
