//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What a run of the harness loads: links that are exchanged in place (xdp, tcx, cgroup) and one that is not (raw_tp). The test replaces
 * "hftokn" by letters of its own, by which it finds its programs and maps among all of the kernel.
 */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

/* Set by the manifest; the verifier leaves out what the other one does, so each has translated instructions of its own. */
const volatile __u32 hftokn_is SEC(".rodata.hftokn") = 0;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u64);
} hftokn_calls SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 8);
	__type(key, __u32);
	__type(value, __u32);
} hftokn_list SEC(".maps");

static __always_inline void called(__u32 index)
{
	__u64 *n = bpf_map_lookup_elem(&hftokn_calls, &index);
	__u32 key = index;

	if (hftokn_is == 2 && bpf_map_lookup_elem(&hftokn_list, &key))
		return;
	if (n)
		__sync_fetch_and_add(n, 1);
}

SEC("xdp") int hftokn_xdp(void *ctx)
{
	called(0);
	return XDP_PASS;
}

SEC("tcx/ingress") int hftokn_tcx(void *ctx)
{
	called(1);
	return TCX_NEXT;
}

SEC("cgroup/connect4") int hftokn_con(void *ctx)
{
	called(2);
	return 1;
}

SEC("raw_tp/sched_process_exec") int hftokn_raw(void *ctx)
{
	called(3);
	return 0;
}

char __license[] SEC("license") = "Dual BSD/GPL";
