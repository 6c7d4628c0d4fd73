//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* A program that the verifier rejects: it reads behind the packet's end. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

SEC("xdp")
int overread(struct xdp_md *ctx)
{
	return *((__u8 *)(long)ctx->data);
}

char __license[] SEC("license") = "Dual BSD/GPL";
