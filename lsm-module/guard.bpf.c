//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: nobody but hornetd loads, attaches and changes eBPF.
 *
 * Who may
 *   bprm_committed_creds  the mark of hornetd: cleared by every exec, set where
 *                         PID 1 started an enrolled executable in its cgroup;
 *                         another where hornetd did, which may make maps
 *
 * Ways in
 *   bpf                   every command of bpf(2): loads, attachments, what is
 *                         done with a descriptor of something owned
 *   socket_setsockopt     programs attached to sockets
 *   file_ioctl{,_compat}  programs attached to perf events and tun devices
 *   netlink_send          XDP, and filters and actions of the kind bpf
 *   bpf_token_cmd         commands by token (6.9)
 *
 * What hornetd owns
 *   bpf_map, bpf_prog     descriptors, by id and from pins; programs of others
 *                         that use its maps; and what hornetd creates becomes
 *                         owned
 *   inode_*               its pins: unlink, rename, link, new ones, their modes
 *   sb_*, move_mount      the file system they are on
 *
 * Hornetd itself
 *   ptrace_access_check   memory, registers, descriptors (pidfd_getfd)
 *   task_kill,
 *   file_send_sigiotask   signals
 *   file_open             its executable, for writing
 *
 * Not a hook: guard_control changes the state, and only if hornetd runs it.
 *
 * Self-protection. All maps but the ring buffer are frozen before the first
 * hook is attached, and none is read-only to programs: system calls cannot
 * write them, whoever holds which descriptor, and the programs below can; no
 * other program gets at them, for nobody else has a descriptor of theirs. So
 * the marks, the mode and what is owned change here and nowhere else. The
 * links, programs and maps of the guard are owned like everything of hornetd's,
 * and so are their pins. Links of LSM programs can be neither detached nor
 * updated (EOPNOTSUPP): they end when their pin and their last descriptor have
 * gone. There is no hook for descriptors of links; what can be done with one is
 * asked of bpf.
 *
 * hornetd is a mark in the storage of the thread-group leader: Go makes threads
 * for ever, and a forked child is a leader of its own. Names, paths and numbers
 * decide nothing.
 *
 * No program sleeps. A hook returns 0 or what refuse() says.
 */
#include "guard.h"
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

struct state state;

struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} marks SEC(".maps");

/* Which command of bpf(2) a thread of hornetd is in. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, __u32);
} commands SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct exe);
	__type(value, struct may);
} executables SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct place);
	__type(value, struct may);
} places SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct object);
	__type(value, __u32);
} owned SEC(".maps");

/* For hornetd: digests of what it trusts. The guard only keeps them. */
struct digest {
	__u8 sum[32];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct digest);
	__type(value, __u32);
} sealed SEC(".maps");

struct caller {
	__u64 cgroup;
	__u64 uid;
};

struct budget {
	__u64 since;
	__u64 count;
	__u64 suppressed;
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 1024);
	__type(key, struct caller);
	__type(value, struct budget);
} callers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

/* What is told of a deed beside who did it. */
struct what {
	__u32 deed;
	__u32 detail;
	__u32 reason;
	__u32 kind;
	__u32 id;
	__u32 type;
	__u32 attach;
	const char *name; /* the kernel's, 16 bytes, or 0 */
};

/* Who */

static __always_inline __u32 mark_of(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	__u32 *mark = leader ? bpf_task_storage_get(&marks, leader, 0, 0) : 0;

	return mark ? *mark : 0;
}

/* The same, for who is done something to. Until it executes something, a child of
 * such a process has no mark, and all that there is to protect: the descriptors, and
 * with vfork(2), as Go has it, the very memory. */
static __always_inline __u32 protected(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader, *parent;
	__u32 mark = mark_of(task);

	if (mark || !leader || !(leader->flags & PF_FORKNOEXEC))
		return mark;
	parent = leader->real_parent;
	return parent ? mark_of(parent) : 0;
}

static __always_inline _Bool hornetd(void)
{
	return mark_of(bpf_get_current_task_btf()) == MARK_HORNETD;
}

/* A process that makes maps for hornetd, in a cgroup that they are charged to, and
 * hands them over. It may do nothing else. (Libraries try for a token first.) */
static __always_inline _Bool maker(void)
{
	return mark_of(bpf_get_current_task_btf()) == MARK_MAKER;
}

static __always_inline _Bool makes_maps(__u32 command)
{
	return maker() && (command == BPF_MAP_CREATE || command == BPF_BTF_LOAD || command == BPF_TOKEN_CREATE);
}

static __always_inline void identify(struct inode *inode, struct exe *exe)
{
	exe->inode = BPF_CORE_READ(inode, i_ino);
	exe->device = BPF_CORE_READ(inode, i_sb, s_dev);
	exe->generation = BPF_CORE_READ(inode, i_generation);
}

static __always_inline void current_exe(struct exe *exe)
{
	struct task_struct *task = bpf_get_current_task_btf();

	identify(BPF_CORE_READ(task, mm, exe_file, f_inode), exe);
}

/* The cgroup that a task is in: its parent's id and its own name. */
static __always_inline void current_place(struct place *place)
{
	struct task_struct *task = bpf_get_current_task_btf();
	int level = BPF_CORE_READ(task, cgroups, dfl_cgrp, level);

	if (level > 0)
		place->parent = bpf_get_current_ancestor_cgroup_id(level - 1);
	bpf_probe_read_kernel_str(place->name, sizeof(place->name), BPF_CORE_READ(task, cgroups, dfl_cgrp, kn, name));
}

