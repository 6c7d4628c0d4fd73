//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Programs for which hornetd needs more than CAP_BPF in its first network
 * namespace, all of them older than Linux 6.1. They count their calls.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

#define COUNT(name, section, verdict)                               \
	SEC(section) int name(void *ctx)                            \
	{                                                           \
		__u32 zero = 0;                                     \
		__u64 *n = bpf_map_lookup_elem(&calls, &zero);      \
                                                                    \
		if (n)                                              \
			__sync_fetch_and_add(n, 1);                 \
		return verdict;                                     \
	}

COUNT(packet, "cgroup_skb/egress", 1)
COUNT(frame, "xdp", XDP_PASS)
COUNT(lookup, "sk_lookup", 1)
COUNT(entry, "uprobe", 0)
COUNT(event, "tracepoint/sched/sched_process_exec", 0)

char __license[] SEC("license") = "Dual BSD/GPL";
