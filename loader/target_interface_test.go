package loader

import (
	"fmt"
	"testing"

	"github.com/hornetd/hornetd/internal/testenv"
)

// TestXDPProgramAsksForOne: a namespace with many interfaces costs no more than one with
// few: not the kernel, not this process.
func TestXDPProgramAsksForOne(t *testing.T) {
	ns := testenv.Netns(t)
	cost := func() (n float64) {
		err := testenv.InNetns(t, ns, func() error {
			n = testing.AllocsPerRun(10, func() { xdpProgram(1) })
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	few := cost()
	for i := range 50 {
		testenv.IP(t, ns, "link", "add", fmt.Sprintf("a%d", i), "type", "veth", "peer", "name", fmt.Sprintf("b%d", i))
	}
	if many := cost(); many > few {
		t.Errorf("%v allocations with 101 interfaces, %v with one", many, few)
	}
}
