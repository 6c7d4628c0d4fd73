/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs the verifier rejects: one for a reason in one line of its source, one after a long walk. */
#include "fixture.h"

SEC("xdp")
int overread(struct xdp_md *ctx)
{
	__u8 *p = (void *)(long)ctx->data;

	return p[0] + p[1];
}

/* The verifier walks every turn of the loop before it meets the same mistake. */
SEC("xdp")
int walk(struct xdp_md *ctx)
{
	__u8 *p = (void *)(long)ctx->data;
	__u64 sum = 0;

#pragma clang loop unroll(disable)
	for (int i = 0; i < 20000; i++)
		sum += bpf_ktime_get_ns() >> (i & 7);
	return p[0] + sum;
}
