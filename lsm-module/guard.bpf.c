//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The guard: nobody but hornetd loads, attaches and changes eBPF.
 *
 * Who may
 *   bprm_committed_creds  the mark of hornetd: cleared by every exec, set where PID 1 started
 *                         an enrolled executable in its cgroup, whom the kernel itself
 *                         answers; another where hornetd did, which may make maps
 *   bprm_check_security   a child of hornetd's executes nothing that is not enrolled
 *
 * Ways in
 *   bpf                   every command of bpf(2): loads, attachments, what is
 *                         done with a descriptor of something owned
 *   socket_setsockopt     programs attached to sockets
 *   file_ioctl{,_compat}  programs attached to perf events and tun devices
 *   netlink_send          XDP, and filters and actions of the kind bpf
 *   bpf_prog_load         what the kernel has not verified, where it tells that
 *   bpf_token_cmd         commands by token (6.9)
 *
 * What hornetd owns
 *   bpf_map, bpf_prog     descriptors, by id and from pins; programs of others
 *                         that use its maps; and what hornetd creates becomes
 *                         owned
 *   mmap_file             memory of its arrays, to write
 *   bpf_map_create,
 *   bpf_prog_load         what it creates has an id before that (up to 6.8 bpf_*_alloc_security)
 *   inode_*               its pins: unlink, rename, link, new ones, their modes;
 *                         unlink, rmdir, rename: what they are mounted on, too
 *   sb_*, move_mount      the file system they are on, and what that is mounted in
 *
 * Hornetd itself
 *   ptrace_access_check   memory, registers, descriptors (pidfd_getfd)
 *   task_kill,
 *   file_send_sigiotask   signals
 *   file_open,
 *   inode_setattr         its executable, for writing and truncating; the kernel's switch
 *                         that turns all hooks off; uprobes by tracefs
 *   perf_event_open       uprobes, which change a process's code
 *   inode_free_security   an executable that has gone is nobody's
 *
 * The floor, programs of the root cgroup's that no pin holds
 *   bpf                   every command, when all links have gone, too
 *   bpf_prog_load         what the kernel has not verified, where it tells that
 *   file_open             the switch that turns all hooks off
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
 * No program sleeps. A hook returns 0 or what refuse() says, or that there is no room
 * for what it must note. Those of the floor return 1 where all is well.
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
	__type(value, struct role);
} marks SEC(".maps");

/* The executable that a process asked the guard about last. */
struct {
	__uint(type, BPF_MAP_TYPE_TASK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct exe);
} answers SEC(".maps");

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

/* What hornetd makes: the kernel gives it an id before its descriptor, with which it is
 * owned. Known by where it is in memory. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, __u64);
	__type(value, __u32);
} making SEC(".maps");

/* Mount namespaces that hornetd has been in. None is called like an earlier one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, __u64);
	__type(value, __u32);
} namespaces SEC(".maps");

/* For hornetd: digests of what it trusts. The guard only keeps them. */
struct digest {
	__u64 sum[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, struct digest);
	__type(value, __u32);
} sealed SEC(".maps");

/* Of enrolled executables, for hornetd likewise. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct exe);
	__type(value, struct digest);
} digests SEC(".maps");

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
	struct role *role = leader ? bpf_task_storage_get(&marks, leader, 0, 0) : 0;

	return role ? role->is : 0;
}

/* The mark of what a process was forked by, as that is still: who executes hornetd had
 * children before, which are not hornetd's. */
static __always_inline __u32 mark_of_parent(struct task_struct *leader)
{
	struct task_struct *thread = leader->real_parent, *parent = thread ? thread->group_leader : 0;
	struct role *role = parent ? bpf_task_storage_get(&marks, parent, 0, 0) : 0;

	return role && BPF_CORE_READ(leader, start_boottime) >= role->since ? role->is : 0;
}

/* The same, for who is done something to. Until it executes something, a child of
 * such a process has no mark, and all that there is to protect: the descriptors, and
 * with vfork(2), as Go has it, the very memory. */
