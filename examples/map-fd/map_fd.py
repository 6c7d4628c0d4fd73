#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
"""map_fd.py SOCKET COUNT: what map_fd.c does, with nothing but Python's own library."""

import array
import ctypes
import json
import mmap
import os
import select
import socket
import struct
import sys

RING = 1 << 18  # as in map_fd.bpf.c
BUSY, DISCARD = 1 << 31, 1 << 30


def map_fd(path, collection, name, access="read-only"):
    """Returns a descriptor of a map and what the daemon says of it.

    101 and descriptor may come with one recvmsg or with several: http.client
    would lose the descriptor. Nothing is sent behind the request.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(path)
        s.sendall(
            f"GET /v1/collections/{collection}/maps/{name}?access={access} HTTP/1.1\r\nHost: hornetd\r\n"
            "Connection: Upgrade\r\nUpgrade: hornet-fd\r\n\r\n".encode()
        )
        answer, fds = b"", array.array("i")
        while True:
            data, control, _, _ = s.recvmsg(4096, socket.CMSG_SPACE(fds.itemsize), socket.MSG_CMSG_CLOEXEC)
            for level, kind, rights in control:
                if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                    fds.frombytes(rights[: len(rights) - len(rights) % fds.itemsize])
            answer += data
            head, _, body = answer.partition(b"\r\n\r\n")
            if not data or body.endswith(b"}") or body.endswith(b"}\n"):
                break
    if not head.startswith(b"HTTP/1.1 101 ") or len(fds) != 1:
        raise SystemExit(f"map_fd: no descriptor: {answer.decode()}")
    return fds[0], json.loads(body)


def events(fd):
    """Yields what is in a ring buffer, and waits for more.

    Python has no atomic loads; on the machines hornetd runs on an aligned load
    through memoryview is one, and the system call between two looks is a barrier.
    """
    page = mmap.PAGESIZE
    consumer = mmap.mmap(fd, page, offset=0)
    producer = mmap.mmap(fd, page + 2 * RING, prot=mmap.PROT_READ, offset=page)
    at_page, end_page = memoryview(consumer).cast("Q"), memoryview(producer).cast("Q")
    words, at = memoryview(producer).cast("I"), at_page[0]
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    while True:
        poll.poll()
        while at < end_page[0]:
            start = page + at % RING
            length = words[start // 4]
            if length & BUSY:
                break
            size = length & ~DISCARD
            event = bytes(producer[start + 8 : start + 8 + size])
            at += (size + 8 + 7) // 8 * 8
            at_page[0] = at
            if not length & DISCARD:
                yield event


def lookup(fd, key):
    """Returns the number at a key: bpf(2), BPF_MAP_LOOKUP_ELEM."""
    numbers = {"x86_64": 321, "aarch64": 280}
    k, value = ctypes.c_uint32(key), ctypes.c_uint64()
    attr = struct.pack("=IIQQQ", fd, 0, ctypes.addressof(k), ctypes.addressof(value), 0)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syscall(numbers[os.uname().machine], 1, attr, len(attr)):
        raise OSError(ctypes.get_errno(), "lookup")
    return value.value


def main(path, count):
    fd, _ = map_fd(path, "map-fd", "events", "read-write")
    print("reading", flush=True)
    source = events(fd)
    for _ in range(int(count)):
        pid, uid, comm = struct.unpack("II16s", next(source)[:24])
        print(f"pid {pid}, uid {uid}: {comm.split(bytes(1))[0].decode(errors='replace')}", flush=True)
    fd, _ = map_fd(path, "map-fd", "execs")
    print(f"uid {os.getuid()} started {lookup(fd, os.getuid())} programs")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        raise SystemExit("usage: map_fd.py SOCKET COUNT")
    main(*sys.argv[1:])
