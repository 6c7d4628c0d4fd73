//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counts packets at a hook of netfilter. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define NF_ACCEPT 1

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} calls SEC(".maps");

SEC("netfilter") int shown_filter(void *ctx)
{
	__u32 first = 0;
	__u64 *n = bpf_map_lookup_elem(&calls, &first);

	if (n)
		__sync_fetch_and_add(n, 1);
	return NF_ACCEPT;
}

char __license[] SEC("license") = "Dual BSD/GPL";
