package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hornetd/hornetd/internal/vmtest"
	"golang.org/x/sys/unix"
)

// port is the line to the host. Markers go over it, and what commands print,
// which have it as their output: nobody stands between them and the host, so
// that what they said counts even if the kernel dies with the next instruction.
type port struct {
	plan *vmtest.Plan
	f    *os.File
}

// portWait bounds the wait for the host to say the port's name, which it does
// in a message behind the one that makes the port.
const portWait = 10 * time.Second

func openPort(p *vmtest.Plan) (port *port, err error) {
	for end := time.Now().Add(portWait); ; time.Sleep(10 * time.Millisecond) {
		if port, err = findPort(p); err == nil || time.Now().After(end) {
			return port, err
		}
	}
}

func findPort(p *vmtest.Plan) (*port, error) {
	names, _ := filepath.Glob("/sys/class/virtio-ports/*/name")
	for _, file := range names {
		b, err := os.ReadFile(file)
		if err != nil || strings.TrimSpace(string(b)) != vmtest.PortName {
			continue
		}
		dev := "/dev/" + filepath.Base(filepath.Dir(file))
		// Not os.OpenFile: that makes the description non-blocking, also for
		// the commands that inherit it.
		fd, err := unix.Open(dev, unix.O_WRONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", dev, err)
		}
		return &port{plan: p, f: os.NewFile(uintptr(fd), dev)}, nil
	}
	return nil, fmt.Errorf("no virtio port has the name %q", vmtest.PortName)
}

func (p *port) mark(words ...any) { p.f.WriteString(p.plan.Mark(words...)) }

// sendFiles sends every regular file below dir, named by its path from there.
func (p *port) sendFiles(dir string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return nil
		}
		name, _ := filepath.Rel(dir, path)
		p.mark("file", len(b), name)
		p.f.Write(b)
		return nil
	})
}
