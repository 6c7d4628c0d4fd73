package daemon

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/hornetd/hornetd/api"
	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
	"github.com/hornetd/hornetd/policy"
)

// holding is what collections hold in the kernel.
type holding struct {
	memory      uint64 // bytes of map keys and values
	programs    uint64
	collections uint64
}

func (h *holding) add(c *collection) {
	h.memory += c.record.Memory
	h.programs += uint64(len(c.record.Programs))
	h.collections++
}

func (h *holding) plus(o holding) {
	h.memory += o.memory
	h.programs += o.programs
	h.collections += o.collections
}

// holdingsLocked adds up all that runs, or is verified to, but the collection called
// except, and what of it each user had loaded.
func (d *Daemon) holdingsLocked(except string) (total holding, users map[uint32]holding) {
	users = make(map[uint32]holding)
	for name, c := range d.running {
		if name == except {
			continue
		}
		total.add(c)
		h := users[c.record.Caller.UID]
		h.add(c)
		users[c.record.Caller.UID] = h
	}
	for name, v := range d.verifying {
		if name == except {
			continue
		}
		total.plus(v.needs)
		h := users[v.who.UID]
		h.plus(v.needs)
		users[v.who.UID] = h
	}
	return total, users
}

// room holds what who wants to load, need bytes of maps and some programs,
// against what may run in all, and for who. What users had loaded does not count
// where root, or the daemon itself, loads: they must not keep that out.
func (d *Daemon) room(who Peer, m manifest.Manifest, need uint64, programs int) error {
	d.mu.RLock()
	total, users := d.holdingsLocked(m.Name)
	d.mu.RUnlock()
	l := d.cfg.Limits
	more := func(have holding, whose, prefix string, memory uint64, most, collections int) error {
		switch {
		case have.collections >= uint64(collections):
			return remedy.With(fmt.Errorf("collection %q: %d %s run already: %w", m.Name, have.collections, whose, policy.ErrLimit),
				"unload one, or raise [limits] %s_collections in hornetd.toml", prefix)
		case need > memory || have.memory > memory-need:
			return remedy.With(fmt.Errorf("collection %q: its maps need %d bytes, %s have %d of %d: %w", m.Name, need, whose, have.memory, memory, policy.ErrLimit),
				"unload one, or raise [limits] %s_memory in hornetd.toml", prefix)
		case have.programs+uint64(programs) > uint64(most):
			return remedy.With(fmt.Errorf("collection %q: it has %d programs, %s have %d of %d: %w", m.Name, programs, whose, have.programs, most, policy.ErrLimit),
				"unload one, or raise [limits] %s_programs in hornetd.toml", prefix)
		}
		return nil
	}
	whose := "others"
	if who.UID == 0 {
		total, whose = users[0], "others of root"
	}
	if err := more(total, whose, "total", l.TotalMemory, l.TotalPrograms, l.TotalCollections); err != nil {
		return err
	}
	if who.UID == 0 {
		return nil
	}
	return more(users[who.UID], fmt.Sprintf("others of uid %d", who.UID), "user", l.UserMemory, l.UserPrograms, l.UserCollections)
}

// change runs what who asked for on the owner's thread, in turn. ahead, where there
// is one, comes before that: it counts as part of it, and nobody waits for it.
func (d *Daemon) change(who Peer, verb, name string, ahead func() parsed, do func() error) error {
	var results parsed
	before := func() {
		if ahead != nil {
			results = ahead()
		}
	}
	e := errand{uid: who.UID, name: name, away: who.UID != 0 && slices.Contains([]string{asLoad.verb, asUpgrade.verb, asRun.verb}, verb)}
	err := d.owner.doFor(e, before, func() error {
		d.ahead = results
		defer func() { d.ahead = nil }()
		return do()
	})
	if errors.Is(err, errTooManyChanges) {
		return d.refuse(who, verb, name, err)
	}
	return err
}

