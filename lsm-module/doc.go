// Package lsm is the guard: BPF LSM programs that let nobody but hornetd load,
// attach and change eBPF. It knows nothing of the daemon: it gets a directory of
// a bpffs to pin into, and data.
//
// Probe says what a kernel can. Arm puts a guard in force, which goes on while
// the process that armed it is dead; Adopt takes it up again; Upgrade puts a new
// one in force before the old one goes; Disarm ends it. Look only looks.
//
//	DIR/set-N/{links,floor,maps,programs}/NAME   the guard in force
//	DIR/stage-N/…                                being armed, or being taken down
//
// Whoever changes an armed guard must be hornetd in the guard's own eyes: the
// process that armed it, or an enrolled executable that the first process started
// in hornetd's cgroup (see guard.bpf.c). Everybody else gets ErrNotHornetd, in
// audit mode too.
//
// Methods of a Guard must be called one at a time.
package lsm

//go:generate ../scripts/bpf-compile guard.bpf.c
