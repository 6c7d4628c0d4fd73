/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What internal/daemon loads whole: programs at functions of the kernel and of another program. */
#include "fixture.h"

#define EPERM 1

volatile const __u64 cgroup;
volatile const _Bool deny;
__u64 execs, probed;

SEC("fentry/security_bprm_creds_for_exec") int on_exec(void *ctx)
{
	if (bpf_get_current_cgroup_id() == cgroup)
		__sync_fetch_and_add(&execs, 1);
	return 0;
}

SEC("kprobe/security_bprm_creds_for_exec") int on_probe(void *ctx)
{
	if (bpf_get_current_cgroup_id() == cgroup)
		__sync_fetch_and_add(&probed, 1);
	return 0;
}

SEC("lsm/bprm_check_security") int guard_exec(void *ctx)
{
	return deny && bpf_get_current_cgroup_id() == cgroup ? -EPERM : 0;
}

__attribute__((noinline)) int verdict(struct xdp_md *ctx)
{
	volatile int v = XDP_PASS;

	return v;
}

SEC("xdp") int guarded(struct xdp_md *ctx) { return verdict(ctx); }
SEC("freplace/verdict") int drop(struct xdp_md *ctx) { return XDP_DROP; }
