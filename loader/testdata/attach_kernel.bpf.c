/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs at functions of the kernel, of other programs and of executables.
 * Each counts how often it ran, in hits_NAME; those called deny_NAME also refuse
 * what they are asked about. All of it only for what one cgroup does: the whole
 * host runs them.
 */
#include "fixture.h"

/* 0 stands for every cgroup. */
volatile const __u64 cgroup;

static __always_inline int ours(void)
{
	return !cgroup || bpf_get_current_cgroup_id() == cgroup;
}

#define EPERM 1

#define COUNTER(section, name, verdict)				\
	__u64 hits_##name;					\
	SEC(section) int name(__u64 *ctx)			\
	{							\
		if (!ours())					\
			return 0;				\
		__sync_fetch_and_add(&hits_##name, 1);		\
		return verdict;					\
	}

/* Calls what only programs may that can sleep. */
#define SLEEPER(section, name, verdict)				\
	__u64 hits_##name;					\
	SEC(section) int name(__u64 *ctx)			\
	{							\
		char c;						\
								\
		if (!ours())					\
			return 0;				\
		bpf_copy_from_user(&c, 1, 0);			\
		__sync_fetch_and_add(&hits_##name, 1);		\
		return verdict;					\
	}

COUNTER("fentry/begin_new_exec", on_fentry, 0)
COUNTER("fentry", fentry_any, 0)
COUNTER("fentry/no_such_function", fentry_missing, 0)
COUNTER("fexit/begin_new_exec", on_fexit, 0)
COUNTER("fmod_ret/security_bprm_check", deny_modified, -EPERM)
COUNTER("fmod_ret/begin_new_exec", modify_unmodifiable, -EPERM)
SLEEPER("fentry.s", fentry_sleeps, 0)
SLEEPER("fexit.s", fexit_sleeps, 0)
SLEEPER("fmod_ret.s", modify_sleeps, 0)

COUNTER("lsm/bprm_check_security", on_lsm, 0)
COUNTER("lsm/bprm_check_security", deny_lsm, -EPERM)
SLEEPER("lsm.s/bprm_check_security", deny_lsm_sleeps, -EPERM)
SLEEPER("lsm.s/task_free", lsm_sleepless, 0)
COUNTER("lsm/no_such_hook", lsm_missing, 0)

COUNTER("kprobe/begin_new_exec", on_kprobe, 0)
COUNTER("kprobe", kprobe_any, 0)
COUNTER("kretprobe/begin_new_exec", on_kretprobe, 0)
COUNTER("ksyscall/execve", on_ksyscall, 0)
COUNTER("kretsyscall/exit", on_kretsyscall, 0)
COUNTER("kprobe.multi/begin_new_e*", on_kprobes, 0)
COUNTER("kretprobe.multi", on_kretprobes, 0)
COUNTER("kprobe.session/begin_new_exec", on_session, 0)

COUNTER("uprobe.multi", on_uprobes, 0)
COUNTER("uretprobe.multi", on_uretprobes, 0)
SLEEPER("uprobe.multi.s", uprobes_sleep, 0)

/* A function of a program, and what takes its place. */

struct datagram {
	__u8 ethernet[14];
	__u8 ip[20];
	__u16 source, dest;
} __attribute__((packed));

__attribute__((noinline)) int verdict(struct xdp_md *ctx)
{
	volatile int v = XDP_PASS;

	return v;
}

SEC("xdp") int guarded(struct xdp_md *ctx) { return verdict(ctx); }

__u64 hits_verdict_drop;
SEC("freplace/verdict") int verdict_drop(struct xdp_md *ctx)
{
	struct datagram *d = (void *)(long)ctx->data;

	if ((void *)(d + 1) > (void *)(long)ctx->data_end || d->ip[9] != 17 ||
	    d->dest != __builtin_bswap16(7777))
		return XDP_PASS;
	__sync_fetch_and_add(&hits_verdict_drop, 1);
	return XDP_DROP;
}

SEC("freplace") int verdict_any(struct xdp_md *ctx) { return XDP_PASS; }
