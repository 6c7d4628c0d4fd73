// Toctou shows the race that hornetd exists for. A loader checks the contents
// of a map, then loads a program that uses it; between the two another process
// writes to the map through a descriptor of its own. What ran is then not what
// was checked, and no signature over the object helps.
//
// Three loaders meet the same attacker: one that checks and loads, one that
// also freezes but after the check, and hornetd, which freezes first. Run it as
// root; without -socket the third is left out. `make run` calls it.
package main

import (
	_ "embed"
	"flag"
	"fmt"
	"os"
)

//go:embed toctou.bpf.o
var object []byte

// The map that is fought over, and what the two sides want in it.
const (
	mapName  = "toctou_policy"
	signed   = uint32(1) // XDP_DROP: what the administrator signed
	attacked = uint32(2) // XDP_PASS: what the attacker wants
)

// outcome counts how the rounds of one loader ended.
type outcome struct {
	noticed int // the check saw other contents, nothing was loaded
	right   int // the program ran with what was checked
	wrong   int // the program ran with what the attacker wrote
}

func (o outcome) rounds() int { return o.noticed + o.right + o.wrong }

// count adds one round: the verdict of the program, or err if it was refused.
func (o *outcome) count(verdict uint32, err error) {
	switch {
	case err != nil:
		o.noticed++
	case verdict == signed:
		o.right++
	default:
		o.wrong++
	}
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == attackArg {
		attackMain()
		return
	}
	rounds := flag.Int("rounds", 100, "loads per loader")
	socket := flag.String("socket", "", "hornetd's socket; it must know the manifest toctou.toml")
	flag.Parse()
	if err := run(*rounds, *socket); err != nil {
		fmt.Fprintln(os.Stderr, "toctou:", err)
		os.Exit(1)
	}
}

func run(rounds int, socket string) error {
	a, err := startAttacker()
	if err != nil {
		return err
	}
	defer a.stop()

	fmt.Printf("%-32s %8s %10s %10s %12s\n", "", "loads", "noticed", "as signed", "as attacked")
	checked, err := race(rounds, checkLoad)
	if err != nil {
		return err
	}
	show("check, load", checked)
	late, err := race(rounds, checkFreezeLoad)
	if err != nil {
		return err
	}
	show("check, freeze, load", late)
	if socket == "" {
		return nil
	}
	kept, err := raceHornetd(rounds, socket)
	if err != nil {
		return err
	}
	show("hornetd: freeze, check, load", kept)

	s, err := a.stop()
	if err != nil {
		return err
	}
	fmt.Printf("the attacker wrote %d times; the kernel refused it on %d frozen maps\n", s.Written, s.Refused)
	if kept.wrong > 0 {
		return fmt.Errorf("hornetd ran other contents than were signed %d times", kept.wrong)
	}
	return nil
}

func show(loader string, o outcome) {
	fmt.Printf("%-32s %8d %10d %10d %12d\n", loader, o.rounds(), o.noticed, o.right, o.wrong)
}
