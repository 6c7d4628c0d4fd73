//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* One program of every kind that a manifest can attach. Each counts its calls. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define PROGRAMS 64

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

COUNT(0, on_xdp, "xdp", XDP_PASS)
COUNT(1, on_tcx_ingress, "tcx/ingress", TCX_NEXT)
COUNT(2, on_tcx_egress, "tcx/egress", TCX_NEXT)
COUNT(3, on_skb_ingress, "cgroup_skb/ingress", 1)
COUNT(4, on_skb_egress, "cgroup_skb/egress", 1)
COUNT(5, on_sock_create, "cgroup/sock_create", 1)
COUNT(6, on_sock_release, "cgroup/sock_release", 1)
COUNT(7, on_post_bind4, "cgroup/post_bind4", 1)
COUNT(8, on_post_bind6, "cgroup/post_bind6", 1)
COUNT(9, on_bind4, "cgroup/bind4", 1)
COUNT(10, on_bind6, "cgroup/bind6", 1)
COUNT(11, on_connect4, "cgroup/connect4", 1)
COUNT(12, on_connect6, "cgroup/connect6", 1)
COUNT(13, on_sendmsg4, "cgroup/sendmsg4", 1)
COUNT(14, on_sendmsg6, "cgroup/sendmsg6", 1)
COUNT(15, on_recvmsg4, "cgroup/recvmsg4", 1)
COUNT(16, on_recvmsg6, "cgroup/recvmsg6", 1)
COUNT(17, on_getpeername4, "cgroup/getpeername4", 1)
COUNT(18, on_getpeername6, "cgroup/getpeername6", 1)
COUNT(19, on_getsockname4, "cgroup/getsockname4", 1)
COUNT(20, on_getsockname6, "cgroup/getsockname6", 1)
COUNT(21, on_getsockopt, "cgroup/getsockopt", 1)
COUNT(22, on_setsockopt, "cgroup/setsockopt", 1)
COUNT(23, on_sysctl, "cgroup/sysctl", 1)
COUNT(24, on_device, "cgroup/dev", 1)
COUNT(25, on_sock_ops, "sockops", 1)
COUNT(26, on_raw_tp, "raw_tp/sched_process_exec", 0)
COUNT(27, on_tp_btf, "tp_btf/sched_process_exec", 0)
COUNT(28, on_tracepoint, "tracepoint/sched/sched_process_exec", 0)
COUNT(29, on_uprobe, "uprobe", 0)
COUNT(30, on_uretprobe, "uretprobe", 0)
COUNT(31, on_sk_lookup, "sk_lookup", 1)
COUNT(32, on_netfilter, "netfilter", 1)
COUNT(33, on_iter, "iter/task", 0)

char __license[] SEC("license") = "Dual BSD/GPL";
