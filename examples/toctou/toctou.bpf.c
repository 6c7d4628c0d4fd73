//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Answers every packet with what its map says: the contents are the program. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32); /* enum xdp_action */
} toctou_policy SEC(".maps");

SEC("xdp")
int verdict(struct xdp_md *ctx)
{
	__u32 zero = 0, *action = bpf_map_lookup_elem(&toctou_policy, &zero);

	return action ? *action : XDP_DROP;
}

char __license[] SEC("license") = "Dual BSD/GPL";
