package lsm

// hook is a program of guard.bpf.c and what of the kernel it needs.
type hook struct {
	Program string
	Name    string // of the LSM hook: bpf_lsm_NAME takes arguments
	Args    string // what they must be, as C writes it, "..." for any others behind them; "" is any
	Since   string // kernels that have it; "" is all from 6.1 on
	For     string // what is open without it; "" is required
	Instead string // the name of another: one of the two is required
	Verdict bool   // only where the kernel tells whether it has verified a program; without it only kernel_signed is refused
}

// hooks are all of them, in the order in which they are attached: first what
// makes hornetd known, so that nothing of its own is refused. Of several for one LSM
// hook, which stand together, the first whose arguments are the kernel's is used.
var hooks = []hook{
	{Program: "guard_exec", Name: "bprm_committed_creds"},
	{Program: "guard_spawn", Name: "bprm_check_security"},
	{Program: "guard_bpf", Name: "bpf", Args: "int, union bpf_attr *, unsigned int, bool, ..."},
	{Program: "guard_bpf_old", Name: "bpf", Args: "int, union bpf_attr *, unsigned int"},
	{Program: "guard_load", Name: "bpf_prog_load", Args: "struct bpf_prog *, union bpf_attr *, struct bpf_token *, bool, ...", Verdict: true},
	{Program: "guard_make_prog", Name: "bpf_prog_load", Instead: "bpf_prog_alloc_security"},
	{Program: "guard_make_prog_old", Name: "bpf_prog_alloc_security", Instead: "bpf_prog_load"},
	{Program: "guard_make_map", Name: "bpf_map_create", Instead: "bpf_map_alloc_security"},
	{Program: "guard_make_map_old", Name: "bpf_map_alloc_security", Instead: "bpf_map_create"},
	{Program: "guard_map", Name: "bpf_map"},
	{Program: "guard_prog", Name: "bpf_prog"},
	{Program: "guard_mmap", Name: "mmap_file"},

	{Program: "guard_setsockopt", Name: "socket_setsockopt"},
	{Program: "guard_ioctl", Name: "file_ioctl"},
	{Program: "guard_ioctl_compat", Name: "file_ioctl_compat", Since: "6.8", For: "32-bit programs attach a program that they have to a perf event"},
	{Program: "guard_netlink", Name: "netlink_send"},
	{Program: "guard_token", Name: "bpf_token_cmd", Since: "6.9", For: "commands by BPF token, which this kernel has not"},

	{Program: "guard_unlink", Name: "inode_unlink"},
	{Program: "guard_rmdir", Name: "inode_rmdir"},
	{Program: "guard_rename", Name: "inode_rename"},
	{Program: "guard_link", Name: "inode_link"},
	{Program: "guard_create", Name: "inode_create"},
	{Program: "guard_mkdir", Name: "inode_mkdir"},
	{Program: "guard_symlink", Name: "inode_symlink"},
	{Program: "guard_setattr", Name: "inode_setattr", Args: "struct mnt_idmap *, struct dentry *, struct iattr *, ..."},
	{Program: "guard_setattr_old", Name: "inode_setattr", Args: "struct dentry *, struct iattr *"},
	{Program: "guard_umount", Name: "sb_umount"},
	{Program: "guard_mount", Name: "sb_mount"},
	{Program: "guard_move", Name: "move_mount"},
	{Program: "guard_pivot", Name: "sb_pivotroot"},
	{Program: "guard_remount", Name: "sb_remount"},

	{Program: "guard_kill", Name: "task_kill"},
	{Program: "guard_sigio", Name: "file_send_sigiotask"},
	{Program: "guard_ptrace", Name: "ptrace_access_check"},
	{Program: "guard_open", Name: "file_open"},
	{Program: "guard_perf", Name: "perf_event_open", Args: "int"},
	{Program: "guard_perf_old", Name: "perf_event_open", Args: "struct perf_event_attr *, int"},
	{Program: "guard_free", Name: "inode_free_security"},
}

const controlProgram = "guard_control"
