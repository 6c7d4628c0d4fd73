package main_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/testenv"
)

// TestTargetNotAsked: that nobody can be asked about a process says nothing of it. What
// runs stays, and a load is not told that the process has ended.
func TestTargetNotAsked(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	for _, name := range []string{"call", "calls"} {
		pid := sleeper(t, owner).Process.Pid
		refuse := func(errno string) func() {
			strace := tracer(t, h.PID(), "-o", os.DevNull, "-P", fmt.Sprintf("/proc/%d/status", pid), "-e", "trace=openat", "-e", "inject=openat:error="+errno)
			return func() { detach(t, strace) }
		}
		let := refuse("EMFILE")
		_, err := clientOf(t, h, owner).LoadTargets(t.Context(), name, pidfdOf(t, pid))
		if err == nil || strings.Contains(err.Error(), "has ended") || !strings.Contains(err.Error(), "too many open files") {
			t.Errorf("%s: load: %v", name, err)
		}
		let()
		c := loadAt(t, h, owner, name, pidfdOf(t, pid))
		for _, errno := range []string{"EMFILE", "ENOMEM", "EACCES", "ENOENT"} {
			let := refuse(errno)
			stays(t, h, c)
			let()
		}
		unload(t, h, name)
	}
}

// TestTargetNotTaken: where hornetd may open no more, that is what the client is told, and
// not that it showed too many.
func TestTargetNotTaken(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	shown := opened(t, cgroupOf(t, testenv.Cgroup(t), "own", owner))
	conn := asksFor101(t, h)
	defer conn.Close()
	few := unix.Rlimit{Cur: 3}
	var was unix.Rlimit
	must(t, unix.Prlimit(h.PID(), unix.RLIMIT_NOFILE, nil, &was))
	few.Max = was.Max
	must(t, unix.Prlimit(h.PID(), unix.RLIMIT_NOFILE, &few, nil))
	_, _, err := conn.WriteMsgUnix([]byte("\n"), unix.UnixRights(int(shown.Fd())), nil)
	var answer api.Loaded
	err = errors.Join(err, json.NewDecoder(conn).Decode(&answer))
	must(t, errors.Join(err, unix.Prlimit(h.PID(), unix.RLIMIT_NOFILE, &was, nil)))
	if e := answer.Error; e == nil || e.Kind != api.KindUnavailable || !strings.Contains(e.Message, "took 0 of the descriptors") || !strings.Contains(e.Hint, "LimitNOFILE=") {
		t.Errorf("%+v", answer.Error)
	}
	loadAt(t, h, owner, "connect", shown)
}

// TestTargetCgroupOfAll: a program in a cgroup is for all that is in it, root's too, as
// hornet.d(5) and docs/threat-model.md say: nobody is asked who that is.
func TestTargetCgroupOfAll(t *testing.T) {
	testenv.NoLeaks(t)
	h := newShown(t, copyOfLibc(t))
	dir := cgroupOf(t, testenv.Cgroup(t), "own", owner)
	c := loadAt(t, h, owner, "connect", opened(t, dir))
	const index = 2 // in calls, of connect
	before := callsOf(t, c)[index]
	testenv.CgroupCommand(t, dir, "bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/9").Run() // refused or not
	if after := callsOf(t, c)[index]; after != before+1 {
		t.Errorf("the program saw %d connections of root's", after-before)
	}
}
