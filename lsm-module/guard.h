/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the guard shares with package lsm, and the few kernel types it reads,
 * written by hand: fields are found by name when it is loaded (CO-RE), so only
 * what is used stands here. A test holds the constants and the layouts against
 * those of the package.
 */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed int __s32;
typedef signed long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u32 __wsum;

/* Shared with package lsm. */

enum mode {
	MODE_OFF,
	MODE_AUDIT,
	MODE_ENFORCE,
};

/* What was done, by hook. */
enum deed {
	DEED_BPF = 1,	/* detail: command of bpf(2) */
	DEED_MAP,	/* a descriptor of an owned map */
	DEED_PROGRAM,	/* a descriptor of an owned program, or of one that uses an owned map */
	DEED_PIN,	/* detail: a PIN_ */
	DEED_MOUNT,	/* detail: a MOUNT_ */
	DEED_TRACE,	/* detail: the kernel's PTRACE_MODE_ */
	DEED_SIGNAL,	/* detail: the signal */
	DEED_BINARY,	/* an enrolled or listed executable opened for writing */
	DEED_SOCKET,	/* detail: the socket option */
	DEED_IOCTL,	/* detail: the ioctl */
	DEED_TOKEN,	/* detail: command of bpf(2) */
	DEED_NETLINK,	/* detail: the type of the netlink message */
	DEED_SWITCH,	/* a file by which the kernel's hooks are turned off, opened for writing */
	DEED_SPAWN,	/* a child of hornetd's executed another program */
	DEED_PROBE,	/* a uprobe; detail: the type of the perf event, or 0 by tracefs */
};

enum {
	PIN_UNLINK = 1,
	PIN_RMDIR,
	PIN_RENAME,
	PIN_LINK,
	PIN_SETATTR,
	PIN_CREATE,
	PIN_MKDIR,
	PIN_SYMLINK,

	MOUNT_UMOUNT = 1,
	MOUNT_OVER,
	MOUNT_MOVE,
	MOUNT_REMOUNT,
};

enum reason {
	REASON_CALLER = 1,	/* not hornetd, and nothing allows it */
	REASON_TYPE,		/* the command is allowed, the type of program or attachment is not */
	REASON_OWNED,		/* what hornetd owns */
	REASON_UNVERIFIED,	/* allowed if the kernel has verified it, which it has not */
};

/* Who a process is to the guard. */
enum mark {
	MARK_HORNETD = 1,
	MARK_MAKER,
};

enum kind {
	KIND_PROGRAM = 1,
	KIND_MAP,
	KIND_LINK,
};

/* Of the control program. Only hornetd may, in every mode. */
enum op {
	OP_WHOAMI = 1,	/* said by hornetd where it arms and adopts; state.last is what it executes */
	OP_MODE,	/* mode, deadline */
	OP_ENROLL,	/* descriptor of an executable; 1: not yet hornetd */
	OP_RETIRE,	/* device and generation, inode */
	OP_OWN,		/* kind, id, OWNED_ bits */
	OP_DISOWN,	/* kind, id */
	OP_LISTED,	/* descriptor of an executable: is it, and does nobody write it? */
	OP_DIGEST,	/* device and generation, inode, four words of its digest */
};

enum {
	OP_ASKED = 0x686f726e, /* the last argument of each */
};

enum {
	OWNED_YES = 1,
	OWNED_SHARED = 2,	/* a map that hornetd gives others to write */
	OWNED_GUARD = 4,	/* a map of the guard's own: nobody else reads it */
};

enum {
	MOUNTS = 1 << 20,	/* steps through a tree of mounts: more than twice as many as there can be */
	POINTS = 16,		/* mount points that must stay */
	KEPT = 8,		/* mounts that must stay, others of the same being copies; with more there are no copies */
	HEIGHT = 8,		/* of a mount, from the root */
	TRIES = 8,		/* of a walk through mounts that change meanwhile */
	ROOTS = 4,
	CALLS = 8, /* words with a bit for each system call */
	DEPTH = 8,		/* of what is pinned, below a guarded directory */
	NAME_SIZE = 64,		/* of a cgroup's own name */
	BURST = 64,		/* events of one caller in a second */
	COMMANDS = 64,		/* as many as a mask can hold */
};

