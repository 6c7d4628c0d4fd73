package main_test

import (
	"encoding/json"
	"errors"
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
func (o policyOffice) ask(a asker, method, path string, args ...string) (status int, body string) {
	o.t.Helper()
	args = append([]string{"curl", "-sS", "--max-time", "20", "--unix-socket", o.Socket, "-X", method, "-w", "\n%{http_code}", "http://hornet" + path}, args...)
	out, err := o.command(a, args...).Output()
	if err != nil {
		o.t.Fatalf("curl %s: %v: %s", path, err, out)
	}
	i := strings.LastIndexByte(string(out), '\n')
	if status, err = strconv.Atoi(string(out[i+1:])); err != nil {
		o.t.Fatalf("curl: %q", out)
	}
	return status, string(out[:max(i, 0)])
}

// command is a process of the asker's.
func (o policyOffice) command(a asker, argv ...string) *exec.Cmd {
	o.t.Helper()
	dir := o.root
	if a.unit != "" {
		dir = filepath.Join(o.root, "system.slice", a.unit)
	}
	cmd := testenv.CgroupCommand(o.t, dir, argv[0], argv[1:]...)
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), "HORNET_SOCKET="+o.Socket)
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid, Groups: a.groups}
	return cmd
}

// newPolicyOffice starts the daemon in a cgroup namespace with two units.
func newPolicyOffice(t *testing.T, rules string, units ...string) policyOffice {
	t.Helper()
	h := testdaemon.New(t, rules)
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

// start has the daemon take its cgroup for the root.
func (o policyOffice) start() {
	o.t.Helper()
	if err := o.TryStart("sh", "-c", `echo $$ >"$0/cgroup.procs" && exec unshare --cgroup "$@"`, o.root); err != nil {
		o.t.Fatalf("%v\n%s", err, o.Log())
	}
}

func policyAskers(t *testing.T) []asker {
	all := []asker{
		{0, 0, nil, ""}, {2001, 2001, nil, ""}, {2001, 2001, []uint32{50}, ""}, {2002, 50, nil, ""}, {50, 2003, nil, ""}, {65534, 65534, nil, ""},
		{2004, 2004, nil, "web.service"}, {2001, 2001, nil, "db.service"}, {2004, 2004, nil, "db.service"}, {65534, 65534, nil, "web.service"},
	}
	if !hasPeerPIDFD(t) {
		return all[:6] // nobody's unit is known
	}
	return all
}

// TestPolicyTest holds what hornetctl policy test says against what the daemon
// answers, cell by cell, to real processes of these users, groups and units.
func TestPolicyTest(t *testing.T) {
	testenv.NoLeaks(t)
	o := newPolicyOffice(t, "", "web.service", "db.service")
	o.Object("conn_count.bpf.o", example(t, "conn-count/conn_count.bpf.o"))
	const missing, broken = "missing", "broken"
	manifests := map[string]string{
		"closed": "", missing: "", broken: "nonsense = 1\n[[allow]]\nuser = '2001'\nmay = ['status', 'load']\n",
		"users":  "[[allow]]\nuser = '2001'\nmay = ['status', 'load', 'read:connects', 'fd:connects']\n",
		"groups": "[[allow]]\ngroup = '50'\nmay = ['status', 'unload', 'events']\n[[allow]]\nuser = '50'\nmay = ['load']\n",
		"nobody": "[[allow]]\nuser = 'nobody'\nmay = ['status', 'load', 'unload', 'upgrade', 'events', 'read:*']\n[[allow]]\nuser = '65534'\nmay = ['events', 'read:connects']\n",
		"units":  "[[allow]]\nunit = 'web.service'\nmay = ['status', 'upgrade', 'read:*']\n[[allow]]\nuser = '2001'\nunit = 'db.service'\nmay = ['load', 'rw-fd:connects']\n",
	}
	for name, allow := range manifests {
		if name != missing {
			o.Manifest(name, connCount(testenv.Cgroup(t))+allow)
		}
	}
	o.start()
	askers := policyAskers(t)
	upgrade := []string{"-H", "Connection: Upgrade", "-H", "Upgrade: hornet-fd", "--http1.1", "-N"}
	requests := map[string]struct {
		method, path string
		args         []string
	}{
		"status": {"GET", "", nil}, "load": {"POST", "/load", nil}, "upgrade": {"POST", "/upgrade", nil}, "unload": {"POST", "/unload", nil}, "events": {},
		"read:connects": {"GET", "/maps/connects/entries", nil}, "read:other": {"GET", "/maps/other/entries", nil},
		"fd:connects": {"GET", "/maps/connects", upgrade}, "fd:other": {"GET", "/maps/other", upgrade}, "rw-fd:connects": {"GET", "/maps/connects?access=read-write", upgrade},
	}
	cells, allowed := 0, 0
	for name := range manifests {
		if name != missing && name != broken { // so that there is an event
			if _, stderr, exit := o.Ctl("load", name); exit != 0 {
				t.Fatal(stderr)
			}
		}
		for _, a := range askers {
			for verb, r := range requests {
				if verb == "events" && a.uid == 0 && (name == missing || name == broken) {
					continue // there are none of what is not there
				}
				var denied bool
				var answer string
				if verb == "events" {
					_, answer = o.ask(a, "GET", "/v1/events")
					denied = !strings.Contains(answer, fmt.Sprintf(`"collection":%q`, name))
				} else {
					var status int
					status, answer = o.ask(a, r.method, "/v1/collections/"+name+r.path, r.args...)
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

// TestPolicyTestRun is the same for bundles of callers' own, which are run.
func TestPolicyTestRun(t *testing.T) {
	testenv.NoLeaks(t)
	cgroup, closed := testenv.Cgroup(t), testenv.Cgroup(t)
	rule := "may = ['run']\nsigners = ['dev']\nattach = ['cgroup/*']\nlimits = { collections = 100 }\n"
	o := newPolicyOffice(t, fmt.Sprintf("[[rule]]\nuser = '2001'\n%[1]stargets = ['cgroup:%[2]s']\n[[rule]]\nunit = 'web.service'\n%[1]stargets = ['cgroup:%[2]s']\nunsigned_manifests = true\n"+
		"[[rule]]\ngroup = '50'\nunsigned_manifests = true\ntargets = ['host', 'cgroup:%[3]s/**']\n%[1]s", rule, cgroup, filepath.Dir(closed)), "web.service", "db.service")
	o.start()
	key, cert := o.Key()
	object := example(t, "conn-count/conn_count.bpf.o")
	bundle := func(name, manifest string, sign ...string) {
		dir := filepath.Join(o.Dir, name)
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		o.Write(name+"/conn_count.bpf.o", object)
		o.Write(name+"/m.toml", []byte(manifest))
		for _, file := range sign {
			if _, stderr, exit := o.Ctl("sign", "--key", key, "--cert", cert, filepath.Join(dir, file)); exit != 0 {
				t.Fatal(stderr)
			}
		}
	}
	named := "name = 'm'\n"
	bundle("whole", named+connCount(cgroup), "m.toml")
	bundle("object", connCount(cgroup), "conn_count.bpf.o")
	bundle("elsewhere", named+connCount(closed), "m.toml")
	bundle("unsigned", connCount(cgroup))
	bundle("above", connCount(filepath.Dir(cgroup)), "conn_count.bpf.o")
	cells, allowed := 0, 0
	for _, name := range []string{"whole", "object", "elsewhere", "unsigned", "above"} {
		for _, a := range policyAskers(t) {
			if name == "above" && a.uid == 0 {
				continue // root may, and this cgroup is not the test's
			}
			dir := filepath.Join(o.Dir, name)
			said, err := o.command(a, testdaemon.Binary(t, "hornetctl"), "run", dir).CombinedOutput()
			ran := 0
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) {
				ran = exit.ExitCode()
			} else if err != nil {
				t.Fatal(err)
			}
			stdout, stderr, exit := o.Ctl(append([]string{"policy", "test", "--config", o.Config, "run", dir}, a.as()...)...)
			if ran != exit {
				t.Errorf("%+v %s: run ended with %d and says %s\npolicy test: exit status %d\n%s%s", a, name, ran, said, exit, stdout, stderr)
			}
			if cells++; ran == 0 {
				allowed++
				if _, stderr, exit := o.Ctl("unload", fmt.Sprintf("u%d-m", a.uid)); exit != 0 {
					t.Fatal(stderr)
				}
			}
		}
	}
	t.Logf("%d cells, %d allowed", cells, allowed)
	if allowed < 8 || allowed > cells*2/3 {
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
