/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A congestion control whose window does not grow, and that counts its connections. */
#include "fixture.h"

struct sock;

/* The members that it has, of the kernel's structure of this name. */
struct tcp_congestion_ops {
	void (*init)(struct sock *sk);
	__u32 (*ssthresh)(struct sock *sk);
	void (*cong_avoid)(struct sock *sk, __u32 ack, __u32 acked);
	__u32 (*undo_cwnd)(struct sock *sk);
	char name[16];
};

__u64 hits_cc_init, hits_cc_avoid;

SEC("struct_ops") void cc_init(__u64 *ctx) { __sync_fetch_and_add(&hits_cc_init, 1); }
SEC("struct_ops") void cc_avoid(__u64 *ctx) { __sync_fetch_and_add(&hits_cc_avoid, 1); }
SEC("struct_ops") __u32 cc_ssthresh(__u64 *ctx) { return 2; }
SEC("struct_ops") __u32 cc_undo(__u64 *ctx) { return 10; }

SEC(".struct_ops.link") struct tcp_congestion_ops steady = {
	.init = (void *)cc_init,
	.ssthresh = (void *)cc_ssthresh,
	.cong_avoid = (void *)cc_avoid,
	.undo_cwnd = (void *)cc_undo,
	.name = "hornet_steady",
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} other SEC(".maps");

SEC("xdp") int uses_other(struct xdp_md *ctx)
{
	__u32 zero = 0;

	return bpf_map_lookup_elem(&other, &zero) ? XDP_PASS : XDP_DROP;
}
