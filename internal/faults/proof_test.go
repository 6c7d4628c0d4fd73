package faults

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// bug is a change of the source that a test of this package must notice.
type bug struct {
	name     string
	file     string // from the module's root
	old, new string // new takes the place of old, which is there once
	test     string
	points   string // what of TestPoints: verb, fault, call
}

// bugs are seeded one at a time. What no test here can notice:
//
//   - RENAME_NOREPLACE of a first load (plain rename): the root is hornetd's
//     alone, by its lock, so that nobody takes the name in between.
//   - the syncs of directories: behind the ratchet's rename, and where the log is
//     made. ext4 has one journal, so that the sync of the record that follows
//     commits the name as well. audit's tests and strace count them instead.
//   - that unload waits until the kernel has let go of a link (waitGone), and
//     detaches before it unpins: it does so some milliseconds later by itself,
//     which the oracle allows.
//   - that calls are repeated when a signal interrupts them: an error that says so
//     is an answer as well.
var bugs = []bug{
	{"replace by two renames", "pinning/stage.go", "	if err := st.store.dir.rename(st.id, st.name.s, flags); err != nil {",
		"	if flags == unix.RENAME_EXCHANGE {\n		st.store.dir.rename(st.name.s, st.id+\"x\", unix.RENAME_NOREPLACE)\n		st.store.dir.rename(st.id, st.name.s, unix.RENAME_NOREPLACE)\n		st.store.dir.rename(st.id+\"x\", st.id, unix.RENAME_NOREPLACE)\n	} else if err := st.store.dir.rename(st.id, st.name.s, flags); err != nil {",
		"TestPoints", "upgrade KILL renameat2"},
	{"a collection is removed in place", "pinning/remove.go", "	if err := s.dir.rename(dir, id, unix.RENAME_NOREPLACE); err != nil {\n		return fmt.Errorf(\"remove: %w\", err)\n	}\n	return s.takeDown(id, keep)", "	id = dir\n	return s.takeDown(id, keep)",
		"TestPoints", "unload KILL unlinkat"},
	{"the stage's directory stays", "pinning/takedown.go", "	return going, s.dir.rmdir(name)", "	return going, nil",
		"TestPoints", "load ENOSPC renameat2"},
	{"links are not unpinned", "pinning/takedown.go", "	for _, e := range ents {\n		if err := remove(d, e); err != nil {", "	for _, e := range ents {\n		if e.name == linksDir {\n			continue\n		}\n		if err := remove(d, e); err != nil {",
		"TestPoints", "load ENOSPC renameat2"},
	{"a refused load leaves its stage", "internal/daemon/load.go", "	defer func() { d.tell(\"discard\", stage.Discard()) }() // no effect after the commit\n", "",
		"TestPoints", "load ENOSPC renameat2"},
	{"links are not switched back", "internal/daemon/attach.go", "		if !a.kept {\n", "		if false {\n",
		"TestPoints", "upgrade ENOSPC renameat2"},
	{"links are switched back behind the commit", "internal/daemon/load.go", "	links.keep()\n", "",
		"TestPoints", "upgrade ENOSPC renameat2"},
	{"links stay open", "internal/daemon/attach.go", "	for _, l := range a.links {\n		l.Close()\n	}\n", "	forgotten = append(forgotten, a.links)\n",
		"TestPoints", "unload EINTR renameat2"},
	{"the start does not switch back", "internal/daemon/adopt.go", "	if err := d.switchBack(); err != nil {\n		return err\n	}\n", "",
		"TestPoints", "upgrade KILL renameat2"},
	{"the start sweeps before it switches back", "internal/daemon/adopt.go", "	if err := d.switchBack(); err != nil {\n		return err\n	}\n	trials, err", "	d.store.Sweep()\n	if err := d.switchBack(); err != nil {\n		return err\n	}\n	trials, err",
		"TestPoints", "upgrade KILL renameat2"},
	{"the start does not sweep", "internal/daemon/adopt.go", "	swept, err := d.store.Sweep(sortedKeys(trials)...)\n", "	_ = trials\n	var swept []string\n",
		"TestPoints", "load KILL renameat2"},
	{"a sweep detaches what is pinned elsewhere", "pinning/remove.go", "		keep = s.linksOf(c.committed...).and(", "		keep = s.linksOf().and(",
		"TestPoints", "upgrade KILL renameat2"},
	{"a replacement detaches what it took over", "pinning/stage.go", "	if err := st.store.takeDown(st.id, st.store.linksOf(st.name)); err != nil {\n		return fmt.Errorf(\"collection %q: replaced", "	if err := st.store.takeDown(st.id, spared{}); err != nil {\n		return fmt.Errorf(\"collection %q: replaced",
		"TestPoints", "upgrade ENOSPC renameat2"},
	{"an old collection's stage is not taken down", "pinning/stage.go", "	if err := st.store.takeDown(st.id, st.store.linksOf(st.name)); err != nil {\n		return fmt.Errorf(\"collection %q: replaced: %w\", st.name, err)\n	}\n	return nil", "	return nil",
		"TestPoints", "upgrade EINTR linkat"},
	{"maps are not frozen", "loader/maps.go", "		if err := ms.freeze(name); err != nil {\n			return fmt.Errorf(\"freeze: %w\", err)\n		}\n", "",
		"TestPoints", "load EINTR mkdirat"},
	{"kept maps begin anew", "internal/daemon/load.go", "d.kept(p.old, p.m,", "d.kept(nil, p.m,",
		"TestPoints", "upgrade ENOSPC renameat2"},
	{"one error leaves a link running behind an unload", "pinning/takedown.go", "		more, err = s.clear(name, keep)\n", "		more, err = nil, fmt.Errorf(\"%w\", err)\n",
		"TestPoints", "unload EIO unlinkat"},
	{"one error at the start puts aside what is whole", "pinning/store.go", "func Unanswered(err error) bool {\n	return ", "func Unanswered(err error) bool {\n	return false && ",
		"TestPoints", "start EPERM bpf"},
	{"one error puts a stage into quarantine", "pinning/remove.go", "		if err != nil {\n			errs = append(errs, fmt.Errorf(\"%s: %w\", stage, err))\n			aside = append(aside, stage)\n			continue\n		}\n		if !known {", "		if err != nil || !known {",
		"TestPoints", "start ENOMEM getdents64"},
	{"no record of the intent", "internal/daemon/act.go", "	rec, err := a.d.audit.Append(rec)\n	if err != nil {\n		return unrecorded{err}\n	}\n	a.rec.Intent = rec.Seq\n", "	a.rec.Intent = 1\n",
		"TestPoints", "load KILL renameat2"},
	{"the outcome is on record before it is one", "internal/daemon/load.go", "	if err := commit(); err != nil {\n		return err\n	}\n", "	a.conclude(nil)\n	a.quiet = true\n	if err := commit(); err != nil {\n		a.quiet = false\n		return nil\n	}\n",
		"TestPoints", "load ENOSPC renameat2"},
	{"no record of the outcome", "internal/daemon/act.go", "	if _, recErr := a.d.audit.Append(a.rec); recErr != nil {", "	if recErr := error(nil); recErr != nil {",
		"TestPoints", "load EINTR mkdirat"},
	{"a failed commit is answered as done", "internal/daemon/load.go", "	if err := commit(); err != nil {\n		return err\n	}\n", "	if err := commit(); err != nil {\n		return nil\n	}\n",
		"TestPoints", "load ENOSPC renameat2"},
	{"one error has a link attached anew", "internal/daemon/attach.go", "	if err != nil {\n		return false, err\n	}\n	return state.Alive()", "	return err == nil && state.Alive()",
		"TestPoints", "upgrade EINTR bpf"},
	{"no lock on the root", "pinning/lock.go", "	err := uninterrupted(func() error { return unix.Flock(s.dir.fd, unix.LOCK_EX|unix.LOCK_NB) })\n", "	var err error\n",
		"TestRacingStarts|TestStopped", ""},
	{"records are not synced", "audit/log.go", "	if err := fdatasync(l.file); err != nil {\n		// The", "	if err := error(nil); err != nil {\n		// The",
		"TestPowerCut", ""},
	{"the ratchet is renamed before it is on disk", "internal/daemon/ratchet.go", "	return errors.Join(err, f.Sync(), f.Close())\n}\n\nfunc syncDir", "	return errors.Join(err, f.Close())\n}\n\nfunc syncDir",
		"TestPowerCut", ""},
	{"loads in the log do not count", "internal/daemon/ratchet.go", "r.Phase == audit.Outcome && (r.Verb == asLoad.verb", "r.Phase == audit.Refusal && (r.Verb == asLoad.verb",
		"TestPowerCut", ""},
	{"a rollback is not written down", "internal/daemon/ratchet.go", "		return d.setRatchet(next)\n	})", "		d.ratchet.Ratchet = next\n		return nil\n	})",
		"TestPowerCut", ""},
}

