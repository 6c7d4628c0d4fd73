package main_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
	"github.com/hornetd/hornetd/internal/vmtest"
)

// TestGuardWithoutLSM: where the kernel was booted with lsm= without bpf, which is the way
// out of a guard, a hornetd that must guard does not become ready and says what to boot with,
// and root loads what he wants. On the host this boots such a guest; others are not asked.
func TestGuardWithoutLSM(t *testing.T) {
	if testing.Short() && !vmtest.InGuest() {
		t.Skip("boots a guest")
	}
	if !vmtest.In(t, "6.12", func(g *vmtest.Guest) {
		g.LSM = "landlock,yama"
		g.Files["/vm/bin/hornetd"] = testdaemon.Binary(t, "hornetd")
	}) {
		return
	}
	list, err := os.ReadFile("/sys/kernel/security/lsm")
	if err != nil {
		t.Fatal(err)
	}
	if slices.Contains(strings.Split(strings.TrimSpace(string(list)), ","), "bpf") {
		t.Skip("is run by other tests: the host's, which boots a guest for it")
	}
	h := testdaemon.New(t, "\n[guard]\nmode = \"enforce\"\n")
	log := signedHost{h, t, t.TempDir()}.fromInit()
	if _, err := h.Client().Status(t.Context()); err == nil || !strings.Contains(log, "no bpf among the LSMs") || !strings.Contains(log, "hint: boot with lsm=") || !strings.Contains(log, ",bpf ") {
		t.Errorf("ready: %v: %s", err == nil, log)
	}
	object := filepath.Join(t.TempDir(), "other.o")
	if err := os.WriteFile(object, example(t, "conn-count/conn_count.bpf.o"), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, ok := tool(t, "prog", "loadall", object, filepath.Join(testenv.BPFFS(t), "all")); !ok {
		t.Errorf("root is refused to load: %s", out)
	}
}
