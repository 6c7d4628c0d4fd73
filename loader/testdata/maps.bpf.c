/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps of the types a manifest can fill, and programs that read them. */
#include "fixture.h"

enum verdict { ALLOW = 1, DENY };

struct prefix {
	__u32 prefixlen;
	__u8 addr[4];
};

struct flow {
	__be32 addr;
	__be16 port;
	__u16 pad;
};

struct rule {
	enum verdict verdict;
	char label[12];
};

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 16);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct prefix);
	__type(value, __u32);
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16);
	__type(key, struct flow);
	__type(value, struct rule);
} rules SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u8[3]);
} table SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, __u64);
} percpu SEC(".maps");

/* No BTF for key and value, and no size: the manifest must give one. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(key_size, 4);
	__uint(value_size, 2);
} plain SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4096);
} events SEC(".maps");

/* The packet: an IPv4 address in network order, then a port in network order. */
SEC("xdp")
int lookup(struct xdp_md *ctx)
{
	__u8 *p = (void *)(long)ctx->data;
	struct prefix prefix = { .prefixlen = 32 };
	struct flow flow = {};
	struct rule *rule;
	__u32 *net;

	if (p + 14 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	__builtin_memcpy(prefix.addr, p, 4);
	__builtin_memcpy(&flow.addr, p, 4);
	__builtin_memcpy(&flow.port, p + 4, 2);
	rule = bpf_map_lookup_elem(&rules, &flow);
	if (rule)
		return rule->verdict == DENY ? XDP_DROP : XDP_PASS;
	net = bpf_map_lookup_elem(&networks, &prefix);
	return net ? *net : XDP_TX;
}

/* Keeps the others referenced. */
SEC("xdp")
int others(struct xdp_md *ctx)
{
	__u32 key = 0;
	__u64 *n = bpf_map_lookup_elem(&percpu, &key);
	__u8 *t = bpf_map_lookup_elem(&table, &key);
	__u8 *v = bpf_map_lookup_elem(&plain, &key);

	bpf_ringbuf_output(&events, &key, sizeof(key), 0);
	return (n ? *n : 0) + (t ? t[0] : 0) + (v ? v[0] : 0);
}
