package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/hornetd/hornetd/loader"
	"github.com/hornetd/hornetd/pinning"
)

// xdpAt is a target, and what the kernel says of a link that is there.
func xdpAt(name string, index int) loader.Target {
	return loader.Target{Link: "drop-" + name, Program: "drop", Kind: "xdp", AttachType: "xdp", Interface: name, Ifindex: index, NetnsInode: 1, Mode: "native"}
}

func stateAt(index int) *loader.LinkState {
	return &loader.LinkState{ID: 7, Kind: "xdp", AttachType: "xdp", ProgramID: 3, Ifindex: index}
}

func TestDiagnose(t *testing.T) {
	left := "was repaired 6 times within 10m0s: somebody takes away what hornetd attaches, so it is left as it is"
	gone := errors.New("there is no interface \"eth0\"")
	eth0 := xdpAt("eth0", 2)
	healthy := linkSight{target: eth0, state: stateAt(2), now: eth0}
	otherNetns := eth0
	otherNetns.NetnsInode = 9
	nf := loader.Target{Link: "nf", Program: "drop", Kind: "netfilter", NetnsInode: 1, Netns: "/n"}
	nfMoved := nf
	nfMoved.NetnsInode = 2
	probe := loader.Target{Link: "p", Program: "drop", Kind: "perf_event", Executable: "/bin/x", Inode: 1, Offset: 4}
	probeNew := probe
	probeNew.Inode, probeNew.Offset = 2, 8

	for name, test := range map[string]struct {
		links   []linkSight
		more    func(*sight)
		revoked string
		repairs string // joined; "" for none
		drift   string
		steps   string // "keep drop-eth0>drop-eth0#2", …
		taken   bool
		rebuild bool
	}{
		"healthy":                  {links: []linkSight{healthy}, steps: "keep drop-eth0#2"},
		"detached":                 {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0}}, repairs: "link drop-eth0 was detached", steps: "new drop-eth0#2", taken: true},
		"made anew":                {links: []linkSight{{target: eth0, state: stateAt(0), now: xdpAt("eth0", 5)}}, repairs: "link drop-eth0: interface eth0 was made anew", steps: "new drop-eth0#5"},
		"interface gone":           {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0, err: gone}}, drift: "link drop-eth0 is at nothing: " + gone.Error(), steps: "keep drop-eth0#2"},
		"renamed":                  {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, err: gone, renamed: "lan0"}}, drift: "link drop-eth0: interface eth0 is called lan0 now, and runs the program still", steps: "keep drop-eth0#2"},
		"moved away":               {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, err: gone}}, drift: "link drop-eth0: runs still, but " + gone.Error(), steps: "keep drop-eth0#2"},
		"another has the name":     {links: []linkSight{{target: eth0, state: stateAt(2), now: xdpAt("eth0", 9)}}, repairs: "link drop-eth0: interface eth0 is another one now", steps: "new drop-eth0#9"},
		"came back with a number":  {links: []linkSight{{target: eth0, state: stateAt(5), now: xdpAt("eth0", 5)}}, repairs: "link drop-eth0: interface eth0 has another number now", steps: "keep drop-eth0#5"},
		"same number, other space": {links: []linkSight{{target: eth0, state: stateAt(2), now: otherNetns}}, repairs: "link drop-eth0: interface eth0 is another one now", steps: "new drop-eth0#2"},
		"same number, elsewhere":   {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, elsewhere: true}}, repairs: "link drop-eth0: interface eth0 is another one now", steps: "new drop-eth0#2"},
		"another program":          {links: []linkSight{{target: eth0, state: &loader.LinkState{ID: 7, Kind: "xdp", ProgramID: 4, Ifindex: 2}, now: eth0}}, repairs: "link drop-eth0 runs program 4, not 3", steps: "back drop-eth0#2", taken: true},
		"no link":                  {links: []linkSight{{target: eth0, now: eth0}}, repairs: "link drop-eth0 is gone", steps: "new drop-eth0#2", taken: true},
		"no link and no interface": {links: []linkSight{{target: eth0, now: eth0, err: gone}}, drift: "link drop-eth0 is gone: " + gone.Error(), steps: "without drop-eth0#2"},
		"no link and no interface, and another pin removed": {links: []linkSight{{target: eth0, now: eth0, err: gone}}, more: func(s *sight) { s.missing = []string{"record", "links/drop-eth0"} },
			repairs: "pin record was removed", drift: "link drop-eth0 is gone: " + gone.Error(), steps: "without drop-eth0#2", taken: true},
		"its pin removed, and gone with it": {links: []linkSight{{target: eth0, now: eth0}}, more: func(s *sight) { s.missing = []string{"links/drop-eth0"} },
			repairs: "link drop-eth0 is gone: its pin was removed", steps: "new drop-eth0#2", taken: true},
		"its pin removed once too often": {links: []linkSight{{target: eth0, now: eth0}, {target: xdpAt("eth1", 3), state: stateAt(0), now: xdpAt("eth1", 4)}}, more: func(s *sight) { s.over, s.missing = true, []string{"links/drop-eth0"} },
			repairs: "link drop-eth1: interface eth1 was made anew", drift: left + "; link drop-eth0 is gone: its pin was removed", steps: "without drop-eth0#2, new drop-eth1#4"},
		"pin removed, link held":      {links: []linkSight{healthy}, more: func(s *sight) { s.missing = []string{"links/drop-eth0"} }, repairs: "pin links/drop-eth0 was removed", steps: "repin drop-eth0#2", taken: true},
		"record removed":              {links: []linkSight{healthy}, more: func(s *sight) { s.missing = []string{"record"} }, repairs: "pin record was removed", steps: "keep drop-eth0#2", taken: true},
		"program gone":                {links: []linkSight{healthy}, more: func(s *sight) { s.lost = []string{"program drop"} }, repairs: "program drop is gone from the kernel", steps: "keep drop-eth0#2", rebuild: true},
		"program array's pin removed": {links: []linkSight{healthy}, more: func(s *sight) { s.missing = []string{"maps/jumps"} }, repairs: "pin maps/jumps was removed", steps: "keep drop-eth0#2", taken: true, rebuild: true},
		"directory gone":              {links: []linkSight{healthy}, more: func(s *sight) { s.gone = true }, repairs: "its directory was removed", steps: "repin drop-eth0#2", taken: true, rebuild: true},
		"foreign":                     {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0}}, more: func(s *sight) { s.foreign = []string{"maps/x"} }, drift: "maps/x: not of hornetd's making, so nothing is repaired beside it"},
		"revoked, detached":           {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0}}, revoked: "its key is revoked", drift: "link drop-eth0 was detached: not repaired: its key is revoked", taken: true},
		"revoked, pin removed":        {links: []linkSight{healthy}, more: func(s *sight) { s.missing = []string{"record"} }, revoked: "its key is revoked", repairs: "pin record was removed", steps: "keep drop-eth0#2", taken: true},
		"namespace made anew":         {links: []linkSight{{target: nf, state: &loader.LinkState{Kind: "netfilter", ProgramID: 3}, now: nfMoved}}, repairs: "link drop-eth0: netfilter   priority 0 in /n is another one now", steps: "new nf#0"},
		"executable replaced":         {links: []linkSight{{target: probe, state: &loader.LinkState{Kind: "perf_event", ProgramID: 3}, now: probeNew}}, repairs: "link drop-eth0: /bin/x:0x8 is another one now", steps: "new p#0"},
		"new under a pattern": {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, pattern: true}},
			more:    func(s *sight) { s.spread = []loader.Target{eth0, xdpAt("eth1", 3)} },
			repairs: "interface eth1 has come", steps: "keep drop-eth0#2, new drop-eth1#3"},
		"gone under a pattern": {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0, err: gone, pattern: true}, {target: xdpAt("eth1", 3), state: stateAt(3), now: xdpAt("eth1", 3), pattern: true}},
			repairs: "link drop-eth0: " + gone.Error() + " any more", steps: "keep drop-eth1#3"},
		"the last under a pattern": {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0, err: gone, pattern: true}},
			drift: "link drop-eth0 is at nothing: " + gone.Error(), steps: "keep drop-eth0#2"},
		"renamed under a pattern": {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, err: gone, renamed: "eth7", pattern: true}},
			more:    func(s *sight) { s.spread = []loader.Target{xdpAt("eth7", 2)} },
			repairs: "link drop-eth0: interface eth0 is called eth7 now", steps: "keep drop-eth0>drop-eth7#2"},
		"detached by its target": {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0, idle: true}}, repairs: "link drop-eth0: interface eth0 was made anew", steps: "new drop-eth0#2"},
		"detached once too often": {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0}}, more: func(s *sight) { s.over = true },
			drift: left + "; link drop-eth0 was detached", steps: "keep drop-eth0#2"},
		"one detached once too often, one made anew": {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0}, {target: xdpAt("eth1", 3), state: stateAt(0), now: xdpAt("eth1", 4)}}, more: func(s *sight) { s.over = true },
			repairs: "link drop-eth1: interface eth1 was made anew", drift: left + "; link drop-eth0 was detached", steps: "keep drop-eth0#2, new drop-eth1#4"},
		"pins and programs taken once too often": {links: []linkSight{healthy}, more: func(s *sight) { s.over, s.missing, s.lost = true, []string{"programs/drop"}, []string{"program drop"} },
			drift: left + "; pin programs/drop was removed"},
		"no room": {links: []linkSight{{target: eth0, state: stateAt(0), now: eth0}, {target: xdpAt("eth1", 3), state: stateAt(0), now: xdpAt("eth1", 4)}}, more: func(s *sight) { s.busy = map[spot]error{spotOf(eth0): errors.New("busy")} },
			repairs: "link drop-eth1: interface eth1 was made anew", drift: "link drop-eth0 was detached: not repaired: busy", steps: "keep drop-eth0#2, new drop-eth1#4"},
		"no room under a pattern": {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, pattern: true}},
			more: func(s *sight) {
				s.spread = []loader.Target{eth0, xdpAt("eth1", 3), xdpAt("eth2", 4)}
				s.busy = map[spot]error{spotOf(xdpAt("eth1", 3)): errors.New("busy")}
			},
			repairs: "interface eth2 has come", drift: "interface eth1 has come: not repaired: busy", steps: "keep drop-eth0#2, new drop-eth2#4"},
		"no link and no room": {links: []linkSight{{target: eth0, now: eth0}}, more: func(s *sight) { s.busy = map[spot]error{spotOf(eth0): errors.New("busy")} },
			drift: "link drop-eth0 is gone: not repaired: busy", steps: "without drop-eth0#2"},
		"no link and no room, and another made anew": {links: []linkSight{{target: eth0, now: eth0}, {target: xdpAt("eth1", 3), state: stateAt(0), now: xdpAt("eth1", 4)}}, more: func(s *sight) { s.busy = map[spot]error{spotOf(eth0): errors.New("busy")} },
			repairs: "link drop-eth1: interface eth1 was made anew", drift: "link drop-eth0 is gone: not repaired: busy", steps: "without drop-eth0#2, new drop-eth1#4"},
		"no link and no room under a pattern": {links: []linkSight{{target: eth0, now: eth0, pattern: true}, {target: xdpAt("eth1", 3), state: stateAt(3), now: xdpAt("eth1", 4), pattern: true}},
			more: func(s *sight) {
				s.spread = []loader.Target{eth0, xdpAt("eth1", 4)}
				s.busy = map[spot]error{spotOf(eth0): errors.New("busy")}
			},
			repairs: "link drop-eth1: interface eth1 is another one now", drift: "link drop-eth0 is gone: not repaired: busy", steps: "new drop-eth1#4"},
		"renamed in a chain": {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, err: gone, renamed: "eth1", pattern: true}, {target: xdpAt("eth1", 3), state: stateAt(3), now: xdpAt("eth1", 2), pattern: true}},
			more:    func(s *sight) { s.spread = []loader.Target{xdpAt("eth1", 2), xdpAt("eth2", 3)} },
			repairs: "link drop-eth0: interface eth0 is called eth1 now; link drop-eth1: interface eth1 is called eth2 now", steps: "keep drop-eth0>drop-eth1#2, keep drop-eth1>drop-eth2#3"},
		"renamed in a ring": {links: []linkSight{{target: eth0, state: stateAt(2), now: xdpAt("eth0", 3), pattern: true}, {target: xdpAt("eth1", 3), state: stateAt(3), now: xdpAt("eth1", 2), pattern: true}},
			more:    func(s *sight) { s.spread = []loader.Target{xdpAt("eth0", 3), xdpAt("eth1", 2)} },
			repairs: "link drop-eth0: interface eth0 is called eth1 now; link drop-eth1: interface eth1 is called eth0 now", steps: "keep drop-eth0>drop-eth1#2, keep drop-eth1>drop-eth0#3"},
		"renamed out of the pattern, another in": {links: []linkSight{{target: eth0, state: stateAt(2), now: eth0, err: gone, renamed: "eth1", pattern: true}, {target: xdpAt("eth1", 3), state: stateAt(3), now: xdpAt("eth1", 2), pattern: true}},
			more:    func(s *sight) { s.spread = []loader.Target{xdpAt("eth1", 2)} },
			repairs: "link drop-eth0: interface eth0 is called eth1 now; link drop-eth1: interface eth1 is another one now", steps: "keep drop-eth0>drop-eth1#2"},
	} {
		t.Run(name, func(t *testing.T) {
			r := pinning.Record{Name: "xdp-drop", Maps: []pinning.RecordMap{{Name: "jumps", Pin: "jumps", Type: "ProgramArray"}}}
			for i, l := range test.links {
				n := []string{"drop-eth0", "drop-eth1"}[i]
				r.Links = append(r.Links, pinning.RecordLink{Name: n, Pin: n, ProgramID: 3, ID: 7})
				_ = l
			}
			s := sight{links: test.links}
			if test.more != nil {
				test.more(&s)
			}
			g := diagnose(r, s, test.revoked)
			if got := strings.Join(g.repairs, "; "); got != test.repairs {
				t.Errorf("repairs %q, want %q", got, test.repairs)
			}
			if got := strings.Join(g.drift, "; "); got != test.drift {
				t.Errorf("drift %q, want %q", got, test.drift)
			}
			if got := stepsText(g.links); got != test.steps {
				t.Errorf("steps %q, want %q", got, test.steps)
			}
			if g.taken != test.taken || g.rebuild != test.rebuild {
				t.Errorf("taken %t, rebuild %t", g.taken, g.rebuild)
			}
		})
	}
}

