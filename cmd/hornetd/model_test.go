package main_test

import (
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

var modelSeed = flag.Uint64("model.seed", 0, "run TestTrustModel with this seed only")

// content is what can be on disk and what can run: a version, one of a few
// manifests and objects, and a signer.
type content struct {
	version          int
	manifest, object string
	signer           string
}

// bound is what the model remembers of one signer: the newest that was loaded,
// or what a rollback set.
type bound struct {
	content
	any  bool    // a rollback: any contents of the version
	left content // what it went back from
}

// model is what hornetd should do, in a few lines: no files, no signatures.
type model struct {
	disk    content
	running *content
	newest  map[string]bound
	// The list on disk and the one in force.
	onDisk, inForce revocations
}

type revocations struct {
	serial  int
	signers []string
	minimum int
}

func (r revocations) refuses(c content) string {
	switch {
	case slices.Contains(r.signers, c.signer):
		return "revoked"
	case c.version < r.minimum:
		return "rolled-back"
	}
	return ""
}

// refuses returns the verdict on loading c, "" for none.
func (m *model) refuses(c content) string {
	b, known := m.newest[c.signer]
	listed := m.inForce.refuses(c)
	switch {
	case listed != "":
		return listed
	case known && c.version < b.version:
		return "rolled-back"
	case known && c.version == b.version && c.version > 0 && !b.any && c != b.content:
		return "rolled-back"
	}
	return ""
}

func (m *model) loaded(c content) {
	m.running, m.newest[c.signer] = &c, bound{content: c}
}

// reload returns the verdict that stops it.
func (m *model) reload() string {
	m.inForce = m.onDisk // comes into force even where the rest does not
	if m.running == nil || *m.running == m.disk {
		return ""
	}
	verdict := m.refuses(m.disk)
	sameManifest := m.running.version == m.disk.version && m.running.manifest == m.disk.manifest
	switch {
	case verdict == "" && (!sameManifest || m.running.object != m.disk.object):
		m.loaded(m.disk)
	case m.inForce.refuses(m.disk) == "" && !sameManifest: // what a list refuses stops that one change
		return verdict
	}
	return ""
}

// start is what a start does, and a reload behind it.
func (m *model) start() {
	m.inForce = m.onDisk
	if m.running == nil {
		return
	}
	b, known := m.newest[m.running.signer]
	if leaves := known && b.any && b.left == *m.running; !leaves && (!known || m.running.version >= b.version) {
		m.newest[m.running.signer] = bound{content: *m.running}
	}
}

func (m *model) rollback(to int) bool {
	newest := -1
	for _, b := range m.newest {
		newest = max(newest, b.version)
	}
	if newest < to {
		return false
	}
	for signer, b := range m.newest {
		if b.version < to {
			continue
		}
		if !b.any {
			b.left = b.content
		}
		b.version, b.any = to, true
		m.newest[signer] = b
	}
	return true
}

// TestTrustModel does random things, and after each compares what hornetd and
// the kernel say with the model.
func TestTrustModel(t *testing.T) {
	testenv.NoLeaks(t)
	seeds, steps := []uint64{1, 2, 3, 4}, 200
	if testing.Short() {
		seeds = seeds[:2]
	}
	if *modelSeed != 0 {
		seeds = []uint64{*modelSeed}
	}
	all := map[string]int{}
	for _, seed := range seeds {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { runModel(t, rand.New(rand.NewPCG(seed, 0)), steps, all) })
	}
	for _, what := range []string{"load", "load rolled-back", "load revoked", "reload", "reload rolled-back"} {
		if all[what] == 0 {
			t.Errorf("no %s among %v: the sequences show little", what, all)
		}
	}
}

