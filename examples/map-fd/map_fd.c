//go:build ignore

/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * map_fd SOCKET COUNT: prints COUNT events of map-fd's ring buffer, as a user
 * without privileges, and then that user's count from the map beside it.
 *
 *	cc -O2 -Wall -o map_fd map_fd.c && ./map_fd /run/hornet/hornetd.sock 3
 */
#include "map_fd.h"

#include <linux/bpf.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define RING (1 << 18) /* as in map_fd.bpf.c */

struct event {
	uint32_t pid, uid;
	char comm[16];
};

/* ring prints events: a page that the reader writes, a page that the kernel writes, and the data twice in a row. */
static int ring(int fd, long count)
{
	long page = sysconf(_SC_PAGESIZE);
	uint64_t *consumer = mmap(NULL, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	char *producer = mmap(NULL, page + 2 * RING, PROT_READ, MAP_SHARED, fd, page);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	uint64_t at;

	if (consumer == MAP_FAILED || producer == MAP_FAILED) {
		perror("mmap");
		return 1;
	}
	at = __atomic_load_n(consumer, __ATOMIC_RELAXED);
	puts("reading");
	fflush(stdout);
	while (count > 0) {
		while (count > 0 && at < __atomic_load_n((uint64_t *)producer, __ATOMIC_ACQUIRE)) {
			uint32_t *header = (uint32_t *)(producer + page + at % RING);
			uint32_t len = __atomic_load_n(header, __ATOMIC_ACQUIRE);
			struct event *e = (struct event *)(header + 2);

			if (len & BPF_RINGBUF_BUSY_BIT)
				break;
			if (!(len & BPF_RINGBUF_DISCARD_BIT)) {
				printf("pid %u, uid %u: %.16s\n", e->pid, e->uid, e->comm);
				fflush(stdout);
				count--;
			}
			at += ((len & ~BPF_RINGBUF_DISCARD_BIT) + BPF_RINGBUF_HDR_SZ + 7) / 8 * 8;
			__atomic_store_n(consumer, at, __ATOMIC_RELEASE);
		}
		if (count > 0 && poll(&p, 1, -1) < 0)
			return 1;
	}
	return 0;
}

static int lookup(int fd, uint32_t key, uint64_t *value)
{
	union bpf_attr attr = { .map_fd = fd, .key = (uintptr_t)&key, .value = (uintptr_t)value };

	return syscall(SYS_bpf, BPF_MAP_LOOKUP_ELEM, &attr, sizeof(attr));
}

int main(int argc, char **argv)
{
	char answer[4096];
	uint64_t n = 0;
	int fd;

	if (argc != 3) {
		fprintf(stderr, "usage: map_fd SOCKET COUNT\n");
		return 2;
	}
	fd = hornet_map_fd(argv[1], "map-fd", "events", "read-write", answer, sizeof(answer));
	if (fd < 0) {
		fprintf(stderr, "map_fd: no descriptor: %s\n", answer);
		return 1;
	}
	if (ring(fd, atol(argv[2])))
		return 1;
	fd = hornet_map_fd(argv[1], "map-fd", "execs", "read-only", answer, sizeof(answer));
	if (fd < 0 || lookup(fd, getuid(), &n)) {
		fprintf(stderr, "map_fd: %s\n", answer);
		return 1;
	}
	printf("uid %d started %llu programs\n", getuid(), (unsigned long long)n);
	return 0;
}
