/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* An iterator of a map's elements, which some kernels load for nobody. */
#include "fixture.h"

struct seq_file;

struct bpf_iter_meta {
	struct seq_file *seq;
	__u64 session, number;
};

struct bpf_iter__bpf_map_elem {
	struct bpf_iter_meta *meta;
	void *map, *key, *value;
};

SEC("iter/bpf_map_elem") int elements(struct bpf_iter__bpf_map_elem *ctx)
{
	__u64 *value = ctx->value;

	if (value)
		bpf_seq_write(ctx->meta->seq, value, sizeof(*value));
	return 0;
}
