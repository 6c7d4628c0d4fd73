//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counts the programs that every user starts. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

/* Set by the manifest, frozen before the program is loaded: the verifier reads it as a constant. */
const volatile __u32 min_uid = 0;

/* Execs that found the map full. */
__u64 lost = 0;

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* uid, as the new program has it */
	__type(value, __u64);
} execs SEC(".maps");

/* raw_tp rather than tp_btf: nothing of its arguments is read, so it needs no kernel BTF. */
SEC("raw_tp/sched_process_exec")
int count_exec(void *ctx)
{
	__u32 uid = (__u32)bpf_get_current_uid_gid();
	__u64 one = 1, *n;

	if (uid < min_uid)
		return 0;
	n = bpf_map_lookup_elem(&execs, &uid);
	if (n) {
		__sync_fetch_and_add(n, 1);
		return 0;
	}
	/* Two first execs on two CPUs: one of them creates the entry, the other finds it. */
	if (!bpf_map_update_elem(&execs, &uid, &one, BPF_NOEXIST))
		return 0;
	n = bpf_map_lookup_elem(&execs, &uid);
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		__sync_fetch_and_add(&lost, 1);
	return 0;
}

char __license[] SEC("license") = "Dual BSD/GPL";
