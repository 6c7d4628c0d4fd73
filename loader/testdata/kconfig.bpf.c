/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Values that come from the running kernel, seen by two programs. */
#include "fixture.h"

extern unsigned int LINUX_KERNEL_VERSION __kconfig;

SEC("socket")
int version(void *ctx)
{
	return LINUX_KERNEL_VERSION;
}

SEC("socket")
int again(void *ctx)
{
	return LINUX_KERNEL_VERSION;
}
