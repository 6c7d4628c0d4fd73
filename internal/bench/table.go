package main

import (
	"debug/buildinfo"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

// Bars: what docs/benchmarks.md promises. A load may cost maxRatio times the
// floor once the two fdatasync that it waits for are taken out.
const (
	maxRatio   = 2.5
	maxGrowth  = 1.25 // of a load, from the smallest count to the largest
	maxReady   = 100 * time.Millisecond
	maxIdle    = 25 << 10 // KiB
	maxLoaded  = 35 << 10 // KiB
	maxVerify  = 500 * time.Microsecond
	maxBinary  = 15 << 20 // bytes
	maxModules = 10
)

// barCount is the count that maxReady and maxLoaded are about. Larger ones are
// measured, and judged by nothing.
const barCount = 300

var columns = []string{"p50 / p95 in ms", "floor", "2 fdatasync", "hornetd", "bpftool", "figure", "bar", ""}

// table is the result for people. It is Markdown, and lines up.
type table struct {
	head []string
	rows [][]string
}

// row adds a line whose verdict is open: measured, with no bar to clear.
func (t *table) row(cells ...string) {
	t.rows = append(t.rows, append(cells, make([]string, len(columns)-len(cells))...))
}

func (t *table) judged(pass bool, cells ...string) {
	verdict := "MISS"
	if pass {
		verdict = "pass"
	}
	t.row(append(cells, verdict)...)
}

// add adds what one workload gave.
func (t *table) add(name string, r *result) {
	for _, p := range r.at {
		net := p.hornetd.p50() - 2*p.sync.p50()
		ratio := float64(net) / float64(p.floor.p50())
		t.judged(ratio <= maxRatio, fmt.Sprintf("%s: load, %d running", name, p.running), p.floor.String(), p.sync.twice(),
			p.hornetd.String(), p.bpftool.String(), fmt.Sprintf("%.2fx floor", ratio), fmt.Sprintf("<= %.1fx", maxRatio))
	}
	for _, p := range r.at {
		gain := float64(p.bpftool.p50()) / float64(p.hornetd.p50())
		t.judged(gain > 1, fmt.Sprintf("%s: bpftool / hornetd, %d running", name, p.running), "", "", "", "", fmt.Sprintf("%.1fx", gain), "> 1x")
	}
	first, last := r.at[0], r.at[len(r.at)-1]
	growth := float64(last.hornetd.p50()) / float64(first.hornetd.p50())
	t.judged(growth <= maxGrowth, fmt.Sprintf("%s: load, %d against %d running", name, last.running, first.running),
		"", "", "", "", fmt.Sprintf("%.2fx", growth), fmt.Sprintf("<= %.2fx", maxGrowth))
	t.row(fmt.Sprintf("%s: unload, %d running", name, last.running), "", last.sync.twice(), last.unload.String())
	t.ready(name, 0, r.ready[0])
	t.ready(name, last.running, r.ready[last.running])
	t.memory(name+": RSS, idle", r.rssIdle, maxIdle, true)
	t.memory(fmt.Sprintf("%s: RSS, %d loaded", name, last.running), r.rssLoaded, maxLoaded, last.running <= barCount)
	t.memory(fmt.Sprintf("%s: RSS, %d adopted", name, last.running), r.rssAdopt, maxLoaded, last.running <= barCount)
}

func (t *table) ready(name string, running int, s samples) {
	cells := []string{fmt.Sprintf("%s: exec to READY, %d running", name, running), "", "", s.String(), "", ms(s.p50()) + " ms"}
	if running > barCount {
		t.row(cells...)
		return
	}
	t.judged(s.p50() <= maxReady, append(cells, fmt.Sprintf("<= %s ms", ms(maxReady)))...)
}

func (t *table) memory(what string, kib float64, bar float64, judge bool) {
	cells := []string{what, "", "", "", "", fmt.Sprintf("%.1f MiB", kib/1024)}
	if !judge {
		t.row(cells...)
		return
	}
	t.judged(kib <= bar, append(cells, fmt.Sprintf("<= %.0f MiB", bar/1024))...)
}

// verifications adds what verifying costs, beside the bare primitives.
func (t *table) verifications(all []verification) {
	for _, v := range all {
		cells := []string{"verify: " + v.name, v.floor.String(), "", v.verify.String(), "",
			fmt.Sprintf("%s ms, %.2fx floor", ms(v.verify.p50()), float64(v.verify.p50())/float64(v.floor.p50()))}
		if !v.judged {
			t.row(cells...)
			continue
		}
		t.judged(v.verify.p50() < maxVerify, append(cells, fmt.Sprintf("< %s ms", ms(maxVerify)))...)
	}
}

// binary adds the daemon's size and how many modules of others are in it.
func (t *table) binary(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	t.judged(info.Size() <= maxBinary, "binary", "", "", "", "", fmt.Sprintf("%.1f MiB", float64(info.Size())/(1<<20)), fmt.Sprintf("<= %d MiB", maxBinary>>20))
	build, err := buildinfo.ReadFile(path)
	if err != nil {
		return err
	}
	t.judged(len(build.Deps) <= maxModules, "third-party modules", "", "", "", "", fmt.Sprint(len(build.Deps)), fmt.Sprintf("<= %d", maxModules))
	return nil
}

// describe writes down what the figures depend on.
func (t *table) describe(opt options) error {
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fs, err := exec.Command("stat", "-f", "-c", "%T", opt.dir).Output()
	if err != nil {
		return fmt.Errorf("stat -f: %w", err)
	}
	tool, err := bpftoolVersion()
	if err != nil {
		return err
	}
	t.head = append(t.head,
		fmt.Sprintf("Linux %s, %d CPUs, load average %s, state on %s", unix.ByteSliceToString(uts.Release[:]), runtime.NumCPU(),
			strings.Fields(string(load))[0], strings.TrimSpace(string(fs))),
		fmt.Sprintf("%s, %d rounds in turns, %s", tool, opt.rounds, runtime.Version()))
	if strings.HasPrefix(string(fs), "tmpfs") {
		t.head = append(t.head, "fdatasync costs nothing on tmpfs: name a directory on a disk with -dir")
	}
	return nil
}

// bpftoolVersion says which bpftool, and whether it is linked with LLVM: that
// one spends 20 ms on starting, and comparing with it would flatter.
func bpftoolVersion() (string, error) {
	out, err := exec.Command("bpftool", "version").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("bpftool version: %w: %s", err, out)
	}
	first, _, _ := strings.Cut(string(out), "\n")
	if strings.Contains(string(out), "llvm") {
		return first + " WITH LLVM: do not compare with it", nil
	}
	return first + " without LLVM", nil
}

func (t *table) String() string {
	rule := make([]string, len(columns))
	width := make([]int, len(columns))
	for i := range columns {
		for _, row := range append(t.rows, columns) {
			width[i] = max(width[i], utf8.RuneCountInString(row[i]))
		}
		rule[i] = strings.Repeat("-", width[i])
	}
	var b strings.Builder
	for _, line := range t.head {
		fmt.Fprintln(&b, line)
	}
	b.WriteByte('\n')
	for _, row := range append([][]string{columns, rule}, t.rows...) {
		for i, cell := range row {
			fmt.Fprintf(&b, "| %-*s ", width[i], cell)
		}
		b.WriteString("|\n")
	}
	return b.String()
}