/* What no other mount namespace has ever been called; inode numbers are given again,
 * and so is memory. */
static __always_inline __u64 serial(struct mnt_namespace *ns)
{
	if (bpf_core_field_exists(ns->seq))
		return BPF_CORE_READ(ns, seq);
	return BPF_CORE_READ(ns, ns.ns_id);
}

/* Notes in which mount namespace hornetd is. Its threads may visit others. */
static __always_inline void note_namespace(void)
{
	state.namespace = serial(BPF_CORE_READ(bpf_get_current_task_btf(), group_leader, nsproxy, mnt_ns));
}

static __always_inline _Bool bit(__u64 mask, __u32 n)
{
	return n < 64 && mask >> n & 1;
}

static __noinline int permits(struct may *may, __u32 command, __u32 program, __u32 attach)
{
	if (!may || !bit(may->commands, command))
		return REASON_CALLER;
	if (command == BPF_PROG_LOAD && !bit(may->programs, program))
		return REASON_TYPE;
	if ((command == BPF_PROG_ATTACH || command == BPF_PROG_DETACH || command == BPF_LINK_CREATE) &&
	    !bit(may->attachments, attach))
		return REASON_TYPE;
	return 0;
}

/* Returns 0 if an identity that the operator listed may, or the reason. */
static __noinline int listed(__u32 command, __u32 program, __u32 attach)
{
	struct exe exe = {};
	struct place place = {};
	int by_exe, by_place;

	current_exe(&exe);
	current_place(&place);
	by_exe = permits(bpf_map_lookup_elem(&executables, &exe), command, program, attach);
	if (!by_exe)
		return 0;
	by_place = permits(bpf_map_lookup_elem(&places, &place), command, program, attach);
	if (!by_place)
		return 0;
	return by_exe > by_place ? by_exe : by_place;
}

/* What is said */

/* Counts an event of a caller, and says how many of it were not told since the
 * last one, or -1 if this is one too many. */
static __noinline __s64 budget(__u64 now)
{
	struct caller key = { bpf_get_current_cgroup_id(), bpf_get_current_uid_gid() & 0xffffffff };
	struct budget first = { now, 1, 0 }, *b;
	__s64 before;

	b = bpf_map_lookup_elem(&callers, &key);
	if (!b) {
		bpf_map_update_elem(&callers, &key, &first, BPF_ANY);
		return 0;
	}
	if (now - b->since > 1000000000) {
		b->since = now;
		b->count = 0;
	}
	if (__sync_fetch_and_add(&b->count, 1) >= BURST) {
		__sync_fetch_and_add(&b->suppressed, 1);
		__sync_fetch_and_add(&state.suppressed, 1);
		return -1;
	}
	before = b->suppressed;
	__sync_fetch_and_add(&b->suppressed, -before);
	return before;
}

/* Everything but what tell() knows. */
static __noinline int fill(struct event *e, struct what *what)
{
	if (!e || !what)
		return 0;
	e->cgroup = bpf_get_current_cgroup_id();
	current_exe(&e->exe);
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->thread = bpf_get_current_pid_tgid();
	e->uid = bpf_get_current_uid_gid();
	e->gid = bpf_get_current_uid_gid() >> 32;
	e->deed = what->deed;
	e->detail = what->detail;
	e->reason = what->reason;
	e->kind = what->kind;
	e->id = what->id;
	e->type = what->type;
	e->attach = what->attach;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	__builtin_memset(e->name, 0, sizeof(e->name));
	if (what->name)
		bpf_probe_read_kernel_str(e->name, sizeof(e->name), what->name);
	return 0;
}

static __noinline int tell(struct what *what, __u32 refused)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__s64 suppressed = budget(now);
	struct event *e;

	if (suppressed < 0)
		return 0;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&state.lost, 1);
		return 0;
	}
	e->time = now;
	e->suppressed = suppressed;
	e->refused = refused;
	fill(e, what);
	bpf_ringbuf_submit(e, 0);
	return 0;
}

static __always_inline _Bool enforcing(void)
{
	return state.mode == MODE_ENFORCE && (!state.deadline || bpf_ktime_get_boot_ns() < state.deadline);
}

/* The end of every hook that found something: it is told, and refused where the
 * guard enforces. */
static __always_inline int refuse(struct what *what)
{
	_Bool refused = enforcing();
	int verdict = -EPERM;

	if (state.mode == MODE_OFF)
		return 0;
	__sync_fetch_and_add(&state.refused, refused);
	tell(what, refused);
	if (!refused)
		return 0;
	/* As it is: computed from refused, the verifier would not know its range. */
	barrier_var(verdict);
	return verdict;
}

/* What hornetd owns */

static __always_inline _Bool is_owned(__u32 kind, __u32 id)
{
	struct object key = { kind, id };

	return bpf_map_lookup_elem(&owned, &key);
}

static __always_inline int own(__u32 kind, __u32 id, __u32 how)
{
	struct object key = { kind, id };

	return bpf_map_update_elem(&owned, &key, &how, BPF_ANY) ? -ENOSPC : 0;
}

/* Is it owned in this way, too? */
static __always_inline _Bool is_owned_so(__u32 kind, __u32 id, __u32 bit)
{
	struct object key = { kind, id };
	__u32 *how = bpf_map_lookup_elem(&owned, &key);

	return how && *how & bit;
}

