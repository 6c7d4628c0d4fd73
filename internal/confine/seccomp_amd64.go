package confine

import "golang.org/x/sys/unix"

const auditArch = unix.AUDIT_ARCH_X86_64

// machineCalls are what the runtime needs here beside the others: a new thread
// sets its own pointer to its data.
var machineCalls = []call{{unix.SYS_ARCH_PRCTL, 0, ^uint32(0), 0x1002}} // ARCH_SET_FS
