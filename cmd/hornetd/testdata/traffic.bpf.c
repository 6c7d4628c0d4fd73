//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Three hooks that a datagram to port 7777 passes, one after the other: the
 * sender's cgroup, XDP and tcx where it arrives. Each counts it in the slot of
 * its hook and of the version of the object that is loaded.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define VERSIONS 1024

volatile const __u32 generation;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3 * VERSIONS);
	__type(key, __u32);
	__type(value, __u64);
} seen SEC(".maps");

struct datagram {
	__u8 ip[20];
	__be16 source, dest;
} __attribute__((packed));

static __always_inline void count(__u32 hook, const struct datagram *d)
{
	__u32 slot = hook * VERSIONS + generation % VERSIONS;
	__u64 *n;

	if (d->ip[0] != 0x45 || d->ip[9] != 17 || d->dest != __builtin_bswap16(7777))
		return;
	n = bpf_map_lookup_elem(&seen, &slot);
	if (n)
		__sync_fetch_and_add(n, 1);
}

SEC("cgroup_skb/egress") int leaves(struct __sk_buff *skb)
{
	struct datagram d;

	if (!bpf_skb_load_bytes(skb, 0, &d, sizeof(d)))
		count(0, &d);
	return 1;
}

SEC("xdp") int arrives(struct xdp_md *ctx)
{
	struct datagram *d = (void *)(long)ctx->data + sizeof(struct ethhdr);

	if ((void *)(d + 1) <= (void *)(long)ctx->data_end)
		count(1, d);
	return XDP_PASS;
}

SEC("tcx/ingress") int enters(struct __sk_buff *skb)
{
	struct datagram d;

	if (!bpf_skb_load_bytes(skb, sizeof(struct ethhdr), &d, sizeof(d)))
		count(2, &d);
	return TCX_NEXT;
}

char __license[] SEC("license") = "Dual BSD/GPL";