static __always_inline __u32 protected(struct task_struct *task)
{
	struct task_struct *leader = task->group_leader;
	__u32 mark = mark_of(task);

	if (mark || !leader || !(leader->flags & PF_FORKNOEXEC))
		return mark;
	return mark_of_parent(leader);
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
static __noinline __u64 serial(struct mnt_namespace *ns)
{
	if (bpf_core_field_exists(ns->seq))
		return BPF_CORE_READ(ns, seq);
	return BPF_CORE_READ(ns, ns.ns_id);
}

/* Notes in which mount namespace hornetd is. Its threads may visit others. Another hornetd
 * that somebody starts elsewhere makes this one's none the less so. */
static __always_inline void note_namespace(void)
{
	__u64 number = serial(BPF_CORE_READ(bpf_get_current_task_btf(), group_leader, nsproxy, mnt_ns));
	__u32 yes = 1;

	state.namespace = number;
	if (!bpf_map_lookup_elem(&namespaces, &number) && bpf_map_update_elem(&namespaces, &number, &yes, BPF_ANY))
		state.everywhere = 1;
}

static __always_inline _Bool is_hornetds_namespace(__u64 number)
{
	return state.everywhere || bpf_map_lookup_elem(&namespaces, &number);
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

/* Returns 0 if an identity that the operator listed may, or the reason. Not static: the
 * verifier looks at it by itself, and not for each command and attach type. */
__noinline int listed(__u32 command, __u32 program, __u32 attach)
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

/* Not static: as listed. */
__noinline int tell(struct what *what, __u32 refused)
{
	__u64 now = bpf_ktime_get_boot_ns();
	__s64 suppressed = budget(now);
	struct event *e;

	if (!what || suppressed < 0)
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

/* Which object a file is of; kind 0 is none. The kernel names such files. Not static: as
 * listed. */
__noinline int object_in(__u64 at, struct object *o)
{
	struct file *file = (void *)at;
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

static __always_inline void object_of(__u32 fd, struct object *o)
{
	object_in((__u64)file_of(fd), o);
}

/* Ways in */

enum class {
	FREE,		/* reads, and what another hook decides */
	OF_FD,		/* not on what is owned and not shared, by the descriptor fd */
	OF_BATCH,	/* likewise, batches */
	FREEZES,	/* not on what is owned */
	OF_PIN,		/* likewise, by the third word */
	OF_LINK_ID,	/* not of owned links, but for who is listed for looking */
	GATED,		/* for who is listed, and what follows, too */
	GATED_OF_FD,	/* not on what is owned */
	GATED_OF_SECOND, /* likewise, by the second word */
	GATED_OF_THIRD,
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
	case BPF_PROG_ATTACH:
		return GATED_OF_SECOND;
	case BPF_RAW_TRACEPOINT_OPEN:
		return GATED_OF_THIRD;
	default:
		return GATED;
	}
}

/* Is it attached to a map? Others have there a cgroup's descriptor, or an interface's number. */
static __always_inline _Bool to_map(__u32 attach)
{
	return bit(1ULL << BPF_SK_SKB_STREAM_PARSER | 1ULL << BPF_SK_SKB_STREAM_VERDICT | 1ULL << BPF_SK_MSG_VERDICT | 1ULL << BPF_SK_SKB_VERDICT, attach);
}

/* Does it take the place of another program's function? The kernel attaches it to that
 * program whatever attach type is asked for. */
static __always_inline _Bool extends(__u32 fd)
{
	struct bpf_prog *prog = BPF_CORE_READ(file_of(fd), private_data);

	return BPF_CORE_READ(prog, type) == BPF_PROG_TYPE_EXT;
}

/* The descriptor that a command has beside the one that its class says, or one that
 * nothing has. */
static __always_inline __u32 second(__u32 command, struct attr *a)
{
	switch (command) {
	case BPF_PROG_ATTACH:
	case BPF_PROG_DETACH:
		return to_map(a->attach) ? a->target : -1;
	case BPF_LINK_CREATE:
		return to_map(a->attach) || extends(a->fd) ? a->w1 : -1;
	case BPF_LINK_UPDATE: /* what comes in */
	case BPF_PROG_BIND_MAP:
		return a->w1;
	}
	return -1;
}

/* Something of hornetd's. */
static __always_inline int touches(__u32 command, enum class class, struct attr *a, _Bool both, struct what *what)
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
	case GATED_OF_SECOND:
		object_of(a->w1, &o);
		break;
	case OF_PIN:
	case GATED_OF_THIRD:
		object_of(a->w2, &o);
		break;
	case OF_LINK_ID:
		o.kind = KIND_LINK;
		o.id = a->id;
		break;
	default:
		return 0;
	}
	if (both && class >= GATED && !is_owned(o.kind, o.id))
		object_of(second(command, a), &o);
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
 * thread that runs it, and a thread's next call from user space is not in that run. Not
 * static: as listed. */
__noinline int vouched(__u32 command, struct attr *a, __u32 attach, _Bool kernel)
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

/* A program of a cgroup's at an LSM hook: it may take the floor away, or answer in its
 * place (bpf_set_retval). Whoever is listed for all attach types is not for this one. */
static __always_inline _Bool at_floor(__u32 command, __u32 attach)
{
	return attach == BPF_LSM_CGROUP && (command == BPF_PROG_ATTACH || command == BPF_PROG_DETACH || command == BPF_LINK_CREATE);
}

/* Is it let through whatever it is about? Where keyrings count, every call of a thread's
 * ends the run before it. */
static __always_inline _Bool easy(__u32 command)
{
	return class(command) == FREE && !state.keyrings;
}

/* Of whoever is not hornetd. The floor does not look at a second descriptor: the verifier
 * looks at all functions of its programs, for each way to them (floor.go, loadOne). */
static __always_inline int judge(__u32 command, struct attr *a, _Bool kernel, _Bool both)
{
	struct what what = { .deed = DEED_BPF, .detail = command };
	enum class c = class(command);
	int vouch;

	if (makes_maps(command))
		return 0;
	if (both && command == BPF_PROG_DETACH) /* its program: the floor does not look at that either */
		c = GATED_OF_SECOND;
	describe(command, a, &what);
	vouch = vouched(command, a, what.attach, kernel);
	if (c == FREE)
		return 0;
	if (touches(command, c, a, both, &what))
		return c == OF_LINK_ID && !listed(command, 0, 0) ? 0 : refuse(&what);
	if (at_floor(command, what.attach)) {
		what.reason = REASON_OWNED;
		return refuse(&what);
	}
	if (c < GATED)
		return 0;
	what.reason = listed(command, what.type, what.attach);
	if (!what.reason || !vouch)
		return 0;
	if (vouch > what.reason)
		what.reason = vouch;
	return refuse(&what);
}

static __always_inline int call(int cmd, union bpf_attr *attr, _Bool kernel)
{
	__u32 command = cmd & ~BPF_COMMON_ATTRS, mark = mark_of(bpf_get_current_task_btf());
	struct attr a = {};

	__sync_fetch_and_add(&state.calls, 1);
	if (mark && note(command))
		return -ENOMEM;
	if (easy(command))
		return 0;
	bpf_probe_read_kernel(&a, sizeof(a), attr);
	return mark == MARK_HORNETD ? pins(command, &a) : judge(command, &a, kernel, 1);
}

/* Of an argument that is a bool the lowest byte is defined, and it is all that is looked at. */

SEC("lsm/bpf")
int BPF_PROG(guard_bpf, int cmd, union bpf_attr *attr, unsigned int size, __u8 kernel)
{
	return call(cmd, attr, kernel);
}

/* Up to Linux 6.14, where nothing is verified. */
SEC("lsm/bpf")
int BPF_PROG(guard_bpf_old, int cmd, union bpf_attr *attr, unsigned int size)
{
	return call(cmd, attr, 0);
}

static __always_inline int make(void *object)
{
	__u64 key = (__u64)object;
	__u32 yes = 1;

	if (hornetd() || maker())
		bpf_map_update_elem(&making, &key, &yes, BPF_ANY);
	else /* where one lay that was given up */
		bpf_map_delete_elem(&making, &key);
	return 0;
}

static __always_inline _Bool is_made(void *object)
{
	__u64 key = (__u64)object;

	return bpf_map_lookup_elem(&making, &key);
}

/* It has a descriptor. */
static __always_inline int made(void *object, __u32 kind, __u32 id)
{
	__u64 key = (__u64)object;
	int verdict = own(kind, id, OWNED_YES);

	__sync_fetch_and_add(&state.made, 1);
	bpf_map_delete_elem(&making, &key);
	return verdict;
}

SEC("lsm/bpf_map_create")
int BPF_PROG(guard_make_map, struct bpf_map *map)
{
	return make(map);
}

SEC("lsm/bpf_prog_load")
int BPF_PROG(guard_make_prog, struct bpf_prog *prog)
{
	return make(prog->aux);
}

/* Up to Linux 6.8 */
SEC("lsm/bpf_map_alloc_security")
int BPF_PROG(guard_make_map_old, struct bpf_map *map)
{
	return make(map);
}

SEC("lsm/bpf_prog_alloc_security")
int BPF_PROG(guard_make_prog_old, struct bpf_prog_aux *aux)
{
	return make(aux);
}

/* Behind the kernel's own look at the signature. What a program loads guard_bpf has
 * judged, and what is neither listed nor may be verified. */
static __always_inline int load(struct bpf_prog *prog, _Bool kernel)
{
	struct what what = { .deed = DEED_BPF, .detail = BPF_PROG_LOAD, .reason = REASON_UNVERIFIED, .type = prog->type,
			     .attach = prog->expected_attach_type, .name = prog->aux->name };

	if (kernel || hornetd() || verified(prog) || !state.keyrings)
		return 0;
	if (permits(&state.verified, BPF_PROG_LOAD, what.type, 0) || !listed(BPF_PROG_LOAD, what.type, 0))
		return 0;
	return refuse(&what);
}

SEC("lsm/bpf_prog_load")
int BPF_PROG(guard_load, struct bpf_prog *prog, union bpf_attr *attr, struct bpf_token *token, __u8 kernel)
{
	make(prog->aux);
	return load(prog, kernel);
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

static __always_inline int ioctl(unsigned int cmd, unsigned long arg)
{
	struct what what = { .deed = DEED_IOCTL, .attach = BPF_PERF_EVENT };
	struct object o = {};

	if (hornetd())
		return 0;
	what.detail = cmd;
	switch (cmd) {
	case PERF_EVENT_IOC_SET_BPF:
	case TUNSETSTEERINGEBPF: /* these have the descriptor in the caller's memory */
	case TUNSETFILTEREBPF:
		what.reason = listed(BPF_LINK_CREATE, 0, BPF_PERF_EVENT);
		if (cmd == PERF_EVENT_IOC_SET_BPF)
			object_of(arg, &o);
		if (!is_owned(o.kind, o.id))
			break;
		what.reason = REASON_OWNED;
		what.kind = o.kind;
		what.id = o.id;
		break;
	/* An enrolled file of another generation could be written, and then have its own
	 * again. Of any file: a stacked file system passes this on without asking. */
	case FS_IOC_SETVERSION:
	case FS_IOC32_SETVERSION:
	case EXT4_IOC_SETVERSION:
	case EXT4_IOC32_SETVERSION:
		what.reason = REASON_OWNED;
		break;
	}
	return what.reason ? refuse(&what) : 0;
}

SEC("lsm/file_ioctl")
int BPF_PROG(guard_ioctl, struct file *file, unsigned int cmd, unsigned long arg)
{
	return ioctl(cmd, arg);
}

SEC("lsm/file_ioctl_compat")
int BPF_PROG(guard_ioctl_compat, struct file *file, unsigned int cmd, unsigned long arg)
{
	return ioctl(cmd, arg);
}

/* rtnetlink: XDP of an interface, and filters and actions of the kind bpf, wherever
 * in a message they are. Of attributes that are given twice the kernel takes the last,
 * so that each of them counts here. */

struct message {
	void *at, *end; /* what is not read yet */
	__u16 type;	/* of the last that attaches */
	_Bool attaches, to_link, to_filter, has_kind;
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

static long kind(__u32 i, struct message *m)
{
	struct nlattr a;

	if (m->at + sizeof(a) > m->end || bpf_probe_read_kernel(&a, sizeof(a), m->at) || a.len < sizeof(a))
		return 1;
	m->has_kind = (a.type & NLA_TYPE_MASK) == TCA_KIND;
	m->at += (a.len + 3) & ~3;
	return m->has_kind;
}

static long message(__u32 i, struct message *all)
{
	struct message m = {}, k;
	struct nlmsghdr h;

	if (all->at + sizeof(h) > all->end || bpf_probe_read_kernel(&h, sizeof(h), all->at) || h.len < sizeof(h))
		return 1;
	m.at = all->at + sizeof(h);
	m.end = all->at + h.len < all->end ? all->at + h.len : all->end;
	if (h.type == RTM_NEWLINK || h.type == RTM_SETLINK) {
		m.at += IFINFO_SIZE;
		bpf_loop(WORDS, attribute, &m, 0);
	} else if (h.type == RTM_NEWTFILTER || h.type == RTM_NEWACTION) {
		k = m;
		bpf_loop(WORDS, word, &m, 0);
		/* One that names none is about the filter that is there, of whatever kind. */
		if (h.type == RTM_NEWTFILTER) {
			k.at += TCMSG_SIZE;
			bpf_loop(WORDS, kind, &k, 0);
			m.attaches |= !k.has_kind;
		}
	}
	if (m.attaches) {
		all->type = h.type;
		if (h.type == RTM_NEWLINK || h.type == RTM_SETLINK)
			all->to_link = 1;
		else
			all->to_filter = 1;
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
		m.to_link = m.to_filter = 1;
	else
		bpf_loop(WORDS, message, &m, 0);
	what.detail = m.type;
	/* Who may load such programs may attach them. */
	if (m.to_link)
		what.reason = listed(BPF_PROG_LOAD, BPF_PROG_TYPE_XDP, 0);
	if (m.to_filter && !what.reason)
		what.reason = listed(BPF_PROG_LOAD, BPF_PROG_TYPE_SCHED_CLS, 0);
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
		return made(map, KIND_MAP, map->id);
	if (hornetd())
		return 0;
	if (is_made(map))
		return refuse(&what);
	if (!is_owned(KIND_MAP, map->id))
		return 0;
	/* A map of maps and an iterator take one that is read-only and write with it:
	 * whoever is listed for looking at maps may have one, but not of the guard's. */
	if (!(fmode & FMODE_WRITE) && !is_owned_so(KIND_MAP, map->id, OWNED_GUARD) && !listed(BPF_MAP_GET_FD_BY_ID, 0, 0))
		return 0;
	return refuse(&what);
}

/* An array's memory: what can be written by a mapping can by the descriptor. */
SEC("lsm/mmap_file")
int BPF_PROG(guard_mmap, struct file *file, unsigned long asked, unsigned long prot, unsigned long flags)
{
	struct what what = { .deed = DEED_MAP, .reason = REASON_OWNED, .kind = KIND_MAP };
	struct object o = {};
	__u64 at = 0;

	if (!(prot & PROT_WRITE) || !(flags & MAP_SHARED) || !file)
		return 0;
	bpf_probe_read_kernel(&at, sizeof(at), &file); /* as a number */
	object_in(at, &o);
	if (o.kind != KIND_MAP || !is_owned(o.kind, o.id) || is_owned_so(o.kind, o.id, OWNED_SHARED) || hornetd())
		return 0;
	what.id = o.id;
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
	__u32 target;

	if (hornetd())
		return within(BPF_PROG_LOAD) ? made(aux, KIND_PROGRAM, aux->id) : 0;
	if (is_made(aux))
		return refuse(&what);
	if (is_owned(KIND_PROGRAM, aux->id))
		return listed(BPF_PROG_GET_FD_BY_ID, 0, 0) ? refuse(&what) : 0;
	/* One that is loaded for a function of another program's has that until it is attached. */
	target = BPF_CORE_READ(aux, dst_prog, aux, id);
	if (is_owned(KIND_PROGRAM, target)) {
		what.id = target;
		return refuse(&what);
	}
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

/* In a namespace that the first process is in, or was when the guard was armed, or hornetd. */
static __always_inline _Bool at_home(struct mount *m)
{
	struct mnt_namespace *ns = BPF_CORE_READ(m, mnt_ns);
	__u64 number = ns ? serial(ns) : 0;

	return ns && (ns == BPF_CORE_READ(first_process(), nsproxy, mnt_ns) || number == state.first || is_hornetds_namespace(number));
}

/* Does what happens below it happen to other mounts, peers or slaves? */
static __always_inline _Bool propagates(struct mount *m)
{
	void *slaves = (void *)m + bpf_core_field_offset(struct mount, mnt_slave_list), *slave = 0;

	if (BPF_CORE_READ(m, mnt_share.next) != (void *)m + bpf_core_field_offset(struct mount, mnt_share))
		return 1;
	bpf_probe_read_kernel(&slave, sizeof(slave), slaves);
	return slave && slave != slaves;
}

/* A walk through a mount and those below it, but for those below another. */
struct walk {
	struct mount *top, *at, *but;
	_Bool up, ended;
	__u8 notes; /* of a survey by which is noted what must stay: one more than it has noted */
};

/* 0, which the verifier does not know. Before Linux 6.7 it looks at the function of a loop
 * as if that ran once, and drops what could only be so later. */
static __always_inline __u32 zero(void)
{
	return state.mode >> 31;
}

static __always_inline void begin(struct walk *w, struct mount *top)
{
	w->top = w->at = top;
	w->up = w->ended = zero();
}

/* One step: down, aside or up. */
static __always_inline long advance(struct walk *w)
{
	struct mount *m = w->at, *parent = BPF_CORE_READ(m, mnt_parent);
	void *next = BPF_CORE_READ(m, mnt_mounts.next);

	if (!w->up && m != w->but && next != (void *)m + bpf_core_field_offset(struct mount, mnt_mounts)) {
		w->at = next - bpf_core_field_offset(struct mount, mnt_child);
		return 0;
	}
	if (m == w->top) {
		w->ended = 1;
		return 1;
	}
	next = BPF_CORE_READ(m, mnt_child.next);
	if (next == (void *)m + bpf_core_field_offset(struct mount, mnt_child)) { /* unmounted meanwhile: once more */
		w->at = w->top;
		w->up = 0;
		return 0;
	}
	w->up = next == (void *)parent + bpf_core_field_offset(struct mount, mnt_mounts);
	w->at = w->up ? parent : next - bpf_core_field_offset(struct mount, mnt_child);
	return 0;
}

/* Of what was mounted in the first process's namespace when it began to enforce, somebody may
 * have made another mount there since (mount --rbind /sys), which he may end, too: those that
 * must stay were noted. Where none was, or too many were, nothing is a copy. */
static __noinline int is_copy(struct mount *m, __u32 device)
{
	struct mnt_namespace *ns = BPF_CORE_READ(m, mnt_ns);
	__u32 number = BPF_CORE_READ(m, mnt_id);
	int copy = 0;

	if (!ns || serial(ns) != state.first || state.noted > KEPT)
		return 0;
#pragma clang loop unroll(disable)
	for (int i = 0; i < KEPT; i++) {
		if (state.kept[i].device != device)
			continue;
		if (state.kept[i].mount == number)
			return 0;
		copy = 1;
	}
	return copy;
}

static __always_inline void keep(struct walk *w, struct mount *m, __u32 device)
{
	__u32 n = (w->notes - 1) & (KEPT - 1);

	state.kept[n].device = device;
	state.kept[n].mount = BPF_CORE_READ(m, mnt_id);
	if (w->notes <= KEPT + 1)
		w->notes++;
}

/* What the first process's namespace has of guarded file systems: which of them, and
 * where they, and what they are in, are mounted. */
struct survey {
	struct walk walk;
	struct mount *high; /* of those that one is in */
	__u32 devices; /* bit N: that of state.roots[N] */
	__u32 n;
	__u64 more;    /* there are more places than fit: whatever is asked about is one */
	__u64 number;  /* of that namespace */
	__u32 points[POINTS]; /* by what name_of says */
};

/* Half of where it is in memory: there is little room on the stack, and what has the same
 * half as another is kept like that. */
static __always_inline __u32 name_of(struct dentry *dentry)
{
	__u64 number = 0;

	bpf_probe_read_kernel(&number, sizeof(number), &dentry); /* with a pointer the verifier lets nobody calculate */
	return number >> 4;
}

/* For loops, which take what is on the stack. */
struct surveyor {
	struct survey *s;
};

/* Without a branch for each: the verifier would follow them all. */
static __always_inline void add_point(struct survey *s, struct dentry *dentry)
{
	__u64 other, is_new = 1;
	__u32 name = name_of(dentry), *free = &s->points[s->n & (POINTS - 1)];

	for (int i = 0; i < POINTS; i++) {
		other = s->points[i] ^ name;
		barrier_var(other);
		is_new &= (other | -other) >> 63;
	}
	s->more |= is_new & (s->n >= POINTS);
	*free ^= (*free ^ name) & -(__u32)is_new; /* there may be none that is free */
	s->n += is_new;
}

/* From a mount to the one that it is in. */
static long climb(__u32 i, struct surveyor *by)
{
	struct survey *s = by->s;
	struct mount *m = s->high, *parent = BPF_CORE_READ(m, mnt_parent);

	if (parent == m)
		return 1;
	add_point(s, BPF_CORE_READ(m, mnt_mountpoint));
	s->high = parent;
	return 0;
}

static long look(__u32 i, struct surveyor *by)
{
	struct survey *s = by->s;
	struct mount *m = s->walk.at;
	__u32 device = BPF_CORE_READ(m, mnt.mnt_sb, s_dev);

	if (s->walk.up)
		return advance(&s->walk);
	if (m == s->walk.top) {
		s->devices = s->n = s->more = zero();
		__builtin_memset(s->points, 0, sizeof(s->points));
		if (s->walk.notes)
			s->walk.notes = 1;
	}
	if (m == s->walk.but || !guarded_device(device) || is_copy(m, device))
		return advance(&s->walk);
	if (s->walk.notes)
		keep(&s->walk, m, device);
	for (int r = 0; r < ROOTS; r++)
		s->devices |= (state.roots[r].device == device) << r;
	s->high = m;
	bpf_loop(HEIGHT, climb, by, 0);
	m = s->high;
	s->more |= m != BPF_CORE_READ(m, mnt_parent);
	return advance(&s->walk);
}

/* Nothing is locked: who moves a mount that a walk is in has it end elsewhere. */
static long try_look(__u32 i, struct surveyor *by)
{
	struct survey *s = by->s;
	struct mnt_namespace *ns = BPF_CORE_READ(first_process(), nsproxy, mnt_ns);
	__u64 event = BPF_CORE_READ(ns, event);

	s->number = serial(ns);
	begin(&s->walk, BPF_CORE_READ(ns, root));
	bpf_loop(MOUNTS, look, by, 0);
	s->walk.ended &= BPF_CORE_READ(ns, event) == event;
	return s->walk.ended;
}

/* Not static: the verifier looks at it by itself, and not once for each who calls it. */
__noinline int look_around(struct survey *s)
{
	struct surveyor by = { s };

	if (s)
		bpf_loop(TRIES, try_look, &by, 0);
	return 0;
}

/* Notes it when the first guard is armed, and the mounts each time that one begins to enforce:
 * until then everybody may change them. The first process may be elsewhere later: who traces
 * it has it so. */
static __noinline int note_first(void)
{
	struct survey home = { .walk.notes = 1 };

	if (state.first && state.noted)
		return 0;
	state.noted = KEPT + 1;
	__builtin_memset(state.kept, 0, sizeof(state.kept));
	look_around(&home);
	if (home.walk.ended && (!state.first || state.first == home.number))
		state.noted = home.walk.notes - 1;
	if (state.first)
		return 0;
	state.homes = home.devices;
	state.first = home.number;
	return 0;
}

static __always_inline _Bool has_point(struct survey *s, struct dentry *dentry)
{
	__u64 other, is_none = 1;
	__u32 name = name_of(dentry);

	for (int i = 0; i < POINTS; i++) {
		other = s->points[i] ^ name;
		barrier_var(other);
		is_none &= (other | -other) >> 63;
	}
	return !is_none || !s->walk.ended || s->more || (s->devices & state.homes) != state.homes;
}

/* Is what it is mounted in, if it is in something, one that propagates? The uppermost of a
 * tree is its own parent: so is a copy before it is mounted anywhere (open_tree(2)). */
static __always_inline _Bool is_in_shared(struct mount *m)
{
	struct mount *parent = BPF_CORE_READ(m, mnt_parent);

	return parent != m && propagates(parent);
}

/* Is it a mount of the pins that the first process or hornetd has, or of which the end goes
 * on to others? */
static __always_inline _Bool is_guarded(struct mount *m)
{
	__u32 device = BPF_CORE_READ(m, mnt.mnt_sb, s_dev);

	return guarded_device(device) && ((at_home(m) && !is_copy(m, device)) || is_in_shared(m));
}

/* Would its unmount take pins away? Whatever is mounted at the same place of what its
 * parent propagates to goes, too (fs/pnode.c, propagate_umount). */
static __always_inline _Bool must_stay(struct mount *m, struct survey *home)
{
	return is_guarded(m) || (is_in_shared(m) && has_point(home, BPF_CORE_READ(m, mnt_mountpoint)));
}

/* Is something mounted there that must stay? Who sees nothing mounted there may remove
 * the place, and what others have there goes (fs/namespace.c, __detach_mounts). */
static __noinline int mount_point(struct dentry *dentry)
{
	__u32 mounted = DCACHE_MOUNTED | DCACHE_MOUNTED_OLD;
	struct survey home = {};

	if (bpf_core_enum_value_exists(enum dentry_flags, DCACHE_MOUNTED))
		mounted = bpf_core_enum_value(enum dentry_flags, DCACHE_MOUNTED);
	if (!(BPF_CORE_READ(dentry, d_flags) & mounted))
		return 0;
	look_around(&home);
	return has_point(&home, dentry);
}

/* Is it below what a /proc has of one process? Not static: the verifier looks at it by
 * itself, at 1,000 instructions and not, for each way to it and from it, at 250,000. */
__noinline int of_process(__u64 at)
{
	struct dentry *dentry = (void *)at, *parent, *above;
	char name[16] = {};

	for (int i = 0; i < DEPTH; i++) {
		parent = BPF_CORE_READ(dentry, d_parent);
		if (parent == dentry)
			return 0;
		above = BPF_CORE_READ(parent, d_parent);
		if (above == parent) {
			bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(dentry, d_name.name));
			return (name[0] >= '0' && name[0] <= '9') || same(name, "self", 5) || same(name, "thread-self", 12);
		}
		dentry = parent;
	}
	return 1;
}

/* Would a mount there hide pins, or something of /proc, by which hornetd names its
 * descriptors and itself: of a process, in any namespace, for mounts go on to others; or,
 * in a namespace that is hornetd's alone, anything? */
static __always_inline _Bool hides(const struct path *path)
{
	struct mount *m = real_mount(path->mnt);
	struct dentry *dentry = path->dentry;
	struct super_block *sb = BPF_CORE_READ(dentry, d_sb);
	struct mnt_namespace *ns = BPF_CORE_READ(m, mnt_ns);
	__u64 number = ns ? serial(ns) : 0;

	if (BPF_CORE_READ(sb, s_magic) == PROC_SUPER_MAGIC)
		return of_process((__u64)BPF_CORE_READ(path, dentry)) || (ns && is_hornetds_namespace(number) && ns != BPF_CORE_READ(first_process(), nsproxy, mnt_ns));
	if (!guarded_device(BPF_CORE_READ(sb, s_dev)) || !(BPF_CORE_READ(sb, s_root) == dentry || guarded(dentry)))
		return 0;
	return at_home(m) || propagates(m);
}

/* Is it taken away by nothing but a system call that has a hook? What a file system looks
 * at again, as /proc, /sys and those of networks do, it takes away by itself, and so do
 * some others of the kernel's; with it goes what is mounted there (fs/dcache.c, d_invalidate). */
static __always_inline _Bool is_firm(struct dentry *dentry)
{
	__u32 again = DCACHE_OP_REVALIDATE;

	if (bpf_core_enum_value_exists(enum dentry_flags, DCACHE_OP_REVALIDATE))
		again = bpf_core_enum_value(enum dentry_flags, DCACHE_OP_REVALIDATE);
	switch (BPF_CORE_READ(dentry, d_sb, s_magic)) {
	case DEBUGFS_MAGIC:
	case TRACEFS_MAGIC:
	case SECURITYFS_MAGIC:
	case SELINUX_MAGIC:
	case SMACK_MAGIC:
	case AAFS_MAGIC:
	case CONFIGFS_MAGIC:
	case RPC_PIPEFS_MAGIC:
	case NFSD_MAGIC:
		return 0;
	}
	return !(BPF_CORE_READ(dentry, d_flags) & again);
}

/* Does what is moved there lose its ground? For pins may be below it. */
static __noinline int sinks(const struct path *path)
{
	struct mount *m, *parent;
	struct dentry *dentry;

	if (!path)
		return 0;
	m = real_mount(path->mnt);
	dentry = path->dentry;
	if (!at_home(m))
		return 0;
	for (int h = 0; h < HEIGHT; h++) {
		if (!is_firm(dentry))
			return 1;
		parent = BPF_CORE_READ(m, mnt_parent);
		if (parent == m)
			return 0;
		dentry = BPF_CORE_READ(m, mnt_mountpoint);
		m = parent;
	}
	return 1;
}

/* Without a mount, and those below it, has the first process still all guarded file
 * systems, where it was? */
static __noinline int stays_elsewhere(struct vfsmount *mnt)
{
	struct survey home = { .walk.but = real_mount(mnt) };
	__u64 noted = state.noted;
	__u32 all = 0;

	state.noted = KEPT + 1; /* a copy is as good, and then the one that stays */
	for (int r = 0; r < ROOTS; r++)
		all |= !!state.roots[r].device << r;
	look_around(&home);
	if (home.walk.ended && home.devices == all && home.number == state.first)
		return 1;
	state.noted = noted;
	return 0;
}

struct taken {
	struct walk below;
	struct survey home;
	struct mount *top;
	_Bool alone; /* not those below it */
	_Bool found, settled;
};

/* For a loop, which takes what is on the stack. */
struct taker {
	struct taken *t;
};

static long take(__u32 i, struct taker *by)
{
	struct taken *t = by->t;

	t->found = !t->below.up && must_stay(t->below.at, &t->home);
	return t->found || t->alone ? 1 : advance(&t->below);
}

/* Not static: the verifier looks at it by itself. */
__noinline int look_below(struct taken *t)
{
	struct taker by = { t };
	struct mount *top;
	__u64 event;

	if (!t)
		return 0;
	top = t->top;
	event = BPF_CORE_READ(top, mnt_ns, event);
	begin(&t->below, top);
	bpf_loop(MOUNTS, take, &by, 0);
	t->settled = t->found || t->alone || (t->below.ended && BPF_CORE_READ(top, mnt_ns, event) == event);
	return t->settled;
}

/* Would its unmount, and with flags that of those below it, take pins away? Mounts come and
 * go in a service's namespace, too, with those of the host. */
static __noinline int takes(struct vfsmount *mnt, int flags)
{
	struct taken t = { .top = real_mount(mnt), .alone = !(flags & MNT_DETACH) };

	look_around(&t.home);
	for (int i = 0; i < TRIES && !look_below(&t); i++)
		;
	return t.found || !t.settled;
}

SEC("lsm/sb_umount")
int BPF_PROG(guard_umount, struct vfsmount *mnt, int flags)
{
	if (!takes(mnt, flags))
		return 0;
	/* So it leaves the root file system that it comes from. */
	if (bpf_get_current_task_btf()->tgid == 1 && flags & MNT_DETACH && stays_elsewhere(mnt))
		return 0;
	return mount(MOUNT_UMOUNT);
}

/* What it moves this hook is not told: anything. That what is mounted there is shared from
 * now on takes nothing from anybody, and container runtimes do it. */
SEC("lsm/sb_mount")
int BPF_PROG(guard_mount, const char *dev_name, const struct path *path, const char *type, unsigned long flags)
{
	if (flags & MS_MOVE && sinks(path))
		return mount(MOUNT_MOVE);
	if ((flags & (MS_REMOUNT | MS_BIND | MS_SHARED)) == MS_SHARED)
		return 0;
	return hides(path) ? mount(MOUNT_OVER) : 0;
}

SEC("lsm/move_mount")
int BPF_PROG(guard_move, const struct path *from, const struct path *to)
{
	struct mount *m = real_mount(from->mnt);

	if (is_guarded(m) || (at_home(m) && sinks(to)))
		return mount(MOUNT_MOVE);
	return hides(to) ? mount(MOUNT_OVER) : 0;
}

/* The root file system, and all that is mounted in it, goes to old. */
SEC("lsm/sb_pivotroot")
int BPF_PROG(guard_pivot, const struct path *old, const struct path *new)
{
	return sinks(old) ? mount(MOUNT_MOVE) : 0;
}

SEC("lsm/sb_remount")
int BPF_PROG(guard_remount, struct super_block *sb)
{
	return guarded_device(sb->s_dev) ? mount(MOUNT_REMOUNT) : 0;
}

static __always_inline int remove(struct dentry *dentry, __u32 detail)
{
	int verdict = pin(dentry, detail);

	return !verdict && mount_point(dentry) ? mount(MOUNT_UMOUNT) : verdict;
}

SEC("lsm/inode_unlink")
int BPF_PROG(guard_unlink, struct inode *dir, struct dentry *dentry)
{
	return remove(dentry, PIN_UNLINK);
}

SEC("lsm/inode_rmdir")
int BPF_PROG(guard_rmdir, struct inode *dir, struct dentry *dentry)
{
	return remove(dentry, PIN_RMDIR);
}

SEC("lsm/inode_rename")
int BPF_PROG(guard_rename, struct inode *old_dir, struct dentry *old, struct inode *new_dir, struct dentry *new)
{
	int verdict = pin(guarded(old) ? old : new, PIN_RENAME);

	return !verdict && (mount_point(old) || mount_point(new)) ? mount(MOUNT_UMOUNT) : verdict;
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
	return !harms(task, sig) || mark_of(bpf_get_current_task_btf()) || may_signal() ? 0 : refuse(&what);
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

static __always_inline _Bool is_called(struct file *file, const char *want, int size)
{
	char name[16] = {};

	bpf_probe_read_kernel_str(name, sizeof(name), BPF_CORE_READ(file, f_path.dentry, d_name.name));
	return same(name, want, size);
}

#define IS_CALLED(file, name) is_called(file, name, sizeof(name))

/* A uprobe changes bytes of a file's code, and one with a reference counter words of its
 * data, in every process that has it mapped. Which file it is for no hook tells. */
static __always_inline int probe(__u32 detail)
{
	struct what what = { .deed = DEED_PROBE, .detail = detail, .reason = REASON_CALLER };

	return hornetd() || !listed(BPF_LINK_CREATE, 0, BPF_PERF_EVENT) ? 0 : refuse(&what);
}

/* Without it the kernel calls no program of a trampoline, as all of these are
 * (kernel/trace/ftrace.c, ftrace_enable_sysctl). */
static __always_inline int switches(struct file *file)
{
	struct what what = { .deed = DEED_SWITCH, .reason = REASON_OWNED };

	return IS_CALLED(file, "ftrace_enabled") ? refuse(&what) : 0;
}

SEC("lsm/file_open")
int BPF_PROG(guard_open, struct file *file)
{
	if (!(file->f_mode & FMODE_WRITE))
		return 0;
	switch (file->f_inode->i_sb->s_magic) {
	case PROC_SUPER_MAGIC:
		return switches(file);
	case TRACEFS_MAGIC:
		return IS_CALLED(file, "uprobe_events") || IS_CALLED(file, "dynamic_events") ? probe(0) : 0;
	}
	return binary(file->f_inode);
}

/* Words of a system call's stack that are looked at in one go, and of that structure. */
enum {
	WINDOW = 24,

	SAMPLE_TYPE = 3,
	READ_FORMAT = 4,
	FLAGS = 5,
	PATH = 7,
	MAX_STACK = 13,
	ATTR_WORDS,
};

struct frame {
	__u64 top, at;
	_Bool found;
};

/* Is it a struct perf_event_attr of a uprobe's, as the kernel takes one (kernel/events/core.c,
 * perf_copy_attr): known samples and formats, nothing reserved; and where a path is, of
 * which the top byte may be a tag? */
static __noinline int is_uprobe(__u64 at)
{
	__u64 w[ATTR_WORDS] = {};

	bpf_probe_read_kernel(w, sizeof(w), (void *)at);
	return (__u32)w[0] == state.uprobes && !(((w[0] >> 32) - PERF_ATTR_SIZE_VER0) >> PERF_ATTR_BITS) &&
	       !(w[SAMPLE_TYPE] >> 32) && !(w[READ_FORMAT] >> 32) && !(w[FLAGS] >> 48) && w[PATH] && !(w[MAX_STACK] >> 48);
}

static long look_at(__u32 i, struct frame *f)
{
	f->found = is_uprobe(f->at + i * sizeof(__u64));
	return f->found;
}

static long scan(__u32 i, struct frame *f)
{
	__u64 words[WINDOW], uprobes = state.uprobes, any = 0;

	f->at = f->top - (i + 1) * sizeof(words);
	f->found = bpf_probe_read_kernel(words, sizeof(words), (void *)f->at) != 0;
	if (f->found)
		return 1;
	/* Of what is less than 1 the highest bit. Without a branch for each: the verifier
	 * would follow them all. */
#pragma unroll
	for (int w = 0; w < WINDOW; w++)
		any |= (__u64)(__u32)(words[w] ^ uprobes) - 1;
	if (any >> 63)
		bpf_loop(WINDOW, look_at, f, 0);
	return f->found;
}

/* perf_event_open(2) of a uprobe. The hook is not told what is asked for (it was before
 * 6.13 and its stable kernels), and what the caller has in its memory it may have changed
 * meanwhile; the kernel's copy of it lies on the stack, and begins with type and size. Of
 * an earlier call that was refused the stack may still have one: then another event of
 * that thread is refused, too. */
SEC("lsm/perf_event_open")
int BPF_PROG(guard_perf, int type)
{
	/* What this is called with lies on the same stack, below all of the system call's. */
	void *top = (void *)bpf_task_pt_regs(bpf_get_current_task_btf()), *bottom = ctx;
	struct frame f = {};
	long windows;

	if (!state.uprobes || type != PERF_SECURITY_OPEN)
		return 0;
	/* As numbers: the verifier would follow a pointer step by step. */
	bpf_probe_read_kernel(&f.top, sizeof(f.top), &top);
	bpf_probe_read_kernel(&f.at, sizeof(f.at), &bottom);
	windows = bpf_loop((f.top - f.at) / (WINDOW * sizeof(__u64)) + 1, scan, &f, 0);
	return f.found || windows < 0 ? probe(state.uprobes) : 0;
}

SEC("lsm/perf_event_open")
int BPF_PROG(guard_perf_old, struct perf_event_attr *attr)
{
	return state.uprobes && attr->type == state.uprobes ? probe(state.uprobes) : 0;
}

/* A file that has gone: the kernel gives its number again, and a file system may have the
 * generation set. What executes it, hornetd itself, keeps it. */
SEC("lsm/inode_free_security")
int BPF_PROG(guard_free, struct inode *inode)
{
	struct exe exe = {};

	if (inode->i_nlink)
		return 0;
	identify(inode, &exe);
	bpf_map_delete_elem(&digests, &exe);
	bpf_map_delete_elem(&executables, &exe);
	return 0;
}

static __always_inline _Bool is_hornetds(struct linux_binprm *bprm)
{
	struct exe exe = {};
	struct may *may;

	identify(BPF_CORE_READ(bprm, file, f_inode), &exe);
	may = bpf_map_lookup_elem(&executables, &exe);
	return may && may->hornetd;
}

/* An enrolled executable, not traced, and not with a root directory that another
 * process can move. */
static __always_inline _Bool enrolled(struct linux_binprm *bprm)
{
	return is_hornetds(bprm) && !(bprm->unsafe & (LSM_UNSAFE_PTRACE | LSM_UNSAFE_SHARE));
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

/* Without this capability of the host bpf(2) does not list programs, so that hornetd
 * cannot look for a guard that is pinned elsewhere. */
static __always_inline _Bool administers(struct task_struct *task)
{
	const struct cred *cred = BPF_CORE_READ(task, cred);
	__u64 effective = 0;

	bpf_core_read(&effective, sizeof(effective), &cred->cap_effective);
	return bit(effective, CAP_SYS_ADMIN) && !BPF_CORE_READ(cred, user_ns, level);
}

struct filters {
	struct seccomp_filter *at;
	_Bool listened;
};

static long filter(__u32 i, struct filters *f)
{
	struct seccomp_filter *at = f->at;

	if (!at)
		return 1;
	f->listened |= BPF_CORE_READ(at, notif) != 0;
	f->at = BPF_CORE_READ(at, prev);
	return f->listened;
}

/* Would a filter of system calls answer for the kernel? One with a listener can, and
 * gives the process descriptors; any can say that what was not done is. The kernel has
 * noted which calls all filters let through whatever their arguments are (kernel/seccomp.c,
 * seccomp_cache_prepare): of what a filter that systemd makes for SystemCallFilter= lets
 * through, that is all but the few whose arguments other settings look at. */
static __always_inline _Bool answered(struct task_struct *task)
{
	struct seccomp_filter *last;
	struct filters f = {};
	__u64 allowed[CALLS] = {}, missing = 0;
	__u32 size;

	if (!bpf_core_field_exists(task->seccomp.filter))
		return 0;
	last = BPF_CORE_READ(task, seccomp.filter);
	if (!last)
		return 0;
	if (!bpf_core_field_exists(last->cache))
		return 1;
	size = bpf_core_field_size(last->cache.allow_native);
	bpf_probe_read_kernel(allowed, size < sizeof(allowed) ? size : sizeof(allowed),
			      __builtin_preserve_access_index(&last->cache.allow_native));
	for (int i = 0; i < CALLS; i++)
		missing |= state.asks[i] & ~allowed[i];
	if (missing)
		return 1;
	f.at = last;
	bpf_loop(FILTERS, filter, &f, 0);
	return f.listened || f.at;
}

/* Behind the point of no return: whoever execs is its leader, alone, and has the
 * new memory. Storage survives exec, so the mark is taken first. */
SEC("lsm/bprm_committed_creds")
int BPF_PROG(guard_exec, struct linux_binprm *bprm)
{
	struct task_struct *task = bpf_get_current_task_btf();
	struct role role = {};

	bpf_task_storage_delete(&marks, task);
	if (!enrolled(bprm))
		return 0;
	if (started_by_init(task) && administers(task) && !answered(task)) {
		role.is = MARK_HORNETD;
		note_namespace();
	} else if (mark_of_parent(task) == MARK_HORNETD)
		role.is = MARK_MAKER;
	role.since = bpf_ktime_get_boot_ns();
	if (role.is)
		bpf_task_storage_get(&marks, task, &role, BPF_LOCAL_STORAGE_GET_F_CREATE);
	return 0;
}

static __always_inline _Bool written(struct inode *inode)
{
	return BPF_CORE_READ(inode, i_writecount.counter) > 0;
}

/* A child of hornetd's executes hornetd. binfmt_misc would have it execute another program
 * that gets what is for the child; the kernel asks for that one, too. */
SEC("lsm/bprm_check_security")
int BPF_PROG(guard_spawn, struct linux_binprm *bprm)
{
	struct what what = { .deed = DEED_SPAWN, .reason = REASON_CALLER };

	if (!state.only || protected(bpf_get_current_task_btf()) != MARK_HORNETD || hornetd())
		return 0;
	return is_hornetds(bprm) ? 0 : refuse(&what);
}

/* For the process that asks, whatever others ask meanwhile. */
static __always_inline int answer(struct exe *exe, int result)
{
	struct exe *a = bpf_task_storage_get(&answers, bpf_get_current_task_btf()->group_leader, 0, BPF_LOCAL_STORAGE_GET_F_CREATE);

	if (!a)
		return -ENOMEM;
	*a = *exe;
	return result;
}

/* The floor: what is left where the pins of the guard have gone, and its links with them.
 * No link and no pin holds a program of the root cgroup's, which never goes; it ends by
 * BPF_PROG_DETACH, which it judges itself. With the guard in force it comes behind it, and
 * is not asked about what that has refused: so it tells nothing twice, if it tells of
 * nothing that is let through. A program of a cgroup's returns 1 where all is well. */

static __always_inline int floor(int cmd, union bpf_attr *attr, _Bool kernel)
{
	__u32 command = cmd & ~BPF_COMMON_ATTRS;
	struct attr a = {};

	__sync_fetch_and_add(&state.floorcalls, 1);
	if (easy(command) || !enforcing() || hornetd())
		return 1;
	bpf_probe_read_kernel(&a, sizeof(a), attr);
	return judge(command, &a, kernel, 0) ? 0 : 1;
}

SEC("lsm_cgroup/bpf")
int BPF_PROG(guard_floor, int cmd, union bpf_attr *attr, unsigned int size, __u8 kernel)
{
	return floor(cmd, attr, kernel);
}

SEC("lsm_cgroup/bpf")
int BPF_PROG(guard_floor_old, int cmd, union bpf_attr *attr, unsigned int size)
{
	return floor(cmd, attr, 0);
}

SEC("lsm_cgroup/bpf_prog_load")
int BPF_PROG(guard_floor_load, struct bpf_prog *prog, union bpf_attr *attr, struct bpf_token *token, __u8 kernel)
{
	return enforcing() && load(prog, kernel) ? 0 : 1;
}

SEC("lsm_cgroup/file_open")
int BPF_PROG(guard_floor_open, struct file *file)
{
	if (!(file->f_mode & FMODE_WRITE) || file->f_inode->i_sb->s_magic != PROC_SUPER_MAGIC || !enforcing())
		return 1;
	return switches(file) ? 0 : 1;
}

static __always_inline int control(__u64 op, __u64 a, __u64 b, __u64 c, struct digest *digest)
{
	struct exe exe = {};
	struct may may = { .hornetd = !b }; /* where b: nobody writes it, and that is all */
	struct object o = { a, b };
	struct inode *inode;
	_Bool again;

	switch (op) {
	case OP_WHOAMI:
		note_first();
		note_namespace();
		current_exe(&exe);
		return answer(&exe, 0);
	case OP_MODE:
		again = a == MODE_ENFORCE && !enforcing();
		/* c from now on: a caller's own clock may be of another time namespace. */
		state.deadline = c ? bpf_ktime_get_boot_ns() + c : 0;
		state.mode = a;
		if (again) {
			state.noted = 0;
			note_first();
		}
		return 0;
	case OP_ENROLL:
		inode = BPF_CORE_READ(file_of(a), f_inode);
		if (!inode)
			return -EBADF;
		identify(inode, &exe);
		if (bpf_map_update_elem(&executables, &exe, &may, BPF_ANY))
			return -ENOSPC;
		/* Looked at behind: who opens it from now on is refused. */
		if (!written(inode))
			return answer(&exe, 0);
		bpf_map_delete_elem(&executables, &exe);
		return answer(&exe, -ETXTBSY);
	case OP_LISTED:
		inode = BPF_CORE_READ(file_of(a), f_inode);
		if (!inode)
			return -EBADF;
		identify(inode, &exe);
		if (!bpf_map_lookup_elem(&executables, &exe))
			return answer(&exe, -ENOENT);
		return answer(&exe, written(inode) ? -ETXTBSY : 0);
	case OP_RETIRE:
	case OP_DIGEST:
		exe.device = a;
		exe.generation = a >> 32;
		exe.inode = b;
		if (op == OP_DIGEST)
			return bpf_map_update_elem(&digests, &exe, digest, BPF_ANY) ? -ENOSPC : 0;
		bpf_map_delete_elem(&digests, &exe);
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
	struct digest digest = {{ ctx->args[3], ctx->args[4], ctx->args[5], ctx->args[6] }};

	/* Attached to a tracepoint it would take what hornetd does for what hornetd says.
	 * The kernel attaches it to none with fewer arguments than are read here. */
	if (ctx->args[11] != OP_ASKED)
		return -EPERM;
	return hornetd() ? control(ctx->args[0], ctx->args[1], ctx->args[2], ctx->args[3], &digest) : -EPERM;
}

char __license[] SEC("license") = "Dual BSD/GPL";
