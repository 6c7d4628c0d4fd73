package lsm

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/testenv"
)

const tokenCreate = 36 // BPF_TOKEN_CREATE

// childToken is root in a user namespace: it opens a bpffs there, which its parent
// delegates to, makes a token of it, and makes maps with that, one for each line.
func childToken([]string) error {
	lines := bufio.NewReader(os.Stdin)
	next := func(say any) error {
		fmt.Println(say)
		_, err := lines.ReadString('\n')
		return err
	}
	fs, err := unix.Fsopen("bpf", 0)
	if err != nil {
		return fmt.Errorf("fsopen: %w", err)
	}
	if err := next(fs); err != nil {
		return err
	}
	mnt, err := unix.Fsmount(fs, 0, 0)
	if err != nil {
		return fmt.Errorf("fsmount: %w", err)
	}
	top, err := unix.Openat(mnt, ".", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	const tokenFD = 1 << 16
	token, err := bpf(tokenCreate, map[int]uint32{1: uint32(top)})
	if err != nil {
		return fmt.Errorf("token: %w", err)
	}
	say := "token"
	for {
		if err := next(say); errors.Is(err, io.EOF) {
			return nil
		}
		const array, tokenWord = 2, 19
		say = answer(closing(bpf(unix.BPF_MAP_CREATE, map[int]uint32{0: array, 1: 4, 2: 4, 3: 1, 4: tokenFD, tokenWord: uint32(token)})))
	}
}

// A token made before the guard is of use only to who is listed for tokens.
func TestToken(t *testing.T) {
	guestOnly(t)
	testenv.RequireEnum(t, "bpf_cmd", "BPF_TOKEN_CREATE")
	home := testenv.Cgroup(t)
	cmd := child("token", nil)
	dir, err := os.Open(home)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	root := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: root, GidMappings: root, UseCgroupFD: true, CgroupFD: int(dir.Fd())}
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	lines := bufio.NewReader(out)
	says := func() string {
		line, err := lines.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(line)
	}
	var fs int
	if _, err := fmt.Sscan(says(), &fs); err != nil {
		t.Fatal(err)
	}
	delegate(t, cmd.Process.Pid, fs)
	fmt.Fprintln(in)
	if got := says(); got != "token" {
		t.Fatal(got)
	}
	try := func() string { fmt.Fprintln(in); return says() }
	if got := try(); got != "ok" {
		t.Fatalf("without a guard: %s", got)
	}
	c := Config{Allow: []Identity{{Cgroup: home, Commands: []uint32{unix.BPF_MAP_CREATE}}}}
	g := arm(t, func(a *Config) { a.Allow = c.Allow })
	if got := try(); got != "EPERM" {
		t.Errorf("listed for maps: %s, want EPERM", got)
	}
	c.Mode, c.ConfirmWithin, c.Cgroup = Enforce, time.Minute, testenv.CgroupRoot(t)
	c.Allow[0].Commands = []uint32{unix.BPF_MAP_CREATE, tokenCreate}
	next, err := g.Upgrade(c)
	if err != nil {
		t.Fatal(err)
	}
	*g = *next
	if got := try(); got != "ok" {
		t.Errorf("listed for maps and tokens: %s, want ok", got)
	}
}

// delegate makes the file system that a process has begun, one that gives tokens for
// everything.
func delegate(t *testing.T, pid, fs int) {
	t.Helper()
	p, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(p)
	fd, err := unix.PidfdGetfd(p, fs, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for _, what := range []string{"delegate_cmds", "delegate_maps", "delegate_progs", "delegate_attachs"} {
		if err := unix.FsconfigSetString(fd, what, "any"); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	if err := unix.FsconfigCreate(fd); err != nil {
		t.Fatal(err)
	}
}
