//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps of many types, for what clients do with them, and a program that puts
 * one numbered sample into a ring buffer and into a perf event array each time
 * it runs.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

enum {
	BPF_MAP_TYPE_PROG_ARRAY = 3,
	BPF_MAP_TYPE_PERF_EVENT_ARRAY = 4,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_RINGBUF = 27,
};
#define BPF_F_CURRENT_CPU 0xffffffffULL

enum verdict { ALLOW = 1, DENY = 2, LOG = 300 };

struct in6_addr {
	union {
		__u8 u6_addr8[16];
		__be32 u6_addr32[4];
	} in6_u;
};

struct bpf_spin_lock {
	__u32 val;
};

struct network {
	__u32 prefixlen;
	__be32 addr;
};

struct endpoint {
	__be32 addr;
	__be16 port;
	__u16 zone;
};

union word {
	__u32 whole;
	__u8 parts[4];
};

struct host {
	struct in6_addr v6;
	__u8 mac[6];
	_Bool up;
	char name[9];
	enum verdict verdict;
	__s32 offset;
	__u32 low : 3, mid : 10, high : 19;
	union word word;
	struct {
		__u64 packets, bytes;
	} seen[2];
};

struct counter {
	__u64 packets, bytes;
};

struct account {
	struct bpf_spin_lock lock;
	__u32 version;
	__u64 balance;
};

struct sample {
	__u64 n;
	__u8 pad[56];
};

__u64 emitted = 0;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, 4);
	__uint(value_size, 4);
} samples SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 20000);
	__type(key, __u32);
	__type(value, __u64);
} counts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_HASH);
	__uint(max_entries, 16);
	__type(key, __u32);
	__type(value, struct counter);
} percpu SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 4);
	__type(key, __u32);
	__type(value, __u64);
} config SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PROG_ARRAY);
	__uint(max_entries, 2);
	__uint(key_size, 4);
	__uint(value_size, 4);
} jumps SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 5000);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct network);
	__type(value, enum verdict);
} networks SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, struct endpoint);
	__type(value, struct host);
} hosts SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, struct account);
} accounts SEC(".maps");

SEC("xdp") int emit(struct xdp_md *ctx)
{
	struct sample s = { .n = __sync_fetch_and_add(&emitted, 1) };

	bpf_ringbuf_output(&events, &s, sizeof(s), 0);
	bpf_perf_event_output(ctx, &samples, BPF_F_CURRENT_CPU, &s, sizeof(s));
	return XDP_PASS;
}

char __license[] SEC("license") = "Dual BSD/GPL";
