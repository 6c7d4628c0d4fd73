package loader

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/pidfd"
	"github.com/hornetd/hornetd/internal/testenv"
)

// closed counts how often it is closed.
type closed int

func (c *closed) Close() error { *c++; return nil }

// TestInProcess: a process becomes somebody else's before what is attached to it is, or
// while.
func TestInProcess(t *testing.T) {
	testenv.RequireRoot(t)
	const uid, gid = 4301, 4302
	sleep, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err := os.ReadFile(sleep)
	if err != nil {
		t.Fatal(err)
	}
	privileged := filepath.Join(dir, "privileged")
	for _, err := range []error{os.Chmod(dir, 0o755), os.Chmod(filepath.Dir(dir), 0o755), os.WriteFile(privileged, b, 0o755), os.Chmod(privileged, 0o755|os.ModeSetuid)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_NOSUID != 0 {
		t.Skipf("%s is on a filesystem without setuid programs", dir)
	}
	for _, test := range []struct {
		name           string
		before, during bool // it executes what is root's
		ends           bool // instead
		gid            uint32
		attached       bool
		why            string
	}{
		{name: "stays", gid: gid, attached: true},
		{name: "before", before: true, gid: gid, why: "is not of uid 4301 alone any more"},
		{name: "another group's", gid: gid + 1, why: "is not of uid 4301 alone any more"},
		{name: "during", during: true, gid: gid, attached: true, why: "is not of uid 4301 alone any more"},
		{name: "ends", ends: true, gid: gid, attached: true, why: "has ended"},
	} {
		cmd := exec.Command("sh", "-c", "read go; exec "+privileged+" 600")
		cmd.Dir = "/"
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}, Pdeathsig: syscall.SIGKILL}
		in, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		testenv.Start(t, cmd)
		becomes := func() {
			io.WriteString(in, "go\n")
			for range 6000 {
				comm, _ := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/comm")
				if string(comm) == "privileged\n" {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
			t.Fatal("it executes nothing")
		}
		fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		target := Target{Caller: true, Owner: uid, OwnerGID: test.gid}
		if target.Process, err = pidfd.Identify(fd); err != nil {
			t.Fatal(err)
		}
		if test.before {
			becomes()
		}
		var l closed
		attached := false
		_, err = inProcess(target, func() (*closed, error) {
			attached = true
			if test.during {
				becomes()
			}
			if test.ends {
				cmd.Process.Kill()
				cmd.Wait()
			}
			return &l, nil
		})
		if attached != test.attached {
			t.Errorf("%s: attached %t", test.name, attached)
		}
		if (err == nil) != (test.why == "") || err != nil && !strings.Contains(err.Error(), test.why) {
			t.Errorf("%s: %v", test.name, err)
		}
		if want := attached && err != nil; (l == 1) != want || l > 1 {
			t.Errorf("%s: closed %d times", test.name, l)
		}
		if ended := target.Ended(nil); (ended == nil) != (test.why == "") {
			t.Errorf("%s: ended: %v", test.name, ended)
		}
	}
}

// What a caller showed has ended where it is gone itself, and not where something else is
// missing.
func TestEndedOrAbsent(t *testing.T) {
	testenv.RequireRoot(t)
	const uid, gid = 4301, 4302
	cmd := exec.Command("sleep", "600")
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: gid}, Pdeathsig: syscall.SIGKILL}
	testenv.Start(t, cmd)
	fd, err := unix.PidfdOpen(cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	process, err := pidfd.Identify(fd)
	if err != nil {
		t.Fatal(err)
	}
	coll := &ebpf.Collection{Programs: map[string]*ebpf.Program{"p": {}}}
	attach := func(what Target) error {
		what.Program, what.Link, what.Caller, what.Owner, what.OwnerGID = "p", "p", true, uid, gid
		_, err := AttachShown(coll, []Target{what}, nil)
		return err
	}
	probe := Target{Kind: kindPerfEvent, Executable: filepath.Join(t.TempDir(), "missing"), Process: process}
	cgroup := Target{Kind: kindCgroup, Cgroup: "no/such", CgroupID: 1}
	if err := attach(probe); !errors.Is(err, ErrAbsent) || errors.Is(err, ErrEnded) {
		t.Errorf("an executable that is missing: %v", err)
	}
	if err := attach(cgroup); !errors.Is(err, ErrAbsent) || !errors.Is(err, ErrEnded) {
		t.Errorf("a cgroup that is gone: %v", err)
	}
	cmd.Process.Kill()
	cmd.Wait()
	if err := attach(probe); !errors.Is(err, ErrEnded) {
		t.Errorf("a process that has ended: %v", err)
	}
}
