package lsm

import (
	"path/filepath"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/testenv"
)

// arm arms a guard for the test, on a bpffs of its own. At the end it is disarmed;
// should that fail, it falls back to audit two minutes after it was armed.
func arm(t testing.TB, change func(*Config)) *Guard {
	t.Helper()
	guestOnly(t)
	return armIn(t, filepath.Join(testenv.BPFFS(t), "guard"), change)
}

func armIn(t testing.TB, dir string, change func(*Config)) *Guard {
	t.Helper()
	c := Config{Mode: Enforce, ConfirmWithin: 10 * time.Minute, Cgroup: testenv.CgroupRoot(t)}
	if change != nil {
		change(&c)
	}
	g, err := Arm(dir, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if g.programs == nil { // closed by the test
			return
		}
		if err := g.Disarm(); err != nil {
			t.Error(err)
		}
	})
	return g
}

func TestProbe(t *testing.T) {
	guestOnly(t)
	s := Probe()
	if err := s.Err(); err != nil {
		t.Fatal(err)
	}
	t.Logf("hooks %v, open %v", s.Hooks, s.Open)
}

func TestArm(t *testing.T) {
	g := arm(t, nil)
	s, err := g.Status()
	if err != nil {
		t.Fatal(err)
	}
	if !s.Enforces || !s.Current || s.Confirm == 0 {
		t.Errorf("status %+v", s)
	}
	// A start that replaces a guard has it looked at, and so has every upgrade.
	looked := func(programs map[string]*ebpf.Program, most uint32) {
		t.Helper()
		for name, p := range programs {
			info, err := p.Info()
			if err != nil {
				t.Fatal(err)
			}
			if n, ok := info.VerifiedInstructions(); !ok || n > most {
				t.Errorf("%s: the verifier went through %d instructions, %v, want %d at most", name, n, ok, most)
			}
		}
	}
	looked(g.programs, 20_000)
	looked(g.floor, 80_000) // all its functions anew for each way to them: see loadOne
	newMap(t)               // hornetd may
	if out, err := child("create", nil).CombinedOutput(); err == nil {
		t.Errorf("a child of hornetd made a map: %s", out)
	}
	if err := g.SetMode(Audit, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := child("create", nil).CombinedOutput(); err != nil {
		t.Errorf("in audit mode: %v: %s", err, out)
	}
}

func newMap(t testing.TB) *ebpf.Map {
	t.Helper()
	m, err := ebpf.NewMap(&ebpf.MapSpec{Name: "test", Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// childCreates makes a map.
func childCreates([]string) error {
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: 1})
	if err != nil {
		return err
	}
	return m.Close()
}
