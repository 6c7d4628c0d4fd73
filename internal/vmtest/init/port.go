package main

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"github.com/hornetd/hornetd/internal/vmtest"
	"golang.org/x/sys/unix"
)

// port is the serial line to the host. Output and markers go over it; a marker
// always starts a line.
type port struct {
	plan *vmtest.Plan
	mu   sync.Mutex
	f    *os.File
	mid  bool // in the middle of a line
}

func openPort(path string, p *vmtest.Plan) (*port, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	// Bytes pass as they are: files go this way too.
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	t.Iflag &^= unix.IXON | unix.ICRNL
	if err := unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return &port{plan: p, f: f}, nil
}

func (p *port) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(b) > 0 {
		p.mid = b[len(b)-1] != '\n'
	}
	return p.f.Write(b)
}

func (p *port) mark(words ...any) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.mid {
		p.f.WriteString("\n")
		p.mid = false
	}
	p.f.WriteString(p.plan.Mark(words...))
}

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
		p.f.Write(append(b, '\n'))
		return nil
	})
}