// usageLocked is what who may know of the limits and what they bound: root all,
// others their own.
func (d *Daemon) usageLocked(who Peer) []api.Limit {
	total, users := d.holdingsLocked("")
	changes := d.owner.changes()
	streams, allStreams := d.readers.used()
	l := d.cfg.Limits
	const perUser, recorded = "api.changes_per_user", "api.recorded_burst"
	records := d.allowed.used(time.Now())
	if who.UID != 0 {
		h := users[who.UID]
		memory := userLimit("limits.user_memory", who.UID, h.memory, l.UserMemory)
		memory.Unit = "bytes"
		return []api.Limit{
			userLimit(perUser, who.UID, uint64(changes[who.UID]), uint64(d.cfg.API.ChangesPerUser)),
			userLimit(recorded, who.UID, uint64(records[who.UID]), uint64(d.cfg.API.RecordedBurst)),
			memory,
			userLimit("limits.user_programs", who.UID, h.programs, uint64(l.UserPrograms)),
			userLimit("limits.user_collections", who.UID, h.collections, uint64(l.UserCollections)),
			userLimit("limits.user_verifier_jobs", who.UID, d.owner.away()[who.UID], uint64(l.UserVerifierJobs)),
			userLimit("limits.user_streams", who.UID, uint64(streams[who.UID]), uint64(l.UserStreams)),
		}
	}
	all := userLimits(perUser, changes, uint64(d.cfg.API.ChangesPerUser))
	all = append(all, userLimits(recorded, records, uint64(d.cfg.API.RecordedBurst))...)
	all = append(all,
		api.Limit{Name: "api.recorded_per_minute", Most: uint64(d.cfg.API.RecordedPerMinute)},
		api.Limit{Name: "limits.memory", Most: l.Memory, Unit: "bytes"},
		api.Limit{Name: "limits.maps", Most: uint64(l.Maps)},
		api.Limit{Name: "limits.programs", Most: uint64(l.Programs)},
		api.Limit{Name: "limits.total_memory", Used: new(total.memory), Most: l.TotalMemory, Unit: "bytes"},
		api.Limit{Name: "limits.total_programs", Used: new(total.programs), Most: uint64(l.TotalPrograms)},
		api.Limit{Name: "limits.total_collections", Used: new(total.collections), Most: uint64(l.TotalCollections)},
	)
	memory, programs, collections := make(map[uint32]uint64), make(map[uint32]uint64), make(map[uint32]uint64)
	for uid, h := range users {
		memory[uid], programs[uid], collections[uid] = h.memory, h.programs, h.collections
	}
	for _, x := range userLimits("limits.user_memory", memory, l.UserMemory) {
		x.Unit = "bytes"
		all = append(all, x)
	}
	all = append(all, userLimits("limits.user_programs", programs, uint64(l.UserPrograms))...)
	all = append(all, userLimits("limits.user_collections", collections, uint64(l.UserCollections))...)
	jobs, allJobs := d.owner.away(), uint64(0)
	for _, n := range jobs {
		allJobs += n
	}
	all = append(all, userLimits("limits.user_verifier_jobs", jobs, uint64(l.UserVerifierJobs))...)
	all = append(all, userLimits("limits.user_streams", streams, uint64(l.UserStreams))...)
	return append(all,
		api.Limit{Name: "limits.total_verifier_jobs", Used: new(allJobs), Most: uint64(l.TotalVerifierJobs)},
		api.Limit{Name: "limits.total_streams", Used: new(uint64(allStreams)), Most: uint64(l.TotalStreams)},
		api.Limit{Name: "limits.stream_memory", Most: l.StreamMemory, Unit: "bytes"},
		api.Limit{Name: "limits.stream_buffer", Most: l.StreamBuffer, Unit: "bytes"},
		api.Limit{Name: "limits.events", Used: new(uint64(d.events.has())), Most: uint64(l.Events)},
	)
}
