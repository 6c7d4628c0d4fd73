/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * One program for every hook that programs attach to through a link. Each
 * counts how often it ran, in hits_NAME; some also do what can be seen from
 * outside: drop, refuse, redirect.
 */
#include "fixture.h"

#define COUNT(name)						\
	__u64 hits_##name;					\
	static __always_inline void count_##name(void)		\
	{							\
		__sync_fetch_and_add(&hits_##name, 1);		\
	}

/* What runs nothing but the counter. */
#define COUNTER(section, name, verdict)				\
	COUNT(name)						\
	SEC(section) int name(void *ctx)			\
	{							\
		count_##name();					\
		return verdict;					\
	}

/* Programs that the whole host runs count only what this cgroup does. */
volatile const __u64 cgroup;

#define COUNTER_OF_CGROUP(section, name)			\
	COUNT(name)						\
	SEC(section) int name(void *ctx)			\
	{							\
		if (bpf_get_current_cgroup_id() == cgroup)	\
			count_##name();				\
		return 0;					\
	}

#define TC_NEXT -1
#define TC_SHOT 2

struct __sk_buff {
	__u32 len;
};

struct datagram {
	__u8 ethernet[14];
	__u8 ip[20];
	__u16 source, dest;
} __attribute__((packed));

static __always_inline int to_7777(struct datagram *d)
{
	return d->ethernet[12] == 8 && d->ethernet[13] == 0 && d->ip[9] == 17 &&
	       d->dest == __builtin_bswap16(7777);
}

/* Interfaces. */

COUNT(xdp_drop)
SEC("xdp") int xdp_drop(struct xdp_md *ctx)
{
	struct datagram *d = (void *)(long)ctx->data;

	if ((void *)(d + 1) > (void *)(long)ctx->data_end || !to_7777(d))
		return XDP_PASS;
	count_xdp_drop();
	return XDP_DROP;
}

COUNT(xdp_pass)
SEC("xdp") int xdp_pass(struct xdp_md *ctx)
{
	struct datagram *d = (void *)(long)ctx->data;

	if ((void *)(d + 1) <= (void *)(long)ctx->data_end && to_7777(d))
		count_xdp_pass();
	return XDP_PASS;
}

COUNT(tcx_drop)
SEC("tcx/ingress") int tcx_drop(struct __sk_buff *skb)
{
	struct datagram d;

	if (bpf_skb_load_bytes(skb, 0, &d, sizeof(d)) || !to_7777(&d))
		return TC_NEXT;
	count_tcx_drop();
	return TC_SHOT;
}

#define TCX_COUNTER(section, name)						\
	COUNT(name)								\
	SEC(section) int name(struct __sk_buff *skb)				\
	{									\
		struct datagram d;						\
										\
		if (!bpf_skb_load_bytes(skb, 0, &d, sizeof(d)) && to_7777(&d))	\
			count_##name();						\
		return TC_NEXT;							\
	}

TCX_COUNTER("tcx/ingress", tcx_in)
TCX_COUNTER("tc/egress", tcx_out)
TCX_COUNTER("tc", tcx_any)
TCX_COUNTER("classifier", tcx_classifier)

/* Network namespaces. */

struct bpf_sk_lookup {
	__u64 cookie;
	__u32 family, protocol;
	__u32 remote_ip4, remote_ip6[4];
	__be16 remote_port;
	__u16 : 16;
	__u32 local_ip4, local_ip6[4];
	__u32 local_port;
};

struct {
	__uint(type, 15); /* BPF_MAP_TYPE_SOCKMAP */
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

COUNT(redirect)
SEC("sk_lookup") int redirect(struct bpf_sk_lookup *ctx)
{
	struct bpf_sock *sk;
	__u32 zero = 0;
	long err;

	if (ctx->local_port != 7007)
		return 1;
	count_redirect();
	sk = bpf_map_lookup_elem(&sockets, &zero);
	if (!sk)
		return 0;
	err = bpf_sk_assign(ctx, sk, 0);
	bpf_sk_release(sk);
	return err ? 0 : 1;
}

COUNTER("sk_lookup", refuse, 0)
COUNTER("flow_dissector", dissect, 129) /* BPF_FLOW_DISSECTOR_CONTINUE */
COUNTER("netfilter", nf_drop, 0)
COUNTER("netfilter", nf_accept, 1)

/* Sockets in a map. */

COUNTER("sk_msg", msg_pass, 1)
COUNTER("sk_msg", msg_count, 1)
COUNTER("sk_skb/stream_verdict", stream_verdict, 1)
COUNTER("sk_skb/verdict", skb_verdict, 1)

COUNT(stream_parser)
SEC("sk_skb/stream_parser") int stream_parser(struct __sk_buff *skb)
{
	count_stream_parser();
	return skb->len;
}

/* Cgroups. 1 allows. */

COUNTER("cgroup_skb/ingress", skb_ingress, 1)
COUNTER("cgroup_skb/egress", skb_egress, 1)
COUNTER("cgroup/skb", skb_any, 1)
COUNTER("cgroup/sock_create", sock_create, 1)
COUNTER("cgroup/sock", sock, 1)
COUNTER("cgroup/sock_release", sock_release, 1)
COUNTER("cgroup/post_bind4", post_bind4, 1)
COUNTER("cgroup/post_bind6", post_bind6, 1)
COUNTER("cgroup/bind4", bind4, 1)
COUNTER("cgroup/bind6", bind6, 1)
COUNTER("cgroup/connect4", connect4, 1)
COUNTER("cgroup/connect4", connect4_deny, 0)
COUNTER("cgroup/connect6", connect6, 1)
COUNTER("cgroup/connect_unix", connect_unix, 1)
COUNTER("cgroup/sendmsg4", sendmsg4, 1)
COUNTER("cgroup/sendmsg6", sendmsg6, 1)
COUNTER("cgroup/sendmsg_unix", sendmsg_unix, 1)
COUNTER("cgroup/recvmsg4", recvmsg4, 1)
COUNTER("cgroup/recvmsg6", recvmsg6, 1)
COUNTER("cgroup/recvmsg_unix", recvmsg_unix, 1)
COUNTER("cgroup/getpeername4", getpeername4, 1)
COUNTER("cgroup/getpeername6", getpeername6, 1)
COUNTER("cgroup/getpeername_unix", getpeername_unix, 1)
COUNTER("cgroup/getsockname4", getsockname4, 1)
COUNTER("cgroup/getsockname6", getsockname6, 1)
COUNTER("cgroup/getsockname_unix", getsockname_unix, 1)
COUNTER("cgroup/getsockopt", getsockopt, 1)
COUNTER("cgroup/setsockopt", setsockopt, 1)
COUNTER("cgroup/sysctl", sysctl, 1)
COUNTER("cgroup/dev", device, 1)
COUNTER("sockops", sock_ops, 1)

/* Tracing. */

COUNTER_OF_CGROUP("raw_tp/sched_process_exec", raw_exec)
COUNTER_OF_CGROUP("raw_tp", raw_any)
COUNTER_OF_CGROUP("raw_tp/no_such_tracepoint", raw_missing)
COUNTER_OF_CGROUP("tp_btf/sched_process_exec", btf_exec)
COUNTER_OF_CGROUP("tracepoint/sched/sched_process_exec", tp_exec)
COUNTER_OF_CGROUP("tp", tp_any)
COUNTER_OF_CGROUP("uprobe", on_entry)
COUNTER_OF_CGROUP("uretprobe", on_return)
COUNTER_OF_CGROUP("uprobe.s", on_entry_sleepable)
COUNTER_OF_CGROUP("uprobe//bin/sh:main+0x10", on_section)

/* Read behind what the tracepoint hands over, which shows when attaching. */
SEC("raw_tp/sched_process_exec") int raw_wide(__u64 *ctx) { return ctx[11] == 1; }
SEC("tp/sched/sched_process_exec") int tp_wide(__u64 *ctx) { return ctx[200] == 1; }

/* Iterators. */

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session, number;
};

struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	void *task;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u64);
} walked SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 3);
	__type(key, __u32);
	__type(value, __u32);
} narrow SEC(".maps");

SEC("iter/task") int tasks(struct bpf_iter__task *ctx)
{
	static const char line[] = "task\n";

	if (ctx->task)
		bpf_seq_write(ctx->meta->seq, line, sizeof(line) - 1);
	return 0;
}

SEC("iter/task") int tasks_short(struct bpf_iter__task *ctx)
{
	static const char line[] = "t\n";

	if (ctx->task)
		bpf_seq_write(ctx->meta->seq, line, sizeof(line) - 1);
	return 0;
}