func stepsText(steps []linkStep) string {
	var all []string
	for _, l := range steps {
		what := "keep"
		switch {
		case l.was == "":
			what = "new"
		case l.back:
			what = "back"
		case l.repin:
			what = "repin"
		case l.absent:
			what = "without"
		}
		name := l.target.Link
		if l.was != "" && l.was != name {
			name = l.was + ">" + name
		}
		all = append(all, fmt.Sprintf("%s %s#%d", what, name, l.target.Ifindex))
	}
	return strings.Join(all, ", ")
}

// TestPatience: what changes by itself is repaired for ever and slower, what
// fails is tried less and less, and what is taken away again and again is left.
func TestPatience(t *testing.T) {
	start := time.Date(2026, 11, 27, 0, 0, 0, 0, time.UTC)
	run := func(m mended, err error, taken bool, d time.Duration) (times []time.Duration, p patience) {
		for now := start; now.Before(start.Add(d)); now = now.Add(10 * time.Millisecond) {
			if !p.ready(now, taken) {
				continue
			}
			if taken {
				if p = p.fights(now); p.over {
					continue
				}
			}
			times = append(times, now.Sub(start))
			p = p.after(now, m, err)
		}
		return times, p
	}
	times, p := run(mended{repaired: true}, nil, false, time.Hour)
	if n := len(times); n < 1700 || n > 1900 || times[0] != 0 || times[1] != firstPause || times[n-1]-times[n-2] != longestPace {
		t.Errorf("flapping: %d repairs, %v…", len(times), times[:8])
	}
	if later := p.last.Add(time.Minute); !p.ready(later, false) || p.after(later, mended{repaired: true}, nil).pause != firstPause {
		t.Error("it does not forget")
	}
	times, p = run(mended{}, errors.New("busy"), false, time.Hour)
	if n := len(times); n > 80 || times[n-1]-times[n-2] != longestWait {
		t.Errorf("failing: %d attempts, %v…", len(times), times[:8])
	}
	if times, _ = run(mended{}, fmt.Errorf("interface: %w", loader.ErrAbsent), false, time.Hour); len(times) < 1700 {
		t.Errorf("gone again: %d attempts", len(times))
	}
	times, p = run(mended{repaired: true, taken: true}, nil, true, time.Hour)
	if len(times) != fightLimit || !p.over || !p.ready(start.Add(time.Hour), false) {
		t.Errorf("taken away: %d repairs %v, over %t", len(times), times, p.over)
	}
	// One place that is taken keeps the rest from nothing, and is tried again.
	at := spot{link: "drop-eth1"}
	one := patience{}.after(start, mended{repaired: true, failed: map[spot]error{at: errors.New("busy")}}, nil)
	if !one.ready(start.Add(firstPause), false) || one.barred(start)[at] == nil || one.due(start) || !one.due(start.Add(firstPause)) {
		t.Errorf("%+v", one)
	}
	tries := 0
	for now := start; now.Before(start.Add(24 * time.Hour)); now = now.Add(50 * time.Millisecond) {
		if one.due(now) {
			one, tries = one.after(now, mended{failed: map[spot]error{at: errors.New("busy")}}, errors.New("busy")), tries+1
		}
	}
	if tries < 20 || tries > 50 || one.forgets(start.Add(48*time.Hour)).due(start.Add(48*time.Hour)) {
		t.Errorf("tried %d times a day, %+v", tries, one)
	}
	if p := (patience{pause: longestWait}).after(start, mended{blind: true}, fmt.Errorf("x: %w", loader.ErrAbsent)); p.pause != longestWait {
		t.Errorf("what only a load finds out is tried again after %s", p.pause)
	}
	slow := patience{}
	for i := range 50 { // less often than the limit
		now := start.Add(time.Duration(i) * fightWindow / (fightLimit - 1))
		if slow = slow.fights(now); slow.over {
			t.Fatalf("given up after %d", i)
		}
		slow = slow.after(now, mended{repaired: true, taken: true}, nil)
	}
}

