//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Tells of every program that is started: one event in a ring buffer. */
#include "kernel.h"
#include <bpf/bpf_helpers.h>

enum { BPF_MAP_TYPE_RINGBUF = 27 };

struct event {
	__u32 pid, uid;
	char comm[16];
};

/* Set by the manifest, frozen before the program is loaded. */
const volatile __u32 min_uid = 0;

/* Events that found the ring full. */
__u64 lost = 0;

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 18);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, __u32); /* uid */
	__type(value, __u64);
} execs SEC(".maps");

SEC("raw_tp/sched_process_exec")
int tell_exec(void *ctx)
{
	__u32 uid = (__u32)bpf_get_current_uid_gid();
	__u64 one = 1, *n = bpf_map_lookup_elem(&execs, &uid);
	struct event *e;

	if (uid < min_uid)
		return 0;
	if (n)
		__sync_fetch_and_add(n, 1);
	else
		bpf_map_update_elem(&execs, &uid, &one, BPF_NOEXIST);
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e) {
		__sync_fetch_and_add(&lost, 1);
		return 0;
	}
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->uid = uid;
	bpf_get_current_comm(e->comm, sizeof(e->comm));
	bpf_ringbuf_submit(e, 0);
	return 0;
}

char __license[] SEC("license") = "Dual BSD/GPL";