// runModel counts in all how what it did ended.
func runModel(t *testing.T, random *rand.Rand, steps int, all map[string]int) {
	h := testdaemon.New(t, rooted)
	cgroup := testenv.Cgroup(t)
	signers := map[string]second{"a": signer(t, h, "a"), "b": signer(t, h, "b")}
	original := example(t, "conn-count/conn_count.bpf.o")
	objects := map[string][]byte{"x": original, "y": append(slices.Clone(original), 0)}
	m := &model{newest: map[string]bound{}}
	pick := func(of ...string) string { return of[random.IntN(len(of))] }

	write := func() string {
		m.disk = content{random.IntN(5), pick("p", "q"), pick("x", "x", "y"), pick("a", "a", "b")}
		h.Object("conn_count.bpf.o", objects[m.disk.object])
		h.Write("hornet.d/conn_count.bpf.o.p7s", signers[m.disk.signer].sign(t, objects[m.disk.object]))
		h.Manifest("count", counting(cgroup, "request", m.disk.version, m.disk.manifest))
		return fmt.Sprintf("write %+v", m.disk)
	}
	outcomes := map[string]int{}
	// agree wants the verdict, "" for none.
	agree := func(did, want string, err error) {
		t.Helper()
		word, _, _ := strings.Cut(did, " ")
		outcomes[strings.TrimSpace(word+" "+want)]++
		var e *api.Error
		switch {
		case err == nil && want == "":
		case errors.As(err, &e) && want != "" && (string(e.Kind) == want || strings.Contains(e.Message, ": "+want+": ")):
		default:
			t.Fatalf("%s: %v, the model says %q", did, err, want)
		}
	}
	restart := func(before func()) {
		h.Kill()
		before()
		h.Start()
		m.start()
		_, err := reload(t, h)
		agree("reload behind a start", m.reload(), err)
	}
	loading := func() string {
		want := m.refuses(m.disk)
		if m.running != nil {
			want = ""
			if m.running.version != m.disk.version || m.running.manifest != m.disk.manifest {
				want = "conflict"
			}
		} else if want == "" {
			m.loaded(m.disk)
		}
		agree("load", want, tryLoad(h))
		return "load"
	}
	unloading := func() string { unload(t, h, "count"); m.running = nil; return "unload" }
	reloading := func() string {
		_, err := reload(t, h)
		agree("reload", m.reload(), err)
		return "reload"
	}
	operations := []func() string{
		write, write, write, write, write, loading, loading, loading, loading, loading, loading,
		unloading, unloading, unloading, reloading, reloading, reloading,
		func() string { restart(func() {}); return "restart" },
		func() string {
			restart(func() {
				m.running = nil
				for name := range onBPFFS(t, h) {
					if err := os.RemoveAll(filepath.Join(h.BPFFS, name)); err != nil {
						t.Fatal(err)
					}
				}
			})
			return "reboot"
		},
		func() string {
			restart(func() {
				m.newest = map[string]bound{}
				lose := []func(string) error{os.Remove, func(p string) error { return os.Truncate(p, 50) }}[random.IntN(2)]
				if err := lose(filepath.Join(h.State, "ratchet")); err != nil {
					t.Fatal(err)
				}
			})
			return "lost state"
		},
		func() string {
			to := random.IntN(5)
			want := m.rollback(to)
			_, stderr, exit := h.Ctl("rollback", "count", "--to", fmt.Sprint(to), "--reason", "model")
			if (exit == 0) != want {
				t.Fatalf("rollback to %d: exit %d, the model says %t: %s", to, exit, want, stderr)
			}
			return fmt.Sprint("rollback to ", to)
		},
		func() string {
			m.onDisk = revocations{serial: m.onDisk.serial + 1}
			list := fmt.Sprintf("serial = %d\n", m.onDisk.serial)
			if random.IntN(3) == 0 {
				m.onDisk.signers = []string{pick("a", "b")}
				list += fmt.Sprintf("[[key]]\nid = %q\n", signers[m.onDisk.signers[0]].keyID(t))
			}
			if random.IntN(3) == 0 {
				m.onDisk.minimum = 1 + random.IntN(3)
				list += fmt.Sprintf("[[manifest]]\nname = 'count'\nversion = %d\n", m.onDisk.minimum)
			}
			h.Revoke(list)
			return "list " + strings.ReplaceAll(list, "\n", " ")
		},
	}

	var did []string
	defer func() {
		if t.Failed() {
			t.Logf("%d steps:\n%s", len(did), strings.Join(did, "\n"))
		}
	}()
	defer func() {
		t.Logf("%d steps: %v", len(did), outcomes)
		for what, n := range outcomes {
			all[what] += n
		}
	}()
	did = append(did, write())
	h.Start()
	did = append(did, loading()) // from here the ratchet's file is there
	for range steps {
		did = append(did, "then")
		did[len(did)-1] = operations[random.IntN(len(operations))]()
		c := get(t, h, "count")
		switch {
		case m.running == nil && c.State == api.StateRunning, m.running != nil && c.State != api.StateRunning:
			t.Fatalf("%s, the model says %+v", c.State, m.running)
		case m.running != nil && (c.Version != uint64(m.running.version) || c.Description != "v "+m.running.manifest || c.Signature.Signer.Name != m.running.signer):
			t.Fatalf("version %d, %q by %q; the model says %+v", c.Version, c.Description, c.Signature.Signer.Name, *m.running)
		case m.running != nil && len(kernelLinks(t, c)) != 1:
			t.Fatalf("links: %v", kernelLinks(t, c))
		}
	}
}
