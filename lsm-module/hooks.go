package lsm

// hook is a program of guard.bpf.c and what of the kernel it needs.
type hook struct {
	Program string
	Name    string // of the LSM hook: bpf_lsm_NAME takes arguments
	Args    int    // how many of them there must be; 0 is any number
	Since   string // kernels that have it; "" is all from 6.1 on
	For     string // what is open without it; "" is required
}

// hooks are all of them, in the order in which they are attached: first what
// makes hornetd known, so that nothing of its own is refused.
var hooks = []hook{
	{Program: "guard_exec", Name: "bprm_committed_creds"},
	{Program: "guard_bpf", Name: "bpf"},
	{Program: "guard_map", Name: "bpf_map"},
	{Program: "guard_prog", Name: "bpf_prog"},
}

const controlProgram = "guard_control"
