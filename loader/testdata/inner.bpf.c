/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Maps in maps: filled by the object, and with a template only the manifest names. */
#include "fixture.h"

struct inner {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
};

struct inner inner_a SEC(".maps");
struct inner inner_b SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, struct inner);
} outer SEC(".maps") = {
	.values = { [0] = &inner_a },
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH_OF_MAPS);
	__uint(max_entries, 4);
	__uint(key_size, 4);
	__uint(value_size, 4);
} bare SEC(".maps");

/* The packet: which slot of outer, or with the top bit which key of bare. */
SEC("xdp")
int nested(struct xdp_md *ctx)
{
	__u8 *p = (void *)(long)ctx->data;
	__u32 zero = 0, key, *v;
	void *in;

	if (p + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	key = *p & 0x7f;
	if (*p & 0x80)
		in = bpf_map_lookup_elem(&bare, &key);
	else
		in = bpf_map_lookup_elem(&outer, &key);
	if (!in)
		return XDP_DROP;
	v = bpf_map_lookup_elem(in, &zero);
	return v ? *v : XDP_ABORTED;
}
