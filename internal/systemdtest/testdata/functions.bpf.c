//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs at functions of the kernel, of an executable and of a program. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define COUNTED 9

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, COUNTED);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

#define COUNT(index, name, section)                                 \
	SEC(section) int name(void *ctx)                            \
	{                                                           \
		__u32 i = index;                                    \
		__u64 *n = bpf_map_lookup_elem(&calls, &i);         \
                                                                    \
		if (n)                                              \
			__sync_fetch_and_add(n, 1);                 \
		return 0;                                           \
	}

COUNT(0, on_entry, "fentry/begin_new_exec")
COUNT(1, on_exit, "fexit/begin_new_exec")
COUNT(2, modify, "fmod_ret/security_bprm_check")
COUNT(3, guard, "lsm/bprm_check_security")
COUNT(4, guard_sleepable, "lsm.s/bprm_check_security")
COUNT(5, probe, "kprobe/begin_new_exec")
COUNT(6, probe_return, "kretprobe/begin_new_exec")
COUNT(7, probes, "kprobe.multi/begin_new_e*")
COUNT(8, user_probes, "uprobe.multi")

__attribute__((noinline)) int verdict(struct xdp_md *ctx)
{
	volatile int v = XDP_PASS;

	return v;
}

SEC("xdp") int guarded(struct xdp_md *ctx) { return verdict(ctx); }
SEC("freplace/verdict") int replacement(struct xdp_md *ctx) { return XDP_PASS; }

char __license[] SEC("license") = "Dual BSD/GPL";
