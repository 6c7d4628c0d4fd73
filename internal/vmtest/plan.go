package vmtest

import (
	"fmt"
	"strings"
	"time"
)

// Where things are in a guest.
const (
	planFile = "/vm/plan.json"
	// OutDir holds what goes back to the host when the commands have ended.
	OutDir = "/vm/out"

	coverDir = OutDir + "/cover"

	// LayDir, in the first root, is laid over a disk before it is booted.
	LayDir = "/lay"
)

// PortName is the name of the guest's virtio port to the host, below
// /sys/class/virtio-ports. Output of the commands and markers go over it.
const PortName = "hornet"

// portModules are those that the port needs where they are not built in.
var portModules = []string{"virtio_pci", "virtio_console"}

// Plan is what /init does, as JSON in the guest's first root.
type Plan struct {
	Nonce    string   // part of every marker, so that no output is taken for one
	Port     []string // files of modules to load before the port is there, in this order
	Modules  []string // files to load then, in this order
	Commands []Command
	Shell    bool   // after the commands, a shell on the console
	Console  string // its device
	Disk     bool   // boot the disk; the commands run as a service there
	Reboot   bool   // and end with a reboot instead of switching off
}

// Command is a program that runs in the guest as root, alone.
type Command struct {
	Name    string // for people
	Dir     string
	Args    []string
	Env     []string
	Timeout time.Duration // 0 is none; then SIGQUIT, and SIGKILL 10 s later
}

// A marker is a line that /init writes between the output of the commands. The
// newline before it belongs to it:
//
//	MARK boot RELEASE          the kernel runs, everything is mounted
//	MARK start I               from here on: output of command I
//	MARK exit I STATUS HOW     HOW is exited, timeout or a signal's name
//	MARK file SIZE NAME        SIZE bytes follow
//	MARK broken TEXT           the guest could not be set up
//	MARK end                   everything has been said
func marker(nonce string) string { return "\x1d" + nonce + " " }

// Mark returns the marker line for the words.
func (p *Plan) Mark(words ...any) string {
	text := strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintln(words...), "\n"), "\n", " | ")
	return "\n" + marker(p.Nonce) + text + "\n"
}