struct root {
	__u64 inode;
	__u32 device;
	__u32 pad;
};

/* An executable as the kernel has it open. */
struct exe {
	__u64 inode;
	__u32 device;
	__u32 generation;
};

/* A cgroup: systemd makes the one of a unit anew, but under the same parent. */
struct place {
	__u64 parent;
	char name[NAME_SIZE];
};

/* What an identity may do. Masks have bit N for value N. */
struct may {
	__u64 commands;
	__u64 programs;
	__u64 attachments;
	__u32 hornetd;	/* becomes hornetd when PID 1 starts it */
	__u32 signals;	/* may end and stop hornetd */
};

struct object {
	__u32 kind;
	__u32 id;
};

/* The only state that changes. User space cannot write it: it is frozen. It grows at
 * its end only, as events do: hornetd reads those of another build. */
/* A mount, by numbers that no other has as long as it is there. */
struct kept {
	__u32 device;
	__u32 mount;
};

struct state {
	__u64 deadline;		/* of enforcing, on the boot clock; 0 is none */
	__u64 calls;		/* bpf(2) seen */
	__u64 refused;
	__u64 lost;		/* events for which there was no room */
	__u64 suppressed;	/* events of callers that caused too many */
	__u64 object;		/* which guard.bpf.o this is */
	__u32 mode;
	__u32 hooks;		/* links that there must be */
	struct exe last;	/* that was enrolled, or said who it is */
	__u64 namespace;	/* hornetd's mount namespace */
	struct root roots[ROOTS];
	struct place home;	/* hornetd's cgroup */
	struct may verified;	/* for programs that the kernel has verified, and while they run */
	__u64 keyrings;		/* bit N: by a key of enum bpf_sig_keyring N */
	__u64 asks[CALLS];	/* bit N of them all: none but the kernel may answer system call N of hornetd's */
	__u64 only;		/* children of hornetd's execute hornetd */
	__u64 uprobes;		/* the type of their perf events; 0 where there are none */
	__u64 first;		/* the first process's mount namespace when the first guard was armed */
	__u64 homes;		/* bit N: roots[N]'s file system was mounted there */
	__u64 everywhere;	/* hornetd has been in more mount namespaces than there is room for */
	__u64 floors;		/* programs of the floor that there must be */
	__u64 floorcalls;	/* bpf(2) that it has seen */
	__u64 made;		/* objects that hornetd has made */
	__u64 noted;		/* of the pins' file systems in the namespace "first", when it began to enforce */
	struct kept kept[KEPT];
};

/* Of a process: what it is, and since when. */
struct role {
	__u64 is;
	__u64 since; /* boot clock */
};

struct event {
	__u64 time;		/* boot clock */
	__u64 cgroup;
	__u64 suppressed;	/* of this caller since the last one */
	struct exe exe;
	__u32 pid;
	__u32 thread;
	__u32 uid;
	__u32 gid;
	__u32 deed;
	__u32 detail;
	__u32 reason;
	__u32 refused;		/* 0: audit, it went through */
	__u32 kind;
	__u32 id;
	__u32 type;		/* of program or map */
	__u32 attach;
	char name[16];		/* of program or map */
	char comm[16];
};

/* The kernel's. */

enum bpf_map_type {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
	BPF_MAP_TYPE_TASK_STORAGE = 29,
};

enum bpf_prog_type {
	BPF_PROG_TYPE_UNSPEC = 0,
};

enum bpf_attach_type {
	BPF_CGROUP_INET_INGRESS = 0,
};

enum {
	BPF_ANY = 0,
	BPF_F_NO_PREALLOC = 1,
	BPF_LOCAL_STORAGE_GET_F_CREATE = 1,
};

