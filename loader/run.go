package loader

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/hornetd/hornetd/internal/remedy"
	"github.com/hornetd/hornetd/manifest"
)

// RunTests runs each test's program once (BPF_PROG_TEST_RUN) and compares what
// it returns. It stops at the first that returns something else. What programs
// write to their maps meanwhile stays there.
func RunTests(coll *ebpf.Collection, tests []manifest.Test) error {
	for i, t := range tests {
		prog, ok := coll.Programs[t.Program]
		if !ok {
			return remedy.With(fmt.Errorf("test %d: no program %q was loaded", i, t.Program), "name a program of the object")
		}
		got, err := prog.Run(runOptions(prog.Type(), t.Data))
		if err != nil {
			return remedy.With(fmt.Errorf("test %d: program %q: %w", i, t.Program, err),
				"packets have at least 14 bytes, an Ethernet header; some types of programs cannot be run by the kernel on request")
		}
		if got != t.Returns {
			return remedy.With(fmt.Errorf("test %d: program %q returned %s, not %s", i, t.Program,
				returnValue(prog.Type(), got), returnValue(prog.Type(), t.Returns)),
				"correct the program, its variables and maps, or the test; nothing was attached")
		}
	}
	return nil
}

// runOptions hands data to a program as its packet, or where it has none as
// its context.
func runOptions(t ebpf.ProgramType, data []byte) *ebpf.RunOptions {
	switch t {
	case ebpf.RawTracepoint, ebpf.RawTracepointWritable, ebpf.Tracing, ebpf.Syscall, ebpf.SkLookup, ebpf.StructOps:
		if len(data) == 0 {
			return &ebpf.RunOptions{}
		}
		return &ebpf.RunOptions{Context: data}
	}
	return &ebpf.RunOptions{Data: data}
}

// returnValue shows a return value by the name the kernel's headers give it.
func returnValue(t ebpf.ProgramType, v uint32) string {
	var names map[uint32]string
	switch t {
	case ebpf.XDP:
		names = xdpActions
	case ebpf.SchedCLS, ebpf.SchedACT:
		names = tcActions
	}
	if name, ok := names[v]; ok {
		return fmt.Sprintf("%s (%d)", name, int32(v))
	}
	return fmt.Sprint(v)
}

var xdpActions = map[uint32]string{
	0: "XDP_ABORTED", 1: "XDP_DROP", 2: "XDP_PASS", 3: "XDP_TX", 4: "XDP_REDIRECT",
}

var tcActions = map[uint32]string{
	1<<32 - 1: "TC_ACT_UNSPEC", 0: "TC_ACT_OK", 1: "TC_ACT_RECLASSIFY", 2: "TC_ACT_SHOT", 3: "TC_ACT_PIPE",
	4: "TC_ACT_STOLEN", 5: "TC_ACT_QUEUED", 6: "TC_ACT_REPEAT", 7: "TC_ACT_REDIRECT", 8: "TC_ACT_TRAP",
}
