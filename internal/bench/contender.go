package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"

	"github.com/hornetd/hornetd/api"
)

// contender is one way of getting a program to run. load is timed: from the
// file on disk to a live attachment that outlives whoever made it. undo is not.
type contender struct {
	name   string
	load   func() error
	undo   func() error
	client bool // only talks: it need not run in our namespaces
}

// bare is the floor: parse, load, pin, attach, pin the links, in this process,
// with nothing decided and nothing recorded.
func bare(l workload, target int) contender {
	dir := filepath.Join(l.world.pins, "bare")
	var links []link.Link
	return contender{
		name: "floor",
		load: func() (err error) {
			links, err = loadBare(l, target, dir)
			return err
		},
		undo: func() error {
			err := os.RemoveAll(dir)
			// Last of all: the kernel detaches at once where a descriptor is the
			// last to go, and some time later where a pin is.
			for _, made := range links {
				made.Close()
			}
			return err
		},
	}
}

// loadBare returns the links open. They are pinned, too.
func loadBare(l workload, target int, dir string) ([]link.Link, error) {
	object, err := os.ReadFile(l.object)
	if err != nil {
		return nil, err
	}
	spec, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(object))
	if err != nil {
		return nil, err
	}
	coll, err := ebpf.NewCollection(spec)
	if err != nil {
		return nil, err
	}
	defer coll.Close()
	for _, sub := range []string{"", "maps", "programs", "links"} {
		if err := os.Mkdir(filepath.Join(dir, sub), 0o700); err != nil {
			return nil, err
		}
	}
	for name, m := range coll.Maps {
		// bpffs takes no dots.
		if err := m.Pin(filepath.Join(dir, "maps", strings.ReplaceAll(name, ".", "_"))); err != nil {
			return nil, err
		}
	}
	for name, p := range coll.Programs {
		if err := p.Pin(filepath.Join(dir, "programs", name)); err != nil {
			return nil, err
		}
	}
	links, err := l.attach(coll, target)
	if err != nil {
		return links, err
	}
	for i, made := range links {
		if err := made.Pin(filepath.Join(dir, "links", l.attaches[i].program)); err != nil {
			return links, err
		}
	}
	return links, nil
}

// daemon is hornetd over its socket.
func daemon(c *api.Client, target int) contender {
	ctx, name := context.Background(), collectionName(target)
	return contender{
		name:   "hornetd",
		client: true,
		load: func() error {
			_, err := c.Load(ctx, name)
			return err
		},
		undo: func() error {
			_, err := c.Unload(ctx, name, api.UnloadRequest{})
			return err
		},
	}
}

// bpftool is what a shell script would do: one exec to load and pin, one for
// each attachment. It pins no link, because it makes none.
func bpftool(l workload, target int) contender {
	dir := filepath.Join(l.world.pins, "bpftool")
	load := [][]string{{"prog", "loadall", l.object, dir, "pinmaps", filepath.Join(dir, "maps")}}
	var detach [][]string
	for _, a := range l.attaches {
		pin := filepath.Join(dir, a.program)
		if l.onCgroup {
			load = append(load, []string{"cgroup", "attach", l.world.cgroup(target), a.bpftool, "pinned", pin, "multi"})
			detach = append(detach, []string{"cgroup", "detach", l.world.cgroup(target), a.bpftool, "pinned", pin})
		} else {
			load = append(load, []string{"net", "attach", a.bpftool, "pinned", pin, "dev", interfaceName(target)})
			detach = append(detach, []string{"net", "detach", a.bpftool, "dev", interfaceName(target)})
		}
	}
	return contender{
		name: "bpftool",
		load: func() error { return execAll(load) },
		undo: func() error {
			if err := execAll(detach); err != nil {
				return err
			}
			return os.RemoveAll(dir)
		},
	}
}

func execAll(commands [][]string) error {
	for _, args := range commands {
		if out, err := exec.Command("bpftool", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("bpftool %v: %w: %s", args, err, out)
		}
	}
	return nil
}