enum bpf_cmd {
	BPF_MAP_CREATE,
	BPF_MAP_LOOKUP_ELEM,
	BPF_MAP_UPDATE_ELEM,
	BPF_MAP_DELETE_ELEM,
	BPF_MAP_GET_NEXT_KEY,
	BPF_PROG_LOAD,
	BPF_OBJ_PIN,
	BPF_OBJ_GET,
	BPF_PROG_ATTACH,
	BPF_PROG_DETACH,
	BPF_PROG_TEST_RUN,
	BPF_PROG_GET_NEXT_ID,
	BPF_MAP_GET_NEXT_ID,
	BPF_PROG_GET_FD_BY_ID,
	BPF_MAP_GET_FD_BY_ID,
	BPF_OBJ_GET_INFO_BY_FD,
	BPF_PROG_QUERY,
	BPF_RAW_TRACEPOINT_OPEN,
	BPF_BTF_LOAD,
	BPF_BTF_GET_FD_BY_ID,
	BPF_TASK_FD_QUERY,
	BPF_MAP_LOOKUP_AND_DELETE_ELEM,
	BPF_MAP_FREEZE,
	BPF_BTF_GET_NEXT_ID,
	BPF_MAP_LOOKUP_BATCH,
	BPF_MAP_LOOKUP_AND_DELETE_BATCH,
	BPF_MAP_UPDATE_BATCH,
	BPF_MAP_DELETE_BATCH,
	BPF_LINK_CREATE,
	BPF_LINK_UPDATE,
	BPF_LINK_GET_FD_BY_ID,
	BPF_LINK_GET_NEXT_ID,
	BPF_ENABLE_STATS,
	BPF_ITER_CREATE,
	BPF_LINK_DETACH,
	BPF_PROG_BIND_MAP,
	BPF_TOKEN_CREATE,
	BPF_PROG_STREAM_READ_BY_FD,

	BPF_COMMON_ATTRS = 1 << 16, /* a flag of 7.x */
};

enum bpf_sig_verdict {
	BPF_SIG_UNSIGNED,
	BPF_SIG_VERIFIED,
};

enum {
	FMODE_WRITE = 2,
	PTRACE_MODE_ATTACH = 2,
	LSM_UNSAFE_SHARE = 1,
	LSM_UNSAFE_PTRACE = 2,
	MNT_DETACH = 2,
	PROT_WRITE = 2,
	MAP_SHARED = 1,
	MS_REMOUNT = 0x20,
	MS_BIND = 0x1000,
	MS_MOVE = 0x2000,
	MS_SHARED = 0x100000,
	TUNSETSTEERINGEBPF = 0x800454e0,
	TUNSETFILTEREBPF = 0x800454e1,
	FS_IOC_SETVERSION = 0x40087602,
	FS_IOC32_SETVERSION = 0x40047602,
	EXT4_IOC_SETVERSION = 0x40086604,
	EXT4_IOC32_SETVERSION = 0x40046604,

	NETLINK_ROUTE = 0,
	RTM_NEWLINK = 16,
	RTM_SETLINK = 19,
	RTM_NEWTFILTER = 44,
	RTM_NEWACTION = 48,
	NLA_TYPE_MASK = 0x3fff,
	IFLA_XDP = 43,
	TCA_KIND = 1, /* and TCA_ACT_KIND */

	CAP_SYS_ADMIN = 21,
	PROC_SUPER_MAGIC = 0x9fa0,
	TRACEFS_MAGIC = 0x74726163,
	DEBUGFS_MAGIC = 0x64626720,
	SECURITYFS_MAGIC = 0x73636673,
	SELINUX_MAGIC = 0xf97cff8c,
	SMACK_MAGIC = 0x43415d53,
	AAFS_MAGIC = 0x5a3c69f0,
	CONFIGFS_MAGIC = 0x62656570,
	RPC_PIPEFS_MAGIC = 0x67596969,
	NFSD_MAGIC = 0x6e667364,
	PERF_SECURITY_OPEN = 0,
	PERF_ATTR_SIZE_VER0 = 64,
	PERF_ATTR_BITS = 12, /* perf_event_open(2) takes no more than a page */

