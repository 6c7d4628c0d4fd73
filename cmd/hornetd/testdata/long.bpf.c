//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Several programs for each of which the kernel's verifier takes long, as slow.bpf.c says: an object as it holds others up longest. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

struct bpf_sock_addr;

#define SLOW(name)                                                      \
	SEC("cgroup/connect4") int name(struct bpf_sock_addr *ctx)      \
	{                                                               \
		__u32 sum = bpf_get_prandom_u32();                      \
									\
		for (__u32 i = 0; i < 190000; i++)                      \
			asm volatile("%0 ^= %1" : "+r"(sum) : "r"(i));  \
		return sum ? 1 : 1;                                     \
	}

SLOW(slow_0)
SLOW(slow_1)
SLOW(slow_2)
SLOW(slow_3)
SLOW(slow_4)
SLOW(slow_5)
SLOW(slow_6)
SLOW(slow_7)

char __license[] SEC("license") = "Dual BSD/GPL";
