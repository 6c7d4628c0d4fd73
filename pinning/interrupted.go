package pinning

import (
	"fmt"

	"github.com/cilium/ebpf"

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
	stages, err := s.Stages()
	if err != nil {
		return nil, err
	}
	ids := make(map[ebpf.ProgramID]bool)
	for _, stage := range stages {
		if err := s.addPrograms(stage, ids); err != nil {
			return nil, fmt.Errorf("%s: %w", stage, err)
		}
	}
	return ids, nil
}

func (s *Store) addPrograms(stage string, ids map[ebpf.ProgramID]bool) error {
	d, err := s.dir.open(stage)
	if err != nil {
		return err
	}
	defer d.close()
	pins, err := d.list(programsDir)
	if err != nil {
		return nil // the stage was caught before it had any
	}
	for _, pin := range pins {
		if !pin.isPin() {
			continue
		}
		p, err := ebpf.LoadPinnedProgram(d.path(programsDir, pin.name), nil)
		if err != nil {
			return err
		}
		info, err := bpfsys.ProgramInfo(p.FD())
		p.Close()
		if err != nil {
			return err
		}
		ids[ebpf.ProgramID(info.ID)] = true
	}
	return nil
}
