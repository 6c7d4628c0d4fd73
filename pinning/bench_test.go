package pinning

import (
	"errors"
	"fmt"
	"testing"
)

// BenchmarkAdopt is what the start costs per collection: the record, and one
// descriptor for each of two maps, a program and a link, with 300 committed.
func BenchmarkAdopt(b *testing.B) {
	s := open(b, bpffs(b))
	o := newObjects(b)
	for i := range 300 {
		must(b, newStage(b, s, fmt.Sprintf("c%d", i), o).Commit())
	}
	o.close()
	names, err := s.Entries()
	must(b, err)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		must(b, adopt(s, names[i%len(names)]))
	}
}

func adopt(s *Store, n Name) error {
	e, err := s.Load(n)
	if err != nil {
		return err
	}
	for _, m := range e.Record.Maps {
		o, err := e.Map(m.Name)
		if err != nil {
			return err
		}
		o.Close()
	}
	p, err := e.Program("count")
	if err != nil {
		return err
	}
	l, err := e.Link("exec")
	if err != nil {
		return err
	}
	return errors.Join(p.Close(), l.Close(), e.Close())
}

// BenchmarkCommit is what the store adds to a load and an unload: a stage, four
// pins, the record, the commit and the removal.
func BenchmarkCommit(b *testing.B) {
	s := open(b, bpffs(b))
	o := newObjects(b)
	o.links["exec"].Close()
	delete(o.links, "exec") // held by o, it would keep Remove waiting
	b.ReportAllocs()
	for b.Loop() {
		must(b, newStage(b, s, "a", o).Commit())
		must(b, s.Remove(name(b, "a")))
	}
}
