package daemon

import (
	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/pinning"
)

// run is how often a program ran, and for how long, while kernel.bpf_stats_enabled
// was on.
type run struct{ count, ns uint64 }

// ran asks the kernel what the attached programs of a collection have run, by
// name. The statistics belong to a program: over an upgrade the record carries
// them. What cannot be asked counts nothing: no change fails for it.
func ran(e *pinning.Entry) map[string]run {
	all := make(map[string]run)
	for _, l := range e.Record.Links {
		if _, asked := all[l.Program]; asked {
			continue
		}
		p, err := e.Program(l.Program)
		if err != nil {
			continue
		}
		if s, err := p.Stats(); err == nil {
			all[l.Program] = run{s.RunCount, uint64(s.Runtime)}
		}
		p.Close()
	}
	return all
}

// carry adds to the programs of record what those of the same name have run that
// they took the place of: old's, and what old's record has from before.
func (d *Daemon) carry(old *collection, record *pinning.Record) {
	if old == nil {
		return
	}
	e, err := d.committed(old.record.Name)
	if err != nil {
		return
	}
	defer e.Close()
	now := ran(e)
	for _, p := range old.record.Programs {
		add(record, p.Name, run{p.RunCount + now[p.Name].count, p.RunTimeNS + now[p.Name].ns})
	}
}

// add adds to what the record has of the programs before name.
func add(record *pinning.Record, name string, r run) {
	for i := range record.Programs {
		if p := &record.Programs[i]; p.Name == name {
			p.RunCount += r.count
			p.RunTimeNS += r.ns
		}
	}
}

// total fills in what the programs of an entry have run, over all upgrades.
func total(e *pinning.Entry, programs []api.Program) {
	now := ran(e)
	for i := range programs {
		p := &programs[i]
		for _, r := range e.Record.Programs {
			if r.Name == p.Name {
				p.RunCount, p.RunTimeNS = r.RunCount+now[r.Name].count, r.RunTimeNS+now[r.Name].ns
			}
		}
	}
}