// FuzzDiagnose: whatever is seen, a repair neither doubles nor loses a link.
func FuzzDiagnose(f *testing.F) {
	f.Add([]byte(`{}`), uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, bits uint8) {
		var target loader.Target
		if json.Unmarshal(b, &target) != nil {
			t.Skip()
		}
		l := linkSight{target: target, now: target, pattern: bits&1 != 0}
		if bits&2 != 0 {
			l.err = errors.New("gone")
		}
		if bits&4 != 0 {
			l.state = &loader.LinkState{Kind: target.Kind, Ifindex: int(bits & 8), ProgramID: 3}
		}
		s := sight{links: []linkSight{l}, gone: bits&16 != 0}
		if bits&32 != 0 {
			s.spread = []loader.Target{target}
		}
		g := diagnose(pinning.Record{Links: []pinning.RecordLink{{Name: target.Link, ProgramID: 3}}}, s, "")
		if len(g.repairs) > 0 && len(g.links) != 1 {
			t.Errorf("%d links after the repair: %+v", len(g.links), g)
		}
	})
}

// FuzzRenames: whatever a few interfaces under a pattern are called by now, each
// that is there has one link after the repair, by its name and number.
func FuzzRenames(f *testing.F) {
	f.Add([]byte{1, 0}, uint8(3), uint8(0))
	f.Add([]byte{1, 2}, uint8(3), uint8(0))
	f.Add([]byte{9, 0, 1}, uint8(7), uint8(2))
	f.Fuzz(func(t *testing.T, names []byte, alive, busy uint8) {
		if len(names) == 0 || len(names) > 8 {
			t.Skip()
		}
		eth := func(i byte, index int) loader.Target { return xdpAt(fmt.Sprint("eth", i%10), index) }
		s, at := sight{busy: map[spot]error{}}, map[string]loader.Target{}
		for i, n := range names { // the interface of number i+1 is called n
			now := eth(n, i+1)
			if _, ok := at[now.Interface]; ok {
				t.Skip()
			}
			at[now.Interface] = now
			s.spread = append(s.spread, now)
			if busy&(1<<i) != 0 && alive&(1<<i) == 0 {
				s.busy[spotOf(now)] = errors.New("busy")
			}
		}
		var r pinning.Record
		for i := range names {
			was := eth(byte(i), i+1)
			l := linkSight{target: was, now: was, state: stateAt(0), pattern: true}
			if alive&(1<<i) != 0 {
				l.state = stateAt(i + 1)
			}
			if now, ok := at[was.Interface]; ok {
				l.now = now
			} else {
				l.err = errors.New("gone")
			}
			s.links = append(s.links, l)
			r.Links = append(r.Links, pinning.RecordLink{Name: was.Link, Pin: was.Link, ProgramID: 3})
		}
		g := diagnose(r, s, "")
		has := map[string]bool{}
		for _, l := range g.links {
			if has[l.target.Link] {
				t.Fatalf("two links %s: %s", l.target.Link, stepsText(g.links))
			}
			has[l.target.Link] = true
		}
		for _, now := range s.spread {
			if s.busy[spotOf(now)] == nil && !has[now.Link] {
				t.Errorf("%s has no link: %s", now.Link, stepsText(g.links))
			}
		}
	})
}
