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
		entry, err := d.store.Load(n)
		if err != nil {
			continue // the watcher tells
		}
		differs, _ := contentsDiffer(entry)
		entry.Close()
		if differs == nil {
			continue
		}
		if err := d.quarantine(n, differs); err != nil {
			return err
		}
		d.mu.Lock()
		delete(d.running, name)
		d.settleLeaseLocked(name, "the collection is in quarantine")
		d.mu.Unlock()
	}
	return nil
}

// contentsDiffer says how a collection's frozen maps are not what its record
// says, and of which it cannot be known.
func contentsDiffer(entry *pinning.Entry) (_, unknown error) {
	var differs, unread []error
	for _, r := range entry.Record.Maps {
		if r.SHA256 == "" {
			continue
		}
		m, err := entry.Map(r.Name)
		if err != nil {
			unread = append(unread, err)
			continue
		}
		sum, _, err := loader.ContentHash(m)
		m.Close()
		switch {
		case err != nil:
			unread = append(unread, fmt.Errorf("map %q: %w", r.Name, err))
		case hex.EncodeToString(sum[:]) != r.SHA256:
			differs = append(differs, fmt.Errorf("map %q: it was frozen, and now holds something else: SHA-256 %.8x…; recorded %.16s…", r.Name, sum, r.SHA256))
		}
	}
	return errors.Join(differs...), errors.Join(unread...)
}
