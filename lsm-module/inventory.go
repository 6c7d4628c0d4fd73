package lsm

import (
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/cilium/ebpf"
)

// Foreign is a program that runs and is not hornetd's.
type Foreign struct {
	ID     uint32
	Type   ebpf.ProgramType
	Name   string // as its maker calls it
	Tag    string
	UID    uint32        // who loaded it
	Loaded time.Duration // since boot
	Maps   []uint32      // ids
}

// Inventory lists all programs that are not owned: what was there before the guard,
// and what it let in.
func (g *Guard) Inventory() ([]Foreign, error) {
	owned, err := g.Owned()
	if err != nil {
		return nil, err
	}
	ours := map[Object]bool{}
	for _, o := range owned {
		ours[o] = true
	}
	var all []Foreign
	for id := ebpf.ProgramID(0); ; {
		if id, err = ebpf.ProgramGetNextID(id); errors.Is(err, fs.ErrNotExist) {
			return all, nil
		}
		if err != nil {
			return nil, fmt.Errorf("guard: programs: %w", err)
		}
		if ours[Object{Program, uint32(id)}] {
			continue
		}
		f, err := foreign(id)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		all = append(all, f)
	}
}

func foreign(id ebpf.ProgramID) (Foreign, error) {
	p, err := ebpf.NewProgramFromID(id)
	if err != nil {
		return Foreign{}, fmt.Errorf("guard: program %d: %w", id, err)
	}
	defer p.Close()
	info, err := p.Info()
	if err != nil {
		return Foreign{}, fmt.Errorf("guard: program %d: %w", id, err)
	}
	f := Foreign{ID: uint32(id), Type: info.Type, Name: info.Name, Tag: info.Tag}
	f.UID, _ = info.CreatedByUID()
	f.Loaded, _ = info.LoadTime()
	maps, _ := info.MapIDs()
	for _, m := range maps {
		f.Maps = append(f.Maps, uint32(m))
	}
	return f, nil
}
