// Package pidfd tells which process a descriptor of one is of.
package pidfd

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is what a process is known by when nobody holds a descriptor of it. The
// zero one is none.
type Process struct {
	PID     int    `json:"pid,omitempty"`         // in /proc
	Started uint64 `json:"started,omitempty"`     // in clock ticks since the boot
	Inode   uint64 `json:"pidfd_inode,omitempty"` // of its descriptors, which no other process has; 0 before Linux 6.9
}

// Open returns a descriptor of the process p, close-on-exec. The error is ESRCH
// where it has ended, whoever has its number now.
func Open(p Process) (int, error) {
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.EINVAL) { // of a thread by now
		err = unix.ESRCH
	}
	if err != nil {
		return -1, err
	}
	now, err := Identify(fd)
	if err == nil && now != p {
		err = unix.ESRCH
	}
	if err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// Identify returns what the process of a descriptor is known by. The error is ESRCH
// where it has ended.
func Identify(fd int) (Process, error) {
	var p Process
	var err error
	if p.PID, err = Number(fd); err != nil {
		return Process{}, err
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(p.PID) + "/stat")
	if !Alive(fd) {
		return Process{}, unix.ESRCH
	}
	if err != nil {
		return Process{}, err
	}
	if p.Started, err = started(stat); err != nil {
		return Process{}, err
	}
	p.Inode, err = inode(fd)
	return p, err
}

// started reads the 22nd field of /proc/PID/stat, proc_pid_stat(5). The second is
// the process's name in parentheses, in which anything can be.
func started(stat []byte) (uint64, error) {
	const behindName = 22 - 3
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(fields) <= behindName {
		return 0, fmt.Errorf("stat of a process has %d fields behind its name", len(fields))
	}
	return strconv.ParseUint(fields[behindName], 10, 64)
}

// PID_FS_MAGIC in include/uapi/linux/magic.h.
const magic = 0x50494446

func inode(fd int) (uint64, error) {
	var fs unix.Statfs_t
	var st unix.Stat_t
	if err := errors.Join(unix.Fstatfs(fd, &fs), unix.Fstat(fd, &st)); err != nil {
		return 0, err
	}
	if fs.Type != magic {
		return 0, nil // all such descriptors have one inode
	}
	return st.Ino, nil
}

// Number returns the number that a process has in /proc, which need not be the
// one that it has for this process: they may be of different pid namespaces. The
// error is ESRCH where it has none any more.
func Number(fd int) (int, error) {
	b, err := os.ReadFile("/proc/self/fdinfo/" + strconv.Itoa(fd))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(b)) {
		if s, ok := strings.CutPrefix(line, "Pid:"); ok {
			pid, err := strconv.Atoi(strings.TrimSpace(s))
			if err == nil && pid <= 0 { // it ended, or is not in that namespace
				err = unix.ESRCH
			}
			return pid, err
		}
	}
	return 0, errors.New("fdinfo of a pidfd without Pid")
}

// Alive tells whether a process has not ended, be it waited for or not.
func Alive(fd int) bool {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(fds, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		return err == nil && n == 0
	}
}

// Owned reports whether whoever runs as user uid and group gid could trace the
// process, because it is that user and nobody more: all its user ids are uid and its
// group ids gid, it has no capability, in no user namespace, and executed nothing that
// the user may not read or that gave it rights. Its other groups do not count. The error
// is ESRCH where it has ended.
//
// Source: ptrace(2), "Ptrace access mode checking"; of a process that is not dumpable
// the files in /proc are root's, proc_pid(5).
func Owned(fd int, uid, gid uint32) (bool, error) {
	pid, err := Number(fd)
	if err != nil {
		return false, err
	}
	status, user, err := statusOf(pid)
	if !Alive(fd) {
		return false, unix.ESRCH
	}
	if err != nil { // which says nothing of it, whatever it is: not even ENOENT
		return false, err
	}
	return user == uid && isOf(status, pid, uid, gid), nil
}

// statusOf reads /proc/PID/status, and whose it is.
func statusOf(pid int) (status string, user uint32, err error) {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return "", 0, err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", 0, err
	}
	b := make([]byte, 16<<10)
	n, err := f.Read(b)
	return string(b[:n]), st.Uid, err
}

// isOf reads /proc/PID/status.
func isOf(status string, pid int, uid, gid uint32) bool {
	number, four := strconv.Itoa(pid), func(id uint32) string {
		return strings.TrimSpace(strings.Repeat(strconv.FormatUint(uint64(id), 10)+" ", 4))
	}
	want := map[string]string{"Tgid:": number, "Pid:": number, "Uid:": four(uid), "Gid:": four(gid), "CapPrm:": strings.Repeat("0", 16)}
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, "\t")
		if w, ok := want[key]; ok {
			if strings.Join(strings.Fields(value), " ") != w {
				return false
			}
			delete(want, key)
		}
	}
	return len(want) == 0
}
