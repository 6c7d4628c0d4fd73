package main_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testdaemon"
	"github.com/hornetd/hornetd/internal/testenv"
)

// asker is a process that asks: its user, groups and unit.
type asker struct {
	uid, gid uint32
	groups   []uint32
	unit     string
}

// as is the asker for hornetctl policy test.
func (a asker) as() []string {
	groups := []string{strconv.Itoa(int(a.gid))}
	for _, g := range a.groups {
		groups = append(groups, strconv.Itoa(int(g)))
	}
	args := []string{"--as", fmt.Sprintf("%d:%s", a.uid, strings.Join(groups, ","))}
	if a.unit != "" {
		args = append(args, "--unit", a.unit)
	}
	return args
}

// policyOffice is a daemon whose root of cgroups is systemd's, as far as it can see.
type policyOffice struct {
	*testdaemon.Host
	t    *testing.T
	root string // cgroup
}

// ask has a process of the asker's ask the daemon and returns the status and the
// body of the answer.
func (o policyOffice) ask(a asker, method, path string) (status int, body string) {
	o.t.Helper()
	dir := o.root
	if a.unit != "" {
		dir = filepath.Join(o.root, "system.slice", a.unit)
	}
	cmd := testenv.CgroupCommand(o.t, dir, "curl", "-sS", "--max-time", "20", "--unix-socket", o.Socket, "-X", method, "-w", "\n%{http_code}", "http://hornet"+path)
	cmd.Dir = "/"
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		o.t.Fatalf("curl: %v: %s", err, &stderr)
	}
	body, code, _ := strings.Cut(string(out), "\n")
	if i := strings.LastIndexByte(string(out), '\n'); i >= 0 {
		body, code = string(out[:i]), string(out[i+1:])
	}
	if status, err = strconv.Atoi(code); err != nil {
		o.t.Fatalf("curl: %q", out)
	}
	return status, body
}

// newPolicyOffice starts the daemon in a cgroup namespace with two units.
func newPolicyOffice(t *testing.T, units ...string) policyOffice {
	t.Helper()
	h := testdaemon.New(t, "")
	o := policyOffice{h, t, testenv.Cgroup(t)}
	for _, dir := range append([]string{""}, units...) {
		dir := filepath.Join(o.root, "system.slice", dir)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			err := os.Remove(dir)
			for tries := 0; err != nil && tries < 500; tries++ {
				time.Sleep(10 * time.Millisecond)
				err = os.Remove(dir)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	return o
}

// TestPolicyTest holds what hornetctl policy test says against what the daemon
// answers, cell by cell, to real processes of these users, groups and units.
func TestPolicyTest(t *testing.T) {
	testenv.NoLeaks(t)
	o := newPolicyOffice(t, "web.service", "db.service")
	o.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	const missing = "missing"
	manifests := map[string]string{
		"closed": "", missing: "",
		"users":  "[[allow]]\nuser = '2001'\nmay = ['status', 'load', 'read:connects']\n",
		"groups": "[[allow]]\ngroup = '50'\nmay = ['status', 'unload', 'events']\n[[allow]]\nuser = '50'\nmay = ['load']\n",
		"nobody": "[[allow]]\nuser = 'nobody'\nmay = ['status', 'load', 'unload', 'upgrade', 'events', 'read:*']\n[[allow]]\nuser = '65534'\nmay = ['events', 'read:connects']\n",
		"units":  "[[allow]]\nunit = 'web.service'\nmay = ['status', 'upgrade', 'read:*']\n[[allow]]\nuser = '2001'\nunit = 'db.service'\nmay = ['load', 'rw-fd:connects']\n",
	}
	for name, allow := range manifests {
		if name != missing {
			o.Manifest(name, connCount(testenv.Cgroup(t))+allow)
		}
	}
	if err := o.TryStart("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec unshare --cgroup "$@"`, o.root); err != nil {
		t.Fatalf("%v\n%s", err, o.Log())
	}
	askers := []asker{
		{0, 0, nil, ""}, {2001, 2001, nil, ""}, {2001, 2001, []uint32{50}, ""}, {2002, 50, nil, ""}, {50, 2003, nil, ""}, {65534, 65534, nil, ""},
		{2004, 2004, nil, "web.service"}, {2001, 2001, nil, "db.service"}, {2004, 2004, nil, "db.service"}, {65534, 65534, nil, "web.service"},
	}
	if !hasPeerPIDFD(t) {
		askers = askers[:6] // nobody's unit is known
	}
	requests := map[string][2]string{
		"status": {"GET", ""}, "load": {"POST", "/load"}, "upgrade": {"POST", "/upgrade"}, "unload": {"POST", "/unload"},
		"read:connects": {"GET", "/maps/connects/entries"}, "read:other": {"GET", "/maps/other/entries"}, "events": {},
	}
	cells, allowed := 0, 0
	for name := range manifests {
		if name != missing { // so that there is an event
			if _, stderr, exit := o.Ctl("load", name); exit != 0 {
				t.Fatal(stderr)
			}
		}
		for _, a := range askers {
			for verb, r := range requests {
				if verb == "events" && a.uid == 0 && name == missing {
					continue // there are none of what is not there
				}
				var denied bool
				var answer string
				if verb == "events" {
					_, answer = o.ask(a, "GET", "/v1/events")
					denied = !strings.Contains(answer, fmt.Sprintf(`"collection":%q`, name))
				} else {
					var status int
					status, answer = o.ask(a, r[0], "/v1/collections/"+name+r[1])
					denied = status == 403
				}
				stdout, stderr, exit := o.Ctl(append([]string{"policy", "test", "--config", o.Config, "-o", "json", verb, name}, a.as()...)...)
				if denied != (exit == 3) {
					t.Errorf("%+v %s %s: the daemon denies %t and says %s\nhornetctl: exit status %d\n%s%s", a, verb, name, denied, answer, exit, stdout, stderr)
				}
				if said := (struct {
					Allowed bool `json:"allowed"`
				}{}); exit == 0 && (json.Unmarshal([]byte(stdout), &said) != nil || !said.Allowed) {
					t.Errorf("%+v %s %s: exit status 0 and %s", a, verb, name, stdout)
				}
				if cells++; !denied {
					allowed++
				}
			}
		}
	}
	if hasPeerPIDFD(t) {
		curl, err := exec.LookPath("curl")
		if err != nil {
			t.Fatal(err)
		}
		if curl, err = filepath.EvalSymlinks(curl); err != nil {
			t.Fatal(err)
		}
		log := string(auditText(t, o.State))
		if want := fmt.Sprintf(`"unit":"web.service","exe":%q`, curl); !strings.Contains(log, want) {
			t.Errorf("the audit log has no caller with %s", want)
		}
	}
	t.Logf("%d cells, %d allowed", cells, allowed)
	if allowed < 40 || allowed > cells/2 {
		t.Error("a table of one answer shows nothing")
	}
}

// hasPeerPIDFD asks the kernel.
func hasPeerPIDFD(t *testing.T) bool {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fds[0])
	defer unix.Close(fds[1])
	pidfd, err := unix.GetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == nil {
		unix.Close(pidfd)
	}
	return err == nil
}

// auditText is the log as the plain file it is.
func auditText(t *testing.T, state string) []byte {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(state, "audit", "*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("audit log: %v, %v", files, err)
	}
	var all []byte
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, b...)
	}
	return all
}
