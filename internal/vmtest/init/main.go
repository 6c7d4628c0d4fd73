// Init is the first process of a guest: it mounts what a Debian host has
// mounted, loads modules, runs the commands of the plan, sends back their
// results over a virtio port, and switches the machine off.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"

	"github.com/hornetd/hornetd/internal/vmtest"
	"golang.org/x/sys/unix"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Println("init:", agent())
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Println("init:", err)
	}
	unix.Sync()
	// The machine goes with it; nothing after this line runs.
	unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func readPlan() (*vmtest.Plan, error) {
	b, err := os.ReadFile("/vm/plan.json")
	if err != nil {
		return nil, err
	}
	var p vmtest.Plan
	return &p, json.Unmarshal(b, &p)
}

func run() error {
	p, err := readPlan()
	if err != nil {
		return err
	}
	if p.Disk {
		return bootDisk(p)
	}
	if err := mountAll(); err != nil {
		return err
	}
	if err := loadModules(p.Port); err != nil {
		return err
	}
	w, err := openPort(p)
	if err != nil {
		return err
	}
	if err := errors.Join(loadModules(p.Modules), loopback()); err != nil {
		w.mark("broken", err)
		return err
	}
	if err := runCommands(p, w); err != nil {
		return err
	}
	if p.Shell {
		shell(p.Console)
	}
	return nil
}

// runCommands runs the commands of the plan and sends back what came of them.
func runCommands(p *vmtest.Plan, w *port) error {
	if err := w.markBoot(); err != nil {
		return err
	}
	for i, c := range p.Commands {
		w.mark("start", i)
		status, how := command(c, w.f)
		w.mark("exit", i, status, how)
	}
	w.sendFiles(vmtest.OutDir)
	w.mark("end")
	return nil
}

func (p *port) markBoot() error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return err
	}
	p.mark("boot", unix.ByteSliceToString(u.Release[:]))
	return nil
}
