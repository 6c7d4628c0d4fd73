//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counts what the processes of a cgroup connect to, by family and port. */
#include "kernel.h"
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

enum family {
	IPV4 = 2,
	IPV6 = 10,
};

/* No padding: a hash map compares every byte of its key. */
struct destination {
	enum family family;
	__u32 port;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 4096);
	__type(key, struct destination);
	__type(value, __u64);
} connects SEC(".maps");

/* Every attempt counts, also one that nobody answers. */
static int count(const struct bpf_sock_addr *ctx, enum family family)
{
	struct destination to = {
		.family = family,
		.port = bpf_ntohs((__u16)ctx->user_port),
	};
	__u64 zero = 0, *n;

	bpf_map_update_elem(&connects, &to, &zero, BPF_NOEXIST);
	n = bpf_map_lookup_elem(&connects, &to);
	if (n)
		__sync_fetch_and_add(n, 1);
	return 1; /* go on: 0 would refuse the connection */
}

SEC("cgroup/connect4")
int connect4(struct bpf_sock_addr *ctx)
{
	return count(ctx, IPV4);
}

SEC("cgroup/connect6")
int connect6(struct bpf_sock_addr *ctx)
{
	return count(ctx, IPV6);
}

char __license[] SEC("license") = "Dual BSD/GPL";
