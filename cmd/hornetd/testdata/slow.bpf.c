//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What the kernel's verifier takes long for: it walks each round, almost up to its limit of a million instructions. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct bpf_sock_addr;

SEC("cgroup/connect4") int slow(struct bpf_sock_addr *ctx)
{
	__u32 sum = bpf_get_prandom_u32();

	for (__u32 i = 0; i < 190000; i++)
		asm volatile("%0 ^= %1" : "+r"(sum) : "r"(i));
	return sum ? 1 : 1;
}

char __license[] SEC("license") = "Dual BSD/GPL";