static __always_inline struct file *file_of(__u32 fd)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file *file = 0;

	if (fd < BPF_CORE_READ(table, max_fds))
		bpf_probe_read_kernel(&file, sizeof(file), BPF_CORE_READ(table, fd) + fd);
	return file;
}

static __always_inline _Bool same(const char *a, const char *b, int n)
{
	for (int i = 0; i < n; i++)
		if (a[i] != b[i])
			return 0;
	return 1;
}

/* Which object a descriptor is of; kind 0 is none. The kernel names such files. */
static __noinline int object_of(__u32 fd, struct object *o)
{
	struct file *file = file_of(fd);
	void *object = BPF_CORE_READ(file, private_data);
	char name[16] = {};

	if (!o)
		return 0;
	o->kind = 0;
	o->id = 0;
	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	if (same(name, "bpf-map", 8)) {
		o->kind = KIND_MAP;
		o->id = BPF_CORE_READ((struct bpf_map *)object, id);
	} else if (same(name, "bpf-prog", 9)) {
		o->kind = KIND_PROGRAM;
		o->id = BPF_CORE_READ((struct bpf_prog *)object, aux, id);
	} else if (same(name, "bpf_link", 9) || same(name, "bpf-link", 9)) {
		o->kind = KIND_LINK;
		o->id = BPF_CORE_READ((struct bpf_link *)object, id);
	}
	return 0;
}

/* Ways in */

enum class {
	FREE,		/* reads, and what another hook decides */
	GATED,		/* for who is listed */
	OF_FD,		/* not on what is owned and not shared, by the descriptor fd */
	OF_BATCH,	/* likewise, batches */
	FREEZES,	/* not on what is owned */
	OF_PIN,		/* likewise, by the third word */
	OF_LINK_ID,	/* not of owned links, but for who is listed for looking */
	GATED_OF_FD,	/* both */
};

/* What is not known here is gated: a later kernel's. */
static __always_inline enum class class(__u32 command)
{
	switch (command) {
	case BPF_MAP_LOOKUP_ELEM:
	case BPF_MAP_GET_NEXT_KEY:
	case BPF_OBJ_GET:
	case BPF_PROG_GET_NEXT_ID:
	case BPF_MAP_GET_NEXT_ID:
	case BPF_PROG_GET_FD_BY_ID:
	case BPF_MAP_GET_FD_BY_ID:
	case BPF_OBJ_GET_INFO_BY_FD:
	case BPF_PROG_QUERY:
	case BPF_BTF_GET_FD_BY_ID:
	case BPF_TASK_FD_QUERY:
	case BPF_BTF_GET_NEXT_ID:
	case BPF_MAP_LOOKUP_BATCH:
	case BPF_LINK_GET_NEXT_ID:
	case BPF_ENABLE_STATS:
	case BPF_PROG_STREAM_READ_BY_FD:
		return FREE;
	case BPF_MAP_UPDATE_ELEM:
	case BPF_MAP_DELETE_ELEM:
	case BPF_MAP_LOOKUP_AND_DELETE_ELEM:
		return OF_FD;
	case BPF_MAP_FREEZE:
		return FREEZES;
	case BPF_MAP_LOOKUP_AND_DELETE_BATCH:
	case BPF_MAP_UPDATE_BATCH:
	case BPF_MAP_DELETE_BATCH:
		return OF_BATCH;
	case BPF_OBJ_PIN:
		return OF_PIN;
	case BPF_LINK_GET_FD_BY_ID:
		return OF_LINK_ID;
	case BPF_LINK_CREATE:
	case BPF_LINK_UPDATE:
	case BPF_LINK_DETACH:
	case BPF_ITER_CREATE:
	case BPF_PROG_BIND_MAP:
	case BPF_PROG_TEST_RUN:
		return GATED_OF_FD;
	default:
		return GATED;
	}
}

/* Something of hornetd's. */
static __always_inline int touches(enum class class, struct attr *a, struct what *what)
{
	struct object o = {};

	switch (class) {
	case OF_FD:
	case FREEZES:
	case GATED_OF_FD:
		object_of(a->fd, &o);
		break;
	case OF_BATCH:
		object_of(*(__u32 *)(a->map_name + 8), &o);
		break;
	case OF_PIN:
		object_of(a->w2, &o);
		break;
	case OF_LINK_ID:
		o.kind = KIND_LINK;
		o.id = a->id;
		break;
	default:
		return 0;
	}
	if (!is_owned(o.kind, o.id))
		return 0;
	if ((class == OF_FD || class == OF_BATCH) && is_owned_so(o.kind, o.id, OWNED_SHARED))
		return 0;
	what->kind = o.kind;
	what->id = o.id;
	what->reason = REASON_OWNED;
	return 1;
}

static __always_inline void describe(__u32 command, struct attr *a, struct what *what)
{
	switch (command) {
	case BPF_PROG_LOAD:
		what->type = a->type;
		what->attach = a->expected_attach_type;
		what->name = a->prog_name;
		break;
	case BPF_MAP_CREATE:
		what->type = a->type;
		what->name = a->map_name;
		break;
	case BPF_PROG_ATTACH:
	case BPF_PROG_DETACH:
	case BPF_LINK_CREATE:
		what->attach = a->attach;
		break;
	}
}

/* What the kernel vouches for */

/* Of "commands", for a thread without a mark: it runs a verified program. */
enum { VERIFIED_RUN = 1 << 31 };

/* Signed by a key of a keyring that was allowed? The kernel takes the caller's own
 * keyrings too: what is verified by one of those is verified by nobody. */
