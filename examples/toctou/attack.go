package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"

	"github.com/cilium/ebpf"
)

// attackArg makes this program the attacker: a process of its own that shares
// nothing with the loaders but the kernel.
const attackArg = "attack"

// spoils is what the attacker achieved.
type spoils struct {
	Written int // writes that the kernel took
	Refused int // maps that were frozen when it wrote
}

type attacker struct {
	cmd   *exec.Cmd
	stdin io.Closer
	out   io.Reader
	done  bool
}

func startAttacker() (*attacker, error) {
	cmd := exec.Command("/proc/self/exe", attackArg)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("attacker: %w", err)
	}
	return &attacker{cmd: cmd, stdin: stdin, out: out}, nil
}

// stop ends the attacker and returns what it achieved. The second call does nothing.
func (a *attacker) stop() (s spoils, err error) {
	if a.done {
		return s, nil
	}
	a.done = true
	a.stdin.Close()
	err = errors.Join(json.NewDecoder(a.out).Decode(&s), a.cmd.Wait())
	if err != nil {
		return s, fmt.Errorf("attacker: %w", err)
	}
	return s, nil
}

func attackMain() {
	stop := make(chan struct{})
	go func() {
		io.Copy(io.Discard, os.Stdin) // ends with the parent
		close(stop)
	}()
	s, err := attack(stop)
	if err != nil {
		fmt.Fprintln(os.Stderr, "toctou: attack:", err)
		os.Exit(1)
	}
	json.NewEncoder(os.Stdout).Encode(s)
}

// attack waits for maps named mapName and writes to the newest: now what was
// signed, so that a check may pass, now what it wants.
func attack(stop <-chan struct{}) (s spoils, err error) {
	id, err := newestMap(0)
	if err != nil {
		return s, err
	}
	var target *ebpf.Map
	for value := attacked; ; value = signed + attacked - value {
		select {
		case <-stop:
			return s, nil
		default:
		}
		newest, err := newestMap(id)
		if err != nil {
			return s, err
		}
		if newest != id {
			id = newest
			if m := openTarget(id); m != nil {
				target.Close()
				target = m
			}
		}
		if target == nil {
			continue
		}
		switch err := target.Put(uint32(0), value); {
		case err == nil:
			s.Written++
		case errors.Is(err, os.ErrPermission):
			s.Refused++
			target.Close()
			target = nil
		default:
			return s, err
		}
	}
}

// newestMap returns the greatest map id of the kernel, starting to look at from.
func newestMap(from ebpf.MapID) (ebpf.MapID, error) {
	for {
		next, err := ebpf.MapGetNextID(from)
		if errors.Is(err, os.ErrNotExist) {
			return from, nil
		}
		if err != nil {
			return 0, fmt.Errorf("next map id: %w", err)
		}
		from = next
	}
}

// openTarget opens the map if it is one that is fought over, else returns nil.
// It must be quick: the map is about to be frozen. So the name comes from
// String, which the library knows by now, and not from another system call.
func openTarget(id ebpf.MapID) *ebpf.Map {
	m, err := ebpf.NewMapFromID(id)
	if err != nil {
		return nil // gone already
	}
	if !strings.Contains(m.String(), "("+mapName+")") {
		m.Close()
		return nil
	}
	return m
}
