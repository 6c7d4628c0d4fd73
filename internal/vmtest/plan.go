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

// Plan is what /init does, as JSON in the guest's first root.
type Plan struct {
	Nonce    string   // part of every marker, so that no output is taken for one
	Modules  []string // files to load, in this order
	Commands []Command
	Shell    bool // after the commands, a shell on the console
	Disk     bool // boot the disk; the commands run as a service there
	Reboot   bool // and end with a reboot instead of switching off
}

// Command is a program that runs in the guest as root, alone.
type Command struct {
	Name    string // for people
	Dir     string
	Args    []string
	Env     []string
	Timeout time.Duration // 0 is none; then SIGQUIT, and SIGKILL 10 s later
}

// A marker is a line that /init writes between the output of the commands:
//
//	MARK boot RELEASE          the kernel runs, everything is mounted
//	MARK start I               from here on: output of command I
//	MARK exit I STATUS HOW     HOW is exited, timeout or a signal's name
//	MARK file SIZE NAME        SIZE bytes follow, then a newline
//	MARK broken TEXT           the guest could not be set up
//	MARK end                   everything has been said
func marker(nonce string) string { return "\x1d" + nonce + " " }

// Mark returns the marker line for the words.
func (p *Plan) Mark(words ...any) string {
	text := strings.ReplaceAll(strings.TrimSuffix(fmt.Sprintln(words...), "\n"), "\n", " | ")
	return marker(p.Nonce) + text + "\n"
}
