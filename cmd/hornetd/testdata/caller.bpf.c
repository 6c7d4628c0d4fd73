//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A program for each kind of target that a caller can show, and one for none. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define PROGRAMS 8

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, PROGRAMS);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

static void called(__u32 index)
{
	__u64 *n = bpf_map_lookup_elem(&calls, &index);

	if (n)
		__sync_fetch_and_add(n, 1);
}

/* The index is the program's in calls; the verdict lets everything pass. */
#define COUNT(index, name, section, verdict)                                                       \
	SEC(section) int name(void *ctx)                                                           \
	{                                                                                          \
		called(index);                                                                     \
		return verdict;                                                                    \
	}

COUNT(0, shown_xdp, "xdp", XDP_PASS)
COUNT(1, shown_tcx, "tcx/ingress", TCX_NEXT)
COUNT(2, shown_connect, "cgroup/connect4", 1)
COUNT(3, shown_leave, "cgroup_skb/egress", 1)
COUNT(4, shown_lookup, "sk_lookup", 1)
COUNT(5, shown_call, "uprobe", 0)
COUNT(6, shown_exec, "tracepoint/sched/sched_process_exec", 0)

char __license[] SEC("license") = "Dual BSD/GPL";
