/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tail calls: one slot is filled by the object, one by the manifest, one stays empty. */
#include "fixture.h"

int first(struct xdp_md *ctx);
int second(struct xdp_md *ctx);

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__array(values, int(struct xdp_md *));
} jumps SEC(".maps") = {
	.values = { [0] = &first },
};

SEC("xdp")
int first(struct xdp_md *ctx)
{
	return 100;
}

SEC("xdp")
int second(struct xdp_md *ctx)
{
	return 101;
}

SEC("xdp")
int entry(struct xdp_md *ctx)
{
	__u8 *p = (void *)(long)ctx->data;

	if (p + 1 > (__u8 *)(long)ctx->data_end)
		return XDP_ABORTED;
	bpf_tail_call(ctx, &jumps, *p);
	return XDP_TX;
}
