//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What decides is reached by a tail call only: where the jump leads nowhere, all may connect. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct bpf_sock_addr;

int deny(struct bpf_sock_addr *ctx);

struct {
	__uint(type, 3); /* BPF_MAP_TYPE_PROG_ARRAY */
	__uint(max_entries, 1);
	__type(key, __u32);
	__array(values, int(struct bpf_sock_addr *));
} jumps SEC(".maps") = {
	.values = { [0] = &deny },
};

SEC("cgroup/connect4") int deny(struct bpf_sock_addr *ctx) { return 0; }

SEC("cgroup/connect4") int jump(struct bpf_sock_addr *ctx)
{
	bpf_tail_call(ctx, &jumps, 0);
	return 1;
}

char _license[] SEC("license") = "Dual BSD/GPL";
