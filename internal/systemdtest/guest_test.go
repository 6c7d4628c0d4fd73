package systemdtest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// examples is where the objects and manifests lie in the guest.
const examples = "/root/examples"

// stage is something that several steps need and that is brought about once.
type stage struct {
	reached bool
	f       func(*testing.T)
}

func (s *stage) reach(t *testing.T) {
	t.Helper()
	if !s.reached {
		s.reached = true
		s.f(t)
	}
}

// run runs a command that must succeed and returns what it printed.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := try(name, args...)
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

func try(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// as runs a command as a user with the user's groups.
func as(user, name string, args ...string) (string, error) {
	return try("setpriv", append([]string{"--reuid=" + user, "--regid=" + user, "--init-groups", name}, args...)...)
}

func put(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// property is what systemd says of a unit.
func property(t *testing.T, unit, name string) string {
	t.Helper()
	return run(t, "systemctl", "show", "--value", "-p", name, unit)
}

// soon waits until what becomes true. It asks less often the longer that takes:
// what is asked with costs the guest's one processor as much as what is waited for.
func soon(t *testing.T, what string, f func() bool) {
	t.Helper()
	for began := time.Now(); !f(); time.Sleep(max(50*time.Millisecond, time.Since(began)/5)) {
		if time.Since(began) > 2*time.Minute {
			t.Fatalf("not within 2 minutes: %s", what)
		}
	}
}

// active waits until hornetd is, as another process than pid.
func active(t *testing.T, pid string) string {
	t.Helper()
	now := ""
	soon(t, "hornetd active, not as process "+pid, func() bool {
		is := map[string]string{}
		for _, l := range strings.Fields(run(t, "systemctl", "show", "-p", "MainPID,ActiveState", "hornetd")) {
			key, value, _ := strings.Cut(l, "=")
			is[key] = value
		}
		now = is["MainPID"]
		return is["ActiveState"] == "active" && now != "0" && now != pid
	})
	return now
}

// dropIn adds settings to hornetd.service and takes them away when t ends. Both
// take force at the next start.
func dropIn(t *testing.T, text string) {
	t.Helper()
	const file = "/run/systemd/system/hornetd.service.d/test.conf"
	put(t, file, "[Service]\n"+text+"\n")
	run(t, "systemctl", "daemon-reload")
	t.Cleanup(func() {
		os.Remove(file)
		run(t, "systemctl", "daemon-reload")
		try("systemctl", "reset-failed", "hornetd")
		run(t, "systemctl", "restart", "hornetd")
	})
}

const pins = "/sys/fs/bpf/hornet/"

// link is how bpftool shows one.
type link struct {
	ID      int      `json:"id"`
	ProgID  int      `json:"prog_id"`
	Type    string   `json:"type"`
	DevName string   `json:"devname"`
	Pinned  []string `json:"pinned"`
}

// links returns what the kernel has pinned below hornetd's root, by
// COLLECTION/LINK: the ids of link and program.
func links(t *testing.T) map[string]string {
	t.Helper()
	var all []link
	if err := json.Unmarshal([]byte(run(t, "bpftool", "-j", "-f", "link", "show")), &all); err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	for _, l := range all {
		for _, p := range l.Pinned {
			if rest, ok := strings.CutPrefix(p, pins); ok && !strings.HasPrefix(rest, "_guard/") {
				found[strings.Replace(rest, "/links/", "/", 1)] = fmt.Sprintf("link %d program %d", l.ID, l.ProgID)
			}
		}
	}
	return found
}

// collections are the names of which there are links.
func collections(links map[string]string) map[string]bool {
	names := map[string]bool{}
	for k := range links {
		name, _, _ := strings.Cut(k, "/")
		names[name] = true
	}
	return names
}

// total adds up every number in the values of a map.
func total(t *testing.T, collection, name string) int {
	t.Helper()
	return totals(t, []counter{{collection, name}})[0]
}

// counter is a map that only grows.
type counter struct{ collection, name string }

// totals reads maps with bpftool from their pins, and adds up every number in
// the values of each.
func totals(t *testing.T, counters []counter) []int {
	t.Helper()
	var batch strings.Builder
	for _, c := range counters {
		fmt.Fprintf(&batch, "map dump pinned %s%s/maps/%s\n", pins, c.collection, c.name)
	}
	const file = "/run/bpftool"
	put(t, file, batch.String())
	out := run(t, "bpftool", "-j", "batch", "file", file)
	type formatted struct{ Value any }
	var dumps []struct {
		Output []struct {
			Formatted struct {
				formatted
				Values []formatted // one for each processor
			}
		}
	}
	if err := json.Unmarshal([]byte(out), &dumps); err != nil || len(dumps) != len(counters) {
		t.Fatalf("%v: %s", err, out)
	}
	sums := make([]int, len(counters))
	for i, d := range dumps {
		for _, e := range d.Output {
			sums[i] += numbers(e.Formatted.Value)
			for _, v := range e.Formatted.Values {
				sums[i] += numbers(v.Value)
			}
		}
	}
	return sums
}

func numbers(v any) int {
	switch v := v.(type) {
	case float64:
		return int(v)
	case map[string]any:
		sum := 0
		for _, x := range v {
			sum += numbers(x)
		}
		return sum
	}
	return 0
}

// tell shows what hornetd and systemd said while a test that failed ran.
func tell(t *testing.T) {
	if !t.Failed() {
		return
	}
	for _, c := range [][]string{
		{"systemctl", "status", "--no-pager", "--lines=0", "hornetd.service", "hornetd.socket"},
		{"journalctl", "--no-pager", "--output=short-monotonic", "--lines=60", "-u", "hornetd.service", "-u", "hornetd.socket"},
	} {
		out, _ := try(c[0], c[1:]...)
		t.Logf("%s\n%s", strings.Join(c, " "), out)
	}
}