	PF_FORKNOEXEC = 1 << 6,
	PF_KTHREAD = 1 << 21,

	ATTR_SIZE = 1 << 3,
	BPF_SK_SKB_STREAM_PARSER = 4,
	BPF_SK_SKB_STREAM_VERDICT = 5,
	BPF_SK_MSG_VERDICT = 7,
	BPF_SK_SKB_VERDICT = 38,
	BPF_PERF_EVENT = 41,
	BPF_LSM_CGROUP = 43,
	BPF_PROG_TYPE_SOCKET_FILTER = 1,
	BPF_PROG_TYPE_SCHED_CLS = 3,
	BPF_PROG_TYPE_XDP = 6,
	BPF_PROG_TYPE_SK_REUSEPORT = 21,
	BPF_PROG_TYPE_EXT = 28,

	SIGHUP = 1,
	SIGCHLD = 17,
	SIGCONT = 18,
	SIGURG = 23,
	SIGIO = 29,
	SIGWINCH = 28,

	SOL_SOCKET = 1,
	SO_ATTACH_BPF = 50,
	SO_ATTACH_REUSEPORT_EBPF = 52,
	PERF_EVENT_IOC_SET_BPF = 0x40042408,

	EPERM = 1,
	EINVAL = 22,
	ENOSPC = 28,
	ENOENT = 2,
	ETXTBSY = 26,
	EBADF = 9,
	ENOMEM = 12,
};

/* Of user space's union bpf_attr what is read here; its layout is fixed. */
struct attr {
	union {
		struct { __u32 type, w1, w2, w3; };
		struct { __u32 target, prog, attach; };
		__u32 fd;
		__u32 id;
	};
	__u32 w4, w5, w6;
	char map_name[16];
	__u32 w11;
	char prog_name[16];
	__u32 w16;
	__u32 expected_attach_type;
};

/* Of messages of rtnetlink; fixed too. */
struct nlmsghdr {
	__u32 len;
	__u16 type, flags;
	__u32 seq, pid;
};

struct nlattr {
	__u16 len, type;
};

enum {
	IFINFO_SIZE = 16, /* struct ifinfomsg */
	TCMSG_SIZE = 20,  /* struct tcmsg */
	WORDS = 1 << 16,  /* of a message that are looked at: more is refused */
	FILTERS = 1 << 13, /* of seccomp, more than a process can have */
};

union bpf_attr;
struct fown_struct;
struct mnt_idmap;
struct kernel_siginfo;
struct notification;
struct socket;
struct bpf_token;

struct bpf_raw_tracepoint_args {
	__u64 args[0];
};

#define KERNEL __attribute__((preserve_access_index))

struct qstr {
	const unsigned char *name;
} KERNEL;

struct super_block {
	__u32 s_dev;
	unsigned long s_magic;
	struct dentry *s_root;
} KERNEL;

typedef struct {
	int counter;
} atomic_t;

struct inode {
	unsigned long i_ino;
	unsigned int i_nlink;
	struct super_block *i_sb;
	__u32 i_generation;
	atomic_t i_writecount;
} KERNEL;

/* Since 6.14; macros before, DCACHE_MOUNTED of one of these two values. */
enum dentry_flags {
	DCACHE_OP_REVALIDATE = 1 << 2,
	DCACHE_MOUNTED = 1 << 15,
	DCACHE_MOUNTED_OLD = 1 << 16,
};

struct dentry {
	unsigned int d_flags;
	struct dentry *d_parent;
	struct qstr d_name;
	struct inode *d_inode;
	struct super_block *d_sb;
} KERNEL;

struct vfsmount {
	struct super_block *mnt_sb;
} KERNEL;

