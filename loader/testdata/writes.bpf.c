/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A program that writes its maps, which a frozen map does not take unless the manifest says so. */
#include "fixture.h"

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} slots SEC(".maps");

volatile __u64 total;

SEC("xdp")
int count(struct xdp_md *ctx)
{
	__u64 one = 1;
	__u32 key = 0;

	return bpf_map_update_elem(&counts, &key, &one, 0) ? XDP_ABORTED : XDP_PASS;
}

SEC("xdp")
int store(struct xdp_md *ctx)
{
	__u32 key = 1;
	__u64 *slot = bpf_map_lookup_elem(&slots, &key);

	if (!slot)
		return XDP_ABORTED;
	*slot = 42;
	total++;
	return XDP_PASS;
}