// TestProof seeds bugs and wants each of them to be noticed. `make faults-proof`
// seeds all of them; otherwise it is one, by chance.
func TestProof(t *testing.T) {
	if os.Getenv("HORNET_BIN") != "" {
		return // one of the tests that this one starts
	}
	var run []bug
	for _, b := range bugs {
		if *proof && strings.Contains(b.name, *only) || !*proof && b.points != "" { // what chance notices is left to the whole run
			run = append(run, b)
		}
	}
	if !*proof {
		n := rand.IntN(len(run))
		run = run[n : n+1]
	}
	caught := 0
	for _, b := range run {
		began := time.Now()
		by := b.seed(t)
		if by != "" {
			caught++
		} else {
			t.Errorf("%s: not noticed", b.name)
			by = "not noticed"
		}
		t.Logf("%-50s | %-45s | %s (%.0f s)", b.name, by, strings.TrimSpace(b.test+" "+b.points), time.Since(began).Seconds())
	}
	t.Logf("%d of %d bugs noticed", caught, len(run))
}

// TestSeeds: what a bug changes is there, in one place. Only one is seeded where not
// all are.
func TestSeeds(t *testing.T) {
	for _, b := range bugs {
		text, err := os.ReadFile(filepath.Join("../..", b.file))
		if err != nil {
			t.Fatal(err)
		}
		if n := strings.Count(string(text), b.old); n != 1 {
			t.Errorf("%s: %s has the text to change %d times", b.name, b.file, n)
		}
	}
}

