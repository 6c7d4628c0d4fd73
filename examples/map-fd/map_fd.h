/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Asks hornetd for the descriptor of a map. No library: a Unix socket, a request, recvmsg(2). */
#pragma once

#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/*
 * hornet_map_fd returns a close-on-exec descriptor of a map, or -1. access is
 * "read-only" or "read-write". What the daemon said is in answer: behind a
 * descriptor a line of JSON about it, else the error.
 *
 * 101 and descriptor may come with one recvmsg or with several, so each of them
 * has room for it. Nothing is sent behind the request.
 */
static int hornet_map_fd(const char *socket_path, const char *collection, const char *map, const char *access,
			 char *answer, size_t size)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char request[1024];
	size_t have = 0;
	int fd = -1, sock, n;

	answer[0] = 0;
	n = snprintf(request, sizeof(request),
		     "GET /v1/collections/%s/maps/%s?access=%s HTTP/1.1\r\nHost: hornetd\r\n"
		     "Connection: Upgrade\r\nUpgrade: hornet-fd\r\n\r\n", collection, map, access);
	if (n < 0 || (size_t)n >= sizeof(request) || strlen(socket_path) >= sizeof(addr.sun_path))
		return -1;
	strcpy(addr.sun_path, socket_path);
	sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sock < 0)
		return -1;
	if (connect(sock, (struct sockaddr *)&addr, sizeof(addr)) || write(sock, request, n) != n) {
		close(sock);
		return -1;
	}
	while (have < size - 1) {
		union {
			struct cmsghdr align;
			char buf[CMSG_SPACE(sizeof(int))];
		} control;
		struct iovec iov = { answer + have, size - 1 - have };
		struct msghdr msg = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
		ssize_t got = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC);
		struct cmsghdr *c;

		if (got <= 0)
			break; /* the daemon hangs up behind its answer */
		have += got;
		answer[have] = 0;
		c = CMSG_FIRSTHDR(&msg);
		if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS && fd < 0)
			memcpy(&fd, CMSG_DATA(c), sizeof(fd));
		if (fd < 0 && have > 12 && strncmp(answer + 9, "101", 3) && strchr(answer, '}'))
			break; /* an error, on a connection that stays */
	}
	close(sock);
	return fd;
}
