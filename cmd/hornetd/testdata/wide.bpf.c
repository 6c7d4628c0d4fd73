//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Maps whose entries are large, or become large as text.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

#define LONG(n) __u8 a_field_with_a_name_that_is_very_much_longer_than_the_single_byte_that_it_stands_for_and_that_is_all_there_is_##n

struct named {
	LONG(0); LONG(1); LONG(2); LONG(3); LONG(4); LONG(5); LONG(6); LONG(7);
};

struct wide {
	struct named all[30000];
};

struct text {
	char text[60000];
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, struct wide);
} values SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 8);
	__type(key, struct text);
	__type(value, __u32);
} keys SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 10000);
	__type(key, __u32);
	__type(value, struct named);
} names SEC(".maps");

SEC("xdp") int pass(struct xdp_md *ctx)
{
	struct named none = {};
	__u32 zero = 0;

	/* Without a use the types would not be in the object. */
	bpf_map_update_elem(&names, &zero, &none, 1);
	return XDP_PASS;
}

char __license[] SEC("license") = "Dual BSD/GPL";