struct list_head {
	struct list_head *next;
} KERNEL;

struct ns_common {
	__u64 ns_id; /* since 6.18, */
} KERNEL;

struct mnt_namespace {
	struct mount *root;
	struct ns_common ns;
	__u64 seq; /* before it */
	__u64 event; /* another with every mount that comes, goes or moves */
} KERNEL;

struct nsproxy {
	struct mnt_namespace *mnt_ns;
} KERNEL;

struct pid_namespace {
	struct task_struct *child_reaper;
} KERNEL;

struct upid {
	struct pid_namespace *ns;
} KERNEL;

struct pid {
	struct upid numbers[1]; /* the first is of the first namespace */
} KERNEL;

struct mount {
	int mnt_id;
	struct mount *mnt_parent;
	struct vfsmount mnt;
	struct list_head mnt_mounts; /* its children, */
	struct list_head mnt_child; /* which are linked by this */
	struct dentry *mnt_mountpoint;
	struct list_head mnt_share;
	struct list_head mnt_slave_list; /* since 6.17 struct hlist_head */
	struct mnt_namespace *mnt_ns;
} KERNEL;

struct path {
	struct vfsmount *mnt;
	struct dentry *dentry;
} KERNEL;

struct file {
	unsigned int f_mode;
	struct path f_path;
	struct inode *f_inode;
	void *private_data;
} KERNEL;

struct fdtable {
	unsigned int max_fds;
	struct file **fd;
} KERNEL;

struct sock {
	__u16 sk_protocol;
} KERNEL;

struct sk_buff {
	unsigned int len;
	unsigned char *data;
} KERNEL;

struct files_struct {
	struct fdtable *fdt;
} KERNEL;

struct mm_struct {
	struct file *exe_file;
} KERNEL;

struct kernfs_node {
	const char *name;
} KERNEL;

struct cgroup {
	int level;
	struct kernfs_node *kn;
} KERNEL;

struct css_set {
	struct cgroup *dfl_cgrp;
} KERNEL;

struct user_namespace {
	int level;
} KERNEL;

struct kernel_cap_t {
	__u64 val; /* two words before 6.3 */
} KERNEL;

struct cred {
	struct kernel_cap_t cap_effective;
	struct user_namespace *user_ns;
} KERNEL;

struct action_cache {
	unsigned long allow_native[CALLS];
} KERNEL;

struct seccomp_filter {
	struct action_cache cache; /* since 5.11 */
	struct seccomp_filter *prev;
	struct notification *notif;
} KERNEL;

struct seccomp {
	struct seccomp_filter *filter;
} KERNEL;

struct task_struct {
	unsigned int flags;
	int tgid;
	struct task_struct *real_parent;
	struct task_struct *group_leader;
	struct mm_struct *mm;
	struct files_struct *files;
	struct css_set *cgroups;
	struct nsproxy *nsproxy;
	struct pid *thread_pid;
	__u64 start_boottime;
	const struct cred *cred;
	struct seccomp seccomp;
} KERNEL;

struct iattr {
	unsigned int ia_valid;
} KERNEL;

struct perf_event_attr {
	__u32 type;
} KERNEL;

struct linux_binprm {
	struct file *file;
	unsigned int unsafe;
} KERNEL;

struct bpf_map {
	enum bpf_map_type map_type;
	__u32 id;
	char name[16];
} KERNEL;

struct bpf_prog_aux {
	__u32 id;
	__u32 used_map_cnt;
	struct bpf_map **used_maps;
	char name[16];
	struct bpf_prog *dst_prog;
	struct {
		__u8 keyring_type;
		__u8 verdict;
	} sig; /* since 7.2 */
} KERNEL;

struct bpf_prog {
	enum bpf_prog_type type;
	enum bpf_attach_type expected_attach_type;
	struct bpf_prog_aux *aux;
} KERNEL;

struct bpf_link {
	__u32 id;
	struct bpf_prog *prog;
} KERNEL;
