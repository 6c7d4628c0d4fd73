//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Drops IPv4 packets that come from blocked networks and counts them per rule. */
#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

/* Count what would be dropped, but let it pass. */
const volatile _Bool dry_run = 0;

struct prefix {
	__u32 length; /* in bits */
	__u8 network[4];
};

/* Filled from the manifest and frozen: nobody moves the list under the running program. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 1024);
	__uint(map_flags, BPF_F_NO_PREALLOC); /* tries know no other way */
	__type(key, struct prefix);
	__type(value, __u32); /* rule: a number of the administrator's choice */
} blocked SEC(".maps");

struct counter {
	__u64 packets;
	__u64 bytes;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* rule */
	__type(value, struct counter);
} hits SEC(".maps");

static void count(__u32 rule, __u64 bytes)
{
	struct counter zero = {}, *c;

	bpf_map_update_elem(&hits, &rule, &zero, BPF_NOEXIST);
	c = bpf_map_lookup_elem(&hits, &rule);
	if (!c)
		return;
	__sync_fetch_and_add(&c->packets, 1);
	__sync_fetch_and_add(&c->bytes, bytes);
}

SEC("xdp")
int xdp_drop(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
	struct prefix source = { .length = 32 };
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	__u32 *rule;

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	__builtin_memcpy(source.network, ip->saddr, sizeof(source.network));
	rule = bpf_map_lookup_elem(&blocked, &source);
	if (!rule)
		return XDP_PASS;
	count(*rule, end - data);
	return dry_run ? XDP_PASS : XDP_DROP;
}

char __license[] SEC("license") = "Dual BSD/GPL";