static __always_inline _Bool verified(struct bpf_prog *prog)
{
	struct bpf_prog_aux *aux = BPF_CORE_READ(prog, aux);

	/* Each that is read: behind a look at another one the kernel refuses the program. */
	if (!bpf_core_field_exists(aux->sig.verdict) || !bpf_core_field_exists(aux->sig.keyring_type))
		return 0;
	return BPF_CORE_READ(aux, sig.verdict) == BPF_SIG_VERIFIED && bit(state.keyrings, BPF_CORE_READ(aux, sig.keyring_type));
}

static __noinline int verified_fd(__u32 fd)
{
	struct file *file = file_of(fd);
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return same(name, "bpf-prog", 9) && verified(BPF_CORE_READ(file, private_data));
}

/* Somebody who is not listed: 0 if the kernel vouches for what he does, or the reason.
 * What a verified program loads has no signature of its own. It does that on the
 * thread that runs it, and a thread's next call from user space is not in that run. */
static __noinline int vouched(__u32 command, struct attr *a, __u32 attach, _Bool kernel)
{
	struct task_struct *task = bpf_get_current_task_btf();
	__u32 run = 0, *now;
	int reason;

	if (!a || !state.keyrings)
		return REASON_CALLER;
	if (!kernel && command == BPF_PROG_TEST_RUN && verified_fd(a->fd))
		run = VERIFIED_RUN;
	now = bpf_task_storage_get(&commands, task, 0, run ? BPF_LOCAL_STORAGE_GET_F_CREATE : 0);
	if (now && !kernel)
		*now = run;
	reason = permits(&state.verified, command, a->type, attach);
	if (reason)
		return reason;
	if (kernel)
		return now && *now == VERIFIED_RUN ? 0 : REASON_UNVERIFIED;
	if (command == BPF_PROG_LOAD || run)
		return 0; /* of a load guard_load hears the kernel's verdict */
	return REASON_UNVERIFIED;
}

/* What a thread with a mark is in: guard_map and guard_prog ask. Without memory for
 * it the call fails: what it makes could not be told to be hornetd's. */
static __always_inline int note(__u32 command)
{
	__u32 *now = bpf_task_storage_get(&commands, bpf_get_current_task_btf(), 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!now)
		return -ENOMEM;
	*now = command;
	return 0;
}

/* A link that hornetd pins is owned. */
static __always_inline int pins(__u32 command, struct attr *a)
{
	struct object o = {};

	if (command != BPF_OBJ_PIN)
		return 0;
	object_of(a->w2, &o);
	return o.kind == KIND_LINK ? own(o.kind, o.id, OWNED_YES) : 0;
}

static __always_inline int judge(int cmd, union bpf_attr *attr, _Bool kernel)
{
	__u32 command = cmd & ~BPF_COMMON_ATTRS;
	struct what what = { .deed = DEED_BPF, .detail = command };
	enum class c = class(command);
	struct attr a = {};
	int vouch;

	__sync_fetch_and_add(&state.calls, 1);
	bpf_probe_read_kernel(&a, sizeof(a), attr);
	if ((hornetd() || maker()) && note(command))
		return -ENOMEM;
	if (hornetd())
		return pins(command, &a);
	if (makes_maps(command))
		return 0;
	describe(command, &a, &what);
	vouch = vouched(command, &a, what.attach, kernel);
	if (c == FREE)
		return 0;
	if (touches(c, &a, &what))
		return c == OF_LINK_ID && !listed(command, 0, 0) ? 0 : refuse(&what);
	if (c != GATED && c != GATED_OF_FD)
		return 0;
	what.reason = listed(command, what.type, what.attach);
	if (!what.reason || !vouch)
		return 0;
	if (vouch > what.reason)
		what.reason = vouch;
	return refuse(&what);
}

/* Of an argument that is a bool the lowest byte is defined, and it is all that is looked at. */

SEC("lsm/bpf")
int BPF_PROG(guard_bpf, int cmd, union bpf_attr *attr, unsigned int size, __u8 kernel)
{
	return judge(cmd, attr, kernel);
}

/* Up to Linux 6.14, where nothing is verified. */
SEC("lsm/bpf")
int BPF_PROG(guard_bpf_old, int cmd, union bpf_attr *attr, unsigned int size)
{
	return judge(cmd, attr, 0);
}

/* Behind the kernel's own look at the signature. What a program loads guard_bpf has
 * judged, and what is neither listed nor may be verified. */
SEC("lsm/bpf_prog_load")
int BPF_PROG(guard_load, struct bpf_prog *prog, union bpf_attr *attr, struct bpf_token *token, __u8 kernel)
{
	struct what what = { .deed = DEED_BPF, .detail = BPF_PROG_LOAD, .reason = REASON_UNVERIFIED, .type = prog->type,
			     .attach = prog->expected_attach_type, .name = prog->aux->name };

	if (kernel || hornetd() || verified(prog) || !state.keyrings)
		return 0;
	if (permits(&state.verified, BPF_PROG_LOAD, what.type, 0) || !listed(BPF_PROG_LOAD, what.type, 0))
		return 0;
	return refuse(&what);
}

/* Programs attached by other system calls; their descriptors have to be had first. */

SEC("lsm/socket_setsockopt")
int BPF_PROG(guard_setsockopt, struct socket *sock, int level, int name)
{
	struct what what = { .deed = DEED_SOCKET, .detail = name };

	if (level != SOL_SOCKET || (name != SO_ATTACH_BPF && name != SO_ATTACH_REUSEPORT_EBPF) || hornetd())
		return 0;
	/* Who may load such programs may attach them. */
	what.reason = listed(BPF_PROG_LOAD, name == SO_ATTACH_BPF ? BPF_PROG_TYPE_SOCKET_FILTER : BPF_PROG_TYPE_SK_REUSEPORT, 0);
	return what.reason ? refuse(&what) : 0;
}

