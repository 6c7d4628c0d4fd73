package daemon

import (
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// checkContents compares what the frozen maps of adopted collections hold with
// their records, and sets aside what differs. A start does it behind READY: it
// reads every map. Freezing keeps out system calls only, so who may use bpf(2) can
// have written them while no daemon was there (docs/threat-model.md).
func (d *Daemon) checkContents() error {
	for _, name := range sortedKeys(d.running) {
		if d.owner.stopping() {
			return errStopped
		}
		d.owner.beat()
		n, err := pinning.ParseName(name)
		if err != nil {
			return err
		}
		differs := d.contentsDiffer(n)
		if differs == nil {
			continue
		}
		if err := d.quarantine(n, differs); err != nil {
			return err
		}
		d.mu.Lock()
		delete(d.running, name)
		d.mu.Unlock()
	}
	return nil
}

// contentsDiffer says how a collection's frozen maps are not what its record
// says. A map that cannot be opened or read says nothing here.
func (d *Daemon) contentsDiffer(n pinning.Name) error {
	entry, err := d.store.Load(n)
	if err != nil {
		return nil
	}
	defer entry.Close()
	var differs []error
	for _, r := range entry.Record.Maps {
		if r.SHA256 == "" {
			continue
		}
		m, err := entry.Map(r.Name)
		if err != nil {
			continue
		}
		sum, _, err := loader.ContentHash(m)
		m.Close()
		if err == nil && hex.EncodeToString(sum[:]) != r.SHA256 {
			differs = append(differs, fmt.Errorf("map %q: it was frozen, and now holds something else: SHA-256 %.8x…; recorded %.16s…", r.Name, sum, r.SHA256))
		}
	}
	return errors.Join(differs...)
}
