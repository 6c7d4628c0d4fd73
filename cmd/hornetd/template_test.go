package main_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// onInstances is conn-count as a template: each instance is a child of a cgroup.
func onInstances(parent, more string) string {
	return "instances = \"web[0-9]\"\n" + more + strings.ReplaceAll(connCount(filepath.Join(parent, "%i")), `start = "request"`, "") +
		"[[allow]]\nuser = \"1000\"\nmay = [\"load\", \"unload\", \"status\"]\n"
}

func TestTemplate(t *testing.T) {
	testenv.NoLeaks(t)
	h := testdaemon.New(t, "")
	parent := testenv.Cgroup(t)
	for _, name := range []string{"web1", "web2", "db1"} {
		dir := filepath.Join(parent, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { os.Remove(dir) })
	}
	h.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	h.Manifest("count@", onInstances(parent, ""))
	h.Start()
	for _, name := range []string{"count@web1", "count@web2"} {
		if _, stderr, exit := h.CtlAs(1000, "load", name); exit != 0 {
			t.Fatalf("load %s: %d, %s", name, exit, stderr)
		}
	}
	one, two := get(t, h, "count@web1"), get(t, h, "count@web2")
	if len(kernelLinks(t, one)) != 2 || len(kernelLinks(t, two)) != 2 || !strings.HasSuffix(one.Links[0].Target, "/web1") || !strings.HasSuffix(two.Links[0].Target, "/web2") {
		t.Errorf("%+v\n%+v", one.Links, two.Links)
	}

	for name, want := range map[string]int{"count@": api.ExitUsage, "count@db1": api.ExitFailure, "count@web1x": api.ExitFailure, "count@..": api.ExitUsage, "count@web1@": api.ExitUsage, "other@web1": api.ExitFailure} {
		if _, stderr, exit := h.Ctl("load", name); exit != want || !strings.Contains(stderr, "hint: ") {
			t.Errorf("load %s: %d, %s", name, exit, stderr)
		}
	}
	if _, _, exit := h.CtlAs(1001, "load", "count@web1"); exit != api.ExitDenied {
		t.Errorf("somebody else: %d", exit)
	}

	h.Kill()
	h.Start()
	if _, stderr, exit := h.Ctl("reload"); exit != 0 {
		t.Errorf("reload: %d, %s", exit, stderr)
	}
	for _, was := range []api.Collection{one, two} {
		if now := get(t, h, was.Name); now.State != api.StateRunning || now.Programs[0].ID != was.Programs[0].ID {
			t.Errorf("%s after a restart and a reload: %+v", was.Name, now)
		}
	}

	// The template is one manifest: its version is that of all instances.
	h.Manifest("count@", onInstances(parent, "version = 2\n"))
	if _, stderr, exit := h.Ctl("reload"); exit != 0 {
		t.Errorf("reload: %d, %s", exit, stderr)
	}
	for _, was := range []api.Collection{one, two} {
		if now := get(t, h, was.Name); now.LoadedBy.UID != 1000 {
			t.Errorf("%s is root's now: %+v", was.Name, now.LoadedBy)
		}
		if now := get(t, h, was.Name); now.Version != 2 || now.Programs[0].ID == was.Programs[0].ID {
			t.Errorf("%s with another template: %+v", was.Name, now)
		}
	}
	for range 2 {
		if _, stderr, exit := h.CtlAs(1000, "unload", "count@web2"); exit != 0 {
			t.Errorf("unload: %d, %s", exit, stderr)
		}
	}
	if _, stderr, exit := h.CtlAs(1000, "show", "count@web2"); exit != api.ExitFailure || !strings.Contains(stderr, "hornetctl load") {
		t.Errorf("show: %d, %s", exit, stderr)
	}
	h.Manifest("count@", onInstances(parent, "version = 1\n"))
	if _, stderr, exit := h.Ctl("load", "count@web2"); exit != api.ExitSignature || !strings.Contains(stderr, "rollback count@") {
		t.Errorf("an older version: %d, %s", exit, stderr)
	}

	if err := os.Remove(filepath.Join(h.Manifests, "count@.toml")); err != nil {
		t.Fatal(err)
	}
	if _, stderr, exit := h.Ctl("reload"); exit != 0 {
		t.Errorf("reload: %d, %s", exit, stderr)
	}
	if stdout, _, _ := h.Ctl("list"); strings.Contains(stdout, "count@") {
		t.Errorf("its template is gone, and it is there:\n%s", stdout)
	}
}
