/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Programs that cannot be attached through a link, or not yet. Never loaded. */
#include "fixture.h"

#define PROGRAM(section, name) SEC(section) int name(void *ctx) { return 0; }

PROGRAM("socket", socket_filter)
PROGRAM("sk_reuseport", reuseport)
PROGRAM("action", tc_action)
PROGRAM("lwt_in", lwt)
PROGRAM("lirc_mode2", lirc)
PROGRAM("syscall", on_request)
PROGRAM("xdp/devmap", in_devmap)
PROGRAM("xdp/cpumap", in_cpumap)
PROGRAM("sk_skb", skb_unclear)
PROGRAM("my_section", unclear)
PROGRAM("netkit/primary", netkit)
PROGRAM("uprobe.session/x:y", uprobe_session)
PROGRAM("usdt/x:y:z", usdt)
PROGRAM("fsession/do_exit", fsession)
PROGRAM("lsm_cgroup/bpf", lsm_cgroup)
PROGRAM("perf_event", on_perf_event)
PROGRAM("struct_ops/x", struct_ops)
