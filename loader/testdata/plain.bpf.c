/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The smallest thing that loads; also compiled for the other byte order. */
#include "fixture.h"

const volatile __u32 answer = XDP_PASS;

SEC("xdp")
int plain(struct xdp_md *ctx)
{
	return answer;
}
