package pinning

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"github.com/hornetd/hornetd/internal/bpfsys"
)

// Stages returns the names of all stages. At start there is one for each
// commit, replacement or removal that was interrupted.
func (s *Store) Stages() ([]string, error) {
	c, err := s.scan()
	return c.stages, err
}

// StagedPrograms returns the ids of the programs that are pinned in stages. A
// committed link that runs one of them was caught in the middle of a
// replacement: its program is to be exchanged back before Sweep.
func (s *Store) StagedPrograms() (map[ebpf.ProgramID]bool, error) {
	return staged(s, programsDir, func(path string) (ebpf.ProgramID, error) {
		p, err := ebpf.LoadPinnedProgram(path, nil)
		if err != nil {
			return 0, err
		}
		defer p.Close()
		info, err := bpfsys.ProgramInfo(p.FD())
		return ebpf.ProgramID(info.ID), err
	})
}

// StagedMaps returns the ids of the maps that are pinned in stages. It is to a
// committed struct_ops link what StagedPrograms is to others.
func (s *Store) StagedMaps() (map[ebpf.MapID]bool, error) {
	return staged(s, mapsDir, func(path string) (ebpf.MapID, error) {
		m, err := ebpf.LoadPinnedMap(path, nil)
		if err != nil {
			return 0, err
		}
		defer m.Close()
		info, err := bpfsys.MapInfo(m.FD())
		return ebpf.MapID(info.ID), err
	})
}

// StagedLinks opens the links that are pinned in stages, by the names of their
// pins. After a crash one may have nothing but that pin: Sweep detaches it.
func (s *Store) StagedLinks() (map[string][]link.Link, error) {
	all := make(map[string][]link.Link)
	stages, err := s.Stages()
	for _, stage := range stages {
		d, oerr := s.dir.open(stage)
		if oerr != nil {
			err = errors.Join(err, oerr)
			continue
		}
		pins, lerr := d.list(linksDir)
		if lerr != nil && !errors.Is(lerr, unix.ENOENT) {
			err = errors.Join(err, lerr)
		}
		for _, pin := range pins {
			if l, lerr := link.LoadPinnedLink(d.path(linksDir, pin.name), nil); lerr == nil {
				all[pin.name] = append(all[pin.name], l)
			}
		}
		d.close()
	}
	return all, err
}

// staged asks for the id of every pin in a subdirectory of the stages.
func staged[ID comparable](s *Store, sub string, idOf func(path string) (ID, error)) (map[ID]bool, error) {
	stages, err := s.Stages()
	if err != nil {
		return nil, err
	}
	ids := make(map[ID]bool)
	for _, stage := range stages {
		if err := addStaged(s, stage, sub, idOf, ids); err != nil {
			return nil, fmt.Errorf("%s: %w", stage, err)
		}
	}
	return ids, nil
}

func addStaged[ID comparable](s *Store, stage, sub string, idOf func(path string) (ID, error), ids map[ID]bool) error {
	d, err := s.dir.open(stage)
	if err != nil {
		return err
	}
	defer d.close()
	pins, err := d.list(sub)
	if err != nil {
		pins, err = d.list(sub) // not for one error: what is staged here must not be swept unseen
	}
	if errors.Is(err, unix.ENOENT) {
		return nil // the stage was caught before it had any
	}
	if err != nil {
		return err
	}
	for _, pin := range pins {
		if !pin.isPin() {
			continue
		}
		id, err := idOf(d.path(sub, pin.name))
		if err != nil {
			return err
		}
		ids[id] = true
	}
	return nil
}
