//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that hold the kernel's verifier up, as slow.bpf.c says, and a map for what others do meanwhile. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct bpf_sock_addr;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} connects SEC(".maps");

#define SLOW(name)                                                      \
	SEC("cgroup/connect4") int name(struct bpf_sock_addr *ctx)      \
	{                                                               \
		__u32 zero = 0, sum = bpf_get_prandom_u32();            \
		__u64 *n = bpf_map_lookup_elem(&connects, &zero);       \
									\
		if (n)                                                  \
			__sync_fetch_and_add(n, 1);                     \
		for (__u32 i = 0; i < 190000; i++)                      \
			asm volatile("%0 ^= %1" : "+r"(sum) : "r"(i));  \
		return sum ? 1 : 1;                                     \
	}

SLOW(slow_0)
SLOW(slow_1)
SLOW(slow_2)

char __license[] SEC("license") = "Dual BSD/GPL";
