package daemon

import (
	"slices"

	"github.com/hornetd/hornetd/pinning"
)

// restore attaches again what of a collection had to go for a version that has
// then failed. The rest of it stays as it is.
func (d *Daemon) restore(c *collection, gone []string) error {
	entry, err := d.committed(c.record.Name)
	if err != nil {
		return err
	}
	defer entry.Close()
	now := *c
	now.record.Links = slices.DeleteFunc(slices.Clone(c.record.Links), func(l pinning.RecordLink) bool { return slices.Contains(gone, l.Name) })
	record, err := d.bringBack(entry, &now, func(*pinning.Record) {})
	if err != nil {
		return err
	}
	now.record = record
	d.mu.Lock()
	defer d.mu.Unlock()
	d.running[record.Name] = &now
	return nil
}

// bringBack makes what from has, maps and programs as they are pinned there, the
// committed collection in place of now, at the targets of its record. It is a
// change as any other: built in a stage, and in force with one rename. note is
// what else the record is to say.
func (d *Daemon) bringBack(from *pinning.Entry, now *collection, note func(*pinning.Record)) (record pinning.Record, err error) {
	record = from.Record
	both := common(now.record, record)
	both.gaps = true // better than to stay without it
	targets, err := targetsOf(record)
	if err != nil {
		return record, err
	}
	steps, err := transit(now.record.Links, targets, both)
	if err != nil {
		return record, err
	}
	stage, err := d.store.Restage(from.Name)
	if err != nil {
		return record, err
	}
	defer func() { d.tell("discard", stage.Discard()) }() // no effect after the commit
	coll, err := keepAll(stage, from)
	if err != nil {
		return record, err
	}
	defer coll.Close()
	// Live from here.
	links, err := d.attach(stage, coll, steps, now, nil)
	if err != nil {
		return record, err
	}
	defer func() { d.tell("links", links.Close()) }()
	if record.Links, err = links.records(); err != nil {
		return record, err
	}
	note(&record)
	if err := stage.PinRecord(record); err != nil {
		return record, err
	}
	// The point of no return.
	if err := d.settled(stage.Replace()); err != nil {
		return record, err
	}
	links.keep()
	return record, nil
}

// committed opens what is committed under a name.
func (d *Daemon) committed(name string) (*pinning.Entry, error) {
	n, err := pinning.ParseName(name)
	if err != nil {
		return nil, err
	}
	return d.store.Load(n)
}

// common is what two records both have.
func common(a, b pinning.Record) carried {
	both := carried{maps: map[string]bool{}, programs: map[string]uint32{}}
	for _, m := range a.Maps {
		both.maps[m.Name] = slices.ContainsFunc(b.Maps, func(o pinning.RecordMap) bool { return o.Name == m.Name && o.ID == m.ID })
	}
	for _, p := range b.Programs {
		both.programs[p.Name] = p.ID
	}
	return both
}
