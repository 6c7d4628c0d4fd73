package lsm

import (
	"bufio"
	"os"
	"testing"
	"time"

	"github.com/hornetd/hornetd/internal/testenv"
)

// A file that has gone is hornetd no more, whatever gets its number; one that is
// executed has not gone.
func TestExecutableGone(t *testing.T) {
	guestOnly(t)
	home := testenv.Cgroup(t)
	g := arm(t, func(c *Config) { c.Cgroup = home })
	exe := copyOf(t, self(t))
	f, err := os.Open(exe)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Enroll(f); err != nil {
		t.Fatal(err)
	}
	f.Close()
	enrolled := func() int {
		t.Helper()
		all, err := g.Enrolled()
		if err != nil {
			t.Fatal(err)
		}
		return len(all)
	}
	p, out := fromInit(t, home, exe, "waits")
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(exe, exe+".too"); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{exe, exe + ".too"} {
		if err := os.Remove(name); err != nil {
			t.Fatal(err)
		}
		if n := enrolled(); n != 1 {
			t.Errorf("without %s, and executed: %d are enrolled, want 1", name, n)
		}
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); enrolled() != 0; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the file has gone, and is enrolled")
		}
	}
	var gone Executable
	var digest [32]byte
	all := g.maps[digestsMap].Iterate()
	for all.Next(&gone, &digest) {
		t.Errorf("the file has gone, and its digest is kept: %+v", gone)
	}
	if err := all.Err(); err != nil {
		t.Error(err)
	}
}
