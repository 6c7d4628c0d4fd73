//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counts packets and bytes of an interface by direction and protocol. */
#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum direction {
	INGRESS,
	EGRESS,
};

struct flow {
	enum direction direction;
	__u32 ethertype; /* 2048 is IPv4, 34525 IPv6, 2054 ARP */
};

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, struct flow);
	__type(value, struct counter);
} traffic SEC(".maps");

static int count(const struct __sk_buff *skb, enum direction direction)
{
	struct flow flow = {
		.direction = direction,
		.ethertype = bpf_ntohs((__u16)skb->protocol),
	};
	struct counter zero = {}, *c;

	bpf_map_update_elem(&traffic, &flow, &zero, BPF_NOEXIST);
	c = bpf_map_lookup_elem(&traffic, &flow);
	if (c) {
		__sync_fetch_and_add(&c->packets, 1);
		__sync_fetch_and_add(&c->bytes, skb->len);
	}
	return TCX_NEXT; /* whatever comes next on this interface decides */
}

SEC("tcx/ingress")
int count_ingress(struct __sk_buff *skb)
{
	return count(skb, INGRESS);
}

SEC("tcx/egress")
int count_egress(struct __sk_buff *skb)
{
	return count(skb, EGRESS);
}

char __license[] SEC("license") = "Dual BSD/GPL";