static __always_inline int ioctl(unsigned int cmd)
{
	struct what what = { .deed = DEED_IOCTL, .attach = BPF_PERF_EVENT };

	switch (cmd) {
	case PERF_EVENT_IOC_SET_BPF:
	case TUNSETSTEERINGEBPF:
	case TUNSETFILTEREBPF:
		break;
	default:
		return 0;
	}
	if (hornetd())
		return 0;
	what.detail = cmd;
	what.reason = listed(BPF_LINK_CREATE, 0, BPF_PERF_EVENT);
	return what.reason ? refuse(&what) : 0;
}

SEC("lsm/file_ioctl")
int BPF_PROG(guard_ioctl, struct file *file, unsigned int cmd)
{
	return ioctl(cmd);
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(guard_ioctl_compat, struct file *file, unsigned int cmd)
{
	return ioctl(cmd);
}

/* rtnetlink: XDP of an interface, and filters and actions of the kind bpf, wherever
 * in a message they are. Of attributes that are given twice the kernel takes the last,
 * so that each of them counts here. */

struct message {
	void *at, *end; /* what is not read yet */
	__u16 type;
	_Bool attaches;
};

static long attribute(__u32 i, struct message *m)
{
	struct nlattr a;

	if (m->at + sizeof(a) > m->end || bpf_probe_read_kernel(&a, sizeof(a), m->at) || a.len < sizeof(a))
		return 1;
	if ((a.type & NLA_TYPE_MASK) == IFLA_XDP) {
		m->attaches = 1;
		return 1;
	}
	m->at += (a.len + 3) & ~3;
	return 0;
}

static long word(__u32 i, struct message *m)
{
	struct {
		struct nlattr a;
		char kind[4];
	} w = {};

	if (m->at + 7 > m->end)
		return 1;
	bpf_probe_read_kernel(&w, sizeof(w), m->at);
	if (w.a.len >= 7 && (w.a.type & NLA_TYPE_MASK) == TCA_KIND && same(w.kind, "bpf", 3) && (w.a.len == 7 || !w.kind[3])) {
		m->attaches = 1;
		return 1;
	}
	m->at += 4;
	return 0;
}

static long message(__u32 i, struct message *all)
{
	struct message m = {};
	struct nlmsghdr h;

	if (all->at + sizeof(h) > all->end || bpf_probe_read_kernel(&h, sizeof(h), all->at) || h.len < sizeof(h))
		return 1;
	m.at = all->at + sizeof(h);
	m.end = all->at + h.len < all->end ? all->at + h.len : all->end;
	if (h.type == RTM_NEWLINK || h.type == RTM_SETLINK) {
		m.at += IFINFO_SIZE;
		bpf_loop(WORDS, attribute, &m, 0);
	} else if (h.type == RTM_NEWTFILTER || h.type == RTM_NEWACTION) {
		bpf_loop(WORDS, word, &m, 0);
	}
	if (m.attaches) {
		all->type = h.type;
		all->attaches = 1;
		return 1;
	}
	all->at += (h.len + 3) & ~3;
	return 0;
}

SEC("lsm/netlink_send")
int BPF_PROG(guard_netlink, struct sock *sk, struct sk_buff *skb)
{
	struct what what = { .deed = DEED_NETLINK };
	struct message m = { .at = skb->data };

	if (sk->sk_protocol != NETLINK_ROUTE || hornetd())
		return 0;
	m.end = m.at + skb->len;
	if (skb->len > WORDS * 4)
		m.attaches = 1;
	else
		bpf_loop(WORDS, message, &m, 0);
	if (!m.attaches)
		return 0;
	what.detail = m.type;
	/* Who may load such programs may attach them. */
	what.reason = listed(BPF_PROG_LOAD, m.type == RTM_NEWLINK || m.type == RTM_SETLINK ? BPF_PROG_TYPE_XDP : BPF_PROG_TYPE_SCHED_CLS, 0);
	return what.reason ? refuse(&what) : 0;
}

/* The command itself was judged by guard_bpf. Whoever may make tokens may use them. */
SEC("lsm/bpf_token_cmd")
int BPF_PROG(guard_token, const struct bpf_token *token, int cmd)
{
	struct what what = { .deed = DEED_TOKEN, .detail = cmd };

	if (hornetd())
		return 0;
	what.reason = listed(BPF_TOKEN_CREATE, 0, 0);
	return what.reason ? refuse(&what) : 0;
}

/* Descriptors of what is owned */

/* Is the current thread of hornetd in this command? */
static __always_inline _Bool within(__u32 command)
{
	__u32 *now = bpf_task_storage_get(&commands, bpf_get_current_task_btf(), 0, 0);

	return now && *now == command;
}

SEC("lsm/bpf_map")
int BPF_PROG(guard_map, struct bpf_map *map, unsigned int fmode)
{
	struct what what = { .deed = DEED_MAP, .reason = REASON_OWNED, .kind = KIND_MAP, .id = map->id, .type = map->map_type, .name = map->name };

	if ((hornetd() || maker()) && within(BPF_MAP_CREATE))
		return own(KIND_MAP, map->id, OWNED_YES);
	if (hornetd() || !is_owned(KIND_MAP, map->id))
		return 0;
	/* A map of maps and an iterator take one that is read-only and write with it:
	 * whoever is listed for looking at maps may have one, but not of the guard's. */
	if (!(fmode & FMODE_WRITE) && !is_owned_so(KIND_MAP, map->id, OWNED_GUARD) && !listed(BPF_MAP_GET_FD_BY_ID, 0, 0))
		return 0;
	return refuse(&what);
}

struct uses {
	struct bpf_map **maps;
	__u32 owned; /* id of the first that is */
};

static long use(__u32 i, struct uses *u)
{
	struct bpf_map *map = 0;
	__u32 id;

	bpf_probe_read_kernel(&map, sizeof(map), u->maps + i);
	id = BPF_CORE_READ(map, id);
	if (!is_owned(KIND_MAP, id) || is_owned_so(KIND_MAP, id, OWNED_SHARED))
		return 0;
	u->owned = id;
	return 1;
}

/* The verifier lets a program write a map that is frozen, and that the loader has a
 * descriptor of to read only: a program of somebody else's that has one of hornetd's
 * is told from others by its maps. This hook comes behind the verifier, before the
 * loader has the descriptor.
 *
 * With the descriptor of a program it can be run and attached, as far as the caller
 * is listed for that: whoever is listed for looking at programs may have one. */
SEC("lsm/bpf_prog")
int BPF_PROG(guard_prog, struct bpf_prog *prog)
{
	struct bpf_prog_aux *aux = prog->aux;
	struct what what = { .deed = DEED_PROGRAM, .reason = REASON_OWNED, .kind = KIND_PROGRAM, .id = aux->id, .type = prog->type, .name = aux->name };
	struct uses u = {};

	if (hornetd())
		return within(BPF_PROG_LOAD) ? own(KIND_PROGRAM, aux->id, OWNED_YES) : 0;
	if (is_owned(KIND_PROGRAM, aux->id))
		return listed(BPF_PROG_GET_FD_BY_ID, 0, 0) ? refuse(&what) : 0;
	u.maps = BPF_CORE_READ(aux, used_maps);
	bpf_loop(BPF_CORE_READ(aux, used_map_cnt), use, &u, 0);
	if (!u.owned)
		return 0;
	what.kind = KIND_MAP;
	what.id = u.owned;
	return refuse(&what);
}

/* Pins */

static __always_inline _Bool guarded_device(__u32 device)
{
	for (int i = 0; i < ROOTS; i++)
		if (device && state.roots[i].device == device)
			return 1;
	return 0;
}

static __always_inline _Bool guarded_root(struct inode *inode, __u32 device)
{
	__u64 number = BPF_CORE_READ(inode, i_ino);

	for (int i = 0; i < ROOTS; i++)
		if (inode && state.roots[i].device == device && state.roots[i].inode == number)
			return 1;
	return 0;
}

/* Is it a guarded directory, or in one? */
static __noinline int guarded(struct dentry *dentry)
{
	__u32 device = BPF_CORE_READ(dentry, d_sb, s_dev);

	if (!guarded_device(device))
		return 0;
	for (int i = 0; i < DEPTH && dentry; i++) {
		if (guarded_root(BPF_CORE_READ(dentry, d_inode), device))
			return 1;
		dentry = BPF_CORE_READ(dentry, d_parent);
	}
	return 0;
}

static __always_inline int pin(struct dentry *dentry, __u32 detail)
{
	struct what what = { .deed = DEED_PIN, .detail = detail, .reason = REASON_OWNED };

	if (!guarded(dentry) || hornetd())
		return 0;
	what.name = (const char *)BPF_CORE_READ(dentry, d_name.name);
	return refuse(&what);
}

SEC("lsm/inode_unlink")
int BPF_PROG(guard_unlink, struct inode *dir, struct dentry *dentry)
{
	return pin(dentry, PIN_UNLINK);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(guard_rmdir, struct inode *dir, struct dentry *dentry)
{
	return pin(dentry, PIN_RMDIR);
}

SEC("lsm/inode_rename")
int BPF_PROG(guard_rename, struct inode *old_dir, struct dentry *old, struct inode *new_dir, struct dentry *new)
{
	return pin(guarded(old) ? old : new, PIN_RENAME);
}

SEC("lsm/inode_link")
int BPF_PROG(guard_link, struct dentry *old, struct inode *dir, struct dentry *new)
{
	return pin(guarded(old) ? old : new, PIN_LINK);
}

/* A new pin; opening one that is not there */
SEC("lsm/inode_create")
int BPF_PROG(guard_create, struct inode *dir, struct dentry *dentry)
{
	return pin(dentry, PIN_CREATE);
}

SEC("lsm/inode_mkdir")
int BPF_PROG(guard_mkdir, struct inode *dir, struct dentry *dentry)
{
	return pin(dentry, PIN_MKDIR);
}

SEC("lsm/inode_symlink")
int BPF_PROG(guard_symlink, struct inode *dir, struct dentry *dentry)
{
	return pin(dentry, PIN_SYMLINK);
}

static __always_inline int binary(struct inode *inode)
{
	struct what what = { .deed = DEED_BINARY, .reason = REASON_OWNED };
	struct exe exe = {};

	identify(inode, &exe);
	return bpf_map_lookup_elem(&executables, &exe) && !hornetd() ? refuse(&what) : 0;
}

static __always_inline int setattr(struct dentry *dentry, struct iattr *attr)
{
	int verdict = pin(dentry, PIN_SETATTR);

	return verdict || !(attr->ia_valid & ATTR_SIZE) ? verdict : binary(BPF_CORE_READ(dentry, d_inode));
}

SEC("lsm/inode_setattr")
int BPF_PROG(guard_setattr, struct mnt_idmap *idmap, struct dentry *dentry, struct iattr *attr)
{
	return setattr(dentry, attr);
}

/* Before 6.3 */
SEC("lsm/inode_setattr")
int BPF_PROG(guard_setattr_old, struct dentry *dentry, struct iattr *attr)
{
	return setattr(dentry, attr);
}

static __always_inline int mount(__u32 detail)
{
	struct what what = { .deed = DEED_MOUNT, .detail = detail, .reason = REASON_OWNED };

	return hornetd() ? 0 : refuse(&what);
}

/* Mounts of a service's or a container's own namespace are theirs to change, as long
 * as nothing of it goes on to others. */

static __always_inline struct mount *real_mount(struct vfsmount *mnt)
{
	return (void *)mnt - bpf_core_field_offset(struct mount, mnt);
}

/* The first process, as the kernel has it now. */
static __always_inline struct task_struct *first_process(void)
{
	void *pid = BPF_CORE_READ(bpf_get_current_task_btf(), thread_pid);
	struct pid_namespace *ns = 0;

	bpf_probe_read_kernel(&ns, sizeof(ns), pid + bpf_core_field_offset(struct pid, numbers) + bpf_core_field_offset(struct upid, ns));
	return BPF_CORE_READ(ns, child_reaper);
}

/* In a namespace that the first process is in, or hornetd. */
static __always_inline _Bool at_home(struct mount *m)
{
	struct mnt_namespace *ns = BPF_CORE_READ(m, mnt_ns);

	return ns && (ns == BPF_CORE_READ(first_process(), nsproxy, mnt_ns) || serial(ns) == state.namespace);
}

static __always_inline _Bool has_peers(struct mount *m)
{
	return BPF_CORE_READ(m, mnt_share.next) != (void *)m + bpf_core_field_offset(struct mount, mnt_share);
}

/* Would its unmount take pins away? */
static __always_inline _Bool must_stay(struct mount *m)
{
	return guarded_device(BPF_CORE_READ(m, mnt.mnt_sb, s_dev)) && (at_home(m) || has_peers(BPF_CORE_READ(m, mnt_parent)));
}

/* Would a mount there hide pins? */
static __always_inline _Bool hides(const struct path *path)
{
	struct mount *m = real_mount(path->mnt);
	struct dentry *dentry = path->dentry;
	struct super_block *sb = BPF_CORE_READ(dentry, d_sb);

	if (!guarded_device(BPF_CORE_READ(sb, s_dev)) || !(BPF_CORE_READ(sb, s_root) == dentry || guarded(dentry)))
		return 0;
	return at_home(m) || has_peers(m);
}

struct walk {
	struct mount *top, *at;
	_Bool up, ended, found;
};

/* One step through the mounts below a mount: down, aside or up. */
static long step(__u32 i, struct walk *w)
{
	struct mount *m = w->at, *parent = BPF_CORE_READ(m, mnt_parent);
	void *next = BPF_CORE_READ(m, mnt_mounts.next);

	if (!w->up && must_stay(m)) {
		w->found = 1;
		return 1;
	}
	if (!w->up && next != (void *)m + bpf_core_field_offset(struct mount, mnt_mounts)) {
		w->at = next - bpf_core_field_offset(struct mount, mnt_child);
		return 0;
	}
	if (m == w->top) {
		w->ended = 1;
		return 1;
	}
	next = BPF_CORE_READ(m, mnt_child.next);
	w->up = next == (void *)parent + bpf_core_field_offset(struct mount, mnt_mounts);
	w->at = w->up ? parent : next - bpf_core_field_offset(struct mount, mnt_child);
	return 0;
}

/* Does a mount, unmounted with all below it, take pins along? */
static __always_inline _Bool takes_along(struct vfsmount *mnt)
{
	struct walk w = {};

	w.top = w.at = real_mount(mnt);
	bpf_loop(MOUNTS, step, &w, 0);
	return w.found || !w.ended;
}

SEC("lsm/sb_umount")
int BPF_PROG(guard_umount, struct vfsmount *mnt, int flags)
{
	/* So it leaves the root file system that it comes from. */
	if (bpf_get_current_task_btf()->tgid == 1 && flags & MNT_DETACH)
		return 0;
	return must_stay(real_mount(mnt)) || (flags & MNT_DETACH && takes_along(mnt)) ? mount(MOUNT_UMOUNT) : 0;
}

SEC("lsm/sb_mount")
int BPF_PROG(guard_mount, const char *dev_name, const struct path *path)
{
	return hides(path) ? mount(MOUNT_OVER) : 0;
}

SEC("lsm/move_mount")
int BPF_PROG(guard_move, const struct path *from, const struct path *to)
{
	if (must_stay(real_mount(from->mnt)))
		return mount(MOUNT_MOVE);
	return hides(to) ? mount(MOUNT_OVER) : 0;
}

SEC("lsm/sb_remount")
int BPF_PROG(guard_remount, struct super_block *sb)
{
	return guarded_device(sb->s_dev) ? mount(MOUNT_REMOUNT) : 0;
}

/* hornetd itself */

/* The first process, and who is listed, may end it. */
static __always_inline _Bool may_signal(void)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct place place = {};
	struct exe exe = {};
	struct may *may;

	if (task->tgid == 1 || task->flags & PF_KTHREAD)
		return 1;
	current_exe(&exe);
	may = bpf_map_lookup_elem(&executables, &exe);
	if (may && may->signals)
		return 1;
	current_place(&place);
	may = bpf_map_lookup_elem(&places, &place);
	return may && may->signals;
}

/* Would a signal end, stop or change what is protected? */
static __always_inline _Bool harms(struct task_struct *task, __u32 sig)
{
	switch (sig) {
	case 0: /* only asks */
	case SIGHUP: /* reload */
	case SIGCHLD:
	case SIGCONT:
	case SIGURG:
	case SIGWINCH:
		return 0;
	}
	return protected(task);
}

SEC("lsm/task_kill")
int BPF_PROG(guard_kill, struct task_struct *task, struct kernel_siginfo *info, int sig)
{
	struct what what = { .deed = DEED_SIGNAL, .detail = sig, .reason = REASON_OWNED };

	/* What makes maps for hornetd, too: Go has its threads change themselves by signals. */
	return !harms(task, sig) || protected(bpf_get_current_task_btf()) || may_signal() ? 0 : refuse(&what);
}

/* F_SETOWN and F_SETSIG; 0 is SIGIO. Whoever has asked for it is not there any more:
 * the current process is the one that wrote, hornetd itself as well. */
SEC("lsm/file_send_sigiotask")
int BPF_PROG(guard_sigio, struct task_struct *task, struct fown_struct *fown, int sig)
{
	struct what what = { .deed = DEED_SIGNAL, .detail = sig ? sig : SIGIO, .reason = REASON_OWNED };

	return harms(task, what.detail) ? refuse(&what) : 0;
}

SEC("lsm/ptrace_access_check")
int BPF_PROG(guard_ptrace, struct task_struct *child, unsigned int mode)
{
	struct what what = { .deed = DEED_TRACE, .detail = mode, .reason = REASON_OWNED };

	return mode & PTRACE_MODE_ATTACH && protected(child) && !hornetd() ? refuse(&what) : 0;
}

SEC("lsm/file_open")
int BPF_PROG(guard_open, struct file *file)
{
	return file->f_mode & FMODE_WRITE ? binary(file->f_inode) : 0;
}

/* An enrolled executable, not traced, and not with a root directory that another
 * process can move. */
static __always_inline _Bool enrolled(struct linux_binprm *bprm)
{
	struct exe exe = {};
	struct may *may;

	identify(BPF_CORE_READ(bprm, file, f_inode), &exe);
	may = bpf_map_lookup_elem(&executables, &exe);
	return may && may->hornetd && !(bprm->unsafe & (LSM_UNSAFE_PTRACE | LSM_UNSAFE_SHARE));
}

static __always_inline _Bool started_by_init(struct task_struct *task)
{
	struct place place = {};

	if (BPF_CORE_READ(task, real_parent, tgid) != 1)
		return 0;
	current_place(&place);
	if (place.parent != state.home.parent)
		return 0;
	for (int i = 0; i < NAME_SIZE; i++)
		if (place.name[i] != state.home.name[i])
			return 0;
	return 1;
}

/* Behind the point of no return: whoever execs is its leader, alone, and has the
 * new memory. Storage survives exec, so the mark is taken first. */
SEC("lsm/bprm_committed_creds")
int BPF_PROG(guard_exec, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct task_struct *parent;
	__u32 mark = 0;

	bpf_task_storage_delete(&marks, task);
	if (!enrolled(bprm))
		return 0;
	parent = task->real_parent;
	if (started_by_init(task)) {
		mark = MARK_HORNETD;
		note_namespace();
	} else if (parent && mark_of(parent) == MARK_HORNETD)
		mark = MARK_MAKER;
	if (mark)
		bpf_task_storage_get(&marks, task, &mark, BPF_LOCAL_STORAGE_GET_F_CREATE);
	return 0;
}

static __always_inline int control(__u64 op, __u64 a, __u64 b, __u64 c)
{
	struct exe exe = {};
	struct may may = { .hornetd = !b }; /* where b: nobody writes it, and that is all */
	struct object o = { a, b };
	struct inode *inode;

	switch (op) {
	case OP_WHOAMI:
		note_namespace();
		return 0;
	case OP_MODE:
		state.deadline = b;
		state.mode = a;
		return 0;
	case OP_ENROLL:
		inode = BPF_CORE_READ(file_of(a), f_inode);
		if (!inode)
			return -EBADF;
		identify(inode, &exe);
		state.last = exe;
		if (bpf_map_update_elem(&executables, &exe, &may, BPF_ANY))
			return -ENOSPC;
		/* Looked at behind: who opens it from now on is refused. */
		if (BPF_CORE_READ(inode, i_writecount.counter) <= 0)
			return 0;
		bpf_map_delete_elem(&executables, &exe);
		return -ETXTBSY;
	case OP_RETIRE:
		exe.device = a;
		exe.generation = a >> 32;
		exe.inode = b;
		return bpf_map_delete_elem(&executables, &exe);
	case OP_OWN:
		return own(o.kind, o.id, c);
	case OP_DISOWN:
		return bpf_map_delete_elem(&owned, &o);
	}
	return -EINVAL;
}

SEC("raw_tp/guard")
int guard_control(struct bpf_raw_tracepoint_args *ctx)
{
	return hornetd() ? control(ctx->args[0], ctx->args[1], ctx->args[2], ctx->args[3]) : -EPERM;
}

char __license[] SEC("license") = "Dual BSD/GPL";
