package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/hornetd/hornetd/internal/vmtest"
	"golang.org/x/sys/unix"
)

// disk is where the disk's root is until it becomes the root.
const disk = "/disk"

// unit runs the commands of the plan under the disk's own first process. What
// it needs lies on /run, so that the disk holds nothing of it.
const unit = `[Unit]
Description=Commands of the guest
After=basic.target
[Service]
Type=exec
ExecStart=/run/vm/init
FailureAction=poweroff-force
`

// bootDisk makes the disk the root and its init the first process. It returns
// only with an error.
func bootDisk(p *vmtest.Plan) error {
	for _, m := range mounts {
		// The rest is the first process's to mount, as it likes.
		if m.dir != "/proc" && m.dir != "/sys" && m.dir != "/dev" && m.dir != "/run" {
			continue
		}
		if err := errors.Join(os.MkdirAll(m.dir, 0o755), unix.Mount(m.fstype, m.dir, m.fstype, 0, m.options)); err != nil {
			return fmt.Errorf("mount %s: %w", m.dir, err)
		}
	}
	if err := loadModules(p.Port); err != nil {
		return err
	}
	w, err := openPort(p)
	if err != nil {
		return err
	}
	if err = w.markBoot(); err == nil {
		err = switchRoot(p)
	}
	w.mark("broken", err)
	return err
}

func switchRoot(p *vmtest.Plan) error {
	if err := loadModules(p.Modules); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(disk, 0o755), unix.Mount("/dev/vda", disk, "ext4", 0, "")); err != nil {
		return fmt.Errorf("mount the disk: %w", err)
	}
	if _, err := os.Stat(vmtest.LayDir); err == nil {
		if err := copyTree(vmtest.LayDir, disk); err != nil {
			return err
		}
	}
	if err := prepareRun(); err != nil {
		return err
	}
	for _, dir := range []string{"/proc", "/sys", "/dev", "/run"} {
		if err := unix.Mount(dir, disk+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s: %w", dir, err)
		}
	}
	for _, step := range []func() error{
		func() error { return unix.Chdir(disk) },
		func() error { return unix.Mount(".", "/", "", unix.MS_MOVE, "") },
		func() error { return unix.Chroot(".") },
		func() error { return unix.Chdir("/") },
	} {
		if err := step(); err != nil {
			return fmt.Errorf("switch root: %w", err)
		}
	}
	return fmt.Errorf("/sbin/init: %w", unix.Exec("/sbin/init", []string{"/sbin/init"}, []string{vmtest.Path, "TERM=dumb"}))
}

// prepareRun puts onto /run what runs the commands.
func prepareRun() error {
	if err := copyTree("/vm", "/run/vm"); err != nil {
		return err
	}
	const units = "/run/systemd/system"
	if err := errors.Join(copyFile("/init", "/run/vm/init", 0o755), os.MkdirAll(units+"/multi-user.target.wants", 0o755),
		os.WriteFile(units+"/vmtest.service", []byte(unit), 0o644),
		os.Symlink("../vmtest.service", units+"/multi-user.target.wants/vmtest.service"),
		// Without udev it would wait a minute for its device.
		os.Symlink("/dev/null", units+"/serial-getty@ttyS0.service")); err != nil {
		return err
	}
	if err := os.Symlink("run/vm", disk+"/vm"); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return nil
}

// copyTree copies what is below from into the directory to, over what is there.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, name)
		if err != nil {
			return err
		}
		dst := filepath.Join(to, rel)
		info, err := d.Info()
		if err != nil {
			return err
		}
		switch d.Type() {
		case fs.ModeDir:
			return os.MkdirAll(dst, info.Mode().Perm())
		case fs.ModeSymlink:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(target, dst)
		default:
			return copyFile(name, dst, info.Mode().Perm())
		}
	})
}

func copyFile(from, to string, mode fs.FileMode) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return errors.Join(os.WriteFile(to, b, mode), os.Chmod(to, mode))
}

// agent runs the commands under the disk's first process, and then has that end
// the machine. It returns only with an error.
func agent() error {
	p, err := readPlan()
	if err != nil {
		return err
	}
	w, err := openPort(p)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(vmtest.OutDir, 0o755); err != nil {
		return err
	}
	if err := runCommands(p, w); err != nil {
		return err
	}
	end := "poweroff"
	if p.Reboot {
		end = "reboot"
	}
	systemctl := vmtest.Command{Dir: "/", Args: []string{"/usr/bin/systemctl", "--no-block", end}, Env: []string{vmtest.Path}}
	if status, how := command(systemctl, w.f); status != 0 {
		return fmt.Errorf("systemctl %s: %s %d", end, how, status)
	}
	select {} // the end of the machine is the end of this
}