var invariant = regexp.MustCompile(`I[1-7]: [^\n]*`)

// seed builds hornetd with the bug and returns what noticed it, "" for nothing.
func (b bug) seed(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	source := filepath.Join(root, b.file)
	text, err := os.ReadFile(source)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(text), b.old); n != 1 {
		t.Fatalf("%s: %s has the text to change %d times", b.name, b.file, n)
	}
	changed := strings.Replace(string(text), b.old, b.new, 1)
	if strings.Contains(b.new, "forgotten") {
		changed += "\nvar forgotten []any\n"
	}
	dir := t.TempDir()
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{source: filepath.Join(dir, "changed.go")}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string][]byte{"changed.go": []byte(changed), "overlay.json": overlay} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-overlay", filepath.Join(dir, "overlay.json"), "-o", dir+"/", "./cmd/hornetd", "./cmd/hornetctl")
	build.Dir = root
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: does not build: %v\n%s", b.name, err, out)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^("+b.test+")$", "-test.v", "-test.timeout=5m", "-faults.first", "-faults.only="+b.points)
	cmd.Env = append(os.Environ(), "HORNET_BIN="+dir)
	out, err := cmd.CombinedOutput()
	if err == nil {
		return ""
	}
	if i := invariant.Find(out); i != nil {
		return string(i[:min(len(i), 60)])
	}
	for line := range strings.Lines(string(out)) {
		if strings.Contains(line, "_test.go:") && !strings.Contains(line, " points: ") {
			return strings.TrimSpace(line)[:min(len(strings.TrimSpace(line)), 60)]
		}
	}
	return "the test fails"
}
